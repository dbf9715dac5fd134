# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Training streams mixed from several data sets, read from Parquet row group by row group.

    stream = mix_streams([Part("kitti_ig3d", "training", 2.0), Part("own", "train", 1.0)], seed=0)
    stream = for_process(stream, rank, world)          # each machine its own part
    state = stream.state_dict()                        # ... and later: stream.load_state_dict(state)

Pictures stay undecoded bytes until a row is handed out; memory is bounded by the shuffle buffer and one row group a
source. What is mixed, shuffled and resumed is `datasets`' own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
from datasets.distributed import split_dataset_by_node

from llmi3d.data.dataset import load_split


@dataclass(frozen=True)
class Part:
    """A source of a mixture.

    Attributes:
        data: folder or Hub name, as in `load_split`.
        split: its name.
        weight: rows of this source are drawn in proportion to it; None where sources are not drawn.
    """

    data: str
    split: str
    weight: float | None = 1.0


def mix_streams(parts: Sequence[Part], *, seed: int = 0, shuffle_buffer: int = 200) -> datasets.IterableDataset:
    """A stream of rows from several sources, drawn by weight until each has been read through at least once.

    Args:
        parts: at least one; a source that is used up starts again until the last one is.
        seed: of shuffling and drawing; the same seed gives the same stream.
        shuffle_buffer: rows of each source from which the next is drawn; 0 keeps their order.

    Raises:
        ValueError: no part, or a weight that is not positive.
        FileNotFoundError: a folder that holds no data set.
    """
    if not parts:
        raise ValueError("parts: got none, want at least one.")
    for part in parts:
        if not part.weight > 0:
            raise ValueError(f"parts: got the weight {part.weight} for {part.data}, want one above 0.")
    streams = [load_split(part.data, part.split, streaming=True) for part in parts]
    if shuffle_buffer:
        streams = [one.shuffle(seed=seed + i, buffer_size=shuffle_buffer) for i, one in enumerate(streams)]
    if len(streams) == 1:
        return streams[0]
    total = sum(part.weight for part in parts)
    return datasets.interleave_datasets(
        streams,
        probabilities=[part.weight / total for part in parts],
        seed=seed,
        stopping_strategy="all_exhausted",
    )


def for_process(stream: datasets.IterableDataset, rank: int, world: int) -> datasets.IterableDataset:
    """The part of a stream that process `rank` of `world` reads; the parts are disjoint and together the whole.

    With a number of Parquet files that `world` divides each process opens its own files alone.
    """
    return split_dataset_by_node(stream, rank=rank, world_size=world)
