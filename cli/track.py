# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d track`: boxes in a video, followed from frame to frame."""

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
    open_pipeline,
    read_intrinsics,
    require,
    require_prompts,
    user_errors,
)


def track(
    video: Annotated[str, typer.Argument(help="A video file, or a folder of its frames.")],
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="NAME.mp4, the overlay to write, with NAME.jsonl beside it.")],
    prompt: Prompts = None,
    intrinsics: Intrinsics = None,
    fov: Fov = None,
    mode: AnswerMode = Mode.direct,
    threshold: Threshold = 0.0,
    crop_padding: CropPadding = False,
    device: Device = None,
    fps: Annotated[float, typer.Option(help="Frames per second of a folder; files have their own times.")] = 10.0,
    every: Annotated[int, typer.Option(help="Use one frame out of this many.", min=1)] = 1,
    max_frames: Annotated[int | None, typer.Option(help="Use at most this many frames.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Frames per forward pass.", min=1)] = 8,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing video.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if the video breaks off.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Ground phrases in a video and track the boxes: write an overlay and JSON Lines. Resumes an interrupted run.

    --json prints the counts.
    """
    require_prompts(prompt)
    require("av", "stonesoup", extra="video", task="llmi3d track")
    with user_errors():
        options = {"intrinsics": read_intrinsics(intrinsics), "fov_deg": fov, "mode": mode.value}
        options |= {"threshold": threshold, **({"crop_padding": True} if crop_padding else {})}

        from llmi3d.apps.video import track_video
        from llmi3d.apps.video_files import VideoFrames

        frames = VideoFrames(video, fps=fps, every=every, max_frames=max_frames)
        report = track_video(
            frames,
            out,
            open_pipeline(checkpoint, device),
            prompt,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=not quiet,
            **options,
        )
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    elif not quiet:
        typer.echo(f"{report.frames} frames, {report.boxes} boxes of {report.tracks} objects")
        typer.echo(f"{out}  {out.with_suffix('.jsonl')}  (K: {report.intrinsics_source})")
    if strict and report.problem:
        raise typer.Exit(1)
