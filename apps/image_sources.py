# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Many images by index, each read on access: a folder, a JSON Lines list or a dataset.

A list has one image per line:

    {"id": "0001", "image": "photos/0001.jpg", "prompt": "the nearest car", "intrinsics": [fx, fy, cx, cy]}

`image` is a URL, or a path relative to the list's folder. `prompts` may hold several phrases instead of `prompt`, and
`fov_deg` (horizontal field of view, degrees) may replace `intrinsics`; either may be missing.
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
class SourceImage:
    """One image, not yet opened, with its phrases and camera.

    Attributes:
        id: unique in its source.
        image: a path, URL, Pillow image or array [height, width, 3], whose K belongs to the image as stored; or
            {"path", "bytes"} of a dataset, whose K belongs to the upright image.
        prompts: what to find in it; empty if it has no phrase of its own.
        intrinsics, fov_deg: camera as the pipeline takes it, at most one of both.
    """

    id: str
    image: Any
    prompts: tuple[str, ...] = ()
    intrinsics: Any = None
    fov_deg: float | None = None


class ImageSource(Protocol):
    """Images by index.

    Attributes:
        digest: fingerprint of these images.
        prompted: whether every image has phrases of its own.
    """

    digest: str
    prompted: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> SourceImage: ...


def open_images(source: str, split: str | None = None) -> ImageSource:
    """Open the images of a folder and its subfolders, of a `.jsonl` list, or of a dataset.

    Args:
        source: folder of images, list, folder with a dataset of `llmi3d data build`, or Hub name of a dataset.
        split: of a dataset; needed if there are several.

    Raises:
        ValueError: the source has no images, the list is broken, ids are not unique, or the split does not exist.
        OSError: the source does not exist or cannot be read.
    """
    path = Path(source)
    if not path.exists() and (path.suffix == ".jsonl" or not _HUB_NAME.fullmatch(source)):
        raise FileNotFoundError(f"images: got {source!r}, and there is no such file or folder.")
    if (path.is_dir() and any(path.glob("data/*-of-*.parquet"))) or not path.exists():
        images = ImageDataset(source, split)
    elif split is not None:
        raise ValueError(f"split: got {split!r} for {source}, which is not a dataset.")
    elif path.is_dir():
        images = ImageFolder(path)
    elif path.suffix == ".jsonl":
        images = ImageList(path)
    else:
        raise ValueError(f"images: got the file {source}, want a folder, a .jsonl list or a dataset.")
    if not len(images):
        raise ValueError(f"images: got none in {source}, want at least one.")
    return images


class ImageFolder:
    """All images below a folder, ordered by path, which is their id.

    Hidden files are skipped, and linked folders are not followed.
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
                status = os.stat(root / name)
                digest.update(f"{as_text(name)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
            except OSError:  # such as a broken link: reading it reports the error
                digest.update(f"{as_text(name)}\0\n".encode())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> SourceImage:
        name = self.names[index]
        return SourceImage(as_text(name).replace(os.sep, "/"), str(self.root / name))


class ImageList:
    """Images of a JSON Lines file, in its order; only the start of each line is kept in memory."""

    def __init__(self, path: Path):
        self.path, self._starts, ids, prompted = path, array("q"), set(), []
        digest, start = hashlib.sha256(), 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                if line.strip():
                    try:
                        image = self._parse(line)
                    except ValueError as error:
                        raise ValueError(f"{path}:{number}: {error}") from None
                    if image.id in ids:
                        raise ValueError(f"{path}:{number}: id: got {image.id!r} a second time, want unique ids.")
                    ids.add(image.id)
                    prompted.append(bool(image.prompts))
                    self._starts.append(start)
                start += len(line)
        self.digest, self.prompted = digest.hexdigest(), all(prompted)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> SourceImage:
        with open(self.path, "rb") as file:
            file.seek(self._starts[index])
            return self._parse(file.readline())

    def _parse(self, line: bytes) -> SourceImage:
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
        return SourceImage(entry["id"], image, prompts_of(entry), intrinsics, fov_deg)


class ImageDataset:
    """Images of a dataset, in its order.

    Columns: `image`, or the only column of images; `image_id` or `id`, else rows are numbered; and optionally `prompt`
    or `prompts`, `intrinsics` and `fov_deg`. K belongs to the upright image.
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

    def __getitem__(self, index: int) -> SourceImage:
        row = self.rows[index]
        name = f"{index:08d}" if self.id is None else str(row[self.id])
        return SourceImage(name, row[self.image], prompts_of(row), row.get("intrinsics"), row.get("fov_deg"))


def as_text(name: str) -> str:
    """Return a file name as text that can be written, even if it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def prompts_of(entry: dict) -> tuple[str, ...]:
    """Return the phrases of `prompt` or `prompts`; their words are checked when they are asked."""
    given = [entry[name] for name in ("prompt", "prompts") if entry.get(name) is not None]
    if len(given) > 1:
        raise ValueError("prompt and prompts: got both, want one of them.")
    if not given:
        return ()
    prompts = (given[0],) if isinstance(given[0], str) else given[0]
    if not isinstance(prompts, Iterable) or not all(isinstance(phrase, str) for phrase in prompts):
        raise ValueError(f"prompts: got {given[0]!r}, want a phrase or a list of phrases.")
    return tuple(str(phrase) for phrase in prompts)


def _image_column(features, name: str) -> str:
    import datasets

    columns = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if "image" in columns:
        return "image"
    if len(columns) != 1:
        raise ValueError(f"image: {name} has the columns {', '.join(features)}, want a column of images called image.")
    return columns[0]


def _raise(error: OSError) -> None:
    raise error
