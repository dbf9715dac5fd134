# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d convert`: original checkpoints of other projects become LLMI3D's."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import Dtype, user_errors

convert_app = typer.Typer(no_args_is_help=True)


@convert_app.callback()
def main() -> None:
    """Convert original checkpoints of other projects to LLMI3D checkpoints."""


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
    dtype: Annotated[Dtype | None, typer.Option(help="Type of the weights; by default that of SRC.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights that Mini-Gemini does not have.")] = 0,
    licence: Annotated[str | None, typer.Option(help="Licence of SRC's weights, if its README does not say.")] = None,
    max_shard_gb: Annotated[float, typer.Option(help="Maximum size of a weight file, GB.", min=0.001)] = 5.0,
) -> None:
    """Convert an original Mini-Gemini checkpoint, tensor by tensor. OUT appears once it is complete and checked."""
    with user_errors():
        import torch

        from llmi3d.bases.minigemini import REPORT_NAME, convert_minigemini

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
    typer.echo(report.summary())
    typer.echo(f"{out}: {REPORT_NAME} names every tensor")
