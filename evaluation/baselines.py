# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Baselines that know part of the truth, scored by the same code: category-mean sizes and back-projected 2D boxes."""

from collections.abc import Iterable, Sequence

import torch

from llmi3d.evaluation.detection import category_key
from llmi3d.evaluation.records import Boxes3D, Record
from llmi3d.processing.geometry_llmi3d import allocentric_to_egocentric, back_project, project_box_2d


def mean_sizes(objects: Iterable[dict]) -> dict[str, list[float]]:
    """Mean (length, height, width) of each category, metres, and under "" of all. From training data, not the test's.

    Args:
        objects: with `category`, `size` and if wanted `ignore`, as a row's.

    Raises:
        ValueError: no object.
    """
    sizes = {"": []}
    for entry in objects:
        if not entry.get("ignore", False):
            for name in ("", category_key(entry["category"])):
                sizes.setdefault(name, []).append(list(entry["size"]))
    if not sizes[""]:
        raise ValueError("objects: got none that is not to be ignored, want at least one.")
    return {name: torch.tensor(some, dtype=torch.float64).mean(0).tolist() for name, some in sizes.items()}


def mean_size_predictions(
    records: Sequence[Record], sizes: dict[str, list[float]], true_rotation: bool = False
) -> list[dict]:
    """Predictions with the true centre and the mean size of the true category: what knowing the size alone costs.

    Args:
        records: any task; one without true boxes is answered with none.
        sizes: from `mean_sizes`; a category that it does not know gets the mean of all.
        true_rotation: take the true rotation too, instead of a box whose axes are the camera's.
    """
    predictions = []
    for record in records:
        boxes = [
            {
                "category": category,
                "center": record.true.center[i].tolist(),
                "size": _size_of(category, sizes),
                "rotation": (record.true.rotation[i] if true_rotation else torch.eye(3)).tolist(),
            }
            for i, category in _wanted(record.true)
        ]
        predictions.append({"id": record.id, "boxes": boxes})
    return predictions


def box_2d_predictions(
    records: Sequence[Record], sizes: dict[str, list[float]], boxes_2d: dict[str, list[list[float]]] | None = None
) -> list[dict]:
    """Predictions from 2D boxes: depth from the mean height, centre on the ray through the 2D box's middle.

    A box of height H that fills h pixels lies H * fy / h deep. It faces the camera (allocentric rotation 0).

    Args:
        records: with intrinsics.
        sizes: from `mean_sizes`.
        boxes_2d: for each id a 2D box xyxy in pixels for each true box that is not to be ignored (a detector's);
            default: the projections of the true 3D boxes. Boxes without a height in pixels give no prediction.

    Raises:
        ValueError: a record without intrinsics, or another number of 2D boxes than of true boxes.
    """
    predictions = []
    for record in records:
        if record.intrinsics is None:
            raise ValueError(f"{record.id}: got no intrinsics, want K to back-project 2D boxes.")
        wanted = _wanted(record.true)
        if boxes_2d is None:
            given = project_box_2d(record.true.corners(), record.intrinsics)[[i for i, _ in wanted]]
        else:
            given = torch.tensor(boxes_2d.get(record.id, []), dtype=torch.float64).reshape(-1, 4)
            if len(given) != len(wanted):
                raise ValueError(f"{record.id}: got {len(given)} 2D boxes for {len(wanted)} true boxes, want as many.")
        boxes = []
        for (_, category), box in zip(wanted, given, strict=True):
            height = box[3] - box[1]
            if not height > 0:  # nan as well: the object is behind the camera
                continue
            size = _size_of(category, sizes)
            depth = size[1] * record.intrinsics[1, 1] / height
            center = back_project((box[:2] + box[2:]) / 2, depth, record.intrinsics)
            rotation = allocentric_to_egocentric(torch.eye(3, dtype=torch.float64), center)
            boxes.append(
                {
                    "category": category,
                    "center": center.tolist(),
                    "size": size,
                    "rotation": rotation.tolist(),
                    "box_2d": box.tolist(),
                }
            )
        predictions.append({"id": record.id, "boxes": boxes})
    return predictions


def _wanted(boxes: Boxes3D) -> list[tuple[int, str | None]]:
    return [(i, name) for i, name in enumerate(boxes.category) if not boxes.ignore[i]]


def _size_of(category: str | None, sizes: dict[str, list[float]]) -> list[float]:
    return sizes.get(category_key(category or ""), sizes[""])
