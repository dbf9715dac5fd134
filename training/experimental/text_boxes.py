# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes as text, the alternative to the 3D query token: plain numbers, or Qwen3-VL's JSON.

    numbers   123 98 5.31 4.20 1.52 1.80 -35 0 1
              centre in network pixels, virtual depth, length, height, width; allocentric yaw, pitch, roll in degrees;
              semicolons separate several boxes
    json      [{"bbox_3d": [-0.10, 0.42, 5.31, 4.20, 1.52, 1.80, 0.01, -0.19, 0.00], "label": "car"}]

Both describe what the virtual camera sees, as the query token's heads do: no form suffers from not knowing K, and the
same geometry turns both into metres. `write_boxes` and `read_boxes` work in the virtual camera, `BoxText` with metric
boxes and rows.

Shapes: N boxes.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from llmi3d.data.box_texts import parse_qwen3vl
from llmi3d.data.schema import BOX_PLACEHOLDER, turns_of, upright_image, with_turns
from llmi3d.processing.geometry_llmi3d import (
    allocentric_to_egocentric,
    back_project,
    decode_boxes,
    egocentric_to_allocentric,
    encode_boxes,
    project,
)

FORMS = ("numbers", "json")
_NUMBER = r"-?\d+(?:\.\d+)?"
# Metres. No photograph shows boxes beyond these limits, and their volume may vanish in float64.
_FARTHEST, _SMALLEST, _LARGEST = 1e4, 1e-3, 1e3
# Even a broken box has one of these characters; an answer without any is only words.
_OF_A_BOX = re.compile(r"[\d\[{]")
_NINE = re.compile(rf"\s*({_NUMBER})" + rf"\s+({_NUMBER})" * 8 + r"\s*")


@dataclass(frozen=True)
class SeenBoxes:
    """Boxes in network units, as `decode_boxes` takes them.

    Attributes:
        center_2d_px: [N, 2], network pixels.
        depth_virtual: [N], virtual metres.
        size: [N, 3] = (length, height, width), metres.
        rotation_allocentric: [N, 3, 3].
    """

    center_2d_px: Tensor
    depth_virtual: Tensor
    size: Tensor
    rotation_allocentric: Tensor


@dataclass(frozen=True)
class Read:
    """Boxes of a text, and the number of further ones that cannot be read (an empty text has one)."""

    boxes: SeenBoxes
    malformed: int


def write_boxes(form: str, boxes: SeenBoxes, labels: Sequence[str], canvas: int) -> str:
    """Return the text of N boxes, at least one.

    Args:
        form: one of FORMS.
        labels: N names, written by `json` only.
        canvas: side of the network frame, pixels; also the focal length of the camera in which `json` is written.
    """
    if form == "numbers":
        angles = _yaw_pitch_roll(boxes.rotation_allocentric).rad2deg()
        rows = torch.cat((boxes.center_2d_px, boxes.depth_virtual[:, None], boxes.size, angles), 1).tolist()
        return "; ".join(
            " ".join((*(f"{x:.0f}" for x in row[:2]), *map(_metres, row[2:6]), *(f"{x:.0f}" for x in row[6:])))
            for row in rows
        )
    center = back_project(boxes.center_2d_px, boxes.depth_virtual, _virtual_camera(canvas, boxes))
    rotation = allocentric_to_egocentric(boxes.rotation_allocentric, center)
    rows = torch.cat((center, boxes.size, _about_x_y_z(rotation) / math.pi), 1).tolist()
    entries = [
        f'{{"bbox_3d": [{", ".join((*map(_metres, row[:6]), *(f"{x:.2f}" for x in row[6:])))}], "label": '
        f"{json.dumps(label)}}}"
        for row, label in zip(rows, labels, strict=True)
    ]
    return f"[{', '.join(entries)}]"


def read_boxes(form: str, text: str, canvas: int) -> Read:
    """Return the boxes that can be read in a text; never raise. Boxes behind the camera count as malformed."""
    if form == "numbers":
        parts = [_NINE.fullmatch(part) for part in text.split(";")]
        rows = [[float(number) for number in match.groups()] for match in parts if match]
        rows = [row for row in rows if all(0 < x < 1e6 for x in row[2:6])]
        values = torch.tensor(rows, dtype=torch.float64).reshape(-1, 9)
        rotation = _from_yaw_pitch_roll(values[:, 6:].deg2rad())
        return Read(SeenBoxes(values[:, :2], values[:, 2], values[:, 3:6], rotation), len(parts) - len(rows))
    parsed = parse_qwen3vl(text)
    kept = [box for box in parsed.boxes if box["center"][2] > 0]
    center, size = (torch.tensor([box[name] for box in kept]).double().reshape(-1, 3) for name in ("center", "size"))
    rotation = torch.tensor([box["rotation"] for box in kept]).double().reshape(-1, 3, 3)
    seen = SeenBoxes(
        project(center, _virtual_camera(canvas, center)),
        center[:, 2],
        size,
        egocentric_to_allocentric(rotation, center),
    )
    malformed = parsed.malformed + len(parsed.boxes) - len(kept)
    return Read(seen, malformed or int(not kept))


# --------------------------------------------------------------------------------------------------- metric boxes


@dataclass(frozen=True)
class TextAnswer:
    """Content of an answer in words.

    Attributes:
        boxes: dicts {center, size, rotation} as `evaluation.records.make_boxes` takes them: metres, camera frame.
        malformed: number of boxes that cannot be read.
        abstains: whether it says that nothing is there: words without a number, or an empty JSON list.
    """

    boxes: list[dict]
    malformed: int
    abstains: bool

    @property
    def answer(self) -> list[dict] | None:
        """Boxes for `evaluation.records.with_predictions`; None if nothing can be read."""
        return self.boxes if self.boxes or self.abstains else None


