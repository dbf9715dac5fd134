# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of nuScenes' key frames of six cameras, from the v1.0 tables.

nuScenes' conventions and their conversion
    annotation  global frame, z up; `translation` is the box's centre, `size` is (w, l, h), the quaternion (w, x, y, z)
                rotates the box's x (along l), y (along w), z (up) into the global frame
    chain       global -> the ego pose of that camera's own timestamp -> calibrated sensor -> camera (x right, y down,
                z forward)
    visibility  a band of shares -> its middle; null where a record has none
    no points   an object without any lidar or radar point gets `ignore`: its place is a guess

Truncation is computed: the share of the projected 2D box outside the image.
"""

import json
from pathlib import Path

import torch

from llmi3d.data.schema import make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import check_intrinsics, quaternion_to_matrix

CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
_TABLES = (
    *("scene", "sample", "sample_data", "sample_annotation", "instance", "category", "attribute", "visibility"),
    *("ego_pose", "calibrated_sensor", "sensor"),
)
# The ten classes of the detection task by the prefix of a category's name; others go by their last part.
_DETECTION = {
    "human.pedestrian": "pedestrian",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
}
# nuScenes' levels -> the middle of their bands.
_VISIBILITY = {"v0-40": 0.2, "v40-60": 0.5, "v60-80": 0.7, "v80-100": 0.9}
# Box axes (l, h, w) in nuScenes' (l, w, h) frame: y points down, as in a camera.
_AXES = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
# An object with less than this share of its 2D box in the image is not in view.
LEAST_IN_VIEW = 0.02


class NuScenes(Source):
    """nuScenes v1.0.

    Args:
        root: folder with v1.0-*/ (the tables) and samples/.
        version: such as "v1.0-mini"; default: the only one in the folder.
        splits: mapping or JSON file {split: [scene names]}, such as nuScenes' train and val; scenes that it does not
            name are skipped. Default: everything, as the split "mini", "trainval" or "test" after the version.
    """

    name = "nuscenes"
    vocabulary = tuple(_DETECTION.values())

    def __init__(self, root: str | Path, version: str | None = None, splits: dict | str | Path | None = None):
        super().__init__(root)
        if version is None:
            versions = sorted(path.name for path in self.root.glob("v1.0-*") if path.is_dir())
            if len(versions) != 1:
                raise FileNotFoundError(f"{self.root}: got the versions {versions or 'none'}, want one, or `version`.")
            version = versions[0]
        tables = {name: _read_table(self.root / version / f"{name}.json") for name in _TABLES}
        self._tables = {name: {row["token"]: row for row in rows} for name, rows in tables.items()}
        self._annotations = {}
        for row in tables["sample_annotation"]:
            self._annotations.setdefault(row["sample_token"], []).append(row)
        if splits is not None and not isinstance(splits, dict):
            splits = json.loads(Path(splits).read_text())
        split_of = {scene: split for split, scenes in (splits or {}).items() for scene in scenes}
        self._records = {}
        for row in tables["sample_data"]:
            camera = Path(row["filename"]).parent.name
            if not row["is_key_frame"] or camera not in CAMERAS:
                continue
            sample = self._tables["sample"].get(row["sample_token"], {})
            scene = self._tables["scene"].get(sample.get("scene_token"), {}).get("name")
            split = version.removeprefix("v1.0-") if splits is None else split_of.get(scene)
            if split is not None:
                self._records[f"{self.name}/{split}/{row['token']}"] = row

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._records)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        record = self._records[image_id]
        sensor = self._row("calibrated_sensor", record["calibrated_sensor_token"])
        ego = self._row("ego_pose", record["ego_pose_token"])
        intrinsics = check_intrinsics(sensor["camera_intrinsic"], (record["width"], record["height"]))
        objects = []
        for annotation in self._annotations.get(record["sample_token"], []):
            entry = self._object(annotation, ego, sensor, intrinsics, record)
            if entry is not None:
                objects.append(entry)
        return {
            "image": str(inside(self.root, record["filename"])),
            "image_id": image_id,
            "source": self.name,
            "split": image_id.split("/")[1],
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
        }

    def _object(
        self, annotation: dict, ego: dict, sensor: dict, intrinsics: torch.Tensor, record: dict
    ) -> dict | None:
        where = f"sample_annotation {annotation.get('token')}"
        center = _vector(annotation, "translation", 3, where)
        rotation = quaternion_to_matrix(_vector(annotation, "rotation", 4, where))
        width, length, height = _vector(annotation, "size", 3, where).tolist()
        if min(width, length, height) <= 0:
            raise ValueError(f"{where}: size: got {annotation['size']}, want (w, l, h) above 0 m.")
        for frame, name in ((ego, "ego_pose"), (sensor, "calibrated_sensor")):
            turn = quaternion_to_matrix(_vector(frame, "rotation", 4, name))
            center = turn.mT @ (center - _vector(frame, "translation", 3, name))
            rotation = turn.mT @ rotation
        if center[2] <= 0:
            return None
        instance = self._row("instance", annotation["instance_token"])
        category = self._row("category", instance["category_token"])["name"]
        attributes = [self._row("attribute", token)["name"] for token in annotation.get("attribute_tokens", [])]
        visibility = self._tables["visibility"].get(annotation.get("visibility_token"), {}).get("level")
        points = [annotation.get(f"num_{kind}_pts") for kind in ("lidar", "radar")]
        entry = make_object(
            annotation["token"],
            category_name(category),
            center,
            (length, height, width),
            rotation @ _AXES,
            intrinsics,
            visibility=_VISIBILITY.get(visibility),
            ignore=None not in points and sum(points) == 0,
            # Of "vehicle.moving" the first part is in the category already.
            attributes={"state": ", ".join(name.rpartition(".")[2] for name in attributes)} if attributes else None,
        )
        in_view = _share_in_view(entry["box_2d"], record["width"], record["height"])
        return {**entry, "truncation": 1 - in_view} if in_view >= LEAST_IN_VIEW else None

    def _row(self, table: str, token: str) -> dict:
        if token not in self._tables[table]:
            raise ValueError(f"{table}: got the token {token!r}, want one in the table.")
        return self._tables[table][token]


def category_name(name: str) -> str:
    """ "vehicle.bus.rigid" -> "bus", "movable_object.debris" -> "debris"."""
    for beginning, short in _DETECTION.items():
        if name == beginning or name.startswith(beginning + "."):
            return short
    return name.rpartition(".")[2]


def _read_table(path: Path) -> list[dict]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table; want nuScenes' v1.0 tables.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; want a JSON list.") from None


def _vector(row: dict, name: str, length: int, where: str) -> torch.Tensor:
    try:
        vector = torch.tensor(row[name], dtype=torch.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name}: {error!r}, want {length} numbers.") from None
    if vector.shape != (length,) or not torch.isfinite(vector).all():
        raise ValueError(f"{where}: {name}: got {row[name]}, want {length} finite numbers.")
    return vector


def _share_in_view(box_2d: list[float] | None, width: int, height: int) -> float:
    if box_2d is None:
        return 0.0
    x0, y0, x1, y1 = box_2d
    seen = max(0.0, min(x1, width) - max(x0, 0)) * max(0.0, min(y1, height) - max(y0, 0))
    area = (x1 - x0) * (y1 - y0)
    return min(1.0, seen / area) if area > 0 else 0.0
