# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d predict`: single pictures drawn, many into one table, videos tracked. Heavy imports stay inside."""

import json
import re
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import fail, open_pipeline

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


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
            help="Pictures: paths or URLs. For a table: a folder, a .jsonl list, or a data set. For a video: "
            "its file, or a folder of its frames.",
            metavar="IMAGE...",
        ),
    ],
    checkpoint: Annotated[str, typer.Option(help="Folder or Hub name of a LLMI3D checkpoint.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for NAME.json and NAME.png of each picture; or NAME.parquet, a table; or NAME.mp4, a video, "
            "with NAME.jsonl beside it."
        ),
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
    crop_padding: Annotated[
        bool,
        typer.Option("--crop-padding", help="Spare wide and high pictures their padding, as docs/speed.md says."),
    ] = False,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Pictures, video: replace results that are there already.")] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Pictures: NAME.html too, boxes and picture in 3D that can be turned.")
    ] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Pictures: NAME.svg too, the drawing in lines and text.")] = False,
    fps: Annotated[float, typer.Option(help="Video: frames a second of a folder; files have their own times.")] = 10.0,
    every: Annotated[int, typer.Option(help="Video: ask about one frame of so many.", min=1)] = 1,
    max_frames: Annotated[int | None, typer.Option(help="Video: ask about so many frames at most.", min=1)] = None,
    split: Annotated[str | None, typer.Option(help="Table: which split of a data set.")] = None,
    batch_size: Annotated[int, typer.Option(help="Table, video: pictures to a forward pass.", min=1)] = 8,
    part_size: Annotated[int, typer.Option(help="Table: pictures that are written, and lost, together.", min=1)] = 256,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Table, video: exit code 1 if any picture could not be read or asked about."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Table, video: no progress bar, no summary.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print JSON instead of words: a line a picture, or the counts of a table or video."
        ),
    ] = False,
) -> None:
    """Ground phrases in pictures: write the boxes as JSON and draw them, write a table, or track a video.

    A table goes on where an interrupted run of the same stopped. Several processes share the work: accelerate launch
    (or torchrun) -m llmi3d predict ...
    """
    try:
        camera = None if intrinsics is None else read_intrinsics(intrinsics)
    except ValueError as error:
        fail(error)
    asked = {"intrinsics": camera, "fov_deg": fov, "mode": mode.value, "threshold": threshold}
    if crop_padding:  # else as the checkpoint has it
        asked["crop_padding"] = True
    if out.suffix == ".parquet":
        if len(images) != 1:
            fail(f"IMAGE: got {len(images)}, want one folder, .jsonl list or data set for a table.")
        if overwrite:
            fail("--overwrite: tables are not overwritten; choose a new file.")
        sizes = {"batch_size": batch_size, "part_size": part_size, "progress": not quiet}
        report = _predict_table(images[0], split, out, checkpoint, prompt or (), device, asked, sizes, as_json)
        if strict and report.errors:
            raise typer.Exit(1)
    elif out.suffix == ".mp4":
        if len(images) != 1:
            fail(f"IMAGE: got {len(images)}, want one video file, or one folder of its frames.")
        frames = {"fps": fps, "every": every, "max_frames": max_frames}
        sizes = {"batch_size": batch_size, "progress": not quiet, "overwrite": overwrite}
        report = _predict_video(images[0], frames, out, checkpoint, prompt, device, asked | sizes, as_json)
        if strict and report.problem:
            raise typer.Exit(1)
    else:
        _predict_pictures(images, out, checkpoint, prompt, device, asked, overwrite, as_json, html, svg)


def _predict_table(source, split, out, checkpoint, prompts, device, asked: dict, sizes: dict, as_json: bool):
    try:
        from llmi3d.apps.image_sources import open_pictures
        from llmi3d.apps.offline import BatchPredictor, predict_pictures
        from llmi3d.data.jobs import process_state
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


def _predict_video(source, frames: dict, out: Path, checkpoint, prompts, device, asked: dict, as_json: bool):
    _want_prompts(prompts)
    try:
        import av  # noqa: F401
        import stonesoup  # noqa: F401
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; videos need pip install 'llmi3d[video]'.")
    from llmi3d.apps.video import VideoFrames, track_video

    try:
        frames = VideoFrames(source, **frames)
        report = track_video(frames, out, open_pipeline(checkpoint, device), prompts, **asked)
    except (ValueError, OSError) as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    elif asked["progress"]:
        typer.echo(f"{report.frames} frames, {report.boxes} boxes of {report.tracks} objects")
        typer.echo(f"{out}  {out.with_suffix('.jsonl')}  (K: {report.intrinsics_source})")
    return report


def _want_prompts(prompts) -> None:
    if not prompts:
        fail("--prompt: got none, want what to find, such as 'the nearest car'.")


def _predict_pictures(
    images, out: Path, checkpoint, prompts, device, asked: dict, overwrite: bool, as_json: bool, html: bool, svg: bool
) -> None:
    _want_prompts(prompts)
    for source in images:
        if Path(source).is_dir():
            fail(f"IMAGE: {source} is a folder; for all its pictures pass --out NAME.parquet, or as a video NAME.mp4.")
        if Path(source).suffix.lower() in VIDEO_SUFFIXES:
            fail(f"IMAGE: {source} is a video; pass --out NAME.mp4.")
    suffixes = (".json", ".png", *[".html"] * html, *[".svg"] * svg)
    targets = _targets(images, out, overwrite, suffixes)

    from PIL import ImageOps

    from llmi3d.data.jobs import whole_file, write_whole
    from llmi3d.processing.drawing.overlays import draw_answer
    from llmi3d.processing.image_processing_llmi3d import load_image

    if html:
        try:
            import plotly  # noqa: F401
        except ModuleNotFoundError as error:
            fail(f"{error.name} is not installed; --html needs pip install 'llmi3d[plot]'.")
        from llmi3d.processing.drawing.scene_3d import draw_3d
    ground = open_pipeline(checkpoint, device)
    for source, target in zip(images, targets, strict=True):
        try:
            image = load_image(source)
            answers = ground(image, prompt=prompts, **asked)
        except ValueError as error:
            fail(f"{source}: {error}")
        image = ImageOps.exif_transpose(image).convert("RGB")
        with whole_file(f"{target}.png", "wb") as file:
            draw_answer(image, answers).save(file, "PNG")
        if svg:
            write_whole(f"{target}.svg", draw_answer(image, answers, svg=True).encode())
        if html:
            boxes = [box for answer in answers for box in answer["boxes"]]
            write_whole(f"{target}.html", draw_3d(image, boxes, answers[0]["intrinsics"]).to_html().encode())
        write_whole(f"{target}.json", json.dumps({"image": source, "answers": answers}, indent=1))
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
        written = "  ".join(f"{target}{suffix}" for suffix in suffixes)
        typer.echo(f"{written}  (K: {answers[0]['intrinsics_source']})")


def _targets(images: list[str], out: Path, overwrite: bool, suffixes: tuple[str, ...]) -> list[Path]:
    """Where each picture's results go, without suffix. Names come from the pictures', never their folders."""
    targets = [out / (re.sub(r"[^\w.-]", "_", Path(source).stem) or "image") for source in images]
    if len(set(targets)) != len(targets):
        fail("IMAGE: two pictures have the same file name, and so would their results; give them one by one.")
    for target in targets:
        for path in (Path(f"{target}{suffix}") for suffix in suffixes):
            if path.exists() and not overwrite:
                fail(f"--out: {path} is there already; choose another folder or pass --overwrite.")
    return targets
