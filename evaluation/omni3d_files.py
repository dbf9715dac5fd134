# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Omni3D's own files as detection records: its annotation JSON, and predictions as its evaluator saves them.

Omni3D's box becomes ours as follows: `center_cam` is the centre, `dimensions` are (width, height, length), `R_cam`
maps the box's x (length), y (height), z (width) axes to the camera, and the corners have our order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from llmi3d.evaluation.records import Record, make_record, with_predictions
from llmi3d.processing.geometry_llmi3d import corners_to_box


@dataclass(frozen=True)
class Omni3DFilter:
    """Which annotations are to be ignored; the values with which Cube R-CNN's published numbers were taken.

    Attributes:
        truncation: ignore from this share on.
        visibility: ignore up to this share.
        min_height, max_height: of the 2D box as a share of the picture's; ignore at or beyond them.
        max_depth: metres.
        max_depth_error: of the depth map against the rendered box, metres.
    """

    truncation: float = 1 / 3
    visibility: float = 1 / 3
    min_height: float = 0.0625
    max_height: float = 1.5
    max_depth: float = 1e8
    max_depth_error: float = 0.5

    def ignores(self, annotation: dict, box_2d: list[float], image_height: float) -> bool:
        """Whether an annotation with a valid 3D box is found or missed without consequence."""
        height = (box_2d[3] - box_2d[1]) / image_height
        return bool(
            annotation["behind_camera"]
            or annotation["center_cam"][2] > self.max_depth
            or annotation["lidar_pts"] == 0
            or annotation["segmentation_pts"] == 0
            or annotation["depth_error"] > self.max_depth_error
            or not self.min_height < height < self.max_height
            or annotation["truncation"] >= max(self.truncation, 0)
            or 0 <= annotation["visibility"] <= self.visibility
        )


def annotated_box_2d(annotation: dict) -> list[float] | None:
    """The truncated projected box, else the projected, else the annotated one; None where none is given."""
    boxes = [annotation.get(f"bbox2D_{kind}") for kind in ("trunc", "proj", "tight")]
    return next((box for box in boxes if box and not all(value == -1 for value in box)), None)


def read_omni3d(dataset: dict, split: str = "test", source: str = "omni3d", keep: Omni3DFilter | None = None) -> list:
    """Detection records of a data set in Omni3D's format, one a picture.

    Args:
        dataset: the parsed JSON, with `images` and `annotations`.
        split, source: of the records.
        keep: which annotations to ignore (default: Omni3D's rules).

    Returns:
        Records whose ids are the pictures'. Annotations without a 3D box or without any 2D box are left out; they
        could not be matched. `box_2d` is the truncated projected box, else the projected, else the annotated one.

    Raises:
        ValueError: an annotation of a picture that is not there, or a box that is none.
    """
    keep = keep or Omni3DFilter()
    objects = {image["id"]: [] for image in dataset["images"]}
    heights = {image["id"]: image["height"] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        image_id = annotation["image_id"]
        if image_id not in objects:
            raise ValueError(f"annotation {annotation['id']}: got image_id {image_id}, which no image has.")
        box_2d = annotated_box_2d(annotation)
        width, height, length = annotation["dimensions"]
        if not annotation["valid3D"] or min(width, height, length) <= 0 or box_2d is None:
            continue
        objects[image_id].append(
            {
                "category": annotation["category_name"],
                "center": annotation["center_cam"],
                "size": [length, height, width],
                "rotation": annotation["R_cam"],
                "box_2d": box_2d,
                "ignore": keep.ignores(annotation, box_2d, heights[image_id]),
            }
        )
    return [
        make_record(
            str(image["id"]),
            "detection",
            objects[image["id"]],
            image["K"],
            image_size=(image["width"], image["height"]),
            image_id=str(image["id"]),
            source=source,
            split=split,
        )
        for image in dataset["images"]
    ]


def with_omni3d_predictions(records: list[Record], instances: Iterable[dict], categories: dict[int, str]) -> list:
    """Records with the answers of Omni3D's `omni_instances_results.json`.

    Args:
        records: from `read_omni3d`.
        instances: each with `image_id`, `category_id`, `score`, `bbox3D` (8 corners) and if wanted `bbox` (x, y,
            width, height). Pictures without an instance were answered, with no box.
        categories: name of each `category_id` (the data set's `categories`).

    Raises:
        ValueError: unknown pictures or categories, corners that are no box.
    """
    predictions = {record.id: [] for record in records}
    for i, instance in enumerate(instances):
        if instance["category_id"] not in categories:
            raise ValueError(f"instances[{i}]: got category_id {instance['category_id']}, which no category has.")
        corners = torch.tensor(instance["bbox3D"], dtype=torch.float64)
        if corners.shape != (8, 3) or not corners.isfinite().all():
            raise ValueError(f"instances[{i}].bbox3D: got {instance['bbox3D']}, want 8 finite corners.")
        center, size, rotation = corners_to_box(corners)
        x, y, width, height = instance.get("bbox", (math.nan,) * 4)
        predictions.setdefault(str(instance["image_id"]), []).append(
            {
                "category": categories[instance["category_id"]],
                "score": instance["score"],
                "center": center,
                "size": size,
                "rotation": rotation,
                "box_2d": None if math.isnan(x) else [x, y, x + width, y + height],
            }
        )
    return with_predictions(records, [{"id": name, "boxes": boxes} for name, boxes in predictions.items()])
