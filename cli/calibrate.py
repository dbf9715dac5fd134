# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d calibrate`: turns a checkpoint's score into a probability."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import AsJson, Data, Device, Mode, Protocol, Quiet, own_device, user_errors


def calibrate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub name of a checkpoint.")],
    data: Data,
    protocol: Protocol,
    out: Annotated[Path, typer.Option(help="Folder for calibration.json, calibration.png and the evaluation.")],
    split: Annotated[str, typer.Option(help="Split of held-out images, not the protocol's own.")] = "validation",
    mode: Annotated[Mode | None, typer.Option(help="Another mode than the protocol's.")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Write the fitted mapping into the checkpoint if it is better.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Questions per forward pass.", min=1)] = 8,
    device: Device = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a mapping from a checkpoint's score to the probability that its box is right, on held-out images.

    Weights and boxes stay as they are. Resumes an interrupted run. Exit code 1 if no mapping is better. --json prints
    calibration.json.
    """
    with user_errors("train", "calibration"):
        from llmi3d.data.dataset import load_split
        from llmi3d.data.outputs import process_state, write_whole
        from llmi3d.evaluation.calibration import RAW, check_store, store_calibration
        from llmi3d.evaluation.calibration import calibrate as fit
        from llmi3d.evaluation.plots import plot_calibration, save_figure
        from llmi3d.evaluation.protocols import get_protocol
        from llmi3d.evaluation.runner import CheckpointPredictor, evaluate, read_answered

        state = process_state()
        judge = get_protocol(protocol)
        if judge.kind != "grounding":
            raise ValueError(f"protocol: got {protocol}, a {judge.kind} protocol, want one of grounding.")
        if split == judge.split:
            raise ValueError(f"split: got '{split}', which {protocol} evaluates on, want another one.")
        if store:
            check_store(checkpoint)
        judge = judge.variant(split=split, **({} if mode is None else {"mode": mode.value}))
        rows = load_split(data, split)
        predictor = CheckpointPredictor(checkpoint, judge.mode, None, own_device(state, device), raw_scores=True)
        evaluate(predictor, rows, judge, out, batch_size=batch_size, progress=not quiet)
        if not state.is_main_process:
            return
        fitted = fit(read_answered(out, rows, judge), judge.thresholds[0])
        save_figure(plot_calibration(fitted.before, fitted.after, fitted.iou), out / "calibration.png")
        better = fitted.chosen != RAW
        if store and better:
            store_calibration(checkpoint, fitted)
        write_whole(out / "calibration.json", fitted.to_json())  # last: its presence says that all is done
    if as_json:
        typer.echo(fitted.to_json())
    elif not quiet:
        typer.echo(fitted.to_markdown())
        outcome = f"stored in {checkpoint}" if store and better else "not stored" if better else "nothing to store"
        typer.echo(f"{out / 'calibration.json'}  {out / 'calibration.png'}  ({outcome})")
    if not better:
        raise typer.Exit(1)
