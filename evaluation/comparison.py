# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reports beside one another: two models, or one model under several conditions, with paired intervals.

print(compare(Report.load("mine.json"), Report.load("theirs.json")).to_markdown())
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmi3d.evaluation.report import (
    HEADLINE,
    Estimate,
    Report,
    bounded,
    markdown_table,
    protocol_lines,
    say,
    say_interval,
    say_with_interval,
    unit_of,
)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions under one protocol.

    Attributes:
        first, second: their reports.
        differences: second minus first, with the paired 95% interval; `count` of the first.
    """

    first: Report
    second: Report
    differences: dict[str, Estimate]

    def to_markdown(self) -> str:
        """Return both models' values and their differences as a Markdown table."""
        first, second = self.first, self.second
        rows = []
        for name, difference in self.differences.items():
            values = (say(report.metrics[name].value, unit_of(name)) for report in (first, second))
            change = say(difference.value, unit_of(name))
            rows.append((f"{name} ({unit_of(name)})", *values, change, say_interval(name, difference)))
        header = ("metric", first.model, second.model, "difference", "95% interval (paired)")
        title = f"## {second.model} against {first.model} on {first.protocol.name}"
        return "\n".join([title, "", *protocol_lines(first), "", *markdown_table(header, rows)]) + "\n"


def compare(first: Report, second: Report) -> Comparison:
    """Compare two models with paired intervals.

    Raises:
        ValueError: reports of different protocols, over different questions, or resampled differently.
    """
    check_comparable([first, second])
    return Comparison(first, second, paired_differences(first, second))


def paired_differences(first: Report, second: Report) -> dict[str, Estimate]:
    """Return second minus first for every metric of two reports on the same questions, with paired intervals."""
    differences = {}
    for name in [name for name in first.metrics if name in second.metrics]:
        values = first.metrics[name].value, second.metrics[name].value
        apart = math.nan if None in values else values[1] - values[0]
        samples = (torch.tensor(report.samples[name], dtype=torch.float64) for report in (second, first))
        differences[name] = bounded(apart, torch.sub(*samples), first.metrics[name].count)
    return differences


def conditions_to_markdown(reports: dict[str, Report]) -> str:
    """Return the headline metrics under each condition of `robustness`, and their paired change against "none".

    Args:
        reports: of one model on the same questions, by condition; "none" among them.
    """
    base = reports["none"]
    names = [name for name in HEADLINE if name in base.metrics]
    rows = []
    for condition, report in reports.items():
        cells = [say_with_interval(name, report.metrics[name]) for name in names]
        change = paired_differences(base, report)
        cells += ["-" if report is base else say_with_interval(name, change[name]) for name in names]
        rows.append((condition, *cells))
    header = ("condition", *(f"{name} ({unit_of(name)})" for name in names), *(f"change of {name}" for name in names))
    return "\n".join(["## Robustness", "", *markdown_table(header, rows)]) + "\n"


def check_comparable(reports: Sequence[Report]) -> None:
    """Raise a ValueError if reports must not stand in one table: other protocols, questions or bootstraps."""
    first = reports[0]
    for other in reports[1:]:
        who = f"{first.model!r} and {other.model!r}"
        if other.protocol != first.protocol:
            named = (first.protocol.name, other.protocol.name)
            same = " (of the same name, with other settings)" if named[0] == named[1] else ""
            raise ValueError(f"{who}: got the protocols {named[0]} and {named[1]}{same}, want one for both.")
        if other.ids != first.ids:
            only = sorted(set(first.ids) ^ set(other.ids))
            raise ValueError(
                f"{who}: got {len(first.ids)} and {len(other.ids)} questions, {len(only)} of them in one report alone "
                f"(the first is {only[0]!r}); want the same questions in both."
            )
        recipes = [(report.resamples, report.seed, report.images) for report in (first, other)]
        if recipes[0] != recipes[1]:
            raise ValueError(f"{who}: got the bootstraps (resamples, seed, images) {recipes[0]} and {recipes[1]}.")
