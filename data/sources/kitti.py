# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of KITTI's object frames (image_2, calib, label_2).

KITTI's conventions and their conversion
    location    centre of the box's *bottom* face in the rectified frame of camera 0 -> `center`, the middle of the box
    h, w, l     -> `size` = (length, height, width)
    rotation_y  about the camera's y axis, positive from z towards x -> `rotation`
    P2          3x4, K [I | t]: camera 2 is some 6 cm beside camera 0. A row has only K, so every centre moves by
                t = K^-1 p4 into the frame of camera 2. K then projects it to exactly the pixels of P2.
    alpha       rotation_y - atan2(x, z) with the location as given, in the frame of camera 0
    DontCare    skipped: an image region with objects that have no box; such a scene is not `complete`
    Misc        kept with `ignore` set, as is a box whose centre is not in front of the camera
    truncated, occluded -> `truncation`, `occlusion` (0, 1, 2, or 3 for unknown)

K is used as published. It counts pixels from the middle of the top-left one, the image frame from its corner; readers
of KITTI commonly leave this difference of half a pixel.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from llmi3d.data.expressions.wording import ORDINALS
from llmi3d.data.schema import grounding_conversation, make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import check_intrinsics, yaw_to_matrix

_FOLDERS = {"image_2": ".png", "calib": ".txt", "label_2": ".txt"}
VOCABULARY = ("car", "van", "truck", "pedestrian", "person_sitting", "cyclist", "tram")


class Kitti(Source):
    """KITTI's object frames.

    Args:
        root: folder with image_2, calib and label_2, or its parent if it is called training.
        split_file: text file with one frame id per line, such as the val.txt of Chen et al.; its stem names the split.
            Default: all frames, as the split "training".
    """

    name = "kitti"
    vocabulary = VOCABULARY

    def __init__(self, root: str | Path, split_file: str | Path | None = None):
        super().__init__(root)
        self.folder = self.root / "training" if (self.root / "training").is_dir() else self.root
        found = set()
        for name, suffix in _FOLDERS.items():
            if not (self.folder / name).is_dir():
                raise FileNotFoundError(
                    f"{self.folder / name}: no such folder; a KITTI folder has {', '.join(_FOLDERS)}."
                )
            found |= {path.stem for path in (self.folder / name).glob(f"*{suffix}")}
        self.split = "training"
        if split_file is not None:
            found = set(Path(split_file).read_text().split())
            self.split = Path(split_file).stem
        for frame_id in found:
            if not re.fullmatch("[0-9]+", frame_id):
                raise ValueError(f"{split_file or self.folder}: got the frame id {frame_id!r}, want only digits.")
        self.frame_ids = sorted(found)

    def ids(self) -> list[str]:
        """See `Source`."""
        return [f"kitti/{self.split}/{frame_id}" for frame_id in self.frame_ids]

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        frame_id = image_id.rsplit("/", 1)[1]
        paths = {name: inside(self.folder, f"{name}/{frame_id}{suffix}") for name, suffix in _FOLDERS.items()}
        intrinsics, offset = split_projection(read_kitti_projection(paths["calib"]))
        labels = read_kitti_labels(paths["label_2"])
        return {
            "image": str(paths["image_2"]),
            "image_id": image_id,
            "source": self.name,
            "split": self.split,
            "intrinsics": intrinsics.tolist(),
            "objects": [
                kitti_object(str(i), label, intrinsics, offset, f"{paths['label_2']}:{label.line}")
                for i, label in enumerate(labels)
                if label.category != "DontCare"
            ],
            "complete": all(label.category != "DontCare" for label in labels),
        }


@dataclass(frozen=True)
class KittiLabel:
    """One line of a label file, as written.

    Attributes:
        category: as written, "Car", "DontCare", ...
        truncation: 0 to 1.
        occlusion: 0, 1, 2, or 3 for unknown.
        alpha: observation angle, radians.
        box_2d: (x_min, y_min, x_max, y_max), pixels, within the image.
        height, width, length: metres.
        location: (x, y, z) of the bottom face's centre, metres, frame of camera 0.
        yaw: rotation_y, radians.
        line: line number, from 1.
    """

    category: str
    truncation: float
    occlusion: int
    alpha: float
    box_2d: tuple[float, float, float, float]
    height: float
    width: float
    length: float
    location: tuple[float, float, float]
    yaw: float
    line: int = 0


def read_kitti_frames(root: str | Path) -> Iterator[dict]:
    """Yield the rows of a KITTI object folder, one per frame, in the order of frame ids.

    Each object that is not ignored is asked for once, by a phrase that means only it among the labelled objects: "the
    car" if it is the only one, else "the nearest car", "the second nearest car", ... "the farthest car", by the
    distance of its centre from the camera. Frames without such an object are skipped.

    Args:
        root: as in `Kitti`.

    Returns:
        Rows as in schema.IG3D_FEATURES; `image` is a path.

    Raises:
        FileNotFoundError: a missing folder or file, which is named, before the first row.
        ValueError: a file name that is no frame id; an unreadable calibration or label, with file and line.
    """
    source = Kitti(root)
    for frame_id in source.frame_ids:
        for name, suffix in _FOLDERS.items():
            if not (source.folder / name / f"{frame_id}{suffix}").is_file():
                raise FileNotFoundError(
                    f"{source.folder / name / frame_id}{suffix}: frame {frame_id} lacks this file."
                )
    rows = (_with_phrases(source.read(image_id)) for image_id in source.ids())
    return (row for row in rows if row["targets"])


