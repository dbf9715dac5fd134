# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converter of JSON Lines with your own labelled images, one image per line; see docs/your_data.md.

    {"image": "photos/0001.jpg", "intrinsics": [fx, fy, cx, cy], "boxes": [
        {"category": "pallet", "center": [0.4, 0.2, 3.1], "size": [1.2, 0.15, 0.8], "yaw": 0.3}]}

Fields of an image: `image` (relative to the file's folder), `intrinsics` (fx, fy, cx, cy or 3x3, pixels), `boxes`, and
optionally `id`, `split` ("train"), `phrases`: [{"phrase": "...", "boxes": [0]}].
Fields of a box: `category`, `center`, `size` (length, height, width), one of `rotation` (3x3, box to camera),
`quaternion` (w, x, y, z) or `yaw` (radians about y, from z towards x), and optionally `id`, `attributes`,
`visibility`, `truncation`, `occlusion`, `ignore`.
"""

import difflib
import json
import re
from pathlib import Path

import torch

from llmi3d.data.schema import image_size, make_object
from llmi3d.data.source import Source, inside
from llmi3d.processing.geometry_llmi3d import (
    check_intrinsics,
    intrinsics_from_focal,
    quaternion_to_matrix,
    yaw_to_matrix,
)

_IMAGE = ("image", "intrinsics", "boxes", "id", "split", "phrases")
_POSES = ("rotation", "quaternion", "yaw")
_OPTIONS = ("attributes", "visibility", "truncation", "occlusion", "ignore")
_BOX = ("category", "center", "size", *_POSES, "id", *_OPTIONS)
_PHRASE = ("phrase", "boxes", "kind")


class JsonLines(Source):
    """A JSON Lines file of labelled images. Every object of a category in the file must have a label, or `ignore`.

    Args:
        root: the file.
        name: source of the rows.
    """

    name = "own"

    def __init__(self, root: str | Path, name: str = "own"):
        path = Path(root)
        if not path.is_file():
            raise FileNotFoundError(f"root: got {str(root)!r}, want a JSON Lines file.")
        super().__init__(path.parent)
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"name: got {name!r}, want letters, digits and underscores.")
        self.name, self.path = name, path
        self._lines, categories = {}, set()
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if line.strip():
                image_id = self._id(number, line, categories)
                if image_id in self._lines:
                    raise ValueError(f"{path}:{number}: id: got {image_id!r} a second time, want unique ids.")
                self._lines[image_id] = (number, line)
        if not self._lines:
            raise ValueError(f"{path}: got no line, want at least one image.")
        self.vocabulary = tuple(sorted(categories))

    def _id(self, number: int, line: str, categories: set[str]) -> str:
        """Return the id of a line that may be damaged; the damage is reported when the line is read."""
        try:
            entry = json.loads(line)
            categories |= {str(box["category"]) for box in entry.get("boxes", []) if "category" in box}
            split, own = str(entry.get("split", "train")), str(entry.get("id", f"{number:06d}"))
        except (ValueError, AttributeError, TypeError):
            split, own = "train", f"{number:06d}"
        if not re.fullmatch(r"\w+", split):
            raise ValueError(f"{self.path}:{number}: split: got {split!r}, want letters, digits and underscores.")
        return f"{self.name}/{split}/{own}"

    def ids(self) -> list[str]:
        """See `Source`."""
        return sorted(self._lines)

    def read(self, image_id: str) -> dict:
        """See `Source`."""
        number, line = self._lines[image_id]
        try:
            return self._scene(image_id, line)
        except ValueError as error:
            raise ValueError(f"{self.path}:{number}: {error}") from None

    def _scene(self, image_id: str, line: str) -> dict:
        entry = json.loads(line)
        _check_keys("image", entry, _IMAGE, ("image", "intrinsics", "boxes"))
        image = inside(self.root, str(entry["image"]))
        values = _numbers("intrinsics", entry["intrinsics"])
        intrinsics = intrinsics_from_focal(*values.tolist()) if values.shape == (4,) else values
        intrinsics = check_intrinsics(intrinsics, image_size(str(image)))
        if not isinstance(entry["boxes"], list):
            raise ValueError(f"boxes: got {entry['boxes']!r}, want a list.")
        objects = [_object(i, box, intrinsics) for i, box in enumerate(entry["boxes"])]
        names = [entry["id"] for entry in objects]
        return {
            "image": str(image),
            "image_id": image_id,
            "source": self.name,
            "split": image_id.split("/")[1],
            "intrinsics": intrinsics.tolist(),
            "objects": objects,
            "phrases": [_phrase(i, phrase, names) for i, phrase in enumerate(entry.get("phrases") or [])],
        }


def _object(index: int, box: dict, intrinsics: torch.Tensor) -> dict:
    where = f"boxes[{index}]"
    _check_keys(where, box, _BOX, ("category", "center", "size"))
    given = [name for name in _POSES if name in box]
    if len(given) != 1:
        raise ValueError(f"{where}: got {given or 'no rotation'}, want one of {', '.join(_POSES)}.")
    value = _numbers(f"{where}.{given[0]}", box[given[0]])
    shape = {"rotation": (3, 3), "quaternion": (4,), "yaw": ()}[given[0]]
    if value.shape != shape or (given[0] == "quaternion" and value.norm() == 0):
        raise ValueError(f"{where}.{given[0]}: got {box[given[0]]!r}, want shape {shape}.")
    turn = {"rotation": lambda r: r, "quaternion": quaternion_to_matrix, "yaw": yaw_to_matrix}[given[0]](value)
    center, size = (_numbers(f"{where}.{name}", box[name]) for name in ("center", "size"))
    if center.shape != (3,) or size.shape != (3,) or (size <= 0).any():
        raise ValueError(
            f"{where}: got center {box['center']} and size {box['size']}, want (x, y, z) and (length, height, width) "
            "above 0 m."
        )
    options = {name: box[name] for name in _OPTIONS if box.get(name) is not None}
    return make_object(str(box.get("id", index)), str(box["category"]), center, size, turn, intrinsics, **options)


def _phrase(index: int, phrase: dict, names: list[str]) -> dict:
    where = f"phrases[{index}]"
    _check_keys(where, phrase, _PHRASE, ("phrase", "boxes"))
    meant = []
    for box in phrase["boxes"]:
        # A number is a place in the list, a string is an id.
        if isinstance(box, int) and 0 <= box < len(names):
            meant.append(names[box])
        elif isinstance(box, str) and box in names:
            meant.append(box)
        else:
            raise ValueError(f"{where}.boxes: got {box!r}, want a place below {len(names)} or an id of {names}.")
    return {
        "phrase": str(phrase["phrase"]),
        "objects": meant,
        **({"kind": phrase["kind"]} if "kind" in phrase else {}),
    }


def _check_keys(where: str, given: dict, known: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: got a {type(given).__name__}, want a JSON object.")
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ValueError(f"{where}: has no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
    for name in wanted:
        if name not in given:
            raise ValueError(f"{where}: misses {name}; want {', '.join(wanted)}.")


def _numbers(where: str, value) -> torch.Tensor:
    try:
        numbers = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where}: got {value!r}, want numbers.") from None
    if not torch.isfinite(numbers).all():
        raise ValueError(f"{where}: got {value!r}, want finite numbers.")
    return numbers
