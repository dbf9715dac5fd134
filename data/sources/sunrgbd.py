# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of SUN RGB-D in VoteNet's text layout, and code shared by all its layouts.

SUN RGB-D's conventions and their conversion
    boxes       in a gravity-aligned frame (x right, y forward, z up): centroid and *half* sizes (w, l, h), l along the
                orientation (ox, oy), which points to the front -> `size` = (2l, 2h, 2w)
    Rtilt       rotates the camera's (x, z, -y) into the gravity-aligned frame, so that a point p of that frame is
                A Rtilt^T p in the camera, with A: (X, Y, Z) -> (X, -Z, Y)
    labels      are loose: the IoU of projected and given 2D boxes is some 0.7 on average

Not every object in an image is labelled, so nothing is asked for as absent.
"""

import math
from pathlib import Path

import torch

from llmi3d.data.schema import make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import check_intrinsics

# Columns are the images of the depth frame's axes: (X, Y, Z) -> (X, -Z, Y).
DEPTH_TO_CAMERA = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def sunrgbd_object(object_id: str, category: str, centroid, half_sizes, orientation, tilt, intrinsics) -> dict:
    """Convert an annotated box to an entry of a row's `objects`.

    Args:
        object_id: unique within the row.
        category: as written.
        centroid: (x, y, z), metres, gravity-aligned frame.
        half_sizes: (w, l, h) / 2, metres.
        orientation: (ox, oy), towards the front; any length above 0.
        tilt: Rtilt, float64 [3, 3].
        intrinsics: K, float64 [3, 3].

    Raises:
        ValueError: a number that is not finite, a size that is not positive, no orientation.
    """
    numbers = [*map(float, centroid), *map(float, half_sizes), *map(float, orientation[:2])]
    width, length, height = numbers[3:6]
    norm = math.hypot(*numbers[6:])
    if not all(map(math.isfinite, numbers)) or min(width, length, height) <= 0 or norm == 0:
        raise ValueError(
            f"object {object_id} ({category}): got centroid, half sizes and orientation {numbers}, want finite ones, "
            "half sizes above 0 m and an orientation other than 0."
        )
    ox, oy = numbers[6] / norm, numbers[7] / norm
    # Box axes in the gravity-aligned frame: x along the orientation, y down as in the camera, z to complete them.
    axes = torch.tensor([[ox, 0.0, -oy], [oy, 0.0, ox], [0.0, -1.0, 0.0]], dtype=torch.float64)
    to_camera = DEPTH_TO_CAMERA @ tilt.mT
    center = to_camera @ torch.tensor(numbers[:3], dtype=torch.float64)
    size = (2 * length, 2 * height, 2 * width)
    behind = center[2].item() <= 0
    return make_object(object_id, category, center, size, to_camera @ axes, intrinsics, ignore=behind)


def check_tilt(tilt: torch.Tensor, where: str) -> torch.Tensor:
    """Return Rtilt [3, 3]; raise a ValueError if it is no rotation."""
    if tilt.shape != (3, 3) or not torch.isfinite(tilt).all():
        raise ValueError(f"{where}: Rtilt: got {tilt.tolist()}, want 3x3 finite numbers.")
    if (tilt.mT @ tilt - torch.eye(3)).abs().max() > 1e-3 or torch.linalg.det(tilt) < 0:
        raise ValueError(f"{where}: Rtilt: got {tilt.tolist()}, want a rotation.")
    return tilt


class SunRgbdVoteNet(Source):
    """SUN RGB-D as VoteNet extracts it, into sunrgbd_trainval: image, calib, and label (v2) or label_v1.

    Args:
        root: that folder, or its parent.
        labels: which label folder to read.

    The split of an image is "train" or "val" if the folder has train_data_idx.txt and val_data_idx.txt (VoteNet calls
    SUN RGB-D's test split val), else "trainval".
    """

    name = "sunrgbd"
    complete = False

    def __init__(self, root: str | Path, labels: str = "label"):
        super().__init__(root)
        below = self.root / "sunrgbd_trainval"
        self.folder = below if below.is_dir() else self.root
        if labels not in ("label", "label_v1"):
            raise ValueError(f"labels: got {labels!r}, want label or label_v1.")
        self.labels = labels
        for name in ("image", "calib", labels):
            if not (self.folder / name).is_dir():
                raise FileNotFoundError(f"{self.folder / name}: no such folder; want image, calib and {labels}.")
        names = {path.stem for name in ("calib", labels) for path in (self.folder / name).glob("*.txt")}
        split_of = {}
        for split in ("train", "val"):
            listed = self.folder / f"{split}_data_idx.txt"
            if listed.is_file():
                split_of |= {f"{int(index):06d}": split for index in listed.read_text().split()}
        self._ids = sorted(f"sunrgbd/{split_of.get(name, 'trainval')}/{name}" for name in names)

    def ids(self) -> list[str]:
        """See `Source`."""
        return list(self._ids)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        _, split, name = image_id.split("/")
        calibration = inside(self.folder, f"calib/{name}.txt")
        labels = inside(self.folder, f"{self.labels}/{name}.txt")
        lines = calibration.read_text().splitlines()
        try:
            # Both are written column by column.
            tilt, intrinsics = (
                torch.tensor([float(word) for word in line.split()], dtype=torch.float64).reshape(3, 3).mT
                for line in lines[:2]
            )
            check_intrinsics(intrinsics)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{calibration}: got {lines[:2]}, want Rtilt and K of 9 numbers each ({error})") from None
        check_tilt(tilt, str(calibration))
        objects = []
        for number, line in enumerate(labels.read_text().splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            try:
                values = [float(word) for word in words[1:]]
                _, _, _, _, x, y, z, width, length, height, ox, oy = values
            except ValueError:
                raise ValueError(f"{labels}:{number}: got {line!r}, want a name and 12 numbers.") from None
            try:
                entry = sunrgbd_object(
                    str(number - 1), words[0], (x, y, z), (width, length, height), (ox, oy), tilt, intrinsics
                )
            except ValueError as error:
                raise ValueError(f"{labels}:{number}: {error}") from None
            objects.append(entry)
        return {
            "image": str(inside(self.folder, f"image/{name}.jpg")),
            "image_id": image_id,
            "source": self.name,
            "split": split,
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
        }
