# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Validation of a built data set: every row, duplicate images, overlapping splits."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
from PIL import Image
from tqdm.auto import tqdm

from llmi3d.data.dataset import find_splits, load_split
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import IG3D_FEATURES, upright_image, validate_row
from llmi3d.processing.geometry_llmi3d import box_2d_iou, box_corners, project_box_2d

# Of the projected and the given 2D box. Boxes built by this package are projected; those of other origin may be loose.
LEAST_IOU_2D = 0.5
# Images whose 64-bit perceptual hashes differ in at most this many bits count as the same.
SAME_IMAGE_BITS = 3


@dataclass
class Problems:
    """Result of `validate`.

    Attributes:
        rows: number of rows by split.
        errors: (image id, what is wrong) for each row that must not be used.
        duplicates: pairs of image ids whose images look the same within one split.
        overlaps: the same across splits, which makes an evaluation on such a split worthless.
        mean_iou_2d: mean IoU of projected and given 2D boxes; None without any.
    """

    rows: dict[str, int] = field(default_factory=dict)
    errors: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    overlaps: list[tuple[str, str]] = field(default_factory=list)
    mean_iou_2d: float | None = None

    @property
    def sound(self) -> bool:
        """Whether there is no error and no overlap of splits. Duplicates within one split are left to the user."""
        return not self.errors and not self.overlaps


def validate(folder: str | Path, progress: bool = True) -> Problems:
    """Check every row of a built data set, and its splits against each other.

    Each row must follow the schema and hold a readable image that fits K, with 2D boxes that agree with the projected
    3D boxes. Ids must be unique. Perceptual hashes tell images that look the same.

    Raises:
        FileNotFoundError: no data set.
    """
    problems, hashes, seen, ious = Problems(), [], {}, []
    for split in find_splits(folder):
        rows = load_split(folder, split).select_columns(list(IG3D_FEATURES))  # a source may have columns of its own
        rows = rows.cast_column("image", datasets.Image(decode=False))
        problems.rows[split] = len(rows)
        for row in tqdm(rows, desc=f"validate {split}", unit="row", disable=not progress):
            name = row["image_id"]
            if name in seen:
                (problems.overlaps if seen[name] != split else problems.duplicates).append((name, name))
            seen[name] = split
            try:
                validate_row(row)
                image = upright_image(row["image"])
                overlap = _overlaps_2d(row)
                if overlap and min(overlap) < LEAST_IOU_2D:
                    raise ValueError(
                        f"box_2d: its IoU with the projected box is {min(overlap):.2f}, want {LEAST_IOU_2D} or more."
                    )
            except ValueError as error:
                problems.errors.append((name, str(error)))
                continue
            ious += overlap
            hashes.append((_hash(image), name, split))
    problems.mean_iou_2d = sum(ious) / len(ious) if ious else None
    for first, second in _near(hashes):
        pair = (first[1], second[1])
        (problems.duplicates if first[2] == second[2] else problems.overlaps).append(pair)
    return problems


def _overlaps_2d(row: dict) -> list[float]:
    entries = [entry for entry in row["objects"] if entry["box_2d"] is not None and not entry["ignore"]]
    if not entries:
        return []
    parts = (
        torch.tensor([entry[name] for entry in entries], dtype=torch.float64)
        for name in ("center", "size", "rotation")
    )
    projected = project_box_2d(box_corners(*parts), torch.tensor(row["intrinsics"], dtype=torch.float64))
    given = torch.tensor([entry["box_2d"] for entry in entries], dtype=torch.float64)
    return box_2d_iou(projected, given).nan_to_num(nan=0.0).tolist()


def _hash(image: Image.Image) -> int:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("imagehash is not installed; this needs pip install 'llmi3d[data]'.") from error
    return int(str(imagehash.phash(image)), 16)


def _near(hashes: list[tuple[int, str, str]]) -> list[tuple]:
    """Pairs within SAME_IMAGE_BITS. Of SAME_IMAGE_BITS + 1 bands, two such hashes agree in at least one."""
    bands, found = SAME_IMAGE_BITS + 1, {}
    width = 64 // bands
    buckets = {}
    for i, (value, *_) in enumerate(hashes):
        for band in range(bands):
            buckets.setdefault((band, value >> (band * width) & ((1 << width) - 1)), []).append(i)
    for members in buckets.values():
        for at, i in enumerate(members):
            for j in members[at + 1 :]:
                if (hashes[i][0] ^ hashes[j][0]).bit_count() <= SAME_IMAGE_BITS:
                    found[i, j] = (hashes[i], hashes[j])
    return list(found.values())


def save_problems(problems: Problems, path: str | Path) -> None:
    """Write the result of `validate` as JSON."""
    write_whole(path, json.dumps({"sound": problems.sound, **vars(problems)}, indent=1) + "\n")
