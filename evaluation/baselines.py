# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Oracles and a baseline: what knowing an object's category and seeing perfectly is worth, scored by the same code.

An image shows an object's direction, shape and rotation, but not its scale: a box that is k times as large and k times
as far away projects onto the same pixels. Two oracles know everything that can be seen, and of the scale only what the
category tells:

    scale   the true box, scaled about the camera to the volume of its category's mean size
    height  the category's mean size with the true rotation, centred on the true ray, as far away as its projected
            height is the true one

A method that beats them reads scale from context: ground, horizon, neighbours.

Shapes: B boxes that are not to be ignored, over all records in order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmi3d.evaluation.detection import category_key
from llmi3d.evaluation.records import Boxes3D, Record, concatenate_boxes
from llmi3d.processing.geometry_llmi3d import (
    allocentric_to_egocentric,
    back_project,
    box_corners,
    project_box_2d,
)

ORACLES = {
    "scale": "oracle: all but the scale",
    "height": "oracle: mean size, depth from height",
}
LEAVE_ONE_OUT = "those of the other evaluated objects of the category"
# The bisection halves the logarithm of this range of depths in metres, to a relative error below 1e-12.
_DEPTHS, _HALVINGS = (1e-2, 1e5), 44


@dataclass(frozen=True)
class MeanSizes:
    """Mean sizes of categories.

    Attributes:
        sizes: (length, height, width) in metres by `category_key`, and of all objects under "".
        source: where they come from, as printed in reports.
    """

    sizes: dict[str, list[float]]
    source: str

    def of(self, category: str | None) -> list[float]:
        """Return the mean size of a category, or that of all objects for an unknown one."""
        return self.sizes.get(category_key(category or ""), self.sizes[""])


def mean_sizes(objects: Iterable[dict], source: str = "given objects") -> MeanSizes:
    """Average the sizes of objects by category. Take training data, not the data that is evaluated.

    Args:
        objects: each with `category`, `size` (metres) and optionally `ignore`, as in a row.
        source: printed in reports.

    Raises:
        ValueError: no object, or only objects to ignore.
    """
    sizes = {"": []}
    for entry in objects:
        if not entry.get("ignore", False):
            for name in ("", category_key(entry["category"])):
                sizes.setdefault(name, []).append(list(entry["size"]))
    if not sizes[""]:
        raise ValueError("objects: got none that is not to be ignored, want at least one.")
    means = {name: torch.tensor(some, dtype=torch.float64).mean(0).tolist() for name, some in sizes.items()}
    return MeanSizes(means, source)


def oracle_records(records: Sequence[Record], sizes: MeanSizes | None = None) -> dict[str, list[Record]]:
    """Answer all records as each oracle would.

    Args:
        records: any task. Records without a true box are answered with none.
        sizes: the categories' mean sizes; by default each object gets the mean of the *other* evaluated objects of
            its category, or of all others if its category has no other.

    Returns:
        The records with their answers, by the keys of `ORACLES`. An oracle is missing if it cannot answer: `height`
        if a record has no intrinsics, both if there are no sizes (fewer than two different objects).
    """
    wanted = [_wanted(record.true) for record in records]
    true = concatenate_boxes([record.true[index] for record, index in zip(records, wanted, strict=True)])
    true = replace(true, score=torch.ones_like(true.score))
    if sizes is None:
        clusters = [record.image_id or record.id for record in records]
        means = _sizes_of_others(true, [c for c, index in zip(clusters, wanted, strict=True) for _ in index])
    else:
        means = torch.tensor([sizes.of(name) for name in true.category], dtype=torch.float64).reshape(-1, 3)
    if means is None or not len(true):
        return {}
    scale = ((means.prod(1) / true.size.prod(1)) ** (1 / 3))[:, None]
    everywhere = torch.ones(len(true), dtype=torch.bool)
    boxes = {"scale": (replace(true, center=true.center * scale, size=true.size * scale), everywhere)}
    counts = torch.tensor([len(index) for index in wanted])
    if all(record.intrinsics is not None for record in records):
        intrinsics = torch.stack([record.intrinsics for record in records]).repeat_interleave(counts, 0)
        center, seen = _centers_of_height(true, means, intrinsics)
        boxes["height"] = (replace(true, center=center, size=means), seen)
    parts = torch.arange(len(true)).split(counts.tolist())
    return {
        name: [
            replace(record, predicted=answer[index[kept[index]]]) for record, index in zip(records, parts, strict=True)
        ]
        for name, (answer, kept) in boxes.items()
    }


