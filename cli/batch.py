# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d batch`: boxes in a folder, list or data set of images, as a table."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import (
    AnswerMode,
    AsJson,
    Checkpoint,
    CropPadding,
    Device,
    Fov,
    Intrinsics,
    Mode,
    Prompts,
    Quiet,
    Threshold,
    fail,
    own_device,
    read_intrinsics,
    user_errors,
)


def batch(
    source: Annotated[str, typer.Argument(help="Images: a folder, a .jsonl list, or a data set.")],
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="NAME.parquet, the table to write.")],
    prompt: Prompts = None,
    intrinsics: Intrinsics = None,
    fov: Fov = None,
    mode: AnswerMode = Mode.direct,
    threshold: Threshold = 0.0,
    crop_padding: CropPadding = False,
    device: Device = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 8,
    part_size: Annotated[int, typer.Option(help="Images per part; at most one part is lost if killed.", min=1)] = 256,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if an image could not be answered.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Ground phrases in many images and write the boxes to one Parquet table. Resumes an interrupted run.

    --prompt is for images without phrases of their own. --json prints the counts. Several processes share the work:
    accelerate launch (or torchrun) -m llmi3d batch ...
    """
    if out.suffix != ".parquet":
        fail(f"--out: got {out}, want NAME.parquet.")
    with user_errors("train", "llmi3d batch"):
        options = {"intrinsics": read_intrinsics(intrinsics), "fov_deg": fov}

        from llmi3d.apps.image_sources import open_images
        from llmi3d.apps.offline import BatchPredictor, predict_images
        from llmi3d.data.outputs import process_state

        state = process_state()
        predictor = BatchPredictor(
            checkpoint,
            prompt or (),
            **options,
            mode=mode.value,
            threshold=threshold,
            crop_padding=crop_padding or None,
            device=own_device(state, device),
        )
        images = open_images(source, split)
        report = predict_images(images, predictor, out, batch_size=batch_size, part_size=part_size, progress=not quiet)
    if state.is_main_process and as_json:
        typer.echo(json.dumps(asdict(report)))
    elif state.is_main_process and not quiet:
        typer.echo(f"{out}: {report.images} images, {report.boxes} boxes")
        if report.guessed_cameras:
            typer.echo(f"K unknown and assumed for {report.guessed_cameras} images: their distances are guesses.")
        if report.errors:
            typer.echo(f"{report.errors} images could not be answered: see the column error.")
    if strict and report.errors:
        raise typer.Exit(1)
