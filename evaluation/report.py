# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reports: metrics with their protocol, counts and intervals, beside what two oracles reach on the same questions.

    report = evaluate_records(with_predictions(records, predictions), get_protocol("ig3d-kitti"), model="mine")
    report.save("report.json")
    print(report.to_markdown())

Shapes: N records, R resamples.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from llmi3d.data.outputs import write_whole
from llmi3d.evaluation.baselines import LEAVE_ONE_OUT, ORACLES, MeanSizes, oracle_records
from llmi3d.evaluation.bootstrap import CONFIDENCE, Statistic, interval, resample_weights
from llmi3d.evaluation.detection import Detections
from llmi3d.evaluation.grounding import UNITS, count_answers, grounding_statistics, question_values
from llmi3d.evaluation.protocols import Protocol
from llmi3d.evaluation.records import Record
from llmi3d.evaluation.reliability import grounding_calibration, resampled_calibration

RESAMPLES = 1000
# Metrics to show where there is no room for all.
HEADLINE = ("acc@0.25", "acc@0.5", "mean_iou", "f1@0.25", "depth_error", "AP3D")
# Below so many questions (or images, for detection) a report says how small a difference it can show.
SMALL_SET = 200


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: None if no question counts.
        low, high: ends of the 95% interval; None if there is none.
        count: questions (images, for detection) that count.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


Estimates = dict[str, Estimate]