@dataclass(frozen=True)
class BoxText:
    """Convert metric boxes to text and back, given a camera.

    Args:
        form: one of FORMS.
        canvas: side of the network frame, pixels.
        virtual_focal_length: network pixels.

    Raises:
        ValueError: an unknown form.
    """

    form: str
    canvas: int
    virtual_focal_length: float

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form: got {self.form!r}, want one of {', '.join(FORMS)}.")

    @classmethod
    def for_processor(cls, processor, form: str) -> "BoxText":
        """Use the network frame and virtual camera of a `LLMI3DProcessor`."""
        return cls(form, processor.image_processor.high_res_size["height"], processor.virtual_focal_length)

    def write(self, objects: Sequence[dict[str, Any]], intrinsics: Tensor) -> str:
        """Return the text of some objects of a row, at least one.

        Args:
            objects: with `center`, `size` (metres), `rotation` (box to camera) and `category`.
            intrinsics: [3, 3], network frame.
        """
        center, size, rotation = (
            torch.tensor([entry[name] for entry in objects], dtype=torch.float64)
            for name in ("center", "size", "rotation")
        )
        seen = encode_boxes(center, size, rotation, intrinsics.double(), self.virtual_focal_length)
        boxes = SeenBoxes(seen.center_2d_px, seen.depth_virtual, seen.size, seen.rotation_allocentric)
        labels = [entry["category"].replace("_", " ") for entry in objects]
        return write_boxes(self.form, boxes, labels, self.canvas)

    def read(self, text: str, intrinsics: Tensor) -> TextAnswer:
        """Read a text, given a camera. Never raise: boxes that are unreadable or implausible are counted.

        Args:
            intrinsics: [3, 3], network frame.
        """
        read = read_boxes(self.form, text, self.canvas)
        seen = read.boxes
        center, size, rotation = decode_boxes(
            seen.center_2d_px,
            seen.depth_virtual,
            seen.size,
            seen.rotation_allocentric,
            intrinsics.double(),
            self.virtual_focal_length,
        )
        plausible = (center.norm(dim=1) < _FARTHEST) & ((size >= _SMALLEST) & (size <= _LARGEST)).all(1)
        plausible &= rotation.isfinite().all((1, 2))
        parts = (part[plausible].tolist() for part in (center, size, rotation))
        boxes = [dict(zip(("center", "size", "rotation"), box, strict=True)) for box in zip(*parts, strict=True)]
        words = text.strip()
        if words and (not _OF_A_BOX.search(words) or (self.form == "json" and words == "[]")):
            return TextAnswer([], 0, abstains=True)
        return TextAnswer(boxes, read.malformed + int((~plausible).sum()), abstains=False)

    def write_row(self, row: dict[str, Any], processor) -> dict[str, Any]:
        """Return an IG3D row in which every answer with `<box_3d>` becomes the text of its boxes.

        Its `image` is upright, and its `targets` are empty.
        """
        image = upright_image(row["image"])
        intrinsics = network_intrinsics(processor, image.size, row["intrinsics"])
        objects = {entry["id"]: entry for entry in row["objects"]}
        turns = []
        for turn in turns_of(row):
            if BOX_PLACEHOLDER in turn.answer:
                turn = replace(turn, answer=self.write([objects[target] for target in turn.targets], intrinsics))
            turns.append(replace(turn, targets=()))
        return {**with_turns(row, turns), "image": image}


def network_intrinsics(processor, image_size: tuple[int, int], intrinsics: Any) -> Tensor:
    """Return K of the network frame, float64 [3, 3], for an upright image of (width, height) pixels and its K."""
    blank = Image.new("RGB", image_size)  # the camera does not depend on pixels
    return processor.image_processor([blank], intrinsics=[intrinsics]).cameras[0].network_intrinsics()


# ------------------------------------------------------------------------------------------------------------- helpers


def _metres(value: float) -> str:
    """Write three decimals below a metre: a cup is eight centimetres wide."""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _virtual_camera(canvas: int, like) -> Tensor:
    half = canvas / 2
    dtype = (like if isinstance(like, Tensor) else like.size).dtype
    return torch.tensor([[canvas, 0, half], [0, canvas, half], [0, 0, 1]], dtype=dtype)


def _yaw_pitch_roll(rotation: Tensor) -> Tensor:
    """Return angles [N, 3], radians, with R = Ry(yaw) Rx(pitch) Rz(roll)."""
    pitch = (-rotation[:, 1, 2]).clamp(-1, 1).asin()
    yaw = torch.atan2(rotation[:, 0, 2], rotation[:, 2, 2])
    return torch.stack((yaw, pitch, torch.atan2(rotation[:, 1, 0], rotation[:, 1, 1])), 1)


def _from_yaw_pitch_roll(angles: Tensor) -> Tensor:
    """Invert `_yaw_pitch_roll`."""
    (cy, cp, cr), (sy, sp, sr) = angles.cos().unbind(1), angles.sin().unbind(1)
    rows = (
        *(cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp),
        *(cp * sr, cp * cr, -sp),
        *(cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp),
    )
    return torch.stack(rows, 1).unflatten(1, (3, 3))


def _about_x_y_z(rotation: Tensor) -> Tensor:
    """Return angles [N, 3] about x, y, z, radians, with R = Rz(c) Ry(b) Rx(a), as Qwen3-VL writes them."""
    b = (-rotation[:, 2, 0]).clamp(-1, 1).asin()
    a = torch.atan2(rotation[:, 2, 1], rotation[:, 2, 2])
    return torch.stack((a, b, torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])), 1)
