# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Overlays on the photograph: wireframes of boxes with labels, and heat maps of where the network points."""

import math
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from llmi3d.processing.drawing.styles import DARK, FRONT_FACE, WHITE, box_color, checked_corners, label_of
from llmi3d.processing.drawing.surfaces import Surface, surface_on
from llmi3d.processing.geometry_llmi3d import (
    CORNER_SIGNS,
    EDGES,
    NEAR,
    check_intrinsics,
    project,
    transform_intrinsics,
)

DRAWN_SIDE = 1280  # longer side of what `shrunk` returns, pixels


def draw_boxes(
    image: Image.Image, boxes: list, intrinsics, ground_truth=(), show_labels: bool = True, svg: bool = False
) -> Image.Image | str:
    """Draw boxes over their photograph.

    Edges hidden by their own box are thinner. Whatever lies behind the camera or outside the image is cut off. Box i
    has colour i of the palette, here and in `draw_birds_eye_view`.

    Args:
        image: the photograph; a pending EXIF orientation is applied. It is not changed.
        boxes: dicts as described in `llmi3d.processing.drawing`.
        intrinsics: [3, 3], pixels, image frame.
        ground_truth: further boxes, dashed in white, without labels.
        show_labels: whether to write label, score and distance. Labels move apart while there is room, nearest box
            first; a label without room, or wider than the image, is left out.
        svg: whether to return SVG text.

    Returns:
        RGB image of the same size, or SVG text.

    Raises:
        ValueError: invalid intrinsics, or boxes without finite centre, size and rotation.
    """
    intrinsics = check_intrinsics(intrinsics)
    surface = surface_on(ImageOps.exif_transpose(image).convert("RGB"), svg)
    corners = [checked_corners(boxes, i) for i in range(len(boxes))]
    truth = [checked_corners(ground_truth, i, "ground_truth") for i in range(len(ground_truth))]
    labels = []
    # Far boxes first, so that near ones lie over them.
    for i in sorted(range(len(boxes)), key=lambda i: -math.hypot(*boxes[i]["center"])):
        color = box_color(boxes[i], i)
        extent = _draw_wireframe(surface, corners[i], intrinsics, color)
        if extent is not None:
            labels.append((extent, _label_text(boxes[i], surface), color))
    for box in truth:
        _draw_wireframe(surface, box, intrinsics, WHITE, dashed=True)
    if show_labels:
        _draw_labels(surface, labels[::-1])  # near boxes choose their place first
    return surface.finish()


def draw_pointing(image: Image.Image, answer: dict | list) -> Image.Image:
    """Draw heat maps of where the network points over a greyer copy of the photograph.

    The heat of box i has colour i of the palette, as in `draw_boxes`; it is opaque where its distribution peaks.
    Without any pointing in the answer, the photograph comes back as it is.

    Args:
        image: the photograph; a pending EXIF orientation is applied. It is not changed.
        answer: from the pipeline called with `pointing=True` (or a list of answers), or from
            `LLMI3DProcessor.post_process_grounding_3d`.

    Returns:
        RGB image of the same size.
    """
    image = ImageOps.exif_transpose(image).convert("RGB")
    if isinstance(answer, dict) and "boxes" not in answer:
        boxes = [{"pointing": heat} for heat in answer.get("pointing", ())]
    else:
        boxes = [box for one in ([answer] if isinstance(answer, dict) else answer) for box in one["boxes"]]
    if not any("pointing" in box for box in boxes):
        return image
    heated = Image.blend(image, image.convert("L").convert("RGB"), 0.7)
    for index, box in enumerate(boxes):
        heat = np.asarray(box.get("pointing", ()), np.float32)
        if heat.size and heat.max() > 0:
            opacity = Image.fromarray(heat / heat.max()).resize(image.size, Image.Resampling.BILINEAR)
            mask = Image.fromarray((230 * np.asarray(opacity)).astype(np.uint8))
            heated.paste(box_color(box, index), mask=mask)
    return heated


def shrunk(image: Image.Image, intrinsics) -> tuple[Image.Image, Tensor]:
    """Shrink an image to at most 1280 pixels along its longer side.

    Returns:
        (upright RGB image, its K [3, 3]).
    """
    image, intrinsics = ImageOps.exif_transpose(image).convert("RGB"), check_intrinsics(intrinsics)
    width, height = image.size
    image.thumbnail((DRAWN_SIDE, DRAWN_SIDE))
    return image, transform_intrinsics(intrinsics, (image.width / width, image.height / height), (0, 0))


# --------------------------------------------------------------------------------------------------------- wireframes


