# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rows of a training run: a mixture of data sets by weight, and what is drawn anew of each row in each epoch."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from llmi3d.data.dataset import Part, load_split
from llmi3d.data.schema import IG3D_FEATURES, turns_of, with_turns
from llmi3d.training.dense import name_of

# A column beside those of every IG3D row (see `llmi3d.training.dense`).
MAP = "instance_map"


@dataclass(frozen=True)
class Mixture:
    """Rows of several data sets.

    Attributes:
        rows: of one epoch, by index.
        parts: the data sets.
        sizes: rows of each.
        drawn: of the epoch's rows, how many are of each.
    """

    rows: datasets.Dataset
    parts: tuple[Part, ...]
    sizes: tuple[int, ...]
    drawn: tuple[int, ...]


def mix(name: str, parts: Sequence[Part], max_rows: int | None = None, seed: int = 0, maps: bool = False) -> Mixture:
    """Return an epoch's rows: drawn in proportion to the weights until every row came at least once, else each once.

    The same arguments give the same rows in the same order, so that the Trainer finds its place when it resumes.

    Args:
        name: of the field, for errors.
        parts: at least one; their weights all numbers or all None.
        max_rows: of each, spread evenly over it.
        seed: of the draw.
        maps: whether to keep instance maps, null for data sets without them.

    Raises:
        ValueError: a data set that cannot be read or is empty.
    """
    found = []
    for part in parts:
        try:
            rows = load_split(part.data, part.split)
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: cannot read {part.data!r}: {error}") from error
        if max_rows is not None and len(rows) > max_rows:
            rows = rows.select([i * len(rows) // max_rows for i in range(max_rows)])
        wanted = datasets.Features(IG3D_FEATURES)
        if maps and MAP in rows.features:
            wanted[MAP] = datasets.Image()
        rows = rows.select_columns(list(wanted))
        found.append(rows if rows.features == wanted else rows.cast(wanted))
    sizes = tuple(map(len, found))
    whole = datasets.concatenate_datasets(found)
    if len(parts) == 1 or parts[0].weight is None:
        return Mixture(whole, tuple(parts), sizes, sizes)
    # Row numbers are drawn in the rows' stead, which tells how many came of each.
    ends = np.cumsum(sizes).tolist()
    ranges = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    numbers = [datasets.Dataset.from_dict({"row": one}) for one in ranges]
    total = sum(part.weight for part in parts)
    drawn = datasets.interleave_datasets(
        numbers,
        probabilities=[part.weight / total for part in parts],
        seed=seed,
        stopping_strategy="all_exhausted",
    )["row"]
    counts = np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=len(parts))
    return Mixture(whole.select(drawn), tuple(parts), sizes, tuple(counts.tolist()))


def vocabularies(mixture: Mixture, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the sorted names of all objects, by attribute (see `DenseLabels`)."""
    found = {name: set() for name in names}
    for objects in mixture.rows.select_columns(["objects"])["objects"]:
        for entry in objects:
            for name in names:
                found[name].add(name_of(entry, name))
    return {name: sorted(values - {None}) for name, values in found.items()}


class TrainingRows(Dataset):
    """Rows as they are learned: augmented, and with some of their turns only, both drawn anew each epoch.

    What is drawn depends on seed, epoch and index only, so that a resumed run sees what an uninterrupted one sees.

    Args:
        rows: IG3D rows by index.
        max_turns: of a row at most; all by default. Turns are taken as questions that do not lean on one another.
        augment: row -> row, with `set_epoch`.
        seed: of the draw of turns.
        converse: row -> row with another conversation, before turns are drawn; `lengths` knows nothing of it.
    """

    def __init__(
        self,
        rows,
        max_turns: int | None = None,
        augment: Callable | None = None,
        seed: int = 0,
        converse: Callable | None = None,
    ):
        self.rows, self.max_turns, self.augment, self.seed = rows, max_turns, augment, seed
        self.converse, self.epoch = converse, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch
        if self.augment is not None:
            self.augment.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        if self.augment is not None:
            row = self.augment(row)
        if self.converse is not None:
            row = self.converse(row)
        turns = range(len(row["task"]))
        drawn = self._drawn(index, turns)
        return row if drawn is turns else take_turns(row, drawn)

    def _drawn(self, index: int, turns: range) -> Sequence[int]:
        """Return the numbers of the turns that are learned in this epoch."""
        if self.max_turns is None or len(turns) <= self.max_turns:
            return turns
        return sorted(random.Random(f"{self.seed}/{self.epoch}/{index}").sample(turns, self.max_turns))

    def lengths(self) -> list[int]:
        """Return the characters of each row's words in this epoch, before augmentation. No image is decoded."""
        return [
            system + sum(turns[i] for i in self._drawn(index, range(len(turns))))
            for index, (system, turns) in enumerate(self._characters)
        ]

    @cached_property
    def _characters(self) -> list[tuple[int, list[int]]]:
        """Characters of the system's words and of each turn, row by row."""
        rows = self.rows
        if isinstance(rows, datasets.Dataset):
            rows = rows.select_columns(["messages", "targets", "task"])
        counted = []
        for row in rows:
            system = sum(len(message["content"]) for message in row["messages"] if message["role"] == "system")
            counted.append((system, [len(turn.question) + len(turn.answer.strip()) for turn in turns_of(row)]))
        return counted


class EpochSampler(Sampler[int]):
    """The order of `TrainingRows`, drawn anew each epoch by seed and epoch alone, whatever the process.

    accelerate tells the epoch to sampler and rows on one process; on several to the sampler only, which passes it on.

    Args:
        rows: to be ordered.
        group: so many in a row are of similar length; None for any order.
    """

    def __init__(self, rows: TrainingRows, group: int | None = None):
        self.rows, self.group = rows, group

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        seed = random.Random(f"{self.rows.seed}/{self.rows.epoch}").getrandbits(63)
        generator = torch.Generator().manual_seed(seed)
        if self.group is None:
            return iter(torch.randperm(len(self), generator=generator).tolist())
        return iter(get_length_grouped_indices(self.rows.lengths(), self.group, generator=generator))


def take_turns(row: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Return an IG3D row with the turns of these numbers only; the image goes to the first of them."""
    turns = turns_of(row)
    return with_turns(row, [turns[i] for i in kept])
