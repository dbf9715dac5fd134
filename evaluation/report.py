# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reports: numbers that carry their protocol, their counts and their uncertainty, and refuse to be mixed.

    report = evaluate_records(with_predictions(records, predictions), get_protocol("ig3d-kitti"), model="mine")
    report.save("report.json"); print(report.to_markdown())
    print(compare(report, Report.load("theirs.json")).to_markdown())

Shapes: N records, R resamples.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from llmi3d.data.outputs import write_whole
from llmi3d.evaluation.bootstrap import CONFIDENCE, Statistic, interval, resample_weights
from llmi3d.evaluation.detection import Detections
from llmi3d.evaluation.grounding import UNITS, count_answers, grounding_statistics, question_values
from llmi3d.evaluation.protocols import Protocol
from llmi3d.evaluation.records import Record
from llmi3d.evaluation.reliability import grounding_calibration, resampled_calibration

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: None where no question counts.
        low, high: ends of the 95% interval; None where there is none.
        count: questions (or pictures, for detection) that have a say.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Report:
    """The results of one model under one protocol.

    Attributes:
        model: its name.
        protocol: under which they were taken.
        ids: of the records, sorted.
        counts: questions, answers and what was left out.
        metrics: by name; shares are within 0 to 1, errors in metres, degrees or pixels (`grounding.UNITS`).
        groups: the accuracies and the mean IoU by grouping and label.
        calibration: as `calibration.grounding_calibration`; None for detection, or if a score is outside 0 to 1.
        resamples, seed, images: of the bootstrap; how many pictures it draws from.
        samples: [R] resampled values of each metric, for paired comparison.
    """

    model: str
    protocol: Protocol
    ids: tuple[str, ...]
    counts: dict[str, int]
    metrics: dict[str, Estimate]
    groups: dict[str, dict[str, dict[str, Estimate]]] = field(default_factory=dict)
    calibration: dict | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    images: int = 0
    samples: dict[str, list[float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The whole report; nan as null."""
        plain = {**asdict(self), "protocol": self.protocol.to_dict()}
        return json.dumps(_without_nan(plain), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Inverse of `to_json`."""
        plain = json.loads(text)
        plain["protocol"] = Protocol.from_dict(plain["protocol"])
        plain["ids"] = tuple(plain["ids"])
        plain["metrics"] = {name: Estimate(**value) for name, value in plain["metrics"].items()}
        plain["groups"] = {
            key: {label: {n: Estimate(**e) for n, e in part.items()} for label, part in labels.items()}
            for key, labels in plain["groups"].items()
        }
        plain["samples"] = {
            name: [math.nan if value is None else value for value in values]
            for name, values in plain["samples"].items()
        }
        return cls(**plain)

    def save(self, path: str | Path) -> None:
        """Writes JSON; the final name never holds a part of a report."""
        write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Reads what `save` wrote."""
        return cls.from_json(Path(path).read_text())

    def to_markdown(self, groups: bool = True) -> str:
        """Protocol, counts and all numbers with their intervals, as Markdown tables; breakdowns if wanted."""
        lines = [f"## {self.model} on {self.protocol.name}", "", *_protocol_lines(self)]
        lines += ["", *_table(("metric", "value", "95% interval", "over"), map(self._row, self.metrics.items()))]
        if self.calibration:
            excess = _say(self.calibration["risk_coverage"]["excess_area"], "%")
            lines += [
                "",
                f"Calibration judges the score against IoU > {self.calibration['threshold']:g}, over "
                f"{self.calibration['answers']} answers and {self.calibration['unanswered']} questions without. The "
                f"area under the risk-coverage curve is {excess} (%) above that of the best order.",
            ]
        for key, labels in self.groups.items() if groups else ():
            names = list(next(iter(labels.values())))
            rows = [
                (label, *(_say_with_interval(name, part[name]) for name in names), str(part[names[0]].count))
                for label, part in labels.items()
            ]
            lines += ["", *_table((key.replace("_", " "), *names, "over"), rows)]
        return "\n".join(lines) + "\n"

    @staticmethod
    def _row(item: tuple[str, Estimate]) -> tuple[str, ...]:
        name, estimate = item
        unit = _unit(name)
        ends = "-" if estimate.low is None else f"{_say(estimate.low, unit)} to {_say(estimate.high, unit)}"
        return f"{name} ({unit})", _say(estimate.value, unit), ends, str(estimate.count)


def evaluate_records(
    records: Sequence[Record], protocol: Protocol, *, model: str, resamples: int = RESAMPLES, seed: int = 0
) -> Report:
    """Judges answered records under a protocol.

    Args:
        records: with their answers (`records.with_predictions`).
        protocol: from `protocols.get_protocol`, or a variant of one.
        model: a name for the report.
        resamples, seed: of the bootstrap over pictures. For detection each resample takes as long as AP3D itself (not
            the matching): 0.03 s for 1,000 pictures.

    Raises:
        ValueError: what `Protocol.select` refuses: duplicate ids, another source or split, nothing left.
    """
    records, left_out = protocol.select(records)
    clusters = [record.image_id or record.id for record in records]
    common = {
        "model": model,
        "protocol": protocol,
        "ids": tuple(record.id for record in records),
        "resamples": resamples,
        "seed": seed,
        "images": len(set(clusters)),
    }
    weights = list(resample_weights(clusters, resamples, seed))
    if protocol.kind == "detection":
        return _detection_report(records, protocol, weights, left_out, common)
    values = question_values(records, protocol.symmetries())
    statistics = grounding_statistics(values, iou=protocol.iou, thresholds=protocol.thresholds)
    samples = {name: _resampled(statistic, weights) for name, statistic in statistics.items()}
    metrics = {name: _estimate(statistic, samples[name]) for name, statistic in statistics.items()}
    calibration = None
    scores = values["score"][~values["score"].isnan()]
    if ((scores >= 0) & (scores <= 1)).all() and not values["iou"].isnan().all():
        calibration = grounding_calibration(values, protocol.thresholds[0])
        drawn = resampled_calibration(values, weights, protocol.thresholds[0])
        whole = {
            "expected_calibration_error": (
                calibration["reliability"]["expected_calibration_error"],
                calibration["answers"],
            ),
            "risk_coverage_area": (
                calibration["risk_coverage"]["area"],
                calibration["answers"] + calibration["unanswered"],
            ),
        }
        metrics |= {name: _bounded(value, drawn[name], count) for name, (value, count) in whole.items()}
        samples |= drawn
    return Report(
        **common,
        counts={**count_answers(records), **left_out},
        metrics=metrics,
        groups=_groups(records, protocol, statistics, weights),
        calibration=calibration,
        samples={name: sample.tolist() for name, sample in samples.items()},
    )


def _detection_report(
    records: list[Record], protocol: Protocol, weights: list[Tensor], left_out: dict[str, int], common: dict
) -> Report:
    detections = Detections(
        records,
        categories=protocol.categories or None,
        proximity=[record.source in protocol.proximity for record in records],
        thresholds=protocol.thresholds,
    )
    metrics = detections.metrics()
    drawn = [detections.metrics(row) for chunk in weights for row in chunk]
    samples = {name: torch.tensor([one[name] for one in drawn], dtype=torch.float64) for name in metrics}
    estimates = {name: _bounded(value, samples[name], len(records)) for name, value in metrics.items()}
    whole = detections.average_precisions()
    drawn = [detections.average_precisions(weights=row) for chunk in weights for row in chunk]
    by_category = {
        name: {
            "AP3D": _bounded(
                ap.mean().item(),
                torch.tensor([one[name].mean().item() for one in drawn if name in one], dtype=torch.float64),
                len(records),
            )
        }
        for name, ap in whole.items()
    }
    return Report(
        **common,
        counts={**detections.counts, **left_out},
        metrics=estimates,
        groups={"category": by_category} if by_category else {},
        samples={name: sample.tolist() for name, sample in samples.items()},
    )


def _groups(
    records: list[Record], protocol: Protocol, statistics: dict[str, Statistic], weights: list[Tensor]
) -> dict[str, dict[str, dict[str, Estimate]]]:
    headline = [name for name in statistics if "acc@" in name or "mean_iou" in name]
    groups = {}
    for grouping in protocol.groupings if headline else ():
        labels = [grouping.label(record) if record.task == "grounding" else None for record in records]
        found = set(labels) - {None}
        for label in [name for name in grouping.order() if name in found] or sorted(found):
            mask = torch.tensor([own == label for own in labels], dtype=torch.float64)
            parts = {name: statistics[name].only(mask) for name in headline}
            groups.setdefault(grouping.key, {})[label] = {
                name: _estimate(part, _resampled(part, weights)) for name, part in parts.items()
            }
    return groups


# --------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions under one protocol.

    Attributes:
        first, second: the reports.
        differences: second minus first, with the paired 95% interval; `count` of the first.
    """

    first: Report
    second: Report
    differences: dict[str, Estimate]

    def to_markdown(self) -> str:
        """Both models' values and their differences."""
        first, second = self.first, self.second
        rows = []
        for name, difference in self.differences.items():
            unit = _unit(name)
            ends = "-" if difference.low is None else f"{_say(difference.low, unit)} to {_say(difference.high, unit)}"
            values = (_say(report.metrics[name].value, unit) for report in (first, second))
            rows.append((f"{name} ({unit})", *values, _say(difference.value, unit), ends))
        header = ("metric", first.model, second.model, "difference", "95% interval (paired)")
        title = f"## {second.model} against {first.model} on {first.protocol.name}"
        return "\n".join([title, "", *_protocol_lines(first), "", *_table(header, rows)]) + "\n"


def compare(first: Report, second: Report) -> Comparison:
    """The difference of two models, with paired intervals.

    Raises:
        ValueError: reports of different protocols, over different questions, or resampled differently.
    """
    check_comparable([first, second])
    return Comparison(first, second, paired_differences(first, second))


def paired_differences(first: Report, second: Report) -> dict[str, Estimate]:
    """Second minus first of every metric that both have, with paired intervals, for reports of the same questions."""
    differences = {}
    for name in [name for name in first.metrics if name in second.metrics]:
        values = first.metrics[name].value, second.metrics[name].value
        apart = math.nan if None in values else values[1] - values[0]
        samples = (torch.tensor(report.samples[name], dtype=torch.float64) for report in (second, first))
        differences[name] = _bounded(apart, torch.sub(*samples), first.metrics[name].count)
    return differences


# Shown where there is no room for all.
HEADLINE = ("acc@0.25", "acc@0.5", "mean_iou", "depth_error", "AP3D")


def conditions_to_markdown(reports: dict[str, Report]) -> str:
    """The headline numbers under each condition of `robustness`, and what they lose against "none" (paired intervals).

    Args:
        reports: of one model on the same questions, by condition; "none" among them.
    """
    base = reports["none"]
    names = [name for name in HEADLINE if name in base.metrics]
    rows = []
    for condition, report in reports.items():
        cells = [_say_with_interval(name, report.metrics[name]) for name in names]
        change = paired_differences(base, report)
        cells += ["-" if report is base else _say_with_interval(name, change[name]) for name in names]
        rows.append((condition, *cells))
    units = [f"{name} ({_unit(name)})" for name in names]
    header = ("condition", *units, *(f"change of {name}" for name in names))
    return "\n".join(["## Robustness", "", *_table(header, rows)]) + "\n"


def check_comparable(reports: Sequence[Report]) -> None:
    """Raises a ValueError that says why some reports must not stand in one table."""
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
            raise ValueError(f"{who}: got the bootstraps (resamples, seed, pictures) {recipes[0]} and {recipes[1]}.")


# ----------------------------------------------------------------------------------------------------------- helpers


def _resampled(statistic: Statistic, weights: list[Tensor]) -> Tensor:
    return torch.cat([statistic.value(chunk) for chunk in weights] or [torch.zeros(0, dtype=torch.float64)])


def _estimate(statistic: Statistic, samples: Tensor) -> Estimate:
    return _bounded(statistic.value().item(), samples, statistic.count)


def _bounded(value: float, samples: Tensor, count: int) -> Estimate:
    ends = None if math.isnan(value) else interval(samples)
    return Estimate(None if math.isnan(value) else value, *(ends or (None, None)), count)


def _without_nan(plain):
    if isinstance(plain, dict):
        return {key: _without_nan(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_without_nan(value) for value in plain]
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _unit(metric: str) -> str:
    return UNITS.get(metric.removesuffix("_median"), "%")


def _say(value: float | None, unit: str = "") -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if unit == "%" else f"{value:.3f}"


def _say_with_interval(name: str, estimate: Estimate) -> str:
    unit = _unit(name)
    ends = "" if estimate.low is None else f" ({_say(estimate.low, unit)} to {_say(estimate.high, unit)})"
    return _say(estimate.value, unit) + ends


def _table(header: Sequence[str], rows) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]


def _protocol_lines(report: Report) -> list[str]:
    protocol = report.protocol
    iou = "exact oriented 3D IoU" + (", beside the rotation-blind one of Mono3DVG" if protocol.iou != "exact" else "")
    asked = f", prompt {protocol.prompt!r} ({protocol.mode})" if protocol.kind == "grounding" else ""
    symmetry = f", rotation errors up to: {protocol.symmetries()}" if protocol.kind == "grounding" else ""
    sources = ", ".join(protocol.sources) or "any source"
    return [
        f"- protocol {protocol.name}: {protocol.kind} on {sources}, split {protocol.split}, "
        f"{len(protocol.categories) or 'all'} categories{asked}",
        f"- {iou}, thresholds {', '.join(f'{t:g}' for t in protocol.thresholds)}, boxes of a score from "
        f"{protocol.score_threshold:g} on{symmetry}",
        *([f"- {protocol.notes}"] if protocol.notes else []),
        "- " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.counts.items()),
        f"- {100 * CONFIDENCE:.0f}% intervals: percentile bootstrap over {report.images} pictures, {report.resamples} "
        f"resamples, seed {report.seed}",
    ]
