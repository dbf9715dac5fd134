# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes seen from above, on a metric grid."""

import math

import torch
from PIL import Image
from torch import Tensor

from llmi3d.processing.drawing.styles import (
    BACKGROUND,
    FRONT_FACE,
    GRID,
    HORIZON,
    TEXT,
    WHITE,
    box_color,
    checked_corners,
    round_step,
)
from llmi3d.processing.drawing.surfaces import Surface, surface_on
from llmi3d.processing.geometry_llmi3d import back_project, check_intrinsics


def draw_birds_eye_view(
    boxes: list,
    intrinsics,
    image_size: tuple[int, int],
    ground_truth=(),
    size: tuple[int, int] = (480, 480),
    reach: float = 0.0,
    svg: bool = False,
) -> Image.Image | str:
    """Draw boxes from above: x to the right, z up, the camera and its field of view at the bottom.

    The range fits every box; boxes behind the camera extend it downwards. A tilted box shows its outline from above.

    Args:
        boxes, intrinsics, ground_truth, svg: as for `draw_boxes`.
        image_size: (width, height) of the photograph in pixels; with K it sets the field of view.
        size: (width, height) of the drawing in pixels.
        reach: depth in metres that is shown at least, so that all views of a video have one scale.

    Returns:
        RGB image, or SVG text.
    """
    intrinsics = check_intrinsics(intrinsics)
    surface = surface_on(Image.new("RGB", size, BACKGROUND), svg)
    drawn = [(box, checked_corners(boxes, i), box_color(box, i), 0.0) for i, box in enumerate(boxes)]
    dash = 4 * surface.line_width
    drawn += [
        (box, checked_corners(ground_truth, i, "ground_truth"), WHITE, dash) for i, box in enumerate(ground_truth)
    ]
    outlines = [_outline_from_above(corners) for _, corners, _, _ in drawn]
    ground = _Ground(outlines, size, margin_px=min(2 * surface.font.size, 0.2 * min(size)), reach=reach)

    sides_px = torch.tensor([[0.0, 0.0], [image_size[0], 0.0]], dtype=torch.float64)
    sides = back_project(sides_px, torch.full((2,), ground.z_max, dtype=torch.float64), intrinsics)
    left, right = (ground(x, z) for x, _, z in sides.tolist())
    camera = ground(0, 0)
    surface.polygon([left, camera, right], (*WHITE, 18))
    _draw_grid(surface, ground)
    surface.path([left, camera, right], HORIZON, 0.6 * surface.line_width)
    triangle = ((-0.6, 0.5), (0.6, 0.5), (0, -0.5))
    surface.polygon(
        [(camera[0] + x * surface.font.size, camera[1] + y * surface.font.size) for x, y in triangle], TEXT
    )

    for (box, corners, color, dash), outline in zip(drawn, outlines, strict=True):
        points = [ground(*point) for point in outline]
        if not dash:
            surface.path([ground(x, z) for x, _, z in box.get("trail", ())], color, 0.7 * surface.line_width)
            surface.polygon(points, (*color, 80))
            heading = torch.stack((corners.mean(0), corners[list(FRONT_FACE)].mean(0)))[:, [0, 2]].tolist()
            surface.path([ground(*point) for point in heading], color, surface.line_width)
        surface.path([*points, points[0]], color, surface.line_width, dash)
    return surface.finish()


def _outline_from_above(corners: Tensor) -> list[tuple[float, float]]:
    """Return (x, z) in metres around the convex hull of the corners seen from above (Andrew's monotone chain)."""
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
    """Maps metres on the ground (x, z) to pixels, at one scale that fits all outlines and the camera."""

    def __init__(self, outlines: list, size: tuple[int, int], margin_px: float, reach: float):
        x, z = zip((0.0, 0.0), *(point for outline in outlines for point in outline), strict=True)
        # Never closer than a metre; the depth of a street where there is nothing to fit.
        z_max = max(1.0, reach, *z) if outlines or reach else 20.0
        across, along = max(0.5, *map(abs, x)), z_max - min(z)
        self.scale = min((size[0] / 2 - margin_px) / across, (size[1] - 2 * margin_px) / along)
        self.origin = (size[0] / 2, size[1] - margin_px + min(z) * self.scale)
        self.x_max = size[0] / 2 / self.scale
        self.z_min, self.z_max = (self.origin[1] - size[1]) / self.scale, self.origin[1] / self.scale

    def __call__(self, x: float, z: float) -> tuple[float, float]:
        return self.origin[0] + self.scale * x, self.origin[1] - self.scale * z


def _draw_grid(surface: Surface, ground: _Ground):
    """Draw grid lines at round metres, with numbers along the left (z) and the bottom (x)."""
    (width, height), letter = surface.size, surface.font.size
    step = round_step(4 * letter / ground.scale)
    for k in range(math.ceil(-ground.x_max / step), math.floor(ground.x_max / step) + 1):
        x, _ = ground(k * step, 0)
        surface.path([(x, 0), (x, height)], GRID, 1)
        if k and 2 * letter < x < width - 2 * letter:
            surface.text((x, height - 0.3 * letter), f"{k * step:g}", TEXT, "mb")
    for k in range(math.ceil(ground.z_min / step), math.floor(ground.z_max / step) + 1):
        _, y = ground(0, k * step)
        surface.path([(0, y), (width, y)], GRID, 1)
        if 0.6 * letter < y < height - 2 * letter:
            surface.text((0.4 * letter, y), f"{k * step:g} m", TEXT, "lm")
