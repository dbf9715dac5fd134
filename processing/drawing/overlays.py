# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Pictures of answers: wireframes over the photograph and a bird's-eye view, as Pillow pictures or as SVG.

A box to draw is a dict with `center`, `size` and `rotation` (camera frame, metres; see geometry_llmi3d), a `label` (or
`category`) and, optionally, a `score`: what the pipeline returns, or an object of an IG3D row. Its corners are
computed from these three, so that a drawing can never disagree with the numbers. Boxes of a video may also have a
`track`, a number that decides their colour and stands before their label, and a `trail`, centres where it was before.

The front face of a box is its +x (length) end. It is tinted and crossed in the picture, and the stroke from the
middle of a footprint runs to it in the bird's-eye view. Distances are metres from the camera to the centre of the box
(the length of `center`, not its depth).

With `svg=True` the functions return an SVG document as text, which holds the photograph and needs nothing beside it.
For a view that can be turned see visualize_3d.
"""

import math
import textwrap
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from llmi3d.processing.drawing.surfaces import Canvas, RasterCanvas, SvgCanvas
from llmi3d.processing.geometry_llmi3d import (
    CORNER_SIGNS,
    EDGES,
    NEAR,
    back_project,
    box_corners,
    check_intrinsics,
    project,
    transform_intrinsics,
)

# Okabe and Ito's colour-blind-safe palette without its black and its dark blue, which vanish on dark ground.
PALETTE = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115), (213, 94, 0), (204, 121, 167))
WHITE, DARK = (255, 255, 255), (15, 17, 20)
BACKGROUND, GRID, HORIZON, TEXT = (30, 34, 40), (58, 64, 73), (120, 127, 138), (205, 210, 217)
FRONT_FACE = (1, 2, 6, 5)  # the four corners of the +x face, in order around it
ABSENT = "not in the picture"
DRAWN_SIDE = 1280  # pixels of the longer side that `shrunk` leaves


def draw_boxes(
    image: Image.Image, boxes: list, intrinsics, ground_truth=(), show_labels: bool = True, svg: bool = False
) -> Image.Image | str:
    """Draws boxes over their photograph: an RGB picture of the same size.

    Edges that the box itself hides are thinner. What lies behind the camera or outside the picture is cut off; a box
    wholly there is left out. Box i has colour i of the palette, here and in `draw_birds_eye_view`.

    Args:
        image: the photograph; an EXIF orientation that is still to be applied is applied. It is not changed.
        boxes: dicts as described at the top of this file.
        intrinsics: [3, 3], pixels, image frame.
        ground_truth: further boxes, dashed in white, without labels.
        show_labels: whether to write label, score and distance. A label moves away from others while there is room,
            those of near boxes last; where there is none it is left out, as is what is too wide for the picture.
        svg: SVG text instead of a picture.

    Raises:
        ValueError: intrinsics that are no camera matrix, boxes without finite centre, size and rotation.
    """
    intrinsics = check_intrinsics(intrinsics)
    canvas = _canvas(ImageOps.exif_transpose(image).convert("RGB"), svg)
    corners = [checked_corners(boxes, i) for i in range(len(boxes))]
    truth = [checked_corners(ground_truth, i, "ground_truth") for i in range(len(ground_truth))]
    labels = []
    # Far boxes first, so that near ones lie over them.
    for i in sorted(range(len(boxes)), key=lambda i: -math.hypot(*boxes[i]["center"])):
        color = box_color(boxes[i], i)
        extent = _draw_wireframe(canvas, corners[i], intrinsics, color)
        if extent is not None:
            labels.append((extent, _label_text(boxes[i], canvas), color))
    for shape in truth:
        _draw_wireframe(canvas, shape, intrinsics, WHITE, dashed=True)
    if show_labels:
        _draw_labels(canvas, labels[::-1])  # near boxes choose their place first
    return canvas.finish()


def draw_birds_eye_view(
    boxes: list,
    intrinsics,
    image_size: tuple[int, int],
    ground_truth=(),
    size: tuple[int, int] = (480, 480),
    reach: float = 0.0,
    svg: bool = False,
) -> Image.Image | str:
    """Draws boxes from above on a metric grid: x to the right, z up, the camera and its field of view at the bottom.

    The range fits every box; boxes behind the camera extend it downwards. A tilted box shows its outline from above.

    Args:
        boxes, intrinsics, ground_truth, svg: as for `draw_boxes`.
        image_size: (width, height) in pixels of the photograph: with K it sets the field of view.
        size: (width, height) in pixels of the RGB picture that is returned.
        reach: metres before the camera that are shown at least: views of one video are to scale with it.
    """
    intrinsics = check_intrinsics(intrinsics)
    canvas = _canvas(Image.new("RGB", size, BACKGROUND), svg)
    drawn = [(box, checked_corners(boxes, i), box_color(box, i), 0.0) for i, box in enumerate(boxes)]
    dash = 4 * canvas.line_width
    drawn += [
        (box, checked_corners(ground_truth, i, "ground_truth"), WHITE, dash) for i, box in enumerate(ground_truth)
    ]
    outlines = [_outline_from_above(corners) for _, corners, _, _ in drawn]
    ground = _Ground(outlines, size, margin_px=min(2 * canvas.font.size, 0.2 * min(size)), reach=reach)

    sides_px = torch.tensor([[0.0, 0.0], [image_size[0], 0.0]], dtype=torch.float64)
    sides = back_project(sides_px, torch.full((2,), ground.z_max, dtype=torch.float64), intrinsics)
    left, right = (ground(x, z) for x, _, z in sides.tolist())
    camera = ground(0, 0)
    canvas.polygon([left, camera, right], (*WHITE, 18))
    _draw_grid(canvas, ground)
    canvas.path([left, camera, right], HORIZON, 0.6 * canvas.line_width)
    triangle = ((-0.6, 0.5), (0.6, 0.5), (0, -0.5))
    canvas.polygon([(camera[0] + x * canvas.font.size, camera[1] + y * canvas.font.size) for x, y in triangle], TEXT)

    for (box, corners, color, dash), outline in zip(drawn, outlines, strict=True):
        points = [ground(*point) for point in outline]
        if not dash:
            canvas.path([ground(x, z) for x, _, z in box.get("trail", ())], color, 0.7 * canvas.line_width)
            canvas.polygon(points, (*color, 80))
            heading = torch.stack((corners.mean(0), corners[list(FRONT_FACE)].mean(0)))[:, [0, 2]].tolist()
            canvas.path([ground(*point) for point in heading], color, canvas.line_width)
        canvas.path([*points, points[0]], color, canvas.line_width, dash)
    return canvas.finish()


def draw_answer(image: Image.Image, answer: dict | list, ground_truth=(), svg: bool = False) -> Image.Image | str:
    """Draws what the pipeline answers: picture and bird's-eye view side by side, below them what was asked (RGB).

    A phrase without boxes is said to be "not in the picture". Very small pictures are enlarged.

    Args:
        image: the photograph that was asked about.
        answer: dict with `image_size` (width, height), `intrinsics` [3, 3], `intrinsics_source`, `prompt` and `boxes`;
            or a list of them, the answers to several phrases.
        ground_truth, svg: as for `draw_boxes`.

    Raises:
        ValueError: no answer, an image of another size than the answers', and as for `draw_boxes`.
    """
    answers = [answer] if isinstance(answer, dict) else list(answer)
    if not answers:
        raise ValueError("answer: got an empty list, want at least one answer.")
    image = ImageOps.exif_transpose(image)
    for answer in answers:
        if image.size != tuple(answer["image_size"]):
            raise ValueError(f"image: got {image.size} pixels, but the answer is about {tuple(answer['image_size'])}.")
    boxes, intrinsics = (
        [box for answer in answers for box in answer["boxes"]],
        check_intrinsics(answers[0]["intrinsics"]),
    )
    enlarge = max(1, min(math.ceil(240 / min(image.size)), 640 // max(image.size)))
    if enlarge > 1:
        image = image.convert("RGB").resize([enlarge * side for side in image.size], Image.Resampling.BICUBIC)
        intrinsics = transform_intrinsics(intrinsics, (enlarge, enlarge), (0, 0))
    picture = draw_boxes(image, boxes, intrinsics, ground_truth, svg=svg)
    # Below some 300 pixels the grid cannot be read any more, however small the photograph.
    view_size = (max(300, min(image.size)), max(300, image.height))
    view = draw_birds_eye_view(boxes, intrinsics, image.size, ground_truth, view_size, svg=svg)

    font = Canvas(Image.new("RGB", (image.width + view_size[0], view_size[1]))).font
    margin, step = round(0.6 * font.size), round(1.35 * font.size)
    page_width = image.width + margin + view_size[0]
    lines = []
    for answer in answers:
        said = ": ".join(filter(None, (" ".join(answer["prompt"].split()), _count(answer["boxes"]))))
        # Letters differ in width: a tenth is kept free.
        letters = 0.9 * (page_width - 2 * margin) * len(said) / max(1.0, font.getlength(said))
        color = WHITE if answer["boxes"] else PALETTE[0]
        lines += [(line, color) for line in textwrap.wrap(said, max(1, int(letters)))]
    legend = "; dashed: ground truth" if ground_truth else ""
    source = answers[0]["intrinsics_source"]
    guess = ", a guess: distances scale with it" if source == "default" else ""
    lines.append((f"intrinsics: {source}{guess}{legend}", TEXT))
    page = Image.new("RGB", (page_width, view_size[1] + len(lines) * step + 2 * margin), BACKGROUND)
    page = SvgCanvas(page) if svg else RasterCanvas(page, factor=1)
    page.font = font
    page.paste(picture, (0, (view_size[1] - image.height) // 2))
    page.paste(view, (image.width + margin, 0))
    for i, (line, color) in enumerate(lines):
        page.text((margin, view_size[1] + margin + i * step), line, color, "la")
    return page.finish()


def shrunk(image: Image.Image, intrinsics) -> tuple[Image.Image, Tensor]:
    """An upright RGB picture of at most 1280 pixels along its longer side, and its K [3, 3]: enough to look at."""
    image, intrinsics = ImageOps.exif_transpose(image).convert("RGB"), check_intrinsics(intrinsics)
    width, height = image.size
    image.thumbnail((DRAWN_SIDE, DRAWN_SIDE))
    return image, transform_intrinsics(intrinsics, (image.width / width, image.height / height), (0, 0))


def montage(images: list[Image.Image], width: int = 1400, gap: int = 12) -> Image.Image:
    """Pictures in two columns, each as high as its own aspect asks for; the next one goes where there is most room.

    Args:
        images: at least one.
        width: of the whole, pixels.
        gap: between pictures, pixels.
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


