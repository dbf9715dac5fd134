# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The `llmi3d` command. Heavy imports stay inside the commands, so that `--help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.bench import ListCommand, bench
from llmi3d.cli.calibrate import calibrate
from llmi3d.cli.console import fail
from llmi3d.cli.convert import Dtype, convert_app
from llmi3d.cli.data import data_app
from llmi3d.cli.demo import chat, demo
from llmi3d.cli.env import env
from llmi3d.cli.export import export
from llmi3d.cli.predict import Mode, predict

app = typer.Typer(
    name="llmi3d",
    help="Metric, oriented 3D boxes from one photograph, its camera and a sentence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.add_typer(data_app, name="data")
app.add_typer(convert_app, name="convert")
app.command()(predict)
app.command(cls=ListCommand)(bench)
app.command()(calibrate)
app.command()(env)
app.command()(export)
app.command()(demo)
app.command()(chat)


def _print_version(wanted: bool) -> None:
    if wanted:
        from llmi3d import __version__

        typer.echo(f"llmi3d {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Metric, oriented 3D boxes from one photograph, its camera and a sentence."""


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder or Hub name of a checkpoint, or a .jsonl file of predictions {id, boxes}.")
    ],
    data: Annotated[str, typer.Argument(help="Folder that `llmi3d data build` wrote, or a data set on the Hub.")],
    protocol: Annotated[str, typer.Option(help="Such as ig3d-kitti; an unknown name lists all.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md, plots and answers.")],
    split: Annotated[str | None, typer.Option(help="Another split than the protocol's; the report says so.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Another mode than the protocol's.")] = None,
    score_threshold: Annotated[float | None, typer.Option(help="Another than the protocol's.", min=0, max=1)] = None,
    iou: Annotated[str | None, typer.Option(help="mono3dvg: the rotation-blind IoU beside the exact one.")] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Ask again under changed cameras and pictures.")
    ] = False,
    condition: Annotated[
        list[str] | None, typer.Option(help="One such change, as focal-0.7 or noise-0.1. May be repeated.")
    ] = None,
    crop_padding: Annotated[
        bool,
        typer.Option("--crop-padding", help="Spare wide and high pictures their padding, as docs/speed.md says."),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Questions to a forward pass.", min=1)] = 8,
    name: Annotated[str | None, typer.Option(help="Of the model in the report.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the numbers into the README.md of the checkpoint's folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of the table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no table.")] = False,
) -> None:
    """Evaluate a checkpoint under a named protocol. Goes on where an interrupted run of the same stopped.

    Several processes share the work: accelerate launch (or torchrun) -m llmi3d evaluate ...
    """
    try:
        from llmi3d.data.dataset import load_split
        from llmi3d.data.outputs import process_state
        from llmi3d.evaluation.model_index import check_card, write_evaluation
        from llmi3d.evaluation.protocols import get_protocol
        from llmi3d.evaluation.robustness import DEFAULT_CONDITIONS, Condition
        from llmi3d.evaluation.runner import CheckpointPredictor, FilePredictor
        from llmi3d.evaluation.runner import evaluate as run
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; evaluation needs pip install 'llmi3d[train]'.")
    changes = {"split": split, "mode": mode and mode.value, "score_threshold": score_threshold, "iou": iou}
    state = process_state()
    try:
        chosen = get_protocol(protocol).variant(**{key: new for key, new in changes.items() if new is not None})
        conditions = [*(DEFAULT_CONDITIONS if robustness else ()), *map(Condition.parse, condition or ())]
        rows = load_split(data, chosen.split)
        if card:
            check_card(Path(checkpoint) / "README.md")
        if checkpoint.endswith(".jsonl"):
            predictor = FilePredictor(checkpoint, name)
        else:
            own = state.device if state.num_processes > 1 else device
            cropped = {"crop_padding": True} if crop_padding else {}
            predictor = CheckpointPredictor(checkpoint, chosen.mode, name, own, **cropped)
        result = run(
            predictor,
            rows,
            chosen,
            out,
            conditions=list(dict.fromkeys(conditions)),
            batch_size=batch_size,
            progress=not quiet,
        )
        if card and state.is_main_process:
            write_evaluation(Path(checkpoint) / "README.md", [result.report])
    except (ValueError, OSError) as error:
        fail(error)
    if state.is_main_process and as_json:
        typer.echo(result.report.to_json())
    elif state.is_main_process and not quiet:
        typer.echo(result.report.to_markdown())
        typer.echo(f"{out / 'report.md'}  {out / 'report.json'}")


@app.command()
def init(
    base: Annotated[str, typer.Option(help="Folder or Hub name of a LLaVA or Qwen-VL in transformers' format.")],
    out: Annotated[Path, typer.Option(help="New folder for the LLMI3D checkpoint.")],
    high_res_weights: Annotated[
        Path | None, typer.Option(help="ConvNeXt of OpenCLIP or timm for the high-resolution tower: file or folder.")
    ] = None,
    high_res: Annotated[
        bool, typer.Option("--high-res/--no-high-res", help="With the high-resolution CNN and feature mining.")
    ] = True,
    licence: Annotated[str | None, typer.Option(help="Of the base; by default as its card says.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="File to use instead of the base's.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; by default as they are.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a base on the Hub.")] = None,
    seed: Annotated[int, typer.Option(help="Of what the base has not.")] = 0,
) -> None:
    """Make a checkpoint that can be trained of a base: weights, processor, special tokens, chat template, card."""
    from llmi3d import register
    from llmi3d.bases.assemble import init_checkpoint

    register()
    given = {"dtype": dtype and dtype.value, "revision": revision, "high_res_branch": None if high_res else False}
    try:
        report = init_checkpoint(
            base,
            out,
            high_res_weights=high_res_weights,
            licence=licence,
            chat_template=None if chat_template is None else chat_template.read_text(encoding="utf-8"),
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(report.summary())
    typer.echo(f"{out}: train it with `llmi3d train --model_name_or_path {out} ...`")


@app.command(
    # Every field of a run is an option of the parser that reads them, `--help` too.
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)
def train(context: typer.Context) -> None:
    """Train from a YAML file: `llmi3d train --help` lists its fields. Goes on where it was interrupted.

    Several processes share the work: accelerate launch -m llmi3d.training.run ...
    """
    try:
        from llmi3d.training.run import main as run
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; training needs pip install 'llmi3d[train]'.")
    run(context.args)


if __name__ == "__main__":
    app()
