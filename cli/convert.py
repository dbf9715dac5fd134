# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d convert`: checkpoints of others become LLMI3D's. Heavy imports stay inside the commands."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import fail

convert_app = typer.Typer(no_args_is_help=True, help="Make LLMI3D checkpoints of others' original ones.")


@convert_app.callback()
def main() -> None:
    """Make LLMI3D checkpoints of others' original ones."""


class Dtype(str, Enum):
    """Of the weights that are written."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@convert_app.command()
def minigemini(
    src: Annotated[Path, typer.Argument(help="Folder of an original Mini-Gemini checkpoint.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="New folder for the LLMI3D checkpoint.", metavar="OUT")],
    high_res_weights: Annotated[
        Path | None, typer.Option(help="ConvNeXt of OpenCLIP or timm instead of the one in SRC: file or folder.")
    ] = None,
    vision_tower: Annotated[
        Path | None, typer.Option(help="Folder with the config.json of the CLIP that SRC was made with.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; by default as they are.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights that Mini-Gemini has not.")] = 0,
    licence: Annotated[str | None, typer.Option(help="Of SRC's weights, if its README does not say.")] = None,
    max_shard_gb: Annotated[float, typer.Option(help="Size of a file of weights.", min=0.001)] = 5.0,
) -> None:
    """Convert an original Mini-Gemini checkpoint, tensor by tensor. OUT appears when all is written and checked."""
    import torch

    from llmi3d import register
    from llmi3d.bases.minigemini import REPORT_NAME, convert_minigemini

    register()
    try:
        report = convert_minigemini(
            src,
            out,
            high_res_weights=high_res_weights,
            vision_tower=vision_tower,
            dtype=None if dtype is None else getattr(torch, dtype.value),
            seed=seed,
            max_shard_bytes=int(max_shard_gb * 1e9),
            licence=licence,
        )
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(report.summary())
    typer.echo(f"{out}: {REPORT_NAME} names every tensor")
