# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d init`: a checkpoint to train, from a LLaVA or Qwen-VL, or from a ViT, a CNN and a language model."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import Dtype, user_errors


def init(
    out: Annotated[Path, typer.Option(help="New folder for the LLMI3D checkpoint.")],
    base: Annotated[
        str | None, typer.Option(help="Folder or Hub name of a LLaVA or Qwen-VL in transformers' format.")
    ] = None,
    vision: Annotated[
        str | None, typer.Option(help="Instead of a base: folder or Hub name of a ViT (CLIP, SigLIP, DINOv2).")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="With --vision: folder or Hub name of a causal language model, or a .gguf file.")
    ] = None,
    high_res: Annotated[
        str, typer.Option(help="With --vision: name of a timm CNN for the high-resolution tower.")
    ] = "convnext_tiny",
    high_res_weights: Annotated[
        Path | None,
        typer.Option(help="Weights of the CNN: with --base OpenCLIP's or timm's ConvNeXt, with --vision timm's file."),
    ] = None,
    no_high_res: Annotated[
        bool, typer.Option("--no-high-res", help="Without the high-resolution CNN and feature mining.")
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(help="With --vision: side of the ViT's input, pixels; by default its own.")
    ] = None,
    high_res_image_size: Annotated[
        int | None, typer.Option(help="With --vision: side of the CNN's input, pixels; twice the ViT's by default.")
    ] = None,
    language_layers: Annotated[
        int | None, typer.Option(help="With --vision: keep this many first layers of the language model.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the base; by default the one on its card.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="File to use instead of the base's template.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Type of the weights; by default the base's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a base on the Hub.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights that the base does not have.")] = 0,
) -> None:
    """Make a trainable checkpoint from a base or from parts: weights, processor, chat template, card."""
    with user_errors():
        if (base is None) == (vision is None) or (vision is None) != (language is None):
            raise ValueError("--base, --vision, --language: want a base, or a ViT and a language model.")
        if vision is not None:
            _init_from_parts(
                vision,
                language,
                out,
                high_res=high_res,
                high_res_weights=high_res_weights,
                image_size=image_size,
                high_res_image_size=high_res_image_size,
                language_layers=language_layers,
                licence=licence,
                seed=seed,
                **({"high_res_branch": False, "depth_branch": False, "depth_from_map": False} if no_high_res else {}),
            )
            return
        from llmi3d.bases.assemble import init_checkpoint

        given = {
            "dtype": dtype and dtype.value,
            "revision": revision,
            "high_res_branch": False if no_high_res else None,
        }
        report = init_checkpoint(
            base,
            out,
            high_res_weights=high_res_weights,
            licence=licence,
            chat_template=None if chat_template is None else chat_template.read_text(encoding="utf-8"),
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    _report(report, out)


def _init_from_parts(vision: str, language: str, out: Path, **options) -> None:
    from llmi3d.bases.parts import init_from_parts

    given = {name: value for name, value in options.items() if value is not None}
    _report(init_from_parts(vision, language, out, **given), out)


def _report(report, out: Path) -> None:
    typer.echo(report.summary())
    typer.echo(f"{out}: train it with `llmi3d train --model_name_or_path {out} ...`")