def read_kitti_projection(path: str | Path) -> torch.Tensor:
    """Return P2 of a calibration file, float64 [3, 4]: from the rectified frame of camera 0 to pixels of image_2.

    Raises:
        ValueError: no P2, or one that is not K [I | t].
    """
    for line in Path(path).read_text().splitlines():
        if not line.startswith("P2:"):
            continue
        values = line.split()[1:]
        try:
            projection = torch.tensor([float(value) for value in values], dtype=torch.float64).reshape(3, 4)
            check_intrinsics(projection[:, :3])
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: P2: got {' '.join(values)!r}, want 12 numbers of K [I | t] ({error})") from None
        return projection
    raise ValueError(f"{path}: no line starts with P2:.")


def read_kitti_labels(path: str | Path) -> list[KittiLabel]:
    """Return the labels of a file, DontCare included.

    Raises:
        ValueError: names file and line.
    """
    lines = enumerate(Path(path).read_text().splitlines(), start=1)
    return [parse_kitti_label(line.split(), path, number) for number, line in lines if line.strip()]


def parse_kitti_label(words: list[str], path: str | Path, number: int) -> KittiLabel:
    """Parse the words of a label's line: a category and 14 numbers.

    Raises:
        ValueError: names file and line.
    """
    try:
        truncation, occlusion, alpha, *values = (float(word) for word in words[1:])
        left, top, right, bottom, height, width, length, x, y, z, yaw = values
    except ValueError:
        raise ValueError(f"{path}:{number}: got {' '.join(words)!r}, want a category and 14 numbers.") from None
    return KittiLabel(
        category=words[0],
        truncation=truncation,
        occlusion=int(occlusion),
        alpha=alpha,
        box_2d=(left, top, right, bottom),
        height=height,
        width=width,
        length=length,
        location=(x, y, z),
        yaw=yaw,
        line=number,
    )


def split_projection(projection: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split P = K [I | t] into K [3, 3] and the shift [3], metres, from its frame to that of its own camera."""
    return projection[:, :3], torch.linalg.solve(projection[:, :3], projection[:, 3])


def kitti_object(
    object_id: str,
    label: KittiLabel,
    intrinsics: torch.Tensor,
    offset: torch.Tensor,
    where: str,
    attributes: dict[str, str] | None = None,
) -> dict:
    """Convert a label to an entry of a row's `objects`.

    Args:
        object_id, attributes: as in a row.
        label: not DontCare.
        intrinsics, offset: of `split_projection`.
        where: file and line, for errors.

    Raises:
        ValueError: a size that is not positive, or a number that is not finite.
    """
    size = (label.length, label.height, label.width)
    numbers = (*size, *label.location, label.yaw, label.truncation)
    if not all(map(math.isfinite, numbers)) or min(size) <= 0:
        raise ValueError(
            f"{where}: got height, width, length, x, y, z, yaw of {numbers}, want finite ones and sizes above 0 m."
        )
    middle = label.location[0], label.location[1] - label.height / 2, label.location[2]
    center = torch.tensor(middle, dtype=torch.float64) + offset
    return make_object(
        object_id,
        label.category.lower(),
        center,
        size,
        yaw_to_matrix(torch.tensor(label.yaw, dtype=torch.float64)),
        intrinsics,
        truncation=label.truncation,
        occlusion=label.occlusion,
        ignore=label.category == "Misc" or center[2].item() <= 0,
        attributes=attributes,
    )


def _with_phrases(scene: dict) -> dict:
    phrases = _phrases([entry for entry in scene["objects"] if not entry["ignore"]])
    scene.pop("complete")
    return {
        **scene,
        "messages": grounding_conversation(list(phrases.values())),
        "targets": list(phrases),
        "task": ["grounding"] * len(phrases),
        "meanings": None,
    }


def _phrases(objects: list[dict]) -> dict[str, str]:
    """Return a phrase that means only this object, by id, for each object in order."""
    phrases = {}
    for entry in objects:
        alike = [other for other in objects if other["category"] == entry["category"]]
        alike.sort(key=lambda other: math.hypot(*other["center"]))
        rank = alike.index(entry)
        words = [_nearest(rank, len(alike)), entry["category"].replace("_", " ")]
        phrases[entry["id"]] = " ".join(["the", *filter(None, words)])
    return phrases


def _nearest(rank: int, count: int) -> str:
    """Return words for the place `rank`, from 0, among `count` by distance; none if there is only one."""
    if count == 1:
        return ""
    if rank == count - 1:
        return "farthest"
    if rank == 0:
        return "nearest"
    if rank < len(ORDINALS):
        return f"{ORDINALS[rank]} nearest"
    number = rank + 1
    last = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{last} nearest"
