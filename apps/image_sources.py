# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Many pictures by index, each read when it is asked for: a folder, a JSON Lines list, a data set.

A list has one picture a line:

    {"id": "0001", "image": "photos/0001.jpg", "prompt": "the nearest car", "intrinsics": [fx, fy, cx, cy]}

`image` is relative to the list's folder, or a URL; `prompts` may hold several phrases instead of `prompt`, `fov_deg`
(horizontal field of view, degrees) stands instead of `intrinsics`, and either may be missing.
"""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FIELDS = ("id", "image", "prompt", "prompts", "intrinsics", "fov_deg")


@dataclass(frozen=True)
class Picture:
    """One picture, not yet opened, and what is known about it.

    Attributes:
        id: unique among its likes.
        image: a path, URL, Pillow image or array [height, width, 3]; K is then of the picture as stored. Or {"path",
            "bytes"}, as data sets have it; K is then of the picture turned upright, which is how they show it.
        prompts: what to find in it; empty where it brings no phrase of its own.
        intrinsics, fov_deg: at most one of them, as the pipeline takes it.
    """

    id: str
    image: Any
    prompts: tuple[str, ...] = ()
    intrinsics: Any = None
    fov_deg: float | None = None


class Pictures(Protocol):
    """Pictures by index.

    Attributes:
        digest: tells these pictures from others.
        prompted: whether they bring phrases of their own.
    """

    digest: str
    prompted: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Picture: ...


def open_pictures(source: str, split: str | None = None) -> Pictures:
    """Pictures of a folder (of its folders, too), of a `.jsonl` list, or of a data set.

    Args:
        source: a folder of pictures, a list, a folder with a data set as `llmi3d data build` writes it, or the name of
            a data set on the Hub.
        split: of a data set; may be left out where there is only one.

    Raises:
        ValueError: no pictures there, a broken list, a data set without pictures, ids that are not unique, a split
            that there is not.
        OSError: a folder or file that cannot be read, no such data set.
    """
    path = Path(source)
    if not path.exists() and (path.suffix == ".jsonl" or not _HUB_NAME.fullmatch(source)):
        raise FileNotFoundError(f"pictures: got {source!r}, and there is no such file or folder.")
    if (path.is_dir() and any(path.glob("data/*-of-*.parquet"))) or not path.exists():
        pictures = DatasetPictures(source, split)
    elif split is not None:
        raise ValueError(f"split: got {split!r} for {source}, which is no data set.")
    elif path.is_dir():
        pictures = FolderPictures(path)
    elif path.suffix == ".jsonl":
        pictures = ListPictures(path)
    else:
        raise ValueError(f"pictures: got the file {source}, want a folder, a .jsonl list or a data set.")
    if not len(pictures):
        raise ValueError(f"pictures: got none in {source}, want at least one.")
    return pictures


class FolderPictures:
    """All pictures below a folder, ordered by path; what is hidden is left out, linked folders are not followed.

    The id of each is its path in the folder.
    """

    prompted = False

    def __init__(self, root: Path):
        self.root, self.names = root, []
        digest = hashlib.sha256()
        for folder, folders, files in os.walk(root, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                    self.names.append(os.path.relpath(os.path.join(folder, name), root))
        self.names.sort()
        for name in self.names:
            try:
                found = os.stat(root / name)
                digest.update(f"{as_text(name)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
            except OSError:  # a link that leads nowhere, say: reading it will tell
                digest.update(f"{as_text(name)}\0\n".encode())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Picture:
        name = self.names[index]
        return Picture(as_text(name).replace(os.sep, "/"), str(self.root / name))


class ListPictures:
    """Pictures that a JSON Lines file names, in its order; of the file only where each line begins is kept."""

    def __init__(self, path: Path):
        self.path, self._starts, ids, prompted = path, array("q"), set(), []
        digest, start = hashlib.sha256(), 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                if line.strip():
                    try:
                        picture = self._parse(line)
                    except ValueError as error:
                        raise ValueError(f"{path}:{number}: {error}") from None
                    if picture.id in ids:
                        raise ValueError(f"{path}:{number}: id: got {picture.id!r} a second time, want unique ids.")
                    ids.add(picture.id)
                    prompted.append(bool(picture.prompts))
                    self._starts.append(start)
                start += len(line)
        self.digest, self.prompted = digest.hexdigest(), all(prompted)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Picture:
        with open(self.path, "rb") as file:
            file.seek(self._starts[index])
            return self._parse(file.readline())

    def _parse(self, line: bytes) -> Picture:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"got {line[:80]!r} ({error}), want a JSON object.") from error
        if not isinstance(entry, dict):
            raise ValueError(f"got {line[:80]!r}, want a JSON object.")
        if unknown := sorted(set(entry) - set(_FIELDS)):
            raise ValueError(f"got the field {unknown[0]!r}, want only {', '.join(_FIELDS)}.")
        for name in ("id", "image"):
            if not isinstance(entry.get(name), str) or not entry[name]:
                raise ValueError(f"{name}: got {entry.get(name)!r}, want text.")
        intrinsics, fov_deg = entry.get("intrinsics"), entry.get("fov_deg")
        if not isinstance(intrinsics, list | None) or not isinstance(fov_deg, int | float | None):
            raise ValueError(f"intrinsics, fov_deg: got {intrinsics!r}, {fov_deg!r}, want a list or a number.")
        if intrinsics is not None and fov_deg is not None:
            raise ValueError("intrinsics and fov_deg: got both, want at most one of them.")
        image = entry["image"]
        if not image.startswith(("http://", "https://", "data:image/")):
            image = str(self.path.parent / image)
        return Picture(entry["id"], image, prompts_of(entry), intrinsics, fov_deg)


class DatasetPictures:
    """Pictures of a data set in its order.

    Columns: `image` or the only one of pictures; `image_id` or `id`, without which the rows are numbered; and where
    there are such, `prompt` or `prompts`, `intrinsics` and `fov_deg`. K is of the picture turned upright.
    """

    def __init__(self, name: str, split: str | None = None):
        import datasets

        splits = datasets.get_dataset_split_names(name)
        if split is None and len(splits) > 1:
            raise ValueError(f"split: got none, want one of {', '.join(splits)}, which {name} has.")
        if split is not None and split not in splits:
            raise ValueError(f"split: got {split!r}, want one of {', '.join(splits)}, which {name} has.")
        rows = datasets.load_dataset(name, split=split or splits[0])
        self.image = _image_column(rows.features, name)
        self.id = next((column for column in ("image_id", "id") if column in rows.features), None)
        used = {self.image, self.id, "prompt", "prompts", "intrinsics", "fov_deg"} & set(rows.features)
        self.rows = rows.select_columns(sorted(used)).cast_column(self.image, datasets.Image(decode=False))
        self.prompted = bool({"prompt", "prompts"} & used)
        digest, seen = hashlib.sha256(f"{rows._fingerprint}\0{len(rows)}\n".encode()), set()
        for value in () if self.id is None else rows.select_columns([self.id]):
            if str(value[self.id]) in seen:
                raise ValueError(f"{self.id}: got {value[self.id]!r} a second time in {name}, want unique ids.")
            seen.add(str(value[self.id]))
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Picture:
        row = self.rows[index]
        name = f"{index:08d}" if self.id is None else str(row[self.id])
        return Picture(name, row[self.image], prompts_of(row), row.get("intrinsics"), row.get("fov_deg"))


def as_text(name: str) -> str:
    """File names that are no UTF-8 as text that can be written."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def prompts_of(entry: dict) -> tuple[str, ...]:
    """What `prompt` or `prompts` says; whether it can be asked is found when it is."""
    given = [entry[name] for name in ("prompt", "prompts") if entry.get(name) is not None]
    if len(given) > 1:
        raise ValueError("prompt and prompts: got both, want one of them.")
    if not given:
        return ()
    prompts = (given[0],) if isinstance(given[0], str) else given[0]
    if not isinstance(prompts, Iterable) or not all(isinstance(one, str) for one in prompts):
        raise ValueError(f"prompts: got {given[0]!r}, want a phrase or a list of phrases.")
    return tuple(str(one) for one in prompts)


def _image_column(features, name: str) -> str:
    import datasets

    columns = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if "image" in columns:
        return "image"
    if len(columns) != 1:
        raise ValueError(f"image: {name} has the columns {', '.join(features)}, want one of pictures called image.")
    return columns[0]


def _raise(error: OSError) -> None:
    raise error
