# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes, cameras and photographs to draw, and how to look at a drawing."""

import torch
from PIL import Image, ImageChops

from llmi3d.processing.geometry_llmi3d import box_corners, yaw_to_matrix

INTRINSICS = [[520.0, 0.0, 310.0], [0.0, 540.0, 250.0], [0.0, 0.0, 1.0]]
K = torch.tensor(INTRINSICS, dtype=torch.float64)
SIZE = (640, 480)


def make_box(center, size=(4.0, 1.5, 1.8), yaw=0.5, **other):
    return {"label": "car", "center": list(center), "size": list(size), "rotation": rotation(yaw), **other}


def rotation(yaw):
    return yaw_to_matrix(torch.tensor(yaw)).tolist()


def corners_of(box):
    return box_corners(*(torch.tensor(box[name], dtype=torch.float64) for name in ("center", "size", "rotation")))


def photograph(size=SIZE):
    """Noise: any smoothing or shift of untouched pixels would show."""
    return Image.effect_noise(size, 60).convert("RGB")


def changed_box(before, after):
    return ImageChops.difference(before, after).getbbox()


def nearly(color, wanted, tolerance=40):
    return all(abs(a - b) <= tolerance for a, b in zip(color, wanted, strict=True))


def color_mass(picture, color, tolerance=40):
    """Mean (x, y) of the pixels of a colour."""
    pixels = torch.tensor(list(picture.tobytes())).view(picture.height, picture.width, 3)
    rows, columns = ((pixels - torch.tensor(color)).abs() <= tolerance).all(-1).nonzero(as_tuple=True)
    assert len(rows)
    return [columns.double().mean().item(), rows.double().mean().item()]
