# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""From what a form holds to answers, pictures and words. Knows nothing of Gradio."""

import html
import math
from typing import Any

from PIL import Image
from transformers import Pipeline

from llmi3d.processing.cameras_llmi3d import DEFAULT_FOV_DEG, exif_focal_length, exif_orientation, resolve_camera
from llmi3d.processing.image_processing_llmi3d import load_image

# Phones' pictures of 50 megapixels pass; a decoded picture then takes 200 MB at most.
MAX_PIXELS = 51_000_000
MAX_PROMPTS = 16
MAX_LETTERS = 500
# Where K comes from: the picture's EXIF data or a default; a field of view; K itself.
CAMERAS = ("auto", "fov", "intrinsics")

SOURCES = {
    "given": "as you gave it",
    "fov": "from the field of view you gave",
    "exif": "from the picture's EXIF data",
    "default": "a guess",
}
UNKNOWN = "The picture does not say what camera took it. Give the field of view or K here if you know it."
DEFAULT_WARNING = (
    f"The camera is not known: a field of view of {DEFAULT_FOV_DEG:g} degrees across the longer side is assumed. "
    "Every distance and size scales with this guess. Give the field of view or K under Camera."
)


def open_picture(path: str | None) -> Image.Image:
    """The picture of a form.

    Raises:
        ValueError: none, or one that cannot be read or is too large.
    """
    if not path:
        raise ValueError("image: got none, want a picture.")
    try:
        return load_image(path, MAX_PIXELS)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), "the file")) from error  # no paths of this machine


def split_prompts(text: str | None) -> list[str]:
    """The phrases of a form, one a line.

    Raises:
        ValueError: none, too many, or one that is too long.
    """
    prompts = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not prompts:
        raise ValueError("prompt: got none, want what to find, such as 'the nearest car'.")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"prompt: got {len(prompts)} lines, want at most {MAX_PROMPTS}.")
    for prompt in prompts:
        check_length("prompt", prompt)
    return prompts


def check_length(name: str, text: str) -> None:
    """Refuses words that are too long for a form."""
    if len(text) > MAX_LETTERS:
        raise ValueError(f"{name}: got {len(text)} letters, want at most {MAX_LETTERS}.")


def given_camera(
    camera: str,
    fov_deg: float | None,
    fx: float | None,
    fy: float | None,
    cx: float | None,
    cy: float | None,
    size: tuple[int, int],
) -> dict[str, Any]:
    """`intrinsics` and `fov_deg`, as the pipeline takes them, of a form's camera.

    Args:
        camera: one of `CAMERAS`; fields of another are passed over.
        fov_deg: horizontal, of the upright picture, degrees.
        fx, fy, cx, cy: pixels of the picture as stored; without fy it is fx, without cx or cy the middle.
        size: (width, height) of the picture as stored, pixels.

    Raises:
        ValueError: an unknown kind of camera, or one whose fields are empty.
    """
    if camera not in CAMERAS:
        raise ValueError(f"camera: got {camera!r}, want one of {', '.join(CAMERAS)}.")
    if camera == "auto":
        return {"intrinsics": None, "fov_deg": None}
    if camera == "fov":
        if fov_deg is None:
            raise ValueError("fov_deg: got none, want degrees.")
        return {"intrinsics": None, "fov_deg": fov_deg}
    if not fx:
        raise ValueError(f"fx: got {fx}, want the focal length in pixels.")
    middle = [size[i] / 2 if value is None else value for i, value in enumerate((cx, cy))]
    return {"intrinsics": [fx, fy or fx, *middle], "fov_deg": None}


def read_camera(path: str | None) -> dict[str, Any]:
    """What is known of a picture's camera before anybody says more.

    Returns:
        `image_size` (width, height) upright, `intrinsics` [3, 3], `intrinsics_source` (`exif` or `default`).
    """
    image = open_picture(path)
    camera = resolve_camera(image.size, exif_orientation(image), focal_length=exif_focal_length(image))
    return {
        "image_size": list(camera.image_size),
        "intrinsics": [list(row) for row in camera.intrinsics],
        "intrinsics_source": camera.source,
    }


def find(ground: Pipeline, path: str | None, prompts: str | None, camera: tuple, mode: str, threshold: float) -> dict:
    """Answers to the phrases of a form, in one dictionary that `json.dumps` takes.

    Args:
        camera: (kind, fov_deg, fx, fy, cx, cy), as for `given_camera`.

    Returns:
        `image_size`, `intrinsics`, `intrinsics_source`, and `answers`: what the pipeline gives for each phrase.

    Raises:
        ValueError: anything that is wrong with what was given; the message names it.
    """
    phrases = split_prompts(prompts)
    image = open_picture(path)
    answers = ground(image, prompt=phrases, mode=mode, threshold=threshold, **given_camera(*camera, size=image.size))
    shared = {name: answers[0][name] for name in ("image_size", "intrinsics", "intrinsics_source")}
    return {**shared, "answers": answers}


def camera_in_words(answer: dict[str, Any]) -> str:
    """HTML: K and where it came from; a visible warning where it is a guess."""
    (fx, _, cx), (_, fy, cy), _ = answer["intrinsics"]
    (width, height), source = answer["image_size"], answer["intrinsics_source"]
    fov = math.degrees(math.atan(cx / fx) + math.atan((width - cx) / fx))
    text = (
        f'<p class="camera" data-source="{source}"><b>K</b> {SOURCES[source]} (<code>{source}</code>): fx {fx:.1f}, '
        f"fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f} pixels of {width} x {height}; {fov:.0f}&deg; across.</p>"
    )
    return text + (f'<p class="warning" role="alert">{DEFAULT_WARNING}</p>' if source == "default" else "")


def known_camera_in_words(camera: dict[str, Any]) -> str:
    """HTML: what `read_camera` found, before anything is asked."""
    return f'<p class="camera">{UNKNOWN}</p>' if camera["intrinsics_source"] == "default" else camera_in_words(camera)


def answers_in_words(answers: list[dict[str, Any]]) -> str:
    """HTML: a row a box, and one for each phrase that means nothing in the picture; what was said under its phrase."""
    rows = []
    for answer in answers:
        said = f'<div class="said">{html.escape(answer["text"])}</div>' if answer["text"] else ""
        for box in answer["boxes"]:
            numbers = [f"{math.hypot(*box['center']):.2f}", ", ".join(f"{value:+.2f}" for value in box["center"])]
            numbers += [" x ".join(f"{value:.2f}" for value in box["size"]), f"{box['score']:.2f}"]
            rows.append((html.escape(box["label"]) + said, *numbers))
            said = ""
        if not answer["boxes"]:
            absent = '<span class="absent">not in the picture</span>'
            rows.append((html.escape(answer["prompt"]) + said, absent, "", "", ""))
    head = ("phrase", "distance, m", "right, down, forward, m", "length x height x width, m", "score")
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    top = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="wide"><table class="answers"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
