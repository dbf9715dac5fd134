# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d init`: a checkpoint to train, from a LLaVA or Qwen-VL."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import Dtype, user_errors


def init(
    base: Annotated[str, typer.Option(help="Folder or Hub name of a LLaVA or Qwen-VL in transformers' format.")],
    out: Annotated[Path, typer.Option(help="New folder for the LLMI3D checkpoint.")],
    high_res_weights: Annotated[
        Path | None, typer.Option(help="ConvNeXt of OpenCLIP or timm for the high-resolution tower: file or folder.")
    ] = None,
    high_res: Annotated[
        bool, typer.Option("--high-res/--no-high-res", help="With the high-resolution CNN and feature mining.")
    ] = True,
    licence: Annotated[str | None, typer.Option(help="Licence of the base; by default the one on its card.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="File to use instead of the base's template.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of the weights; by default the base's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a base on the Hub.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights that the base does not have.")] = 0,
) -> None:
    """Make a trainable checkpoint from a base: weights, processor, special tokens, chat template, card."""
    with user_errors():
        from llmi3d.bases.assemble import init_checkpoint

        given = {"dtype": dtype and dtype.value, "revision": revision, "high_res_branch": None if high_res else False}
        report = init_checkpoint(
            base,
            out,
            high_res_weights=high_res_weights,
            licence=licence,
            chat_template=None if chat_template is None else chat_template.read_text(encoding="utf-8"),
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    typer.echo(report.summary())
    typer.echo(f"{out}: train it with `llmi3d train --model_name_or_path {out} ...`")
