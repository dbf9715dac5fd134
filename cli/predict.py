# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d predict`: boxes in image files, as JSON and drawings."""

import json
import re
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
    Threshold,
    fail,
    open_pipeline,
    read_intrinsics,
    require,
    require_prompts,
    user_errors,
)

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


def predict(
    images: Annotated[list[str], typer.Argument(help="Images: paths or URLs.", metavar="IMAGE...")],
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="Folder for NAME.json and NAME.png of each image.")],
    prompt: Prompts = None,
    intrinsics: Intrinsics = None,
    fov: Fov = None,
    mode: AnswerMode = Mode.direct,
    threshold: Threshold = 0.0,
    crop_padding: CropPadding = False,
    device: Device = None,
    overwrite: Annotated[bool, typer.Option(help="Replace existing results.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Also write NAME.html, a 3D view that can be rotated.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Also write NAME.svg, the drawing as vectors and text.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ground phrases in images: write the boxes as JSON and draw them.

    For many images see `llmi3d batch`, for videos `llmi3d track`. --json prints one line per image.
    """
    require_prompts(prompt)
    for suffix, command in ((".parquet", "batch"), (".mp4", "track")):
        if out.suffix == suffix:
            fail(f"--out: got {out}, want a folder; `llmi3d {command}` writes {suffix} files.")
    for source in images:
        if Path(source).is_dir():
            fail(f"IMAGE: {source} is a folder; use `llmi3d batch` for its images, `llmi3d track` for video frames.")
        if Path(source).suffix.lower() in VIDEO_SUFFIXES:
            fail(f"IMAGE: {source} is a video; use `llmi3d track`.")
    suffixes = (".json", ".png", *[".html"] * html, *[".svg"] * svg)
    targets = _targets(images, out, overwrite, suffixes)
    if html:
        require("plotly", extra="plot", task="--html")
    with user_errors():
        options = {"intrinsics": read_intrinsics(intrinsics), "fov_deg": fov}
    options |= {"mode": mode.value, "threshold": threshold, **({"crop_padding": True} if crop_padding else {})}

    from PIL import ImageOps

    from llmi3d.data.outputs import whole_file, write_whole
    from llmi3d.processing.drawing import draw_answer
    from llmi3d.processing.image_processing_llmi3d import load_image

    ground = open_pipeline(checkpoint, device)
    for source, target in zip(images, targets, strict=True):
        try:
            image = load_image(source)
            answers = ground(image, prompt=prompt, **options)
        except ValueError as error:
            fail(f"{source}: {error}")
        image = ImageOps.exif_transpose(image).convert("RGB")
        with whole_file(f"{target}.png", "wb") as file:
            draw_answer(image, answers).save(file, "PNG")
        if svg:
            write_whole(f"{target}.svg", draw_answer(image, answers, svg=True).encode())
        if html:
            from llmi3d.processing.drawing import draw_3d

            boxes = [box for answer in answers for box in answer["boxes"]]
            write_whole(f"{target}.html", draw_3d(image, boxes, answers[0]["intrinsics"]).to_html().encode())
        write_whole(f"{target}.json", json.dumps({"image": source, "answers": answers}, indent=1))
        if as_json:
            typer.echo(json.dumps({"image": source, "answers": answers}))
            continue
        for answer in answers:
            if not answer["found"]:
                typer.echo(f"{source}: {answer['prompt']}: not in the image")
            for box in answer["boxes"]:
                x, y, z = box["center"]
                typer.echo(
                    f"{source}: {box['label']}: {z:.2f} m deep, {x:+.2f} m right, {y:+.2f} m down, "
                    f"score {box['score']:.2f}"
                )
        written = "  ".join(f"{target}{suffix}" for suffix in suffixes)
        typer.echo(f"{written}  (K: {answers[0]['intrinsics_source']})")


def _targets(images: list[str], out: Path, overwrite: bool, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the path without suffix of each image's results, named after the file, never its folder."""
    targets = [out / (re.sub(r"[^\w.-]", "_", Path(source).stem) or "image") for source in images]
    if len(set(targets)) != len(targets):
        fail("IMAGE: two images have the same file name, and so would their results; give them one at a time.")
    for target in targets:
        for path in (Path(f"{target}{suffix}") for suffix in suffixes):
            if path.exists() and not overwrite:
                fail(f"--out: {path} is there already; choose another folder or pass --overwrite.")
    return targets