@dataclass(frozen=True)
class Report:
    """Results of one model under one protocol.

    Attributes:
        model: its name.
        protocol: how the answers were judged.
        ids: of the records, sorted.
        counts: questions, answers and what was left out.
        metrics: by name; shares are within 0 to 1, errors in metres, degrees or pixels (`grounding.UNITS`).
        groups: accuracies and mean IoU by grouping and label.
        calibration: as from `reliability.grounding_calibration`; None for detection, or if a score is outside 0 to 1.
        resamples, seed, images: of the bootstrap; `images` is how many it draws from.
        samples: [R] resampled values of each metric, for paired comparison.
        oracles: headline metrics of each oracle in `baselines.ORACLES` that can answer these questions.
        oracle_groups: for each oracle, the first accuracy by grouping and label, without intervals.
        oracle_sizes: where the oracles' mean sizes come from.
    """

    model: str
    protocol: Protocol
    ids: tuple[str, ...]
    counts: dict[str, int]
    metrics: Estimates
    groups: dict[str, dict[str, Estimates]] = field(default_factory=dict)
    calibration: dict | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    images: int = 0
    samples: dict[str, list[float]] = field(default_factory=dict)
    oracles: dict[str, Estimates] = field(default_factory=dict)
    oracle_groups: dict[str, dict[str, dict[str, Estimates]]] = field(default_factory=dict)
    oracle_sizes: str = ""

    def to_json(self) -> str:
        """Return the whole report as JSON, nan as null."""
        plain = {**asdict(self), "protocol": self.protocol.to_dict()}
        return json.dumps(_without_nan(plain), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read what `to_json` returned."""
        plain = json.loads(text)
        plain["protocol"] = Protocol.from_dict(plain["protocol"])
        plain["ids"] = tuple(plain["ids"])
        plain["metrics"] = _estimates(plain["metrics"])
        plain["groups"] = _estimates_of_groups(plain["groups"])
        plain["oracle_groups"] = {
            name: _estimates_of_groups(groups) for name, groups in plain.get("oracle_groups", {}).items()
        }
        plain["oracles"] = {name: _estimates(part) for name, part in plain.get("oracles", {}).items()}
        plain["samples"] = {
            name: [math.nan if value is None else value for value in values]
            for name, values in plain["samples"].items()
        }
        return cls(**plain)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON. The file appears only once it is complete."""
        write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read what `save` wrote."""
        return cls.from_json(Path(path).read_text())

    def to_markdown(self, groups: bool = True) -> str:
        """Return protocol, counts, metrics with intervals, oracles and (if wanted) breakdowns as Markdown."""
        lines = [f"## {self.model} on {self.protocol.name}", "", *protocol_lines(self)]
        rows = [
            (f"{name} ({unit_of(name)})", say(e.value, unit_of(name)), say_interval(name, e), str(e.count))
            for name, e in self.metrics.items()
        ]
        lines += ["", *markdown_table(("metric", "value", "95% interval", "over"), rows)]
        lines += self._small_set_lines() + self._oracle_lines()
        if self.calibration:
            excess = say(self.calibration["risk_coverage"]["excess_area"], "%")
            lines += [
                "",
                f"Calibration compares scores with IoU > {self.calibration['threshold']:g}, over "
                f"{self.calibration['answers']} answers and {self.calibration['unanswered']} questions without one. "
                f"The area under the risk-coverage curve is {excess} (%) above that of the best order.",
            ]
        for key, labels in self.groups.items() if groups else ():
            names = list(next(iter(labels.values())))
            oracles = {name: groups[key] for name, groups in self.oracle_groups.items() if key in groups}
            rows = []
            for label, part in labels.items():
                cells = [say_with_interval(name, part[name]) for name in names]
                cells += [say(groups[label][names[0]].value, unit_of(names[0])) for groups in oracles.values()]
                rows.append((label, *cells, str(part[names[0]].count)))
            header = (key.replace("_", " "), *names, *(f"{names[0]}, oracle of {name}" for name in oracles), "over")
            lines += ["", *markdown_table(header, rows)]
        return "\n".join(lines) + "\n"

    def _oracle_lines(self) -> list[str]:
        """Return the oracles' rows below the model's own, for the headline metrics that both have."""
        if not self.oracles:
            return []
        names = [name for name in next(iter(self.oracles.values())) if name in self.metrics]
        parts = {self.model: self.metrics, **{ORACLES[name]: part for name, part in self.oracles.items()}}
        rows = [(who, *(say_with_interval(name, part[name]) for name in names)) for who, part in parts.items()]
        return [
            "",
            *markdown_table(("to compare with", *(f"{name} ({unit_of(name)})" for name in names)), rows),
            "",
            "The oracles know all that an image shows, rotation included, and of the scale only the category's mean "
            f"size. Mean sizes: {self.oracle_sizes}.",
        ]

    def _small_set_lines(self) -> list[str]:
        """Return a line that says which differences a small set cannot show."""
        name = next((name for name in HEADLINE if name in self.metrics and self.metrics[name].low is not None), None)
        if name is None or self.metrics[name].count >= SMALL_SET:
            return []
        estimate = self.metrics[name]
        # If all answers are alike the bootstrap has no width; then a share of 3 / images cannot be excluded.
        half = (estimate.high - estimate.low) / 2 or 3 / self.images
        unit = "percentage points" if unit_of(name) == "%" else unit_of(name)
        half = f"{100 * half:.1f}" if unit_of(name) == "%" else f"{half:.3f}"
        asked = "images" if self.protocol.kind == "detection" else "questions"
        return [
            "",
            f"Small set: over {estimate.count} {asked} the interval of {name} reaches {half} {unit} to either side. "
            "Smaller differences between models are not to be seen here, save by pairing (`compare`).",
        ]


def evaluate_records(
    records: Sequence[Record],
    protocol: Protocol,
    *,
    model: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    sizes: MeanSizes | None = None,
) -> Report:
    """Judge answered records under a protocol.

    Args:
        records: with their answers (`records.with_predictions`).
        protocol: from `protocols.get_protocol`, or a variant of one.
        model: its name in the report.
        resamples, seed: of the bootstrap over images. For detection each resample takes as long as AP3D itself
            (without the matching): 0.03 s for 1,000 images.
        sizes: mean sizes of the categories for the oracles, from training data. By default they come from the
            evaluated objects, leaving each object out of its own mean.

    Raises:
        ValueError: as `Protocol.select`: duplicate ids, another source or split, no record left.
    """
    records, left_out = protocol.select(records)
    clusters = [record.image_id or record.id for record in records]
    weights = list(resample_weights(clusters, resamples, seed))
    judge = _judge_detections if protocol.kind == "detection" else _judge_questions
    results = judge(records, protocol, weights)
    results["counts"] |= left_out
    oracles, oracle_groups = {}, {}
    for name, answered in oracle_records(records, sizes).items():
        judged = judge(answered, protocol, weights, headline=True)
        oracles[name] = {metric: judged["metrics"][metric] for metric in HEADLINE if metric in judged["metrics"]}
        oracle_groups[name] = judged["groups"]
    return Report(
        model=model,
        protocol=protocol,
        ids=tuple(record.id for record in records),
        resamples=resamples,
        seed=seed,
        images=len(set(clusters)),
        oracles=oracles,
        oracle_groups=oracle_groups,
        oracle_sizes=(LEAVE_ONE_OUT if sizes is None else sizes.source) if oracles else "",
        **results,
    )


def _judge_questions(
    records: list[Record], protocol: Protocol, weights: list[Tensor], headline: bool = False
) -> dict[str, dict]:
    """Return the fields of a report on grounding; if `headline`, its metrics and the first accuracy's groups."""
    values = question_values(records, protocol.symmetries())
    statistics = grounding_statistics(values, iou=protocol.iou, thresholds=protocol.thresholds)
    if headline:
        statistics = {name: statistics[name] for name in HEADLINE if name in statistics}
    samples = {name: _resampled(statistic, weights) for name, statistic in statistics.items()}
    metrics = {name: _estimate(statistic, samples[name]) for name, statistic in statistics.items()}
    if headline:
        first = f"acc@{protocol.thresholds[0]:g}"
        grouped = {name: statistic for name, statistic in statistics.items() if name == first}
        return {"metrics": metrics, "groups": _groups(records, protocol, grouped, [])}
    calibration = None
    scores = values["score"][~values["score"].isnan()]
    if ((scores >= 0) & (scores <= 1)).all() and not values["iou"].isnan().all():
        calibration = grounding_calibration(values, protocol.thresholds[0])
        drawn = resampled_calibration(values, weights, protocol.thresholds[0])
        answers = calibration["answers"]
        whole = {
            "expected_calibration_error": (calibration["reliability"]["expected_calibration_error"], answers),
            "risk_coverage_area": (calibration["risk_coverage"]["area"], answers + calibration["unanswered"]),
        }
        metrics |= {name: bounded(value, drawn[name], count) for name, (value, count) in whole.items()}
        samples |= drawn
    return {
        "counts": count_answers(records),
        "metrics": metrics,
        "groups": _groups(records, protocol, statistics, weights),
        "calibration": calibration,
        "samples": {name: sample.tolist() for name, sample in samples.items()},
    }


def _judge_detections(
    records: list[Record], protocol: Protocol, weights: list[Tensor], headline: bool = False
) -> dict[str, dict]:
    """Return the fields of a report on detection; if `headline`, the metrics alone and without intervals."""
    detections = Detections(
        records,
        categories=protocol.categories or None,
        proximity=[record.source in protocol.proximity for record in records],
        thresholds=protocol.thresholds,
    )
    rows = [] if headline else [row for chunk in weights for row in chunk]
    metrics = detections.metrics()
    drawn = [detections.metrics(row) for row in rows]
    samples = {name: torch.tensor([sample[name] for sample in drawn], dtype=torch.float64) for name in metrics}
    estimates = {name: bounded(value, samples[name], len(records)) for name, value in metrics.items()}
    if headline:
        return {"metrics": estimates, "groups": {}}
    drawn = [detections.average_precisions(weights=row) for row in rows]
    by_category = {}
    for name, ap in detections.average_precisions().items():
        sample = [aps[name].mean().item() for aps in drawn if name in aps]
        sample = torch.tensor(sample, dtype=torch.float64)
        by_category[name] = {"AP3D": bounded(ap.mean().item(), sample, len(records))}
    return {
        "counts": dict(detections.counts),
        "metrics": estimates,
        "groups": {"category": by_category} if by_category else {},
        "samples": {name: sample.tolist() for name, sample in samples.items()},
    }


def _groups(
    records: list[Record], protocol: Protocol, statistics: dict[str, Statistic], weights: list[Tensor]
) -> dict[str, dict[str, Estimates]]:
    headline = [name for name in statistics if "acc@" in name or "mean_iou" in name]
    groups = {}
    for grouping in protocol.groupings if headline else ():
        labels = [grouping.label(record) if record.task == "grounding" else None for record in records]
        present = set(labels) - {None}
        for label in [name for name in grouping.order() if name in present] or sorted(present):
            mask = torch.tensor([own == label for own in labels], dtype=torch.float64)
            parts = {name: statistics[name].only(mask) for name in headline}
            groups.setdefault(grouping.key, {})[label] = {
                name: _estimate(part, _resampled(part, weights)) for name, part in parts.items()
            }
    return groups


def _resampled(statistic: Statistic, weights: list[Tensor]) -> Tensor:
    return torch.cat([statistic.value(chunk) for chunk in weights] or [torch.zeros(0, dtype=torch.float64)])


def _estimate(statistic: Statistic, samples: Tensor) -> Estimate:
    return bounded(statistic.value().item(), samples, statistic.count)


def bounded(value: float, samples: Tensor, count: int) -> Estimate:
    """Return a value (nan for none) with the percentile interval of its resampled values [R]."""
    ends = None if math.isnan(value) else interval(samples)
    return Estimate(None if math.isnan(value) else value, *(ends or (None, None)), count)


def _estimates(plain: dict[str, dict]) -> Estimates:
    return {name: Estimate(**fields) for name, fields in plain.items()}


def _estimates_of_groups(plain: dict) -> dict[str, dict[str, Estimates]]:
    return {key: {label: _estimates(part) for label, part in labels.items()} for key, labels in plain.items()}


def _without_nan(plain):
    if isinstance(plain, dict):
        return {key: _without_nan(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_without_nan(value) for value in plain]
    return None if isinstance(plain, float) and math.isnan(plain) else plain


# -------------------------------------------------------------------------------------------------------------- words


def unit_of(metric: str) -> str:
    """Return a metric's unit as printed: `%` for shares."""
    return UNITS.get(metric.removesuffix("_median"), "%")


def say(value: float | None, unit: str = "") -> str:
    """Return a number as printed: shares in per cent, `-` for None and nan."""
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if unit == "%" else f"{value:.3f}"


def say_interval(name: str, estimate: Estimate) -> str:
    """Return the interval of a metric as printed, `-` if there is none."""
    unit = unit_of(name)
    return "-" if estimate.low is None else f"{say(estimate.low, unit)} to {say(estimate.high, unit)}"


def say_with_interval(name: str, estimate: Estimate) -> str:
    """Return the value of a metric, followed by its interval in brackets if it has one."""
    value = say(estimate.value, unit_of(name))
    return value if estimate.low is None else f"{value} ({say_interval(name, estimate)})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return [lines[0], "|" + " --- |" * len(header), *lines[1:]]


def protocol_lines(report: Report) -> list[str]:
    """Return what a report's numbers depend on, as the lines of a Markdown list."""
    protocol = report.protocol
    iou = "exact oriented 3D IoU" + (", beside the rotation-blind one of Mono3DVG" if protocol.iou != "exact" else "")
    asked = f", prompt {protocol.prompt!r} ({protocol.mode})" if protocol.kind == "grounding" else ""
    symmetry = f", rotation errors up to: {protocol.symmetries()}" if protocol.kind == "grounding" else ""
    return [
        f"- protocol {protocol.name}: {protocol.kind} on {', '.join(protocol.sources) or 'any source'}, split "
        f"{protocol.split}, {len(protocol.categories) or 'all'} categories{asked}",
        f"- {iou}, thresholds {', '.join(f'{t:g}' for t in protocol.thresholds)}, boxes of a score from "
        f"{protocol.score_threshold:g} on{symmetry}",
        *([f"- {protocol.notes}"] if protocol.notes else []),
        "- " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.counts.items()),
        f"- {100 * CONFIDENCE:.0f}% intervals: percentile bootstrap over {report.images} images, {report.resamples} "
        f"resamples, seed {report.seed}",
    ]
