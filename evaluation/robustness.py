# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Conditions: the same questions under changed cameras and images, to show what a model's numbers depend on.

focal   the image stays, K's focal lengths are scaled by s. In such a camera's image the same things are s times as far
        away (a dolly zoom): depths of the truth are multiplied by s, and boxes turn with their rays. Exact for
        centres, first order for extents. A model that does not use K is off by s.
resize  image and K are scaled together; the truth stays.
crop    a window of the share s of each side is cut out, K moves along, the truth stays. The window is the one nearest
        the image's middle that holds the meant boxes. A phrase that counts or compares may mean another object after
        the crop: see the breakdown by phrase kind.
noise   the model is told a wrong K: focal length and principal point times 1 + s e, with e from a normal distribution
        cut at 2, drawn per image. Answers are judged with the true K; the truth stays.
fog ... the image is corrupted, with a severity of 1 to 5 (`corruptions`); K and the truth stay.
"""

import math
import random
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from llmi3d.evaluation.corruptions import FAMILIES, SEVERITIES, corrupt
from llmi3d.evaluation.records import Boxes3D, Record
from llmi3d.processing.geometry_llmi3d import (
    allocentric_to_egocentric,
    egocentric_to_allocentric,
    transform_intrinsics,
)

KINDS = ("none", "focal", "resize", "crop", "noise", *FAMILIES)


@dataclass(frozen=True)
class Condition:
    """A change of images and cameras.

    Attributes:
        kind: one of KINDS.
        amount: scale of `focal` and `resize` (1: no change), share of `crop`, relative deviation of `noise`, severity
            of a corruption.
    """

    kind: str = "none"
    amount: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"condition: got {self.kind!r}, want one of {', '.join(KINDS)}.")
        if self.kind in FAMILIES and self.amount not in SEVERITIES:
            raise ValueError(f"condition: got {self.kind} {self.amount:g}, want a severity of 1, 2, 3, 4 or 5.")
        # Within these limits the principal point stays inside the image.
        low, high = {"crop": (0.55, 1.0), "noise": (0.0, 0.3)}.get(self.kind, (0.05, 20.0))
        if not low <= self.amount <= high:
            raise ValueError(f"condition: got {self.kind} {self.amount:g}, want an amount from {low:g} to {high:g}.")

    def __str__(self) -> str:
        return "none" if self.kind == "none" else f"{self.kind}-{self.amount:g}"

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read what `str` returned, such as "focal-0.7".

        Raises:
            ValueError: neither "none" nor a kind and an amount.
        """
        kind, _, amount = text.partition("-")
        try:
            return cls() if text == "none" else cls(kind, float(amount))
        except ValueError as error:
            problem = str(error) if str(error).startswith("condition") else f"condition: got {text!r}"
            raise ValueError(f"{problem} (write a kind and an amount, such as focal-0.7).") from None

    def apply(self, record: Record, image: Image.Image) -> tuple[Record, Image.Image, Tensor]:
        """Change a question.

        Args:
            record: with intrinsics.
            image: upright.

        Returns:
            (the record to judge, the image to show, K [3, 3] to tell the model).

        Raises:
            ValueError: a record without intrinsics.
        """
        if record.intrinsics is None:
            raise ValueError(f"{record.id}: got no intrinsics, want K.")
        intrinsics, s = record.intrinsics, self.amount
        if self.kind == "focal":
            intrinsics = intrinsics.clone()
            intrinsics[:2, :2] *= s
            return replace(record, true=_moved(record.true, s), intrinsics=intrinsics), image, intrinsics
        if self.kind == "resize":
            size = tuple(max(1, round(side * s)) for side in image.size)
            scale = [new / old for new, old in zip(size, image.size, strict=True)]
            intrinsics = transform_intrinsics(intrinsics, scale, (0.0, 0.0))
            changed = replace(record, intrinsics=intrinsics, image_size=size)
            return changed, image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), intrinsics
        if self.kind == "crop":
            left, top, right, bottom = window = _window(record, image.size, s)
            intrinsics = transform_intrinsics(intrinsics, (1.0, 1.0), (-left, -top))
            changed = replace(record, intrinsics=intrinsics, image_size=(right - left, bottom - top))
            return changed, image.crop(window), intrinsics
        if self.kind == "noise":
            return record, image, _noisy(intrinsics, s, record.image_id or record.id)
        if self.kind in FAMILIES:
            return record, corrupt(image, self.kind, int(s), record.image_id or record.id), intrinsics
        return record, image, intrinsics


NONE = Condition()
# The fewest that show a trend. `evaluate --condition` takes any other.
DEFAULT_CONDITIONS = tuple(
    Condition(kind, amount)
    for kind, amounts in (
        ("focal", (0.5, 0.75, 1.25, 1.5)),
        ("resize", (0.5, 0.75, 1.5)),
        ("crop", (0.9, 0.75)),
        ("noise", (0.05, 0.1, 0.2)),
    )
    for amount in amounts
)


def _moved(boxes: Boxes3D, scale: float) -> Boxes3D:
    center = boxes.center * torch.tensor([1.0, 1.0, scale], dtype=torch.float64)
    # The visible, allocentric rotation stays while the ray turns.
    rotation = allocentric_to_egocentric(egocentric_to_allocentric(boxes.rotation, boxes.center), center)
    return replace(boxes, center=center, rotation=rotation)


def _window(record: Record, image_size: tuple[int, int], share: float) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the crop in whole pixels."""
    meant = record.true.projected_2d(record.intrinsics)
    meant = meant[~meant.isnan().any(1)]
    low_high = []
    for axis, side in enumerate(image_size):
        length = max(1, round(side * share))
        start = round((side - length) / 2)
        if len(meant):
            low = max(0, math.floor(meant[:, axis].min()))
            high = min(side, math.ceil(meant[:, axis + 2].max()))
            start = min(max(start, high - length), low) if high - length <= low else round((low + high - length) / 2)
        start = min(max(start, 0), side - length)
        low_high.append((start, start + length))
    (left, right), (top, bottom) = low_high
    return left, top, right, bottom


def _noisy(intrinsics: Tensor, deviation: float, seed: str) -> Tensor:
    draw = random.Random(f"intrinsics of {seed}")
    focal, x, y = (1 + deviation * min(max(draw.gauss(0, 1), -2.0), 2.0) for _ in range(3))
    scale = torch.tensor([[focal, focal, x], [focal, focal, y], [1, 1, 1]], dtype=torch.float64)
    return intrinsics * scale
