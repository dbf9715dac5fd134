# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reading of IG3D data sets: folders that `llmi3d data build` wrote, and data sets on the Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

import datasets

from llmi3d.data.schema import IG3D_FEATURES

DATA_FOLDER = "data"
_SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\.parquet")


@dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Attributes:
        data: folder or Hub name, as in `load_split`.
        split: its name.
        weight: rows are drawn in proportion to it; None where every row comes once.
    """

    data: str
    split: str
    weight: float | None = 1.0


def shard_name(split: str, index: int, count: int) -> str:
    """Return a file name in the Hub's own scheme, by which `load_dataset(folder)` finds the splits."""
    return f"{split}-{index:05d}-of-{count:05d}.parquet"


def find_splits(folder: str | Path) -> dict[str, list[Path]]:
    """Return the Parquet files of each split of a built data set, in order.

    Raises:
        FileNotFoundError: no such folder, or no split in it.
    """
    found = {}
    for path in sorted((Path(folder) / DATA_FOLDER).glob("*.parquet")):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(match["split"], []).append(path)
    if not found:
        raise FileNotFoundError(
            f"data: got {str(folder)!r}, want a folder with {DATA_FOLDER}/SPLIT-00000-of-00001.parquet, as "
            "`llmi3d data build` writes it."
        )
    return found


def load_split(data: str | Path, split: str, streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
    """Load one split of a data set.

    Args:
        data: folder that `llmi3d data build` wrote, or name of such a data set on the Hub.
        split: its name.
        streaming: read rows one after another, without a copy in the cache.

    Raises:
        FileNotFoundError: a folder without a data set.
        ValueError: no such split, or missing columns.
    """
    if Path(data).exists():
        splits = find_splits(data)
        if split not in splits:
            raise ValueError(f"split: got {split!r}, want one of {', '.join(splits)} of {data}.")
        files = {split: [str(path) for path in splits[split]]}
        loaded = datasets.load_dataset("parquet", data_files=files, split=split, streaming=streaming)
    else:
        loaded = datasets.load_dataset(str(data), split=split, streaming=streaming)
    missing = sorted(set(IG3D_FEATURES) - set(loaded.features or ()))
    if missing:
        raise ValueError(f"data: {data} misses the columns {', '.join(missing)} of an IG3D row.")
    return loaded
