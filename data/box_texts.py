# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes written as text by a vision-language model such as Qwen3-VL:

    [{"bbox_3d": [x, y, z, x_size, y_size, z_size, a, b, c], "label": "car"}]

Centre and sizes are metres, in the camera frame and along the box's own axes. The published prompt calls the angles
roll, pitch and yaw and speaks of radians. The drawing code published with the model reads them as rotations about x, y
and z, R = Rz(c) Ry(b) Rx(a), in fractions of 180 degrees.
"""

import json
import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

# A JSON object that holds no other one, closed or cut off at the end of the text.
_FLAT_OBJECT = re.compile(r"\{[^{}]*(?:\}|$)")
_FENCE = re.compile(r"```[a-zA-Z0-9]*\s*(.*?)(?:```|$)", re.DOTALL)
_TRAILING_COMMA = re.compile(r",\s*([\]}])")


@dataclass(frozen=True)
class ParsedText:
    """The boxes of one text.

    Attributes:
        boxes: dicts {label, score, center, size, rotation} as the pipeline gives them. The score is always 1.
        malformed: number of boxes that could not be read: not nine finite numbers, or a size that is not positive.
        status: `ok` for JSON; `recovered` for other text from which boxes could be read; else `unreadable`.
    """

    boxes: list[dict]
    malformed: int
    status: str

    @property
    def answer(self) -> list[dict] | None:
        """Boxes for `records.with_predictions`: empty only for a well-formed empty list, None if none is readable."""
        return self.boxes if self.boxes or (self.status == "ok" and not self.malformed) else None


def parse_qwen3vl(text: str) -> ParsedText:
    """Read the boxes from a text of Qwen3-VL. Never raises: boxes that cannot be read are counted.

    Code fences and words around the JSON are accepted. If the JSON is cut off or malformed, every complete object is
    still read, and single quotes and trailing commas are accepted.
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


def qwen3vl_rotation(angles: Tensor) -> Tensor:
    """Return rotations [..., 3, 3], box to camera, from angles [..., 3] about x, y, z in fractions of 180 degrees."""
    (cx, cy, cz), (sx, sy, sz) = ((math.pi * angles).cos().unbind(-1), (math.pi * angles).sin().unbind(-1))
    rows = (
        *(cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        *(sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        *(-sy, cy * sx, cy * cx),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _entries_of_json(text: str) -> list | None:
    """Return the box entries of the first JSON value in a text that can hold boxes, or None."""
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
    """Return the box entries of a parsed value: a list of them, a single one, or a mapping that holds such a list."""
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
    # No photograph shows boxes beyond these limits, and volumes of far larger ones would overflow.
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
