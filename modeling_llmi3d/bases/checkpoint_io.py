# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reads, matches and writes checkpoints whole or not at all, in the memory of one shard at most."""

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
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers.modeling_utils import load_state_dict

# Weights that a folder may hold, in the order in which they are looked for.
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FILE_NAMES = (
    *("model.safetensors", "pytorch_model.bin"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def some(items: Sequence[str], count: int = 4) -> str:
    """Return `a, b, c, d and 7 more`."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


# ------------------------------------------------------------------------------------------------------------- reading


class CheckpointReader:
    """Weights of a folder or a file, safetensors or PyTorch, with or without an index, read on demand.

    One shard is open at a time. It is mapped into memory, not copied, so reading in the order of `files` opens each
    shard once. PyTorch files are read with `weights_only=True`.

    Args:
        path: a folder with the shards of an index or with one of `FILE_NAMES`, or such a file.

    Attributes:
        tensors: each tensor on the meta device, by name.
        files: the file of each tensor, by name.

    Raises:
        ValueError: no weights; files that are missing, truncated or hold something else; an index that names files
            outside the folder or disagrees with them.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.tensors: dict[str, Tensor] = {}
        self.files: dict[str, Path] = {}
        self._open: tuple[Path | None, dict[str, Tensor]] = (None, {})
        files, indexed = self._find_files()
        for file in files:
            for name, tensor in _load(file, "meta").items():
                if name in self.files:
                    raise ValueError(f"{file.name}: holds {name}, which {self.files[name].name} holds too.")
                self.tensors[name], self.files[name] = tensor, file
        missing = [name for name, file in indexed.items() if self.files.get(name) != file]
        if missing:
            file = indexed[missing[0]].name
            raise ValueError(f"{file}: misses {some(missing)}, which the index of {self.path} says it holds.")

    def read(self, name: str) -> Tensor:
        """Return the tensor of that name. Keep it no longer than needed: it may keep its shard open."""
        file = self.files[name]
        if self._open[0] != file:
            self._open = (None, {})  # closes the other shard first
            self._open = (file, _load(file, "cpu"))
        return self._open[1][name]

    def _find_files(self) -> tuple[list[Path], dict[str, Path]]:
        """Return the files of weights, and the file of each tensor according to an index."""
        if self.path.is_file():
            if self.path.suffix not in SUFFIXES:
                raise ValueError(f"{self.path}: got suffix '{self.path.suffix}', want one of {', '.join(SUFFIXES)}.")
            return [self.path], {}
        for name in INDEX_NAMES:
            if (self.path / name).is_file():
                indexed = _read_index(self.path / name)
                return sorted(set(indexed.values())), indexed
        for name in FILE_NAMES:
            if (self.path / name).is_file():
                return [self.path / name], {}
        raise ValueError(f"{self.path}: got no weights, want one of {', '.join(INDEX_NAMES + FILE_NAMES)}.")


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


def _load(file: Path, device: str) -> dict[str, Tensor]:
    try:
        state = load_state_dict(file, map_location=device)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{file.name}: is truncated or holds more than weights ({reason}).") from error
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file.name}: got {type(state).__name__}, want tensors by name.")
    return state


# ------------------------------------------------------------------------------------------------------------ matching


@dataclass
class Matching:
    """The tensor of a source that becomes each tensor of a target.

    Attributes:
        source_of: name in the source, by name in the target.
        unused: reason, by name in the source.
        new: target tensors that no source fills.
    """

    source_of: dict[str, str]
    unused: dict[str, str]
    new: list[str]


def match_tensors(
    tensors: Mapping[str, Tensor],
    targets: Mapping[str, tuple[int, ...]],
    renames: Sequence[tuple[str, str]],
    unused: Sequence[tuple[str, str]] = (),
    new: str = r"(?!)",
    resized: Sequence[str] = (),
    where: str = "weights",
) -> Matching:
    """Match every tensor of a source with one of a target, or with a reason.

    Args:
        tensors: of the source; only their shapes are read.
        targets: shapes of the target's tensors.
        renames: (pattern of the whole name, replacement); the first that fits applies.
        unused: (pattern, reason); they precede `renames`.
        new: pattern of the targets that no source needs to fill.
        resized: targets whose first dimension may differ.
        where: name of the source in messages.

    Raises:
        ValueError: names that no pattern fits, targets filled by no source or by two, other shapes.
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
            raise ValueError(f"{where}: {name} and {matching.source_of[target]} both define {target}.")
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
        got, want = tuple(tensors[name].shape), tuple(targets[target])
        if (got[1:], len(got)) != (want[1:], len(want)) or (got != want and target not in resized):
            raise ValueError(f"{where}: {name} is of shape {list(got)}, want {list(want)}.")
    return matching


# ------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written.

    Attributes:
        name, shape, dtype: as in the file; `load`'s result is converted to the dtype.
        load: makes the tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]


def write_shards(
    folder: Path, planned: Sequence[PlannedTensor], max_shard_bytes: int = 5_000_000_000
) -> dict[str, dict[str, str | int]]:
    """Write `model.safetensors`, or shards of it and their index, one after the other.

    Args:
        folder: an existing folder.
        planned: in the order in which they are best loaded.
        max_shard_bytes: a shard is larger only if a single tensor is.

    Returns:
        `{"sha256": ..., "bytes": ...}` by name of the file.

    Raises:
        ValueError: a tensor of another shape than planned, or `max_shard_bytes` below 1.
        OSError: a file that cannot be written.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes: got {max_shard_bytes}, want at least 1.")
    empty = {tensor.name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for tensor in planned}
    split = split_torch_state_dict_into_shards(empty, max_shard_size=max_shard_bytes)
    by_name = {tensor.name: tensor for tensor in planned}
    files = {}
    for file, names in split.filename_to_tensors.items():
        try:
            save_file({name: _loaded(by_name[name]) for name in names}, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{file}: cannot be written ({error}).") from error
        files[file] = {"sha256": _sha256(folder / file), "bytes": (folder / file).stat().st_size}
    if split.is_sharded:
        total = sum(tensor.numel() for tensor in empty.values())
        index = {
            "metadata": {"total_parameters": total, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        (folder / INDEX_NAMES[0]).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return files


def _loaded(planned: PlannedTensor) -> Tensor:
    values = planned.load()
    if tuple(values.shape) != tuple(planned.shape):
        raise ValueError(f"{planned.name}: is of shape {list(values.shape)}, want {list(planned.shape)}.")
    return values.detach().to(planned.dtype).contiguous()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield a folder to write to. It becomes `out` if the block succeeds and is removed otherwise.

    Raises:
        ValueError: `out` exists already.
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
