# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of Omni3D's annotation files (KITTI, nuScenes, SUN RGB-D, Objectron, ARKitScenes, Hypersim).

`center_cam` is the centre, `dimensions` are (w, h, l), `R_cam` rotates the box's x (l), y (h), z (w) into the camera;
-1 means unknown. `ignore` follows Omni3D's own evaluation (`Omni3DFilter`). Categories are Omni3D's names. Its labels
are not complete, so nothing is asked for as absent.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from llmi3d.data.schema import make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import check_intrinsics

_SOURCES = ("kitti", "nuscenes", "sunrgbd", "objectron", "arkitscenes", "hypersim")


@dataclass(frozen=True)
class Omni3DFilter:
    """Thresholds of ignored annotations, with the values of Cube R-CNN's published numbers.

    Attributes:
        truncation: ignore from this share on.
        visibility: ignore up to this share.
        min_height, max_height: of the 2D box, as a share of the image height; ignore at or beyond them.
        max_depth: metres; ignore beyond it.
        max_depth_error: of the depth map against the rendered box, metres.
    """

    truncation: float = 1 / 3
    visibility: float = 1 / 3
    min_height: float = 0.0625
    max_height: float = 1.5
    max_depth: float = 1e8
    max_depth_error: float = 0.5

    def ignores(self, annotation: dict, box_2d: list[float], image_height: float) -> bool:
        """Whether an annotation with a valid 3D box is to be ignored."""
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
    """Return the truncated projected box, else the projected, else the annotated one; None where none is given."""
    boxes = [annotation.get(f"bbox2D_{kind}") for kind in ("trunc", "proj", "tight")]
    return next((box for box in boxes if box and not all(value == -1 for value in box)), None)


class Omni3D(Source):
    """One annotation file of Omni3D, or a folder of them.

    Args:
        root: SOURCE_SPLIT.json, such as KITTI_val.json, or a folder of such files.
        images: folder to which the annotations' file paths are relative; default: the parent of the annotations'
            folder, as in Omni3D's datasets/.
    """

    name = "omni3d"
    complete = False

    def __init__(self, root: str | Path, images: str | Path | None = None):
        root = Path(root)
        super().__init__(root.parent if root.is_file() else root)
        paths = [root] if root.is_file() else sorted(self.root.glob("*.json"))
        self.images = Path(images) if images else self.root.parent
        self._records = {}
        for path in paths:
            match = re.fullmatch(r"([A-Za-z]+)_(\w+)", path.stem)
            if not match or match[1].lower() not in _SOURCES:
                raise ValueError(f"{path}: got this name, want SOURCE_SPLIT.json, such as KITTI_val.json.")
            source, split = match[1].lower(), match[2]
            try:
                content = json.loads(path.read_text())
                images_of, annotated = content["images"], content["annotations"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: {error!r}, want JSON with images and annotations.") from None
            by_image = {}
            for annotation in annotated:
                by_image.setdefault(annotation["image_id"], []).append(annotation)
            for image in images_of:
                name = f"{source}/{split}/{image['id']}"
                self._records[name] = (image, by_image.get(image["id"], []))
        if not self._records:
            raise FileNotFoundError(f"{root}: no annotation file with an image in it.")

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._records)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        image, annotations = self._records[image_id]
        source, split, _ = image_id.split("/")
        try:
            intrinsics = check_intrinsics(image["K"], (image["width"], image["height"]))
            path = inside(self.images, image["file_path"])
        except KeyError as error:
            raise ValueError(f"image {image.get('id')}: misses {error}.") from None
        objects = [entry for a in annotations if (entry := omni3d_object(a, intrinsics, image["height"])) is not None]
        return {
            "image": str(path),
            "image_id": image_id,
            "source": source,
            "split": split,
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
        }


def omni3d_object(annotation: dict, intrinsics, image_height: int, keep: Omni3DFilter | None = None) -> dict | None:
    """Convert an annotation to an entry of a row's `objects`; None where it has no 3D box.

    Args:
        annotation: from the file.
        intrinsics: K [3, 3].
        image_height: pixels.
        keep: thresholds of ignored annotations; default: Omni3D's.

    Raises:
        ValueError: a missing field or an invalid box.
    """
    where = f"annotation {annotation.get('id')}"
    try:
        width, height, length = annotation["dimensions"]
        if not annotation["valid3D"] or min(width, height, length) <= 0:
            return None
        visibility, truncation = (
            None if annotation[name] < 0 else min(1.0, float(annotation[name]))
            for name in ("visibility", "truncation")
        )
        entry = make_object(
            str(annotation["id"]),
            annotation["category_name"],
            annotation["center_cam"],
            (length, height, width),
            annotation["R_cam"],
            intrinsics,
            visibility=visibility,
            truncation=truncation,
        )
        # The thresholds hold for the annotated box; a row's own is the whole projection.
        box_2d = entry["box_2d"] and (annotated_box_2d(annotation) or entry["box_2d"])
        ignored = box_2d is None or (keep or Omni3DFilter()).ignores(annotation, box_2d, image_height)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{where}: {error!r}; want Omni3D's fields.") from None
    return {**entry, "ignore": bool(ignored or entry["center"][2] <= 0)}
