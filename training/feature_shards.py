# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Shards of cached features on disk: written whole or not at all, read in any order, checked entry by entry.

    FOLDER/
      settings.json         what the features depend on
      index.jsonl           one line per complete shard: its size, and key, view and CRC-32 of its entries
      00000.safetensors     float16 features [E, ...] of E entries, and their rows as JSON

A shard is listed only once it lies whole on disk: a writer that is killed loses the open shard alone.
"""

import base64
import contextlib
import fcntl
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmi3d.data.schema import upright_image
from llmi3d.processing.geometry_llmi3d import Camera
from llmi3d.training.dense import open_map

Row = dict[str, Any]

SETTINGS, INDEX, LOCK = "settings.json", "index.jsonl", ".lock"
IMAGE_COLUMNS = ("image", "instance_map")


class FeatureCache:
    """A cache on disk, read by (key, view) in any order and by any number of processes.

    Args:
        folder: that a build has made.
        settings: of the model, processor and augmentation that the features are for (`cache_settings`); unchecked by
            default.

    Raises:
        ValueError: no cache, features of something else, or a damaged shard; the message names it.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any] | None = None):
        self.folder = Path(folder)
        try:
            self.settings = json.loads((self.folder / SETTINGS).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"feature_cache: cannot read {self.folder / SETTINGS} ({error}).") from error
        if settings is not None:
            _refuse_stale(self.folder, self.settings, settings)
        self._places: dict[tuple[str, int], tuple[str, int, int]] = {}
        for shard in read_index(self.folder)[0]:
            size = _size(self.folder / shard["file"])
            if size != shard["bytes"]:
                raise _damaged(self.folder / shard["file"], f"{size} bytes, want {shard['bytes']}")
            for number, (key, view, checksum) in enumerate(shard["entries"]):
                self._places[key, view] = shard["file"], number, checksum
        self._shards: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: tuple[str, int]) -> bool:
        return place in self._places

    def __getstate__(self):
        return {**self.__dict__, "_shards": {}}  # each process maps the files itself

    def read(self, key: str, view: int) -> Row:
        """Return the row of a view.

        Returns:
            The row with `camera` (`Camera`), `vision_features` [R, K, C] and `high_res_features`, the feature maps
            [C_s, H_s, W_s] (float16), as `LLMI3DModel.get_image_features` reads them. `image` is None, or the view's
            image where only one tower's features are kept.

        Raises:
            KeyError: no such entry.
            ValueError: a damaged shard.
        """
        file, number, checksum = self._places[key, view]
        try:
            if file not in self._shards:
                self._shards[file] = safe_open(self.folder / file, "pt")
            shard = self._shards[file]
            start, end = shard.get_slice("row_bounds")[number : number + 2].tolist()
            text = shard.get_slice("rows")[start:end]
            tensors = {name: shard.get_slice(name)[number] for name in _feature_names(shard.keys())}
        except (OSError, SafetensorError, IndexError) as error:
            raise _damaged(self.folder / file, error) from error
        if _checksum([*tensors.values(), text]) != checksum:
            raise _damaged(self.folder / file, f"entry {number} does not fit its checksum")
        row = _row_from_json(bytes(text.numpy()))
        if "vision_features" in tensors:
            row["vision_features"] = tensors.pop("vision_features")
        if tensors:
            row["high_res_features"] = list(tensors.values())
        return row


