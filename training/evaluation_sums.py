# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Sums over an evaluation, and the means that they give."""

from collections import defaultdict

from accelerate.utils import gather_object
from torch import Tensor

from llmi3d.box_heads_llmi3d import Box3DHeadOutput
from llmi3d.evaluation.grounding import THRESHOLDS
from llmi3d.evaluation.iou3d import box3d_iou
from llmi3d.processing.geometry_llmi3d import box_corners, decode_boxes, rotation_6d_to_matrix
from llmi3d.training.losses import Box3DTargets


class EvaluationSums:
    """Add up batches of differing size, on all processes.

    Args:
        components: names of the loss's parts.
    """

    def __init__(self, components: tuple[str, ...]):
        self.components = components
        self.sums: dict[str, float] = defaultdict(float)

    def add(self, sums: dict[str, Tensor | float]) -> None:
        """Add one batch's sums: losses and metrics, `num_boxes`, `num_images` and `num_tokens`."""
        for name, value in sums.items():
            self.sums[name] += float(value)

    def metrics(self) -> dict[str, float]:
        """Return the means over all processes: `loss`, its components, and of the boxes, if there is any, the rest."""
        totals = defaultdict(float)
        for sums in gather_object([dict(self.sums)]):
            for name, value in sums.items():
                totals[name] += value
        num_boxes = totals.pop("num_boxes")
        per = defaultdict(lambda: num_boxes, lm=totals.pop("num_tokens"), depth_map=totals.pop("num_images"))
        losses = {name: totals.pop(name, 0.0) / (per[name] or 1) for name in self.components}
        metrics = {"loss": sum(losses.values()), **{f"loss_{name}": value for name, value in losses.items()}}
        metrics |= {name: value / num_boxes for name, value in totals.items() if num_boxes}
        return {**metrics, "num_boxes": int(num_boxes)}


def box_sums(boxes: Box3DHeadOutput, targets: Box3DTargets, virtual_focal_length: float) -> dict[str, Tensor | int]:
    """Return sums over the boxes of a batch of what `LLMI3DTrainer` evaluates, and their number."""
    mask, k = targets.mask, targets.intrinsics[:, None].expand(-1, targets.mask.shape[1], -1, -1)
    found = {name: boxes[name][boxes.mask] for name in ("center_2d_px", "depth_virtual", "size", "rotation_6d")}
    true = [getattr(targets, name)[mask] for name in ("center", "size", "rotation")]
    answer = decode_boxes(
        found["center_2d_px"],
        found["depth_virtual"],
        found["size"],
        rotation_6d_to_matrix(found["rotation_6d"]),
        k[mask],
        virtual_focal_length,
    )
    # In double precision, as in the criterion: early boxes can be a hair wide and far away.
    corners, true_corners = (box_corners(*(value.double() for value in box)) for box in (answer, true))
    iou = box3d_iou(corners, true_corners, paired=True)
    off = (answer[1] - true[1]).abs().sum(0)
    return {
        **{f"acc@{threshold:g}": (iou > threshold).sum() for threshold in THRESHOLDS},
        "mean_iou": iou.sum(),
        "depth_error": (answer[0] - true[0])[:, 2].abs().sum(),
        "length_error": off[0],
        "width_error": off[2],
        "height_error": off[1],
        "num_boxes": len(iou),
    }


def first_rows(data, count: int, size: int):
    """Return the first rows of whatever holds `size` of them."""
    if isinstance(data, dict):
        return {name: first_rows(value, count, size) for name, value in data.items()}
    has_rows = isinstance(data, list) or (isinstance(data, Tensor) and data.ndim > 0)
    return data[:count] if has_rows and len(data) == size else data
