# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Baselines scored by the same code: boxes written as text, category-mean sizes, and back-projected 2D boxes.

A vision-language model such as Qwen3-VL writes its boxes as JSON:

    [{"bbox_3d": [x, y, z, x_size, y_size, z_size, a, b, c], "label": "car"}]

The centre and sizes are metres, in the camera frame and along the box's own axes. The published prompt calls the
angles roll, pitch, yaw and speaks of radians; the drawing code published with the model takes them as rotations about
x, y and z, R = Rz(c) Ry(b) Rx(a), and the values are fractions of 180 degrees.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmi3d.evaluation.detection import category_key
from llmi3d.evaluation.records import Boxes3D, Record
from llmi3d.processing.geometry_llmi3d import allocentric_to_egocentric, back_project, project_box_2d

# --------------------------------------------------------------------------------------------------------- text boxes

# An object without another one inside, closed or cut off at the end of the text.
_FLAT_OBJECT = re.compile(r"\{[^{}]*(?:\}|$)")
_FENCE = re.compile(r"```[a-zA-Z0-9]*\s*(.*?)(?:```|$)", re.DOTALL)
_TRAILING_COMMA = re.compile(r",\s*([\]}])")


@dataclass(frozen=True)
class ParsedText:
    """What a text says about boxes.

    Attributes:
        boxes: dicts {label, score, center, size, rotation} as the pipeline gives them; the score is 1, for text has
            none.
        malformed: boxes that could not be read: not nine finite numbers, or a size that is not positive.
        status: `ok`, the text is JSON; `recovered`, it is not, but boxes could be picked out; `unreadable`, neither.
    """

    boxes: list[dict]
    malformed: int
    status: str

    @property
    def answer(self) -> list[dict] | None:
        """For `records.with_predictions`: an empty list only where the text says so in good form, else None."""
        return self.boxes if self.boxes or (self.status == "ok" and not self.malformed) else None


def parse_qwen3vl(text: str) -> ParsedText:
    """The boxes in a text of Qwen3-VL. Never raises: what cannot be read is counted.

    Code fences and words around the JSON are no fault. Where the JSON breaks off or is not well-formed, every complete
    object in it is still read, with single quotes and trailing commas forgiven.
    """
    fenced = "\n".join(_FENCE.findall(text)) if "```" in text else text
    entries = _entries_of_json(fenced)
    status = "ok"
    malformed = 0
    if entries is None:
        status, entries = "recovered", []
        for match in _FLAT_OBJECT.finditer(text):
            if "bbox_3d" not in match.group():
                continue
            entry = _forgiving(match.group())
            malformed += entry is None
            entries += [] if entry is None else [entry]
        if not entries:
            status = "unreadable"
    boxes = []
    for entry in entries:
        box = _read_box(entry)
        malformed += box is None
        boxes += [] if box is None else [box]
    return ParsedText(boxes, malformed, status)


def count_malformed(parsed: Iterable[ParsedText]) -> dict[str, int]:
    """Over many texts: `texts`, of them `ok`, `recovered`, `unreadable`; `boxes` and `malformed_boxes`."""
    parsed = list(parsed)
    counts = {status: sum(one.status == status for one in parsed) for status in ("ok", "recovered", "unreadable")}
    boxes, malformed = sum(len(one.boxes) for one in parsed), sum(one.malformed for one in parsed)
    return {"texts": len(parsed), **counts, "boxes": boxes, "malformed_boxes": malformed}


def qwen3vl_rotation(angles: Tensor) -> Tensor:
    """Rotations [..., 3, 3], box to camera, of printed angles [..., 3] about x, y, z in fractions of 180 degrees."""
    (cx, cy, cz), (sx, sy, sz) = ((math.pi * angles).cos().unbind(-1), (math.pi * angles).sin().unbind(-1))
    rows = (
        *(cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        *(sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        *(-sy, cy * sx, cy * cx),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _entries_of_json(text: str) -> list | None:
    """The box entries of the first JSON value in a text, or None where there is none that could hold boxes."""
    for start in (match.start() for match in re.finditer(r"[\[{]", text)):
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        entries = _entries(value)
        if entries is not None and "bbox_3d" not in text[end:]:
            return entries
        if "bbox_3d" in text[:end]:
            return None
    return None


def _entries(value) -> list | None:
    """Box entries in a parsed value: a list of them, one alone, or a mapping that holds such a list."""
    if isinstance(value, dict):
        if "bbox_3d" in value:
            return [value]
        value = next((inner for inner in value.values() if isinstance(inner, list) and _entries(inner)), None)
    if isinstance(value, list) and (
        not value or any(isinstance(entry, dict) and "bbox_3d" in entry for entry in value)
    ):
        return value
    return None


def _forgiving(text: str) -> dict | None:
    text = _TRAILING_COMMA.sub(r"\1", text)
    for candidate in (text, text.replace("'", '"')):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    return None


def _read_box(entry) -> dict | None:
    numbers = entry.get("bbox_3d") if isinstance(entry, dict) else None
    if not isinstance(numbers, list) or len(numbers) != 9:
        return None
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        return None
    # Beyond these no photograph has seen a box; far larger ones would overflow where volumes are taken.
    if not all(abs(number) < 1e6 for number in numbers) or not all(size > 1e-6 for size in numbers[3:6]):
        return None
    label = entry.get("label")
    return {
        "label": label if isinstance(label, str) else None,
        "score": 1.0,
        "center": [float(number) for number in numbers[:3]],
        "size": [float(number) for number in numbers[3:6]],
        "rotation": qwen3vl_rotation(torch.tensor(numbers[6:], dtype=torch.float64)).tolist(),
    }


# ---------------------------------------------------------------------------------------- sizes and 2D boxes as oracle


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