def _sizes_of_others(true: Boxes3D, clusters: Sequence[str]) -> Tensor | None:
    """Return the mean size [B, 3] of each object's category without the object; None for fewer than two objects.

    The same object in several questions is one object.
    """
    names = [category_key(name or "") for name in true.category]
    keys = list(zip(clusters, names, map(tuple, true.center.tolist()), map(tuple, true.size.tolist()), strict=True))
    unique = {key: i for i, key in enumerate(keys)}
    if len(unique) < 2:
        return None
    total = {"": torch.zeros(3, dtype=torch.float64)}
    count = {"": 0}
    for key, i in unique.items():
        for name in ("", key[1]) if key[1] else ("",):
            total[name] = total.get(name, 0) + true.size[i]
            count[name] = count.get(name, 0) + 1
    parts = [name if count[name] > 1 else "" for name in names]
    others = torch.tensor([count[name] - 1 for name in parts], dtype=torch.float64)
    return (torch.stack([total[name] for name in parts]) - true.size) / others[:, None]


def _centers_of_height(true: Boxes3D, size: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres [B, 3] on the true rays where boxes of `size` [B, 3] have the true projected height.

    Also returns whether there is such a place, [B]: not for boxes whose centre is not in front of the camera.
    """

    def height(center: Tensor, size: Tensor) -> Tensor:
        box = project_box_2d(box_corners(center, size, true.rotation), intrinsics)
        return box[:, 3] - box[:, 1]

    wanted = height(true.center, true.size)
    ray = true.center / true.center[:, 2:]
    near, far = (torch.full_like(wanted, depth) for depth in _DEPTHS)
    for _ in range(_HALVINGS):
        middle = (near * far).sqrt()
        too_near = ~(height(ray * middle[:, None], size) <= wanted)  # nan: the box lies behind the camera
        near, far = torch.where(too_near, middle, near), torch.where(too_near, far, middle)
    return ray * far[:, None], (true.center[:, 2] > 0) & wanted.isfinite()


def box_2d_predictions(
    records: Sequence[Record], sizes: MeanSizes, boxes_2d: dict[str, list[list[float]]] | None = None
) -> list[dict]:
    """Lift 2D boxes to 3D: depth from the mean height, centre on the ray through the 2D box's middle.

    A box of height H that fills h pixels lies H * fy / h deep. It faces the camera (allocentric rotation 0).

    Args:
        records: with intrinsics.
        sizes: from `mean_sizes`.
        boxes_2d: by id, a detector's 2D box xyxy in pixels for each true box that is not to be ignored; default: the
            projections of the true 3D boxes. 2D boxes without a height give no prediction.

    Returns:
        Predictions for `records.with_predictions`.

    Raises:
        ValueError: a record without intrinsics, or a number of 2D boxes other than that of true boxes.
    """
    predictions = []
    for record in records:
        if record.intrinsics is None:
            raise ValueError(f"{record.id}: got no intrinsics, want K to back-project 2D boxes.")
        wanted = _wanted(record.true)
        if boxes_2d is None:
            given = project_box_2d(record.true.corners(), record.intrinsics)[wanted]
        else:
            given = torch.tensor(boxes_2d.get(record.id, []), dtype=torch.float64).reshape(-1, 4)
            if len(given) != len(wanted):
                raise ValueError(f"{record.id}: got {len(given)} 2D boxes for {len(wanted)} true boxes, want as many.")
        boxes = []
        for i, box in zip(wanted, given, strict=True):
            height = box[3] - box[1]
            if not height > 0:  # nan as well: the object is behind the camera
                continue
            category = record.true.category[i]
            size = sizes.of(category)
            center = back_project(
                (box[:2] + box[2:]) / 2, size[1] * record.intrinsics[1, 1] / height, record.intrinsics
            )
            boxes.append(
                {
                    "category": category,
                    "center": center.tolist(),
                    "size": size,
                    "rotation": allocentric_to_egocentric(torch.eye(3, dtype=torch.float64), center).tolist(),
                    "box_2d": box.tolist(),
                }
            )
        predictions.append({"id": record.id, "boxes": boxes})
    return predictions


def _wanted(boxes: Boxes3D) -> list[int]:
    """Return the indices of the boxes that are not to be ignored."""
    return (~boxes.ignore).nonzero().flatten().tolist()
