# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d calibrate`: makes a checkpoint's score a probability. Heavy imports stay inside the command."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import fail
from llmi3d.cli.predict import Mode


def calibrate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub name of a checkpoint.")],
    data: Annotated[str, typer.Argument(help="Folder that `llmi3d data build` wrote, or a data set on the Hub.")],
    protocol: Annotated[str, typer.Option(help="Such as ig3d-kitti; an unknown name lists all.")],
    out: Annotated[Path, typer.Option(help="Folder for calibration.json, calibration.png and the evaluation.")],
    split: Annotated[str, typer.Option(help="Of pictures held out, other than the protocol's own.")] = "validation",
    mode: Annotated[Mode | None, typer.Option(help="Another mode than the protocol's.")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Write what was fitted into the checkpoint, if it is better.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Questions to a forward pass.", min=1)] = 8,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print calibration.json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no table.")] = False,
) -> None:
    """Fit what makes a checkpoint's score the probability that its box is right, on pictures held out.

    Weights and boxes stay as they are. Goes on where an interrupted run of the same stopped; 1 if nothing is better.
    """
    try:
        from llmi3d.data.dataset import load_split
        from llmi3d.data.outputs import process_state, write_whole
        from llmi3d.evaluation.calibration import RAW, check_store, store_calibration
        from llmi3d.evaluation.calibration import calibrate as fit
        from llmi3d.evaluation.plots import plot_calibration, save_figure
        from llmi3d.evaluation.protocols import get_protocol
        from llmi3d.evaluation.runner import CheckpointPredictor, evaluate, read_answered
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; calibration needs pip install 'llmi3d[train]'.")
    state = process_state()
    try:
        judge = get_protocol(protocol)
        if judge.kind != "grounding":
            raise ValueError(f"protocol: got {protocol}, of {judge.kind}; want one of grounding.")
        if split == judge.split:
            raise ValueError(
                f"split: got '{split}', by which {protocol} judges; want pictures that it does not ask for."
            )
        if store:
            check_store(checkpoint)
        chosen = judge.variant(split=split, **({} if mode is None else {"mode": mode.value}))
        rows = load_split(data, split)
        own = state.device if state.num_processes > 1 else device
        predictor = CheckpointPredictor(checkpoint, chosen.mode, None, own, raw_scores=True)
        evaluate(predictor, rows, chosen, out, batch_size=batch_size, progress=not quiet)
        if not state.is_main_process:
            return
        found = fit(read_answered(out, rows, chosen), chosen.thresholds[0])
        save_figure(plot_calibration(found.before, found.after, found.iou), out / "calibration.png")
        better = found.chosen != RAW
        if store and better:
            store_calibration(checkpoint, found)
        write_whole(out / "calibration.json", found.to_json())  # last: where it is, all is done
    except (ValueError, OSError) as error:
        fail(error)
    if as_json:
        typer.echo(found.to_json())
    elif not quiet:
        typer.echo(found.to_markdown())
        where = f"stored in {checkpoint}" if store and better else "not stored" if better else "nothing to store"
        typer.echo(f"{out / 'calibration.json'}  {out / 'calibration.png'}  ({where})")
    if not better:
        raise typer.Exit(1)
