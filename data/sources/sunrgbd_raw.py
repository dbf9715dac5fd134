# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converters of SUN RGB-D as published: the folders of SUNRGBD.zip, and the toolbox's .mat metadata.

Written from the toolbox's public reading code, and tested on files made in these layouts, not on real ones.
Conventions as in `sunrgbd`.
"""

import json
from pathlib import Path

import torch

from llmi3d.data.source import Source, inside
from llmi3d.data.sources.sunrgbd import DEPTH_TO_CAMERA, check_tilt, sunrgbd_object
from llmi3d.processing.geometry_llmi3d import check_intrinsics

# Parts of the room, not objects; the toolbox skips them as well.
ROOM = ("wall", "floor", "ceiling")


class SunRgbdRaw(Source):
    """Frame folders of SUNRGBD.zip: image/*.jpg, intrinsics.txt, extrinsics/*.txt and annotation3Dfinal/index.json.

    A box is a rectangle X, Z (metres, four corners in order) with Ymin and Ymax, y down, in the gravity-aligned frame.
    Its front is the middle of the side from the first corner to the second. Only an object's first polygon counts, as
    in the toolbox.

    Args:
        root: folder with frame folders at any depth.
        split_file: allsplit.mat of the toolbox, for the official train and test split; without it: "trainval".
    """

    name = "sunrgbd"
    complete = False

    def __init__(self, root: str | Path, split_file: str | Path | None = None):
        super().__init__(root)
        found = sorted(path.parent.parent for path in self.root.rglob("annotation3Dfinal/index.json"))
        if not found:
            raise FileNotFoundError(f"{self.root}: no folder with annotation3Dfinal/index.json in it.")
        split_of = official_splits(split_file)
        self._folders = {}
        for folder in found:
            name = folder.relative_to(self.root).as_posix()
            self._folders[f"sunrgbd/{_split(split_of, name)}/{name}"] = name

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._folders)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        folder = self.root / self._folders[image_id]
        images = sorted((folder / "image").glob("*.jpg"))
        if not images:
            raise ValueError(f"{folder / 'image'}: no .jpg in it.")
        intrinsics = _matrix(inside(folder, "intrinsics.txt"))[:3, :3]
        check_intrinsics(intrinsics)
        turns = sorted((folder / "extrinsics").glob("*.txt"))
        if not turns:
            raise ValueError(f"{folder / 'extrinsics'}: no .txt in it.")
        # The last one is the newest. It rotates camera axes; Rtilt rotates the depth frame's.
        turn = _matrix(turns[-1])[:3, :3]
        tilt = check_tilt(DEPTH_TO_CAMERA.mT @ turn @ DEPTH_TO_CAMERA, str(turns[-1]))
        path = inside(folder, "annotation3Dfinal/index.json")
        try:
            annotated = json.loads(path.read_text())["objects"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: got no JSON with objects ({error}).") from None
        objects = []
        for i, entry in enumerate(annotated):
            if not entry or not entry.get("polygon"):
                continue
            category = str(entry.get("name", "")).partition(":")[0].rstrip("_ ")
            if category in ROOM:
                continue
            try:
                objects.append(_polygon_object(str(i), category, entry["polygon"][0], tilt, intrinsics))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(f"{path}: objects[{i}]: {error}") from None
        return {
            "image": str(inside(folder, f"image/{images[0].name}")),
            "image_id": image_id,
            "source": self.name,
            "split": image_id.split("/")[1],
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
        }


class SunRgbdMat(Source):
    """SUNRGBDMeta3DBB_v2.mat (or SUNRGBDMeta.mat) with the images of SUNRGBD.zip.

    Args:
        root: folder with the folder SUNRGBD.
        metadata: the .mat file; default: SUNRGBDMeta3DBB_v2.mat in `root`.
        split_file: as in `SunRgbdRaw`.
    """

    name = "sunrgbd"
    complete = False

    def __init__(self, root: str | Path, metadata: str | Path | None = None, split_file: str | Path | None = None):
        super().__init__(root)
        path = Path(metadata) if metadata else self.root / "SUNRGBDMeta3DBB_v2.mat"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; want the toolbox's metadata.")
        content = _load_mat(path)
        if "SUNRGBDMeta" not in content:
            raise ValueError(f"{path}: got {sorted(content)}, want SUNRGBDMeta.")
        split_of = official_splits(split_file)
        self._records = {}
        for record in _list(content["SUNRGBDMeta"]):
            name = str(record.sequenceName).strip("/")
            self._records[f"sunrgbd/{_split(split_of, name)}/{name}"] = record

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._records)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        record = self._records[image_id]
        try:
            intrinsics, tilt = (torch.as_tensor(getattr(record, name), dtype=torch.float64) for name in ("K", "Rtilt"))
            boxes = _list(record.groundtruth3DBB)
            entries = [
                (str(box.classname), box.centroid, abs(box.coeffs), box.orientation, getattr(box, "labelname", ""))
                for box in boxes
            ]
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{image_id}: {error}; want K, Rtilt and groundtruth3DBB.") from None
        check_intrinsics(intrinsics)
        check_tilt(tilt, image_id)
        return {
            "image": str(inside(self.root, f"{record.sequenceName}/image/{record.rgbname}")),
            "image_id": image_id,
            "source": self.name,
            "split": image_id.split("/")[1],
            "intrinsics": intrinsics.tolist(),
            "objects": [
                sunrgbd_object(str(i), category, centroid, half_sizes, orientation, tilt, intrinsics)
                for i, (category, centroid, half_sizes, orientation, _) in enumerate(entries)
            ],
        }


def official_splits(path: str | Path | None) -> dict[str, str]:
    """Return the split of each sequence name, from the toolbox's allsplit.mat; {} without a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without the lists `alltrain` and `alltest`.
    """
    if path is None:
        return {}
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; want the toolbox's allsplit.mat.")
    content = _load_mat(Path(path))
    if not {"alltrain", "alltest"} <= set(content):
        raise ValueError(f"{path}: got {sorted(content)}, want alltrain and alltest.")
    # Paths are absolute on their author's machine; what follows the folder SUNRGBD names a sequence everywhere.
    return {_tail(str(name)): split for split in ("train", "test") for name in _list(content[f"all{split}"])}


def _split(split_of: dict[str, str], name: str) -> str:
    return split_of.get(_tail(name), "trainval") if split_of else "trainval"


def _tail(name: str) -> str:
    return name.strip("/").rpartition("SUNRGBD/")[2]


def _polygon_object(object_id: str, category: str, polygon: dict, tilt, intrinsics) -> dict:
    x, y = ([float(value) for value in polygon[axis]] for axis in ("X", "Z"))
    if not category or len(x) != 4 or len(y) != 4:
        raise ValueError(f"got {category!r} with corners X {x}, Z {y}; want a name and four corners.")
    corners = torch.tensor([x, y], dtype=torch.float64).mT
    middle = (corners[0] + corners[2]) / 2
    width, length = (corners[1] - corners[0]).norm().item(), (corners[2] - corners[1]).norm().item()
    top, bottom = -float(polygon["Ymin"]), -float(polygon["Ymax"])
    front = (corners[0] + corners[1]) / 2 - middle
    return sunrgbd_object(
        object_id,
        category,
        (*middle.tolist(), (top + bottom) / 2),
        (width / 2, length / 2, abs(top - bottom) / 2),
        front.tolist(),
        tilt,
        intrinsics,
    )


def _matrix(path: Path) -> torch.Tensor:
    """Read a matrix of three rows; its numbers may stand in one line."""
    try:
        numbers = [float(word) for word in path.read_text().split()]
        return torch.tensor(numbers, dtype=torch.float64).reshape(3, -1)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}; want a matrix of three rows.") from None


def _load_mat(path: Path) -> dict:
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
    except (ValueError, TypeError, NotImplementedError, OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as a .mat file up to version 7 ({error}).") from None
    return {name: value for name, value in content.items() if not name.startswith("__")}


def _list(value) -> list:
    """Return a squeezed array as a list, also if it held one entry or none."""
    if hasattr(value, "ndim"):
        return [] if value.size == 0 else list(value.ravel())
    return [value]