def box_color(box: dict, index: int) -> tuple[int, int, int]:
    """The colour of box `index` of a drawing: that of its track where it has one, from frame to frame."""
    return PALETTE[box.get("track", index) % len(PALETTE)]


def label_of(box: dict) -> str:
    """What a box is called."""
    return str(box.get("label", box.get("category", "")))


def checked_corners(boxes, index: int, name: str = "boxes") -> Tensor:
    """Corners of `boxes[index]`: float64 [8, 3], metres, camera frame.

    Raises:
        ValueError: a box without centre, size or rotation, or with others than finite numbers of the right shape.
    """
    parts = []
    for part, shape in (("center", (3,)), ("size", (3,)), ("rotation", (3, 3))):
        given = boxes[index].get(part)
        try:
            value = torch.as_tensor(given, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            value = torch.empty(0)
        if value.shape != shape or not value.isfinite().all():
            numbers = "x".join(map(str, shape))
            raise ValueError(f"{name}[{index}].{part}: got {given!r}, want {numbers} finite numbers.")
        parts.append(value)
    return box_corners(*parts)


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`: metres between lines of a grid."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _canvas(image: Image.Image, svg: bool) -> Canvas:
    return SvgCanvas(image) if svg else RasterCanvas(image)


def _count(boxes: list) -> str:
    return f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}" if boxes else ABSENT


def _label_text(box: dict, canvas: Canvas) -> str:
    """Name, score and distance; a long name is cut, so that no label is wider than half the picture if it can be."""
    score = "" if box.get("score") is None else f"{box['score']:.2f}"
    track, name = f"#{box['track']}" if "track" in box else "", " ".join(label_of(box).split())
    rest = [part for part in (score, f"{math.hypot(*box['center']):.1f} m") if part]
    room = canvas.size[0] / 2 - canvas.font.getlength("  ".join([track, *rest]))
    if canvas.font.getlength(name) > room:
        while name and canvas.font.getlength(f"{name}...") > room:
            name = name[:-1]
        name = f"{name.rstrip()}..." if name else ""
    return "  ".join(part for part in (" ".join(filter(None, (track, name))), *rest) if part)


# --------------------------------------------------------------------------------------------------------- wireframes


def _visible_part(points: list, intrinsics: Tensor, size: tuple[int, int], margin_px: float) -> list:
    """The part of a polygon (of two points: of an edge) in view, in pixels; empty where nothing is.

    Cutting in the camera frame, before the division by z, keeps every coordinate near the picture. One plane after
    another, as Sutherland and Hodgman do: the near plane, then the four sides.
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
    """For each of EDGES: whether both faces that meet there look away from the camera (none, seen from inside)."""
    signs = corners.new_tensor(CORNER_SIGNS)
    half_axes, middle = signs.T @ corners / 8, corners.mean(0)
    # A face looks at the camera, the origin, if that lies on the outer side: normal . (middle + normal) < 0. [8, 3]:
    # the three faces that meet at each corner.
    facing = signs * (half_axes @ middle) + (half_axes**2).sum(-1) < 0
    start, end = torch.tensor(EDGES).T
    return (~(facing[start] & (signs[start] == signs[end])).any(-1) & facing.any()).tolist()


def _draw_wireframe(canvas: Canvas, corners: Tensor, intrinsics: Tensor, color, dashed: bool = False):
    """Draws one box; returns the extent (x_min, y_min, x_max, y_max) of what is seen in the picture, or None."""
    width = canvas.line_width

    def visible(*indices):
        return _visible_part([corners[i].tolist() for i in indices], intrinsics, canvas.size, margin_px=3 * width)

    edges = [visible(*edge) for edge in EDGES]
    if dashed:
        for tone, tone_width in ((DARK, 1.6 * width), (color, 0.8 * width)):
            for edge in edges:
                canvas.path(edge, tone, tone_width, dash=5 * width)
    else:
        canvas.polygon(visible(*FRONT_FACE), (*color, 70))
        for diagonal in (FRONT_FACE[::2], FRONT_FACE[1::2]):
            canvas.path(visible(*diagonal), (*color, 150), 0.5 * width)
        hidden = _hidden_edges(corners)
        # All dark casings before all colours: no casing may cut through a neighbouring edge.
        for which, tone, tone_width in ((True, color, 0.5), (False, DARK, 1.9), (False, color, 1.0)):
            for edge, is_hidden in zip(edges, hidden, strict=True):
                if is_hidden == which:
                    canvas.path(edge, tone, tone_width * width)
    if not any(edges):
        return None
    x, y = zip(*(point for edge in edges for point in edge), strict=True)
    extent = max(0, min(x)), max(0, min(y)), min(canvas.size[0], max(x)), min(canvas.size[1], max(y))
    return extent if extent[0] < extent[2] and extent[1] < extent[3] else None


def _draw_labels(canvas: Canvas, labels: list[tuple]):
    """Writes (extent, text, color) labels, each near the extent of its box and off the others, or not at all."""
    taken = np.empty((0, 2, 2))  # lowest and highest (x, y) of each plate
    height = round(1.4 * canvas.font.size)
    for (x_min, y_min, x_max, y_max), text, color in labels:
        width = canvas.font.getlength(text) + 0.8 * canvas.font.size
        if width > canvas.size[0] or height > canvas.size[1]:
            continue
        above, below = y_min - height - 2, y_max + 2
        rows = [above, below, y_min + 2, *(y for k in range(1, 8) for y in (above - k * height, below + k * height))]
        columns = (x_min, x_max - width, (x_min + x_max - width) / 2, x_min - width, x_max)
        places = np.array([(x, y) for y, x in product(rows, columns)])
        places = places.clip(0, np.subtract(canvas.size, (width, height)))
        apart = (places[:, None] >= taken[:, 1]) | (places[:, None] + (width, height) <= taken[:, 0])
        free = places[apart.any(-1).all(-1)]
        if not len(free):
            continue
        x, y = free[0].tolist()
        taken = np.concatenate((taken, [[(x, y), (x + width, y + height)]]))
        if y + height < y_min - height or y > y_max + height:  # moved away: a thin line says whose it is
            ends = (y + height, y_min) if y < y_min else (y, y_max)
            canvas.path([(x + width / 2, ends[0]), ((x_min + x_max) / 2, ends[1])], color, 1)
        canvas.plate(x, y, x + width, y + height, color)
        canvas.text((x + width / 2, y + height / 2), text, DARK, "mm")


# ---------------------------------------------------------------------------------------------------- bird's-eye view


def _outline_from_above(corners: Tensor) -> list[tuple[float, float]]:
    """(x, z) in metres around the convex hull of the corners seen from above (Andrew's monotone chain)."""
    points = sorted((x, z) for x, _, z in corners.tolist())
    hull = []
    for chain in (points, points[::-1]):
        start = len(hull)
        for x, z in chain:
            while len(hull) > start + 1:
                (x0, z0), (x1, z1) = hull[-2:]
                if (x1 - x0) * (z - z0) - (z1 - z0) * (x - x0) > 1e-9:
                    break
                hull.pop()
            hull.append((x, z))
        hull.pop()  # the other chain starts with it
    return hull


class _Ground:
    """Metres on the ground (x, z) to pixels of the view, at one scale that fits all outlines and the camera."""

    def __init__(self, outlines: list, size: tuple[int, int], margin_px: float, reach: float):
        x, z = zip((0.0, 0.0), *(point for outline in outlines for point in outline), strict=True)
        # Never closer than a metre, and a street's depth where there is nothing to fit.
        z_max = max(1.0, reach, *z) if outlines or reach else 20.0
        across, along = max(0.5, *map(abs, x)), z_max - min(z)
        self.scale = min((size[0] / 2 - margin_px) / across, (size[1] - 2 * margin_px) / along)
        self.origin = (size[0] / 2, size[1] - margin_px + min(z) * self.scale)
        self.x_max = size[0] / 2 / self.scale
        self.z_min, self.z_max = (self.origin[1] - size[1]) / self.scale, self.origin[1] / self.scale

    def __call__(self, x: float, z: float) -> tuple[float, float]:
        return self.origin[0] + self.scale * x, self.origin[1] - self.scale * z


def _draw_grid(canvas: Canvas, ground: _Ground):
    """Grid lines at round metres, named along the left (z) and the bottom (x)."""
    (width, height), letter = canvas.size, canvas.font.size
    step = round_step(4 * letter / ground.scale)
    for k in range(math.ceil(-ground.x_max / step), math.floor(ground.x_max / step) + 1):
        x, _ = ground(k * step, 0)
        canvas.path([(x, 0), (x, height)], GRID, 1)
        if k and 2 * letter < x < width - 2 * letter:
            canvas.text((x, height - 0.3 * letter), f"{k * step:g}", TEXT, "mb")
    for k in range(math.ceil(ground.z_min / step), math.floor(ground.z_max / step) + 1):
        _, y = ground(0, k * step)
        canvas.path([(0, y), (width, y)], GRID, 1)
        if 0.6 * letter < y < height - 2 * letter:
            canvas.text((0.4 * letter, y), f"{k * step:g} m", TEXT, "lm")
