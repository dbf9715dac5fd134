# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Plots of an evaluation: error against distance, reliability, risk against coverage, and sweeps over conditions."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from llmi3d.evaluation.grounding import question_values
from llmi3d.evaluation.records import Record
from llmi3d.evaluation.report import Report
from llmi3d.evaluation.robustness import KINDS, Condition

# Okabe and Ito's colour-blind-safe blue, orange and green.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"


def plot_evaluation(out: str | Path, records: Sequence[Record], reports: dict[str, Report]) -> list[Path]:
    """Write every plot that the results have numbers for. Files appear only once they are complete.

    Args:
        out: folder.
        records: answered, as the protocol judged them; only `grounding` questions are drawn.
        reports: by condition, "none" among them.

    Returns:
        The files, in the order of the report.
    """
    report = reports["none"]
    figures = (
        {"error_against_distance": plot_error_against_distance(records)} if report.protocol.kind != "detection" else {}
    )
    if report.calibration:
        figures["reliability"] = plot_reliability(report)
        figures["risk_coverage"] = plot_risk_coverage(report)
    for kind in KINDS[1:]:
        if any(Condition.parse(name).kind == kind for name in reports):
            figures[f"{kind}_sweep"] = plot_sweep(reports, kind)
    return [save_figure(figure, Path(out) / f"{name}.png") for name, figure in figures.items() if figure is not None]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, which appears only once it is complete, and return its path."""
    unfinished = path.with_name(f".{path.name}")
    figure.savefig(unfinished, dpi=120, format="png", metadata={"Software": None})
    os.replace(unfinished, path)
    return path


def plot_error_against_distance(records: Sequence[Record], bins: int = 8) -> Figure | None:
    """Plot depth error and IoU of answered grounding questions against the distance of the true box.

    With medians and quartiles over at most `bins` groups of equally many questions. None without such an answer.
    """
    values = question_values([record for record in records if record.task == "grounding"])
    distance = torch.tensor(
        [record.true.center[0].norm().item() for record in records if record.task == "grounding"], dtype=torch.float64
    )
    answered = ~values["depth_error"].isnan()
    if not answered.any():
        return None
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, label in ((left, "depth_error", "depth error (m)"), (right, "iou", "exact 3D IoU")):
        x, y = distance[answered], values[name][answered]
        axes.plot(x, y, ".", color=BLUE, alpha=0.35, markersize=5, label="answers")
        groups = x.argsort().tensor_split(min(bins, max(1, len(x) // 5)))
        middle = [x[group].median().item() for group in groups]
        quartiles = torch.stack(
            [torch.quantile(y[group], torch.tensor([0.25, 0.5, 0.75]).double()) for group in groups]
        )
        axes.plot(middle, quartiles[:, 1], "o-", color=ORANGE, label="median")
        axes.fill_between(middle, quartiles[:, 0], quartiles[:, 2], color=ORANGE, alpha=0.25, label="quartiles")
        axes.set(xlabel="distance from the camera (m)", ylabel=label, xlim=(0, None))
        axes.set_ylim(0, 1 if name == "iou" else None)
        axes.grid(alpha=0.3)
    left.legend()
    unanswered = int((~answered).sum())
    figure.suptitle(f"{int(answered.sum())} answers" + (f", {unanswered} questions without" if unanswered else ""))
    return figure


def plot_reliability(report: Report) -> Figure:
    """Plot accuracy against score in bins, and the number of answers in each."""
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_reliability(upper, lower, report.calibration["reliability"], report.calibration["threshold"])
    return figure


def plot_calibration(before: dict, after: dict, threshold: float) -> Figure:
    """Plot two reliability diagrams (`reliability.Reliability` as plain values) side by side."""
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    (*upper,), (*lower,) = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    for i, (name, diagram) in enumerate({"before": before, "after": after}.items()):
        _draw_reliability(upper[i], lower[i], diagram, threshold)
        upper[i].set_title(f"{name}: {upper[i].get_title()}")
    return figure


def _draw_reliability(upper, lower, diagram: dict, threshold: float) -> None:
    edges = diagram["edges"]
    kept = [i for i, count in enumerate(diagram["count"]) if count]
    widths = [edges[i + 1] - edges[i] for i in kept]
    upper.bar(
        [edges[i] for i in kept], [diagram["accuracy"][i] for i in kept], widths, align="edge", color=BLUE, alpha=0.6
    )
    upper.plot(
        [diagram["score"][i] for i in kept],
        [diagram["accuracy"][i] for i in kept],
        "o",
        color=ORANGE,
        label="mean score",
    )
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="calibrated")
    upper.set(ylabel=f"share with IoU > {threshold:g}", ylim=(0, 1), xlim=(0, 1))
    upper.set_title(f"expected calibration error {100 * diagram['expected_calibration_error']:.1f} %")
    upper.legend(loc="lower right")
    lower.bar([edges[i] for i in kept], [diagram["count"][i] for i in kept], widths, align="edge", color=GREY)
    lower.set(xlabel="score", ylabel="answers")


def plot_risk_coverage(report: Report) -> Figure:
    """Plot the error rate among the answers of the highest scores against their share of the questions."""
    curve = report.calibration["risk_coverage"]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve["coverage"], curve["risk"], color=BLUE)
    axes.set(xlabel="share of questions answered, highest scores first", xlim=(0, 1), ylim=(0, 1))
    axes.set_ylabel(f"share of them with IoU at most {report.calibration['threshold']:g}")
    axes.set_title(f"area {100 * curve['area']:.1f} %")
    axes.grid(alpha=0.3)
    return figure


def plot_sweep(reports: dict[str, Report], kind: str) -> Figure:
    """Plot accuracies and depth error under one kind of condition, with 95% intervals."""
    neutral = 1.0 if kind in ("focal", "resize", "crop") else 0.0
    points = [(neutral, reports["none"])]
    points += [(c.amount, reports[str(c)]) for c in map(Condition.parse, reports) if c.kind == kind]
    points.sort(key=lambda point: point[0])
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = [name for name in reports["none"].metrics if name.startswith(("acc@", "AP3D")) and name.count("@") <= 1]
    for axes, names, label in ((left, shares[:3], "share (%)"), (right, ["depth_error"], "depth error (m)")):
        for name, color in zip(names, (BLUE, ORANGE, GREEN), strict=False):
            if name not in reports["none"].metrics:
                continue
            scale = 100 if axes is left else 1
            estimates = [report.metrics[name] for _, report in points]
            value, low, high = (
                [math.nan if getattr(e, end) is None else scale * getattr(e, end) for e in estimates]
                for end in ("value", "low", "high")
            )
            x = [amount for amount, _ in points]
            axes.plot(x, value, "o-", color=color, label=name)
            axes.fill_between(x, low, high, color=color, alpha=0.2)
        words = {
            "focal": "scale of the focal length",
            "resize": "scale of image and K",
            "crop": "share of each side that is kept",
            "noise": "relative deviation of K",
        }
        axes.set(xlabel=words.get(kind, f"severity of {kind.replace('_', ' ')}"), ylabel=label)
        axes.set_ylim(0, 100 if axes is left else None)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure
