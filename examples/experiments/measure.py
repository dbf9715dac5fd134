# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Numbers with intervals: over subsets of questions, over seeds, and differences of two arms or two subsets.

Everything is resampled by the library's bootstrap over pictures, alike for all arms that answer the same questions, so
that differences are paired. Where an arm was trained with several seeds each resample also draws seeds, with
replacement: the interval holds both what other pictures and what other seeds might have given. Three seeds say little
about the spread of seeds; it stands beside the interval.

Shapes: N questions, R resamples, S seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmi3d.evaluation.bootstrap import Statistic, interval, resample_weights
from llmi3d.evaluation.grounding import grounding_statistics, question_values
from llmi3d.evaluation.protocols import get_protocol
from llmi3d.evaluation.records import Record

RESAMPLES = 1000
SYMMETRIES = get_protocol("ig3d-synth").symmetries()
# Shares are printed as percent; what each other metric is in.
UNITS = {
    **dict.fromkeys(("depth_error", "length_error", "width_error", "height_error", "center_distance"), "m"),
    "rotation_error": "deg",
}


@dataclass(frozen=True)
class Measured:
    """A number over questions, and what it is in each resample [R]."""

    value: float
    samples: Tensor
    count: int


Numbers = dict[str, Measured]


def of_statistics(
    statistics: dict[str, Statistic], clusters: Sequence[str], masks: dict[str, Tensor]
) -> dict[str, Numbers]:
    """Every statistic over each of some subsets, by subset and name.

    Args:
        statistics: over N questions.
        clusters: [N], the picture of each.
        masks: [N] bool by name.
    """
    weights = torch.cat(list(resample_weights(clusters, RESAMPLES, 0)))
    measured = {}
    for label, mask in masks.items():
        parts = {name: statistic.only(mask.double()) for name, statistic in statistics.items()}
        measured[label] = {
            name: Measured(part.value().item(), part.value(weights), part.count) for name, part in parts.items()
        }
    return measured


def grounding(
    records: Sequence[Record], subsets: dict[str, Callable[[Record], bool]] | None = None
) -> dict[str, Numbers]:
    """The grounding metrics of answered records, and the depth error as a share of the true depth, over subsets.

    Args:
        records: answered; ordered by id here.
        subsets: which records belong to each; default "all".
    """
    records = sorted(records, key=lambda record: record.id)
    values = question_values(records, SYMMETRIES)
    statistics = grounding_statistics(values)
    if "depth_error" in statistics:
        relative = values["depth_error"] / values["center_depth"]
        statistics["relative_depth_error"] = Statistic.of(relative, "median")
    masks = {
        label: torch.tensor([bool(belongs(record)) for record in records])
        for label, belongs in (subsets or {"all": lambda record: True}).items()
    }
    return of_statistics(statistics, [record.image_id for record in records], masks)


def estimate(seeds: Sequence[Numbers]) -> dict[str, dict]:
    """Means over seeds, by metric.

    Returns:
        {"value", "low", "high" of the 95% interval, "seeds": each seed's value, "spread": their standard deviation or
        None for one seed, "count": questions}; numbers are None where there are none.
    """
    return {name: _estimate([one[name] for one in seeds]) for name in seeds[0]}


def difference(first: Sequence[Numbers], second: Sequence[Numbers]) -> dict[str, dict]:
    """Second minus first, as `estimate`. Seeds are paired by their place; resamples by theirs."""
    return {
        name: _estimate(
            [
                Measured(b[name].value - a[name].value, b[name].samples - a[name].samples, a[name].count)
                for a, b in zip(first, second, strict=True)
            ]
        )
        for name in first[0]
        if name in second[0]
    }


def _estimate(seeds: list[Measured]) -> dict:
    samples = torch.stack([one.samples for one in seeds])
    if len(seeds) > 1:
        drawn = torch.randint(len(seeds), samples.shape, generator=torch.Generator().manual_seed(0))
        samples = samples.gather(0, drawn)
    values = torch.tensor([one.value for one in seeds], dtype=torch.float64)
    low, high = interval(samples.mean(0)) or (None, None)
    return {
        "value": _plain(values.mean()),
        "low": low,
        "high": high,
        "seeds": [_plain(value) for value in values],
        "spread": _plain(values.std()) if len(seeds) > 1 else None,
        "count": seeds[0].count,
    }


def _plain(value: Tensor) -> float | None:
    return None if math.isnan(value) else value.item()