def _visible_part(points: list, intrinsics: Tensor, size: tuple[int, int], margin_px: float) -> list:
    """Clip a polygon, or an edge of two points, to the view; in pixels, empty where nothing is visible.

    Clipping in the camera frame, before the division by z, keeps every coordinate near the image. Sutherland and
    Hodgman's way: one plane after another, first the near plane, then the four sides.
    """
    fx, fy, cx, cy = (intrinsics[i].item() for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    left, top, right, bottom = cx + margin_px, cy + margin_px, size[0] - cx + margin_px, size[1] - cy + margin_px
    sides = ((fx, 0, left, 0), (-fx, 0, right, 0), (0, fy, top, 0), (0, -fy, bottom, 0))
    count = len(points)
    for a, b, c, d in ((0, 0, 1, -NEAR), *sides):
        above = [a * x + b * y + c * z + d for x, y, z in points]
        kept = []
        for i, point in enumerate(points):
            j = (i + 1) % len(points)
            if above[i] >= 0:
                kept.append(point)
            if (above[i] >= 0) != (above[j] >= 0):
                t = above[i] / (above[i] - above[j])
                kept.append([p + t * (q - p) for p, q in zip(point, points[j], strict=True)])
        points = kept[:2] if count == 2 else kept  # an edge must not run back to its start
    return project(torch.tensor(points, dtype=torch.float64), intrinsics).tolist() if points else []


def _hidden_edges(corners: Tensor) -> list[bool]:
    """Tell for each of EDGES whether both of its faces look away from the camera; none does from inside the box."""
    signs = corners.new_tensor(CORNER_SIGNS)
    half_axes, middle = signs.T @ corners / 8, corners.mean(0)
    # A face looks at the camera, the origin, if that lies on the outer side: normal . (middle + normal) < 0. [8, 3]:
    # the three faces that meet at each corner.
    facing = signs * (half_axes @ middle) + (half_axes**2).sum(-1) < 0
    start, end = torch.tensor(EDGES).T
    return (~(facing[start] & (signs[start] == signs[end])).any(-1) & facing.any()).tolist()


def _draw_wireframe(surface: Surface, corners: Tensor, intrinsics: Tensor, color, dashed: bool = False):
    """Draw one box; return the extent (x_min, y_min, x_max, y_max) of its visible part, or None."""
    width = surface.line_width

    def visible(*indices):
        return _visible_part([corners[i].tolist() for i in indices], intrinsics, surface.size, margin_px=3 * width)

    edges = [visible(*edge) for edge in EDGES]
    if dashed:
        for tone, tone_width in ((DARK, 1.6 * width), (color, 0.8 * width)):
            for edge in edges:
                surface.path(edge, tone, tone_width, dash=5 * width)
    else:
        surface.polygon(visible(*FRONT_FACE), (*color, 70))
        for diagonal in (FRONT_FACE[::2], FRONT_FACE[1::2]):
            surface.path(visible(*diagonal), (*color, 150), 0.5 * width)
        hidden = _hidden_edges(corners)
        # All dark casings before all colours: no casing may cut through a neighbouring edge.
        for which, tone, tone_width in ((True, color, 0.5), (False, DARK, 1.9), (False, color, 1.0)):
            for edge, is_hidden in zip(edges, hidden, strict=True):
                if is_hidden == which:
                    surface.path(edge, tone, tone_width * width)
    if not any(edges):
        return None
    x, y = zip(*(point for edge in edges for point in edge), strict=True)
    extent = max(0, min(x)), max(0, min(y)), min(surface.size[0], max(x)), min(surface.size[1], max(y))
    return extent if extent[0] < extent[2] and extent[1] < extent[3] else None


# ------------------------------------------------------------------------------------------------------------- labels


def _label_text(box: dict, surface: Surface) -> str:
    """Return name, score and distance; the name is cut so that the label fits half the width of the image."""
    score = "" if box.get("score") is None else f"{box['score']:.2f}"
    track, name = f"#{box['track']}" if "track" in box else "", " ".join(label_of(box).split())
    rest = [part for part in (score, f"{math.hypot(*box['center']):.1f} m") if part]
    room = surface.size[0] / 2 - surface.font.getlength("  ".join([track, *rest]))
    if surface.font.getlength(name) > room:
        while name and surface.font.getlength(f"{name}...") > room:
            name = name[:-1]
        name = f"{name.rstrip()}..." if name else ""
    return "  ".join(part for part in (" ".join(filter(None, (track, name))), *rest) if part)


def _draw_labels(surface: Surface, labels: list[tuple]):
    """Write (extent, text, color) labels, each near its box and clear of the others, or not at all."""
    taken = np.empty((0, 2, 2))  # lowest and highest (x, y) of each plate
    height = round(1.4 * surface.font.size)
    for (x_min, y_min, x_max, y_max), text, color in labels:
        width = surface.font.getlength(text) + 0.8 * surface.font.size
        if width > surface.size[0] or height > surface.size[1]:
            continue
        above, below = y_min - height - 2, y_max + 2
        rows = [above, below, y_min + 2, *(y for k in range(1, 8) for y in (above - k * height, below + k * height))]
        columns = (x_min, x_max - width, (x_min + x_max - width) / 2, x_min - width, x_max)
        places = np.array([(x, y) for y, x in product(rows, columns)])
        places = places.clip(0, np.subtract(surface.size, (width, height)))
        apart = (places[:, None] >= taken[:, 1]) | (places[:, None] + (width, height) <= taken[:, 0])
        free = places[apart.any(-1).all(-1)]
        if not len(free):
            continue
        x, y = free[0].tolist()
        taken = np.concatenate((taken, [[(x, y), (x + width, y + height)]]))
        if y + height < y_min - height or y > y_max + height:  # moved away: a thin line says whose it is
            ends = (y + height, y_min) if y < y_min else (y, y_max)
            surface.path([(x + width / 2, ends[0]), ((x_min + x_max) / 2, ends[1])], color, 1)
        surface.plate(x, y, x + width, y + height, color)
        surface.text((x + width / 2, y + height / 2), text, DARK, "mm")
