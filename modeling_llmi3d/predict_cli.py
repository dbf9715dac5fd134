# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d predict`: single pictures drawn, many into one table. Heavy imports stay inside the commands."""

import json
import re
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import fail


class Mode(str, Enum):
    """How the model answers."""

    direct = "direct"
    generate = "generate"


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


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Pictures: paths or URLs. For a table: a folder, a .jsonl list, or a data set.", metavar="IMAGE..."
        ),
    ],
    checkpoint: Annotated[str, typer.Option(help="Folder or Hub name of a LLMI3D checkpoint.")],
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.json and NAME.png of each picture; or NAME.parquet, a table.")
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to find, such as 'the nearest car'. May be repeated.")
    ] = None,
    intrinsics: Annotated[
        str | None, typer.Option(help="fx,fy,cx,cy in pixels, or a file with them or a 3x3.", metavar="K")
    ] = None,
    fov: Annotated[float | None, typer.Option(help="Horizontal field of view in degrees, instead of K.")] = None,
    mode: Annotated[Mode, typer.Option(help="One forward pass, or a written answer.")] = Mode.direct,
    threshold: Annotated[float, typer.Option(help="Leave out boxes of a lower score.", min=0, max=1)] = 0.0,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Pictures: replace results that are there already.")] = False,
    split: Annotated[str | None, typer.Option(help="Table: which split of a data set.")] = None,
    batch_size: Annotated[int, typer.Option(help="Table: pictures to a forward pass.", min=1)] = 8,
    part_size: Annotated[int, typer.Option(help="Table: pictures that are written, and lost, together.", min=1)] = 256,
    strict: Annotated[
        bool, typer.Option("--strict", help="Table: exit code 1 if any picture could not be read or asked about.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Table: no progress bar, no summary.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of words: a line a picture, or the table's counts.")
    ] = False,
) -> None:
    """Ground phrases in pictures: write the boxes as JSON and draw them, or write a table of many pictures.

    A table goes on where an interrupted run of the same stopped. Several processes share the work: accelerate launch
    (or torchrun) -m llmi3d predict ...
    """
    try:
        camera = None if intrinsics is None else read_intrinsics(intrinsics)
    except ValueError as error:
        fail(error)
    asked = {"intrinsics": camera, "fov_deg": fov, "mode": mode.value, "threshold": threshold}
    if out.suffix == ".parquet":
        if len(images) != 1:
            fail(f"IMAGE: got {len(images)}, want one folder, .jsonl list or data set for a table.")
        if overwrite:
            fail("--overwrite: tables are not overwritten; choose a new file.")
        sizes = {"batch_size": batch_size, "part_size": part_size, "progress": not quiet}
        report = _predict_table(images[0], split, out, checkpoint, prompt or (), device, asked, sizes, as_json)
        if strict and report.errors:
            raise typer.Exit(1)
    else:
        _predict_pictures(images, out, checkpoint, prompt, device, asked, overwrite, as_json)


def _predict_table(source, split, out, checkpoint, prompts, device, asked: dict, sizes: dict, as_json: bool):
    try:
        from .processing.jobs import process_state
        from .processing.offline import BatchPredictor, predict_pictures
        from .processing.pictures import open_pictures
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; tables need pip install 'llmi3d[train]'.")
    try:
        state = process_state()
        own = state.device if state.num_processes > 1 else device
        predictor = BatchPredictor(checkpoint, prompts, device=own, **asked)
        report = predict_pictures(open_pictures(source, split), predictor, out, **sizes)
    except (ValueError, OSError) as error:
        fail(error)
    if state.is_main_process and as_json:
        typer.echo(json.dumps(asdict(report)))
    elif state.is_main_process and sizes["progress"]:
        typer.echo(f"{out}: {report.pictures} pictures, {report.boxes} boxes")
        if report.guessed_cameras:
            typer.echo(f"K unknown and assumed for {report.guessed_cameras} pictures: their distances are guesses.")
        if report.errors:
            typer.echo(f"{report.errors} pictures could not be read or asked about: see the column error.")
    return report


def _predict_pictures(
    images, out: Path, checkpoint, prompts, device, asked: dict, overwrite: bool, as_json: bool
) -> None:
    if not prompts:
        fail("--prompt: got none, want what to find, such as 'the nearest car'.")
    if folder := next((source for source in images if Path(source).is_dir()), None):
        fail(f"IMAGE: {folder} is a folder; for all its pictures pass --out NAME.parquet.")
    targets = _targets(images, out, overwrite)

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
            answers = ground(image, prompt=prompts, **asked)
        except ValueError as error:
            fail(f"{source}: {error}")
        together = {
            **answers[0],
            "prompt": "; ".join(prompts),
            "boxes": [box for one in answers for box in one["boxes"]],
        }
        draw_answer(ImageOps.exif_transpose(image).convert("RGB"), together).save(f"{target}.png")
        Path(f"{target}.json").write_text(json.dumps({"image": source, "answers": answers}, indent=1))
        if as_json:
            typer.echo(json.dumps({"image": source, "answers": answers}))
            continue
        for answer in answers:
            if not answer["found"]:
                typer.echo(f"{source}: {answer['prompt']}: not in the picture")
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
        fail("IMAGE: two pictures have the same file name, and so would their results; give them one by one.")
    for target in targets:
        for path in (Path(f"{target}.json"), Path(f"{target}.png")):
            if path.exists() and not overwrite:
                fail(f"--out: {path} is there already; choose another folder or pass --overwrite.")
    return targets
