# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Checkpoints read, matched and written tensor by tensor: whole or not at all, in the memory of the largest tensor."""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# What a folder of weights may hold, in the order in which it is looked for.
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FILE_NAMES = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it.

    Attributes:
        shape, dtype: its own.
        file: where it lies.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path | None = None


def some(items: Sequence[str], count: int = 4) -> str:
    """`a, b, c, d and 7 more`."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


class CheckpointReader:
    """Weights of a folder or a file, safetensors or PyTorch, with or without an index; read when asked for.

    One shard is open at a time, mapped into memory rather than read, so that reading in the order of
    `tensors[name].file` opens each once. PyTorch files are read with `weights_only=True`.

    Args:
        path: a folder with the shards of an index or with one of `FILE_NAMES`, or such a file.

    Attributes:
        tensors: `TensorInfo` of each tensor, by name.

    Raises:
        ValueError: nothing there; files that are missing, truncated or hold something else; an index that names files
            outside the folder or disagrees with them.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file, self._handle = None, None
        files, indexed = self._find_files()
        self.tensors: dict[str, TensorInfo] = {}
        for file in files:
            for name, info in self._describe(file):
                if name in self.tensors:
                    raise ValueError(f"{file.name}: holds {name}, which {self.tensors[name].file.name} holds too.")
                self.tensors[name] = info
        if indexed is not None:
            unkept = [name for name, file in indexed.items() if getattr(self.tensors.get(name), "file", None) != file]
            if unkept:
                file = indexed[unkept[0]].name
                raise ValueError(f"{file}: misses {some(unkept)}, which the index of {self.path} says it holds.")

    def read(self, name: str) -> Tensor:
        """The tensor of that name. Keep it no longer than needed: it may hold its shard open."""
        file = self.tensors[name].file
        handle = self._open(file)
        try:
            return handle.get_tensor(name) if file.suffix == ".safetensors" else handle[name]
        except SafetensorError as error:
            raise ValueError(f"{file.name}: {name} cannot be read ({error}).") from error

    def close(self) -> None:
        """Lets the open shard go."""
        self._file, self._handle = None, None

    def _find_files(self) -> tuple[list[Path], dict[str, Path] | None]:
        """(files of weights, the index's file of each tensor or None)."""
        if self.path.is_file():
            if self.path.suffix not in SUFFIXES:
                raise ValueError(f"{self.path}: got suffix '{self.path.suffix}', want one of {', '.join(SUFFIXES)}.")
            return [self.path], None
        for name in INDEX_NAMES:
            if (self.path / name).is_file():
                indexed = self._read_index(self.path / name)
                return sorted(set(indexed.values())), indexed
        for name in FILE_NAMES:
            if (self.path / name).is_file():
                return [self.path / name], None
        raise ValueError(f"{self.path}: got no weights, want one of {', '.join(INDEX_NAMES + FILE_NAMES)}.")

    @staticmethod
    def _read_index(index: Path) -> dict[str, Path]:
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {name: str(file) for name, file in names.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index.name}: want JSON with the file of each tensor under 'weight_map'.") from error
        for file in sorted(set(files.values())):
            if Path(file).name != file or file in (".", ".."):
                raise ValueError(f"{index.name}: got '{file}' as a file of weights, want a name inside its folder.")
            if not (index.parent / file).is_file():
                raise ValueError(f"{file}: is not there, though {index.name} names it.")
        return {name: index.parent / file for name, file in files.items()}

    def _describe(self, file: Path) -> Iterator[tuple[str, TensorInfo]]:
        handle = self._open(file)
        for name in list(handle.keys()):
            if file.suffix == ".safetensors":
                part = handle.get_slice(name)
                shape, dtype = tuple(part.get_shape()), DTYPES.get(part.get_dtype())
                given = part.get_dtype()
            else:
                shape, dtype = tuple(handle[name].shape), handle[name].dtype
                given = str(dtype)
            if dtype not in _NAME_OF_DTYPE:
                raise ValueError(f"{file.name}: {name} is of type {given}, want one of {', '.join(DTYPES)}.")
            yield name, TensorInfo(shape, dtype, file)

    def _open(self, file: Path):
        if file != self._file:
            self.close()
            if file.suffix == ".safetensors":
                try:
                    self._handle = safe_open(file, framework="pt")
                except SafetensorError as error:
                    raise ValueError(f"{file.name}: is truncated or no safetensors file ({error}).") from error
            else:
                self._handle = self._load_pickle(file)
            self._file = file
        return self._handle

    @staticmethod
    def _load_pickle(file: Path) -> dict[str, Tensor]:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{file.name}: is truncated, older than PyTorch 1.6 or holds more than weights ({reason})."
            ) from error
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ValueError(f"{file.name}: got {type(loaded).__name__}, want tensors by name.")
        return loaded


# ------------------------------------------------------------------------------------------------------------ matching


