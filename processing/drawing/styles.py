# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What all drawings share: colours, names and checked corners of boxes, steps of grids."""

import math

import torch
from torch import Tensor

from llmi3d.processing.geometry_llmi3d import box_corners

# Okabe and Ito's colour-blind-safe palette without its black and its dark blue, which vanish on dark ground.
PALETTE = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115), (213, 94, 0), (204, 121, 167))
WHITE, DARK = (255, 255, 255), (15, 17, 20)
BACKGROUND, GRID, HORIZON, TEXT = (30, 34, 40), (58, 64, 73), (120, 127, 138), (205, 210, 217)
FRONT_FACE = (1, 2, 6, 5)  # the four corners of the +x face, in order around it
ABSENT = "not in the image"


def box_color(box: dict, index: int) -> tuple[int, int, int]:
    """Return the colour of box `index` of a drawing; a box with a `track` keeps its colour from frame to frame."""
    return PALETTE[box.get("track", index) % len(PALETTE)]


def label_of(box: dict) -> str:
    """Return the name of a box."""
    return str(box.get("label", box.get("category", "")))


def checked_corners(boxes, index: int, name: str = "boxes") -> Tensor:
    """Return the corners of `boxes[index]`: float64 [8, 3], metres, camera frame.

    Raises:
        ValueError: centre, size or rotation is missing, not finite or of the wrong shape.
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
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `least`: metres between grid lines."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
