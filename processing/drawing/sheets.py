# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Sheets of several drawings: one answer from both sides with its words, and montages of images."""

import math
import textwrap

from PIL import Image, ImageOps

from llmi3d.processing.drawing.birds_eye import draw_birds_eye_view
from llmi3d.processing.drawing.overlays import draw_boxes
from llmi3d.processing.drawing.styles import ABSENT, BACKGROUND, PALETTE, TEXT, WHITE
from llmi3d.processing.drawing.surfaces import Surface, surface_on
from llmi3d.processing.geometry_llmi3d import check_intrinsics, transform_intrinsics


def draw_answer(image: Image.Image, answer: dict | list, ground_truth=(), svg: bool = False) -> Image.Image | str:
    """Draw an answer of the pipeline: overlay and bird's-eye view side by side, the phrases and counts below them.

    A phrase without boxes is "not in the image". Very small images are enlarged.

    Args:
        image: the photograph that was asked about.
        answer: dict with `image_size` (width, height), `intrinsics` [3, 3], `intrinsics_source`, `prompt` and `boxes`;
            or a list of them, the answers to several phrases.
        ground_truth, svg: as for `draw_boxes`.

    Returns:
        RGB image, or SVG text.

    Raises:
        ValueError: no answer, an image of another size than the answer's, and as for `draw_boxes`.
    """
    answers = [answer] if isinstance(answer, dict) else list(answer)
    if not answers:
        raise ValueError("answer: got an empty list, want at least one answer.")
    image = ImageOps.exif_transpose(image)
    for answer in answers:
        if image.size != tuple(answer["image_size"]):
            raise ValueError(f"image: got {image.size} pixels, but the answer is about {tuple(answer['image_size'])}.")
    boxes = [box for answer in answers for box in answer["boxes"]]
    intrinsics = check_intrinsics(answers[0]["intrinsics"])
    enlarge = max(1, min(math.ceil(240 / min(image.size)), 640 // max(image.size)))
    if enlarge > 1:
        image = image.convert("RGB").resize([enlarge * side for side in image.size], Image.Resampling.BICUBIC)
        intrinsics = transform_intrinsics(intrinsics, (enlarge, enlarge), (0, 0))
    overlay = draw_boxes(image, boxes, intrinsics, ground_truth, svg=svg)
    # Below some 300 pixels the grid is unreadable, however small the photograph.
    view_size = (max(300, min(image.size)), max(300, image.height))
    view = draw_birds_eye_view(boxes, intrinsics, image.size, ground_truth, view_size, svg=svg)

    font = Surface(Image.new("RGB", (image.width + view_size[0], view_size[1]))).font
    margin, step = round(0.6 * font.size), round(1.35 * font.size)
    sheet_width = image.width + margin + view_size[0]
    lines = _lines_of(answers, bool(ground_truth), font, sheet_width - 2 * margin)
    sheet = Image.new("RGB", (sheet_width, view_size[1] + len(lines) * step + 2 * margin), BACKGROUND)
    sheet = surface_on(sheet, svg, factor=1)
    sheet.font = font
    sheet.paste(overlay, (0, (view_size[1] - image.height) // 2))
    sheet.paste(view, (image.width + margin, 0))
    for i, (line, color) in enumerate(lines):
        sheet.text((margin, view_size[1] + margin + i * step), line, color, "la")
    return sheet.finish()


def _lines_of(answers: list[dict], has_truth: bool, font, width: float) -> list[tuple]:
    """Return (line, colour) of all that is written under an answer, wrapped at `width` pixels."""
    lines = []
    for answer in answers:
        count = len(answer["boxes"])
        counted = f"{count} {'box' if count == 1 else 'boxes'}" if count else ABSENT
        text = ": ".join(filter(None, (" ".join(answer["prompt"].split()), counted)))
        # Letters differ in width: a tenth is kept free.
        letters = 0.9 * width * len(text) / max(1.0, font.getlength(text))
        lines += [(line, WHITE if count else PALETTE[0]) for line in textwrap.wrap(text, max(1, int(letters)))]
    source = answers[0]["intrinsics_source"]
    guess = ", a guess: distances scale with it" if source == "default" else ""
    legend = "; dashed: ground truth" if has_truth else ""
    return [*lines, (f"intrinsics: {source}{guess}{legend}", TEXT)]


def montage(images: list[Image.Image], width: int = 1400, gap: int = 12) -> Image.Image:
    """Arrange images in two columns, each at its own aspect; the next one goes to the shorter column.

    Args:
        images: at least one.
        width: of the montage, pixels.
        gap: between images, pixels.
    """
    column = (width - gap) // 2
    heights, placed = [0, 0], []
    for image in images:
        shown = image.convert("RGB").resize((column, round(image.height * column / image.width)))
        side = heights.index(min(heights))
        placed.append((shown, side * (column + gap), heights[side]))
        heights[side] += shown.height + gap
    sheet = Image.new("RGB", (width, max(heights) - gap), BACKGROUND)
    for shown, x, y in placed:
        sheet.paste(shown, (x, y))
    return sheet