@dataclass
class Matching:
    """Which tensor of a source becomes which of a target.

    Attributes:
        source_of: by name of the target.
        unused: why, by name of the source.
        new: targets that no source fills.
    """

    source_of: dict[str, str]
    unused: dict[str, str]
    new: list[str]


def match_tensors(
    tensors: Mapping[str, TensorInfo],
    targets: Mapping[str, tuple[int, ...]],
    renames: Sequence[tuple[str, str]],
    unused: Sequence[tuple[str, str]] = (),
    new: str = r"(?!)",
    resized: Sequence[str] = (),
    where: str = "weights",
) -> Matching:
    """Matches every tensor of a source with one of a target, or with a reason.

    Args:
        tensors: the source's.
        targets: the target's shapes.
        renames: (pattern of the whole name, replacement), the first that fits holds.
        unused: (pattern, reason); they go before `renames`.
        new: pattern of the targets that no source needs to fill.
        resized: targets whose first dimension may differ.
        where: what messages call the source.

    Raises:
        ValueError: names that no pattern knows, targets that nothing fills or two sources fill, other shapes.
    """
    matching, extra = Matching({}, {}, []), []
    for name in tensors:
        reason = next((reason for pattern, reason in unused if re.fullmatch(pattern, name)), None)
        if reason is not None:
            matching.unused[name] = reason
            continue
        target = next((re.sub(pattern, text, name) for pattern, text in renames if re.fullmatch(pattern, name)), None)
        if target not in targets:
            extra.append(name)
        elif target in matching.source_of:
            raise ValueError(f"{where}: {name} and {matching.source_of[target]} both say what {target} is.")
        else:
            matching.source_of[target] = name
    if extra:
        raise ValueError(f"{where}: got {len(extra)} tensors that have no place: {some(extra)}.")
    unfilled = [target for target in targets if target not in matching.source_of]
    matching.new = [target for target in unfilled if re.fullmatch(new, target)]
    missing = [target for target in unfilled if not re.fullmatch(new, target)]
    if missing:
        raise ValueError(f"{where}: misses {len(missing)} tensors, those that become {some(missing)}.")
    for target, name in matching.source_of.items():
        got, want = tensors[name].shape, tuple(targets[target])
        if (got[1:], len(got)) != (want[1:], len(want)) or (got != want and target not in resized):
            raise ValueError(f"{where}: {name} is of shape {list(got)}, want {list(want)}.")
    return matching


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written.

    Attributes:
        name, shape, dtype: as it will be in the file; another floating dtype is converted.
        load: makes it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_shards(
    folder: Path, planned: Sequence[PlannedTensor], max_shard_bytes: int = 5_000_000_000
) -> dict[str, dict[str, str | int]]:
    """Writes `model.safetensors`, or shards of it and their index, one tensor after the other, and reads them again.

    Args:
        folder: exists already.
        planned: in the order in which they are best made.
        max_shard_bytes: a shard is larger only if one tensor is.

    Returns:
        `{"sha256": ..., "bytes": ...}` by name of the file.

    Raises:
        ValueError: a tensor of another shape than planned, or `max_shard_bytes` below 1.
        OSError: what was written is not what the disk holds.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes: got {max_shard_bytes}, want at least 1.")
    shards: list[list[PlannedTensor]] = []
    room = 0
    for tensor in planned:
        if not shards or tensor.num_bytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(tensor)
        room -= tensor.num_bytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    files = {name: _write_file(folder / name, shard) for name, shard in zip(names, shards, strict=True)}
    if len(shards) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(torch.Size(tensor.shape).numel() for tensor in planned),
                "total_size": sum(tensor.num_bytes for tensor in planned),
            },
            "weight_map": {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        }
        (folder / INDEX_NAMES[0]).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, record in files.items():
        if _sha256(folder / name) != record["sha256"]:
            raise OSError(f"{name}: the disk holds something else than was written; try again, or another disk.")
    return files


def _write_file(path: Path, planned: list[PlannedTensor]) -> dict[str, str | int]:
    """One safetensors file. The library's own writer wants all its tensors in memory at once."""
    planned = sorted(planned, key=lambda tensor: -tensor.dtype.itemsize)  # every tensor then starts aligned
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in planned:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {
            "dtype": _NAME_OF_DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            digest.update(part)
            file.write(part)
        for tensor in planned:
            values = tensor.load()
            if tuple(values.shape) != tuple(tensor.shape):
                raise ValueError(f"{tensor.name}: is of shape {list(values.shape)}, want {list(tensor.shape)}.")
            values = values.detach().to(tensor.dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(values)
            file.write(values)
            del values
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": digest.hexdigest(), "bytes": 8 + len(text) + end}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """A folder to write to, which is named `out` when the block ends well and is gone when it does not.

    Raises:
        ValueError: `out` is there already.
    """
    out = Path(out)
    taken = f"out: {out} is there already; choose a new folder."
    if out.exists() or out.is_symlink():
        raise ValueError(taken)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        if out.exists() or out.is_symlink():  # a rename would replace an empty folder
            raise ValueError(taken)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
