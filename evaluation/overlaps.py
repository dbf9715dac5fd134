# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""IoUs for metrics: the exact one for many small groups at once, and that of the Mono3DVG code.

Shapes: N, M boxes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from llmi3d.evaluation.iou3d import box3d_iou

IOUS = ("exact", "mono3dvg")


def group_ious(groups: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Compute the exact IoU of all pairs within each group, in one call.

    Args:
        groups: (corners_a [N, 8, 3], corners_b [M, 8, 3]) with any N and M.

    Returns:
        float64 [N, M] for each group.
    """
    shapes = [(len(a), len(b)) for a, b in groups]
    groups = [(a, b) for a, b in groups if len(a) and len(b)]
    if not groups:
        return [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    left = torch.cat([a.repeat_interleave(len(b), 0) for a, b in groups])
    right = torch.cat([b.repeat(len(a), 1, 1) for a, b in groups])
    counts = [n * m for n, m in shapes]
    parts = box3d_iou(left, right, paired=True).split(counts)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def mono3dvg_iou(center_a: Tensor, size_a: Tensor, center_b: Tensor, size_b: Tensor) -> Tensor:
    """Compute the IoU of the published Mono3DRefer tables: of axis-aligned boxes, whatever the rotation.

    As in the code of Mono3DVG (Zhan et al., AAAI 2024), height, width and length lie along the camera's x, y and z
    axes. It is neither an upper nor a lower bound of the exact IoU.

    Args:
        center_a, center_b: [..., 3], metres, camera frame, the boxes' middles.
        size_a, size_b: [..., 3] = (length, height, width), metres.

    Returns:
        [...] within [0, 1].
    """
    extent_a, extent_b = size_a[..., [1, 2, 0]], size_b[..., [1, 2, 0]]
    top = torch.minimum(center_a + extent_a / 2, center_b + extent_b / 2)
    bottom = torch.maximum(center_a - extent_a / 2, center_b - extent_b / 2)
    shared = (top - bottom).clamp(min=0).prod(-1)
    return shared / (extent_a.prod(-1) + extent_b.prod(-1) - shared)
