# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What all experiments have in common: where things are, and the form of a result.

A result is plain JSON:

    note        what else the numbers mean (how they were made stands in the experiment's docstring)
    tables      {"title", "metrics", "rows": [{"label", "x", "numbers": {metric: `measure.estimate`}}], "plot", ...}
                `plot` is the metric to draw, or `columns` where each row is a line over the columns, which are numbers
    expected    {"claim", "metric", "difference": `measure.estimate`, "better": "more" or "less", "verdict"}

An expectation is what the paper's design says should come out; its verdict is read off the interval of the difference.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluations import Split, split_of
from measure import Numbers, difference, estimate

HEADLINE = ("acc@0.25", "acc@0.5", "mean_iou", "relative_depth_error")


@dataclass(frozen=True)
class Place:
    """Where things are.

    Attributes:
        data: the test splits.
        base: a run of `examples/train_tiny.sh` whose records and pre-trained model the arms use.
        checkpoint: the model that experiments without training ask.
        out: arms and answers.
        pictures: of each split, at most.
        scale: of the arms' steps, for trials.
    """

    data: Path
    base: Path
    checkpoint: Path
    out: Path
    pictures: int = 400
    scale: float = 1.0

    def split(self, name: str) -> Split:
        return split_of(self.data, name, self.pictures)

    def arm(self, name: str, seed: int) -> Path:
        return self.out / "arms" / name / f"seed-{seed}"


@dataclass(frozen=True)
class Experiment:
    """One experiment, or the half of one.

    Attributes:
        number: in the list of eight.
        arms: {arm: seeds}; none for experiments that ask a finished checkpoint.
        splits: what each arm answers.
        make: result of a finished `Place`.
    """

    number: str
    title: str
    make: Callable[[Place], dict]
    arms: dict[str, Sequence[int]]
    splits: tuple[str, ...] = ("test",)


def table(title: str, rows: Sequence[dict], metrics: Sequence[str], plot: str | None = None, **words) -> dict:
    """A table; `plot` is the metric to draw, `words` such as `xlabel` go along."""
    return {"title": title, "metrics": list(metrics), "rows": list(rows), "plot": plot, **words}


def row(label: str, seeds: Sequence[Numbers], metrics: Sequence[str], **more) -> dict:
    numbers = estimate(seeds)
    return {"label": label, "numbers": {name: numbers[name] for name in metrics if name in numbers}, **more}


def expect(claim: str, metric: str, first: Sequence[Numbers], second: Sequence[Numbers], better: str = "more") -> dict:
    """That second has more (or less) of a metric than first."""
    apart = difference(first, second)[metric]
    return {"claim": claim, "metric": metric, "difference": apart, "better": better, "verdict": verdict(apart, better)}


def verdict(apart: dict, better: str) -> str:
    """`as expected`, `the opposite`, or `not decided` where the interval holds 0."""
    if apart["low"] is None or apart["low"] <= 0 <= apart["high"]:
        return "not decided"
    return "as expected" if (apart["low"] > 0) == (better == "more") else "the opposite"


def fingerprint(checkpoint: Path) -> str:
    """Eight digits that tell one checkpoint's weights from another's."""
    digest = hashlib.sha256()
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
