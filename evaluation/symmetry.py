# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rotation errors up to a box's symmetries, with matching lengths.

The order of a box's axes is arbitrary: a quarter turn about the upright axis describes the same set of points if
length and width are swapped too. So a symmetry never applies to the rotation alone. `align_axes` picks, among the
equivalent descriptions of the predicted box, the one whose axes are closest to the true ones, and every error is
measured on it.

    none          as described
    half_turn     0 or 180 degrees about the box's y (upright) axis: front and back look alike
    quarter_turn  multiples of 90 degrees about y; length and width are swapped at 90 and 270
    continuous    any angle about y (a bottle): the remaining angle is that between the upright axes, and length and
                  width are paired as they fit best
    cuboid        180 degrees about each axis: the 4 rotations that map any box onto itself
    any_axes      all 24 orders and signs of the axes, with their sizes: equal errors for equal sets of points

Shapes: N boxes, G elements of a symmetry group.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmi3d.processing.geometry_llmi3d import geodesic_angle, yaw_to_matrix

SYMMETRIES = ("none", "half_turn", "quarter_turn", "continuous", "cuboid", "any_axes")
# Descriptions whose angles differ by less (radians) are equally close; then the sizes decide.
SAME_ANGLE = 1e-7


def symmetry_group(symmetry: str) -> Tensor:
    """Return the rotations [G, 3, 3] of a symmetry, float64. Each maps the box's axes to equivalent ones.

    Raises:
        ValueError: an unknown symmetry, or `continuous`, which has no finite group.
    """
    if symmetry == "continuous" or symmetry not in SYMMETRIES:
        finite = [name for name in SYMMETRIES if name != "continuous"]
        raise ValueError(f"symmetry: got {symmetry!r}, want one of {', '.join(finite)}.")
    if symmetry in ("none", "half_turn", "quarter_turn"):
        count = {"none": 1, "half_turn": 2, "quarter_turn": 4}[symmetry]
        return yaw_to_matrix(torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)).round()
    elements = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = torch.diag(torch.tensor(signs, dtype=torch.float64))[:, list(order)]
            if torch.linalg.det(matrix) > 0 and (symmetry == "any_axes" or order == (0, 1, 2)):
                elements.append(matrix)
    return torch.stack(elements)


def align_axes(
    size: Tensor, rotation: Tensor, true_size: Tensor, true_rotation: Tensor, symmetry: str | Sequence[str] = "none"
) -> tuple[Tensor, Tensor]:
    """Choose the equivalent description of each predicted box that is closest to the truth.

    Args:
        size, true_size: [N, 3] = (length, height, width), metres.
        rotation, true_rotation: [N, 3, 3], box to camera.
        symmetry: one of SYMMETRIES for all boxes, or one for each.

    Returns:
        (size [N, 3], rotation [N, 3, 3]) of the chosen description. The smallest rotation angle decides; among equal
        angles, the sizes.

    Raises:
        ValueError: an unknown symmetry.
    """
    names = [symmetry] * len(size) if isinstance(symmetry, str) else list(symmetry)
    if len(names) != len(size):
        raise ValueError(f"symmetry: got {len(names)} for {len(size)} boxes, want one for each or one for all.")
    for name in names:
        if name not in SYMMETRIES:
            raise ValueError(f"symmetry: got {name!r}, want one of {', '.join(SYMMETRIES)}.")
    size, rotation = size.clone(), rotation.clone()
    for name in set(names) - {"none"}:
        index = [i for i, own in enumerate(names) if own == name]
        align = _align_continuous if name == "continuous" else _align_finite
        size[index], rotation[index] = align(
            size[index], rotation[index], true_size[index], true_rotation[index], name
        )
    return size, rotation


def rotation_error(
    size: Tensor, rotation: Tensor, true_size: Tensor, true_rotation: Tensor, symmetry: str | Sequence[str] = "none"
) -> Tensor:
    """Return the geodesic angle [N] in radians between predicted and true rotation, up to `symmetry`."""
    return geodesic_angle(align_axes(size, rotation, true_size, true_rotation, symmetry)[1], true_rotation)


def _align_finite(
    size: Tensor, rotation: Tensor, true_size: Tensor, true_rotation: Tensor, symmetry: str
) -> tuple[Tensor, Tensor]:
    group = symmetry_group(symmetry).to(rotation)
    rotations = rotation[:, None] @ group  # [N, G, 3, 3]
    sizes = (group.abs() * size[:, None, :, None]).sum(-2)  # [N, G, 3]: axis j is the old axis that column j points to
    angle = geodesic_angle(rotations, true_rotation[:, None])
    misfit = (sizes - true_size[:, None]).abs().sum(-1)
    close = angle <= angle.amin(1, keepdim=True) + SAME_ANGLE
    best = torch.where(close, misfit, torch.inf).argmin(1)
    row = torch.arange(len(size))
    return sizes[row, best], rotations[row, best]


def _align_continuous(
    size: Tensor, rotation: Tensor, true_size: Tensor, true_rotation: Tensor, symmetry: str
) -> tuple[Tensor, Tensor]:
    between = true_rotation.mT @ rotation
    # The turn about y that maximises the trace of `between`, and so minimises the angle.
    yaw = torch.atan2(between[:, 2, 0] - between[:, 0, 2], between[:, 0, 0] + between[:, 2, 2])
    swapped = size[:, [2, 1, 0]]
    better = (swapped - true_size).abs().sum(1, keepdim=True) < (size - true_size).abs().sum(1, keepdim=True)
    return torch.where(better, swapped, size), rotation @ yaw_to_matrix(yaw)
