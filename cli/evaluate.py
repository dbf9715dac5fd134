# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d evaluate`: a checkpoint, or a file of predictions, under a named protocol."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import AsJson, CropPadding, Data, Device, Mode, Protocol, Quiet, own_device, user_errors


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder or Hub name of a checkpoint, or a .jsonl file of predictions {id, boxes}.")
    ],
    data: Data,
    protocol: Protocol,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md, plots and answers.")],
    split: Annotated[str | None, typer.Option(help="Another split than the protocol's; the report says so.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Another mode than the protocol's.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Another threshold than the protocol's.", min=0, max=1)
    ] = None,
    iou: Annotated[str | None, typer.Option(help="mono3dvg: adds the rotation-blind IoU to the exact one.")] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Ask again with changed cameras and images.")
    ] = False,
    condition: Annotated[
        list[str] | None, typer.Option(help="One such change, as focal-0.7 or noise-0.1. May be repeated.")
    ] = None,
    training_split: Annotated[
        str | None,
        typer.Option(help="Split whose objects give the oracles their mean sizes; by default the evaluated objects."),
    ] = None,
    crop_padding: CropPadding = False,
    batch_size: Annotated[int, typer.Option(help="Questions per forward pass.", min=1)] = 8,
    name: Annotated[str | None, typer.Option(help="Name of the model in the report.")] = None,
    device: Device = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the numbers into the README.md of the checkpoint's folder.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a checkpoint under a named protocol. Resumes an interrupted run of the same.

    --json prints report.json. Several processes share the work: accelerate launch (or torchrun) -m llmi3d evaluate ...
    """
    with user_errors("train", "evaluation"):
        from llmi3d.data.dataset import load_split
        from llmi3d.data.outputs import process_state
        from llmi3d.evaluation.model_index import check_card, write_evaluation
        from llmi3d.evaluation.protocols import get_protocol
        from llmi3d.evaluation.robustness import DEFAULT_CONDITIONS, Condition
        from llmi3d.evaluation.runner import CheckpointPredictor, FilePredictor
        from llmi3d.evaluation.runner import evaluate as run

        state = process_state()
        changes = {"split": split, "mode": mode and mode.value, "score_threshold": score_threshold, "iou": iou}
        judge = get_protocol(protocol).variant(**{key: new for key, new in changes.items() if new is not None})
        conditions = [*(DEFAULT_CONDITIONS if robustness else ()), *map(Condition.parse, condition or ())]
        rows = load_split(data, judge.split)
        if card:
            check_card(Path(checkpoint) / "README.md")
        if checkpoint.endswith(".jsonl"):
            predictor = FilePredictor(checkpoint, name)
        else:
            predictor = CheckpointPredictor(
                checkpoint, judge.mode, name, own_device(state, device), crop_padding=crop_padding or None
            )
        result = run(
            predictor,
            rows,
            judge,
            out,
            conditions=list(dict.fromkeys(conditions)),
            training_rows=training_split and load_split(data, training_split),
            batch_size=batch_size,
            progress=not quiet,
        )
        if card and state.is_main_process:
            write_evaluation(Path(checkpoint) / "README.md", [result.report])
    if state.is_main_process and as_json:
        typer.echo(result.report.to_json())
    elif state.is_main_process and not quiet:
        typer.echo(result.report.to_markdown())
        typer.echo(f"{out / 'report.md'}  {out / 'report.json'}")
