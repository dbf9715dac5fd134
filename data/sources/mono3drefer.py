# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of Mono3DRefer, expressions on KITTI frames (Zhan et al., AAAI 2024); conventions as in `kitti`.

    Mono3DRefer.json              a list of {im_name, instanceID, ann_id, objectName, description, label_2}, label_2
                                  a KITTI label line, written as a Python list
    Mono3DRefer_SPLIT_image.txt   frames of train, val and test
    images/, calib/               000000.png, 000000.txt
    test_instanceID_split.json    instances by uniqueness, distance and difficulty (optional)

Written from the authors' public loader and tested on real calibrations and lists of instances alone. The file holds
only objects that have expressions, so nothing is asked beyond the authors' own phrases.
"""

import ast
import json
from pathlib import Path

from llmi3d.data.source import Source, inside
from llmi3d.data.sources.kitti import kitti_object, parse_kitti_label, read_kitti_projection, split_projection

# Breakdown of `protocols` -> names in the lists of instances.
_GROUPS = {
    "uniqueness": ("Unique", "Multiple"),
    "distance_band": ("Near", "Medium", "Far"),
    "difficulty": ("Easy", "Moderate", "Hard"),
}


class Mono3DRefer(Source):
    """Mono3DRefer.

    Args:
        root: folder of the download.
    """

    name = "mono3drefer"

    def __init__(self, root: str | Path):
        super().__init__(root)
        path = self.root / "Mono3DRefer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; want Mono3DRefer's annotations.")
        try:
            annotated = json.loads(path.read_text())
            by_frame = {}
            for entry in annotated:
                by_frame.setdefault(str(entry["im_name"]), []).append(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error!r}, want a list of annotations with im_name.") from None
        self._frames = {}
        for split in ("train", "val", "test"):
            listed = self.root / f"Mono3DRefer_{split}_image.txt"
            for name in listed.read_text().split() if listed.is_file() else ():
                if name in by_frame:
                    self._frames[f"{self.name}/{split}/{int(name):06d}"] = by_frame[name]
        if not self._frames:
            raise FileNotFoundError(f"{self.root}: no frame listed in Mono3DRefer_train/val/test_image.txt.")
        self._groups = _read_groups(self.root / "test_instanceID_split.json")

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._frames)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        _, split, name = image_id.split("/")
        intrinsics, offset = split_projection(read_kitti_projection(inside(self.root, f"calib/{name}.txt")))
        objects, phrases = {}, []
        for entry in self._frames[image_id]:
            try:
                instance, phrase, words = str(entry["instanceID"]), entry["description"], entry["label_2"]
                words = ast.literal_eval(words) if isinstance(words, str) else words
                label = parse_kitti_label([str(word) for word in words], "Mono3DRefer.json", int(entry["ann_id"]))
            except (KeyError, TypeError, ValueError, SyntaxError) as error:
                raise ValueError(f"Mono3DRefer.json: annotation {entry.get('ann_id')}: {error!r}") from None
            if instance not in objects:
                where = f"Mono3DRefer.json: instance {instance}"
                named = {**self._groups.get(int(instance), {}), "name": str(entry.get("objectName", label.category))}
                objects[instance] = kitti_object(instance, label, intrinsics, offset, where, named)
            phrase = phrase.strip().rstrip(".")  # the phrase becomes part of a sentence
            phrases.append({"phrase": phrase[:1].lower() + phrase[1:], "objects": [instance]})
        return {
            "image": str(inside(self.root, f"images/{name}.png")),
            "image_id": image_id,
            "source": self.name,
            "split": split,
            "intrinsics": intrinsics.tolist(),
            "objects": list(objects.values()),
            "phrases": [one for one in phrases if not objects[one["objects"][0]]["ignore"]],
        }


def _read_groups(path: Path) -> dict[int, dict[str, str]]:
    if not path.is_file():
        return {}
    lists = json.loads(path.read_text())
    groups = {}
    for key, names in _GROUPS.items():
        for name in names:
            for instance in lists.get(name, []):
                groups.setdefault(int(instance), {})[key] = name
    return groups
