# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Means, ratios and medians with percentile bootstrap intervals, paired where two models answer the same questions.

The bootstrap draws images, not questions: the questions about one image are alike in difficulty, and intervals from
single questions would be too narrow. A resample is a number of copies of each question, so all statistics of all
resamples are a few matrix products. Two models that answered the same questions are resampled alike (same seed, same
order), so the difference of their resampled values is the paired bootstrap.

Shapes: N questions, C images, R resamples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CONFIDENCE = 0.95
# Resamples drawn at a time. The random numbers depend on it.
RESAMPLES_PER_CHUNK = 100


@dataclass(frozen=True, eq=False)
class Statistic:
    """A statistic over questions.

    Attributes:
        numerator: [N] values; 0 wherever the denominator is 0.
        denominator: [N] weights; 1 for a question that counts and 0 for one that does not, or any other weight.
        kind: `mean`, sum of numerators over sum of denominators, or `median` of the numerators that count.
    """

    numerator: Tensor
    denominator: Tensor
    kind: str = "mean"

    @classmethod
    def of(cls, values: Tensor, kind: str = "mean") -> "Statistic":
        """Build the statistic over the values [N] that are not nan."""
        counts = ~values.isnan()
        return cls(torch.where(counts, values, 0.0).double(), counts.double(), kind)

    @property
    def count(self) -> int:
        """Number of questions that count."""
        return int((self.denominator > 0).sum())

    def only(self, mask: Tensor) -> "Statistic":
        """Return the same statistic over the questions of a mask [N]."""
        return Statistic(self.numerator * mask, self.denominator * mask, self.kind)

    def value(self, weights: Tensor | None = None) -> Tensor:
        """Return the values [R] for copies `weights` [R, N] of each question, [] without; nan if nothing counts."""
        single = weights is None
        weights = torch.ones(1, len(self.numerator), dtype=torch.float64) if single else weights.double()
        if self.kind == "mean":
            value = (weights @ self.numerator.double()) / (weights @ self.denominator.double())
        else:
            value = weighted_median(self.numerator, weights * (self.denominator > 0))
        return value[0] if single else value


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the medians [R] of values [N] with `weights` [R, N] copies each (counts); nan for no copies.

    For an even number of copies the median is the mean of the two middle values.
    """
    if not len(values):
        return torch.full((len(weights),), math.nan, dtype=torch.float64)
    values, order = values.double().sort()
    reached = weights[:, order].double().cumsum(1)
    half = reached[:, -1:] / 2
    last = len(values) - 1
    low = torch.searchsorted(reached, half).clamp(max=last).squeeze(1)
    high = torch.searchsorted(reached, half, right=True).clamp(max=last).squeeze(1)
    return torch.where(half.squeeze(1) > 0, (values[low] + values[high]) / 2, torch.nan)


def resample_weights(clusters: Sequence[str], resamples: int, seed: int) -> Iterator[Tensor]:
    """Draw clusters with replacement, and yield the copies of each question, [<= RESAMPLES_PER_CHUNK, N].

    Args:
        clusters: [N] names of the clusters (images).
        resamples: how many in all.
        seed: of a separate random generator.
    """
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    member = torch.tensor([index[name] for name in clusters], dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, resamples if len(index) else 0, RESAMPLES_PER_CHUNK):
        count = min(RESAMPLES_PER_CHUNK, resamples - first)
        drawn = torch.randint(len(index), (count, len(index)), generator=generator)
        copies = torch.zeros(count, len(index), dtype=torch.float64)
        yield copies.scatter_add(1, drawn, torch.ones(count, len(index), dtype=torch.float64))[:, member]


def interval(samples: Tensor, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the percentile interval (low, high) of resampled values [R]; None if fewer than two are finite."""
    samples = samples[samples.isfinite()]
    if len(samples) < 2:
        return None
    tail = (1 - confidence) / 2
    low, high = torch.quantile(samples.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