class ShardWriter:
    """Collect entries and write them shard by shard.

    Args:
        folder: of the cache.
        shard_size: entries per shard.
    """

    def __init__(self, folder: Path, shard_size: int):
        self.folder, self.shard_size = folder, shard_size
        numbers = [int(Path(shard["file"]).stem) for shard in read_index(folder)[0]]
        self.number = max(numbers, default=-1) + 1
        self._entries: list[tuple] = []

    def add(self, place: tuple[str, int], text: bytes, tensors: dict[str, Tensor]) -> None:
        self._entries.append((place, text, tensors))
        if len(self._entries) == self.shard_size:
            self.close()

    def close(self) -> None:
        """Write the open shard, if it has entries: first the file, then its line in the index."""
        if not self._entries:
            return
        _, texts, features = zip(*self._entries, strict=True)
        names = _feature_names(features[0])
        tensors = {name: torch.stack([entry[name] for entry in features]) for name in names}
        tensors["rows"] = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)
        tensors["row_bounds"] = torch.tensor([0, *map(len, texts)]).cumsum(0)
        path = self.folder / f"{self.number:05d}.safetensors"
        with _whole_file(path) as draft:
            save_file(tensors, draft)
        entries = []
        for (key, view), text, entry in self._entries:
            entries.append([key, view, _checksum([*(entry[name] for name in names), text])])
        line = json.dumps({"file": path.name, "bytes": path.stat().st_size, "entries": entries})
        with open(self.folder / INDEX, "a") as index:
            index.write(line + "\n")
            index.flush()
            os.fsync(index.fileno())
        self._entries, self.number = [], self.number + 1


def _refuse_stale(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in {**held, **wanted}:
        old, new = held.get(name), wanted.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            part = next(key for key in {**old, **new} if old.get(key) != new.get(key))
            name, old, new = f"{name}.{part}", old.get(part), new.get(part)
        raise ValueError(
            f"feature_cache: '{folder}' was built with the {name} {old!r}, but the run has {new!r}; want another "
            "folder, or this one removed."
        )


def read_index(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of the index, and the length in bytes of those that were written whole."""
    path = folder / INDEX
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1  # a killed build may leave a part of a line
    try:
        return [json.loads(line) for line in data[:whole].splitlines()], whole
    except ValueError as error:
        raise _damaged(path, error) from error


def drop_missing_shards(folder: Path) -> None:
    """Remove from the index a torn last line, and shards whose files were removed because they were damaged."""
    shards, whole = read_index(folder)
    there = [shard for shard in shards if (folder / shard["file"]).exists()]
    if len(there) < len(shards) or whole < _size(folder / INDEX):
        write_whole(folder / INDEX, b"".join(json.dumps(shard).encode() + b"\n" for shard in there))


@contextlib.contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process."""
    with open(folder / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"feature_cache: '{folder}' is being built by another process; wait for it.") from None
        yield


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a draft to write, which becomes `path` once it lies on disk."""
    draft = path.with_name(path.name + ".part")
    yield draft
    with open(draft, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with _whole_file(path) as draft:
        draft.write_bytes(data)


def row_to_json(row: Row, camera: Camera, keeps_image: bool) -> bytes:
    """Return a row and its camera as JSON, with its instance map, and its image if wanted, as PNG in base64."""
    image, instances = upright_image(row["image"]) if keeps_image else None, open_map(row)
    row = {**row, "camera": asdict(camera), "image": image and _png(image)}
    if instances is not None:
        row["instance_map"] = _png(Image.fromarray(instances))
    return json.dumps(row, default=plain).encode()


def _png(image: Image.Image) -> str:
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return base64.b64encode(stored.getvalue()).decode()


def _row_from_json(text: bytes) -> Row:
    row = json.loads(text)
    camera = {key: tuple(value) if isinstance(value, list) else value for key, value in row["camera"].items()}
    row["camera"] = Camera(**{**camera, "intrinsics": tuple(map(tuple, camera["intrinsics"]))})
    for name in IMAGE_COLUMNS:
        if row.get(name) is not None:
            row[name] = Image.open(io.BytesIO(base64.b64decode(row[name])))
    return row


def _feature_names(names: Any) -> list[str]:
    return sorted(set(names) - {"rows", "row_bounds"})


def _checksum(parts: Sequence[Tensor | bytes]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(bytes_of(part) if isinstance(part, Tensor) else part, checksum)
    return checksum


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's values as they lie in memory."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def plain(value: Any) -> Any:
    """Turn arrays and tensors into lists for JSON."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    raise ValueError(f"feature_cache: got a {type(value).__name__} in a row, want what JSON can hold.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _damaged(path: Path, problem: Any) -> ValueError:
    return ValueError(f"feature_cache: '{path}' is damaged ({problem}); remove it and build again.")
