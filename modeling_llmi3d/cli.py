# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The `llmi3d` command. Heavy imports stay inside the commands, so that `--help` answers at once."""

import json
import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="llmi3d",
    help="Metric, oriented 3D boxes from one photograph, its camera and a sentence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Mode(str, Enum):
    """How the model answers."""

    direct = "direct"
    generate = "generate"


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"llmi3d {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Metric, oriented 3D boxes from one photograph, its camera and a sentence."""


def read_intrinsics(text: str) -> list:
    """`fx,fy,cx,cy`, or a file that holds these four or nine numbers of a 3x3, as JSON or plain text.

    Raises:
        ValueError: neither four nor nine numbers.
    """
    content = Path(text).read_text() if Path(text).is_file() else text
    try:
        numbers = [float(item) for item in re.split(r"[\s,;\[\]]+", content) if item]
    except ValueError:
        numbers = []
    if len(numbers) == 9:
        return [numbers[:3], numbers[3:6], numbers[6:]]
    if len(numbers) != 4:
        raise ValueError(f"--intrinsics: got '{text}', want fx,fy,cx,cy or a file with a 3x3 or these four numbers.")
    return numbers


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Pictures: paths or URLs.", metavar="IMAGE...")],
    prompt: Annotated[list[str], typer.Option(help="What to find, such as 'the nearest car'. May be repeated.")],
    checkpoint: Annotated[str, typer.Option(help="Folder or Hub name of a LLMI3D checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json and NAME.png of each picture.")],
    intrinsics: Annotated[
        str | None, typer.Option(help="fx,fy,cx,cy in pixels, or a file with them or a 3x3.", metavar="K")
    ] = None,
    fov: Annotated[float | None, typer.Option(help="Horizontal field of view in degrees, instead of K.")] = None,
    mode: Annotated[Mode, typer.Option(help="One forward pass, or a written answer.")] = Mode.direct,
    threshold: Annotated[float, typer.Option(help="Leave out boxes of a lower score.", min=0, max=1)] = 0.0,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there already.")] = False,
) -> None:
    """Ground phrases in pictures: write the boxes as JSON and draw them."""
    targets = _targets(images, out, overwrite)
    try:
        camera = None if intrinsics is None else read_intrinsics(intrinsics)
    except ValueError as error:
        _fail(error)

    from PIL import ImageOps
    from transformers import pipeline

    from . import register
    from .processing.image_processing_llmi3d import load_image
    from .processing.visualize import draw_answer

    register()
    ground = pipeline("image-3d-grounding", model=checkpoint, device=device)
    out.mkdir(parents=True, exist_ok=True)
    for source, target in zip(images, targets, strict=True):
        try:
            image = load_image(source)
            answers = ground(
                image, prompt=prompt, intrinsics=camera, fov_deg=fov, mode=mode.value, threshold=threshold
            )
        except ValueError as error:
            _fail(f"{source}: {error}")
        together = {
            **answers[0],
            "prompt": "; ".join(prompt),
            "boxes": [box for one in answers for box in one["boxes"]],
        }
        draw_answer(ImageOps.exif_transpose(image).convert("RGB"), together).save(f"{target}.png")
        Path(f"{target}.json").write_text(json.dumps({"image": source, "answers": answers}, indent=1))
        for answer in answers:
            for box in answer["boxes"]:
                x, y, z = box["center"]
                typer.echo(
                    f"{source}: {box['label']}: {z:.2f} m deep, {x:+.2f} m right, {y:+.2f} m down, "
                    f"score {box['score']:.2f}"
                )
        typer.echo(f"{target}.json  {target}.png  (K: {answers[0]['intrinsics_source']})")


def _targets(images: list[str], out: Path, overwrite: bool) -> list[Path]:
    """Where each picture's results go, without suffix. Names come from the pictures', never their folders."""
    targets = [out / (re.sub(r"[^\w.-]", "_", Path(source).stem) or "image") for source in images]
    if len(set(targets)) != len(targets):
        _fail("IMAGE: two pictures have the same file name, and so would their results; give them one by one.")
    for target in targets:
        for path in (Path(f"{target}.json"), Path(f"{target}.png")):
            if path.exists() and not overwrite:
                _fail(f"--out: {path} is there already; choose another folder or pass --overwrite.")
    return targets


def _fail(problem: object) -> None:
    typer.echo(f"Error: {problem}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
