# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Answers of the page, and their words as HTML, from the fields of its forms. Knows nothing of Gradio."""

import html
import math
from typing import Any

from PIL import Image
from transformers import Pipeline

from llmi3d.apps.conversation import Conversation
from llmi3d.processing.cameras_llmi3d import DEFAULT_FOV_DEG, exif_focal_length, exif_orientation, resolve_camera
from llmi3d.processing.drawing.styles import ABSENT
from llmi3d.processing.image_processing_llmi3d import load_image

# Images of 50 megapixels, as phones take them, pass; a decoded image then takes 200 MB at most.
MAX_PIXELS = 51_000_000
MAX_PROMPTS = 16
MAX_LETTERS = 500
MAX_NEW_TOKENS = 128
# Source of K: the image's EXIF data or a default; a field of view; K itself.
CAMERAS = ("auto", "fov", "intrinsics")

SOURCES = {
    "given": "as given",
    "fov": "from the given field of view",
    "exif": "from the image's EXIF data",
    "default": "a guess",
}
UNKNOWN = "The image does not say which camera took it. Give the field of view or K below if you know it."
DEFAULT_WARNING = (
    f"The camera is unknown: a field of view of {DEFAULT_FOV_DEG:g} degrees across the longer side is assumed. "
    "Every distance and size scales with this guess. Give the field of view or K under Camera."
)


def open_image(path: str | None) -> Image.Image:
    """Open the image of a form.

    Raises:
        ValueError: the image is missing, unreadable or too large.
    """
    if not path:
        raise ValueError("image: got none, want an image.")
    try:
        return load_image(path, MAX_PIXELS)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), "the file")) from error  # keep paths of this machine private


def split_prompts(text: str | None) -> list[str]:
    """Split the text of a form into phrases, one per line.

    Raises:
        ValueError: no phrase, too many, or one that is too long.
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
    """Raise a ValueError if a text is too long for a form."""
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
    """Convert the camera of a form to the pipeline's arguments `intrinsics` and `fov_deg`.

    Args:
        camera: one of `CAMERAS`; fields of the other kinds are ignored.
        fov_deg: horizontal, of the upright image, degrees.
        fx, fy, cx, cy: pixels of the image as stored; fy defaults to fx, cx and cy to the middle.
        size: (width, height) of the image as stored, pixels.

    Raises:
        ValueError: the kind of camera is unknown, or its fields are empty.
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
    """Read what an image tells about its camera.

    Returns:
        `image_size` (width, height) upright, `intrinsics` [3, 3], `intrinsics_source` (`exif` or `default`).
    """
    image = open_image(path)
    camera = resolve_camera(image.size, exif_orientation(image), focal_length=exif_focal_length(image))
    return {
        "image_size": list(camera.image_size),
        "intrinsics": [list(row) for row in camera.intrinsics],
        "intrinsics_source": camera.source,
    }


def find(
    ground: Pipeline,
    path: str | None,
    prompts: str | None,
    camera: tuple,
    mode: str,
    threshold: float,
    pointing: bool = False,
) -> dict[str, Any]:
    """Answer the phrases of a form.

    Args:
        camera: (kind, fov_deg, fx, fy, cx, cy), as for `given_camera`.
        pointing: as in the pipeline.

    Returns:
        A dictionary that `json.dumps` takes: `image_size`, `intrinsics`, `intrinsics_source`, and `answers`, the
        pipeline's answer to each phrase.

    Raises:
        ValueError: invalid input; the message names the field.
    """
    phrases, image = split_prompts(prompts), open_image(path)
    known = given_camera(*camera, size=image.size)
    answers = ground(image, prompt=phrases, mode=mode, threshold=threshold, pointing=pointing, **known)
    shared = {name: answers[0][name] for name in ("image_size", "intrinsics", "intrinsics_source")}
    return {**shared, "answers": answers}


def talk(ground: Pipeline, path: str | None, question: Any, messages: Any, camera: tuple) -> dict[str, Any]:
    """Answer one more question of a conversation about the image of a form.

    Args:
        messages: earlier turns, as in `Conversation`.
        camera: (kind, fov_deg, fx, fy, cx, cy), as for `given_camera`.

    Returns:
        What `Conversation.ask` returns, with `messages` for the next question.

    Raises:
        ValueError: invalid input; the message names the field.
    """
    if isinstance(question, str):
        check_length("question", question)
    if not isinstance(messages, list):
        raise ValueError(f"messages: got {type(messages).__name__}, want a list of turns.")
    image = open_image(path)
    chat = Conversation(ground, image, **given_camera(*camera, size=image.size), messages=messages)
    answer = chat.ask(question, max_new_tokens=MAX_NEW_TOKENS)
    return {**answer, "messages": chat.messages}


def camera_in_words(answer: dict[str, Any]) -> str:
    """Return HTML with K and its source, and a visible warning if it is a guess."""
    (fx, _, cx), (_, fy, cy), _ = answer["intrinsics"]
    (width, height), source = answer["image_size"], answer["intrinsics_source"]
    fov = math.degrees(math.atan(cx / fx) + math.atan((width - cx) / fx))
    text = (
        f'<p class="camera" data-source="{source}"><b>K</b> {SOURCES[source]} (<code>{source}</code>): fx {fx:.1f}, '
        f"fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f} pixels of {width} x {height}; {fov:.0f}&deg; across.</p>"
    )
    return text + (f'<p class="warning" role="alert">{DEFAULT_WARNING}</p>' if source == "default" else "")


def known_camera_in_words(camera: dict[str, Any]) -> str:
    """Return HTML with the result of `read_camera`."""
    return f'<p class="camera">{UNKNOWN}</p>' if camera["intrinsics_source"] == "default" else camera_in_words(camera)


def answers_in_words(answers: list[dict[str, Any]]) -> str:
    """Return an HTML table: a row per box or absent phrase, and the model's words under their phrase."""
    rows = []
    for answer in answers:
        said = f'<div class="said">{html.escape(answer["text"])}</div>' if answer["text"] else ""
        for box in answer["boxes"]:
            numbers = [f"{math.hypot(*box['center']):.2f}", ", ".join(f"{value:+.2f}" for value in box["center"])]
            numbers += [" x ".join(f"{value:.2f}" for value in box["size"]), f"{box['score']:.2f}"]
            rows.append((html.escape(box["label"]) + said, *numbers))
            said = ""
        if not answer["boxes"]:
            absent = f'<span class="absent">{ABSENT}</span>'
            rows.append((html.escape(answer["prompt"]) + said, absent, "", "", ""))
    head = ("phrase", "distance, m", "right, down, forward, m", "length x height x width, m", "score")
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    top = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="wide"><table class="answers"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
