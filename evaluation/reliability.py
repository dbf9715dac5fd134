# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reliability: whether a score is the share of right answers, and ranks right answers above wrong ones.

An answer is right if its exact IoU is above a threshold (0.25). Questions answered without a box have no score. They
do not enter the calibration error, and count as wrong at the end of the risk-coverage curve.

Shapes: N answers, B bins.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: bins of score, lowest first; nan for an empty bin.

    Attributes:
        edges: [B + 1].
        count: [B] number of answers.
        score: [B] their mean score.
        accuracy: [B] share of right answers.
        expected_calibration_error: mean |accuracy - score| over bins, weighted by count (Naeini et al., AAAI 2015).
        maximum_calibration_error: the largest of them.
    """

    edges: list[float]
    count: list[int]
    score: list[float]
    accuracy: list[float]
    expected_calibration_error: float
    maximum_calibration_error: float


@dataclass(frozen=True)
class RiskCoverage:
    """The error rate among the answers of the highest scores.

    Attributes:
        coverage: [N] share of the questions taken: 1/N, 2/N, ... 1.
        risk: [N] share of those that are wrong; among equal scores the expected share over all orders.
        area: mean risk over all coverages (AURC; Geifman et al., ICLR 2019).
        excess_area: area minus that of a score that ranks every right answer above every wrong one.
    """

    coverage: list[float]
    risk: list[float]
    area: float
    excess_area: float


def reliability(scores: Tensor, correct: Tensor, bins: int = BINS) -> Reliability:
    """Compute the reliability diagram of scores, with the expected calibration error.

    Args:
        scores: [N] within [0, 1].
        correct: [N] bool.
        bins: number of equally wide bins. A score on an edge belongs to the bin below (0 to the first).

    Raises:
        ValueError: scores outside [0, 1] or nan, lengths that differ, fewer than one bin.
    """
    scores, correct = _check(scores, correct)
    if bins < 1:
        raise ValueError(f"bins: got {bins}, want at least 1.")
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = (torch.searchsorted(edges, scores) - 1).clamp(0, bins - 1)
    count = torch.bincount(index, minlength=bins)
    score = torch.bincount(index, scores, minlength=bins) / count
    accuracy = torch.bincount(index, correct, minlength=bins) / count
    gap = (accuracy - score).abs().nan_to_num(nan=0.0)
    return Reliability(
        edges=edges.tolist(),
        count=count.tolist(),
        score=score.tolist(),
        accuracy=accuracy.tolist(),
        expected_calibration_error=((gap * count).sum() / len(scores)).item() if len(scores) else math.nan,
        maximum_calibration_error=gap.max().item() if len(scores) else math.nan,
    )


def expected_calibration_error(scores: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error of `reliability`; nan without any answer."""
    return reliability(scores, correct, bins).expected_calibration_error


def risk_coverage(scores: Tensor, correct: Tensor, unanswered: int = 0) -> RiskCoverage:
    """Compute the risk-coverage curve and its area.

    Args:
        scores: [N], any numbers that rank the answers.
        correct: [N] bool.
        unanswered: number of further questions without an answer: wrong, and taken last.

    Raises:
        ValueError: nan scores, lengths that differ.
    """
    scores, correct = _check(scores, correct, within=False)
    levels, level = torch.unique(-scores, return_inverse=True)
    count = torch.bincount(level, minlength=len(levels))
    wrong = torch.bincount(level, 1 - correct, minlength=len(levels))
    # Among equal scores every place is equally likely to hold a wrong answer.
    errors = (wrong / count).repeat_interleave(count)
    errors = torch.cat((errors, torch.ones(unanswered, dtype=torch.float64)))
    if not len(errors):
        return RiskCoverage([], [], math.nan, math.nan)
    taken = torch.arange(1, len(errors) + 1, dtype=torch.float64)
    risk = errors.cumsum(0) / taken
    right = len(errors) - round(errors.sum().item())
    best = (taken - right).clamp(min=0) / taken
    return RiskCoverage(
        coverage=(taken / len(taken)).tolist(),
        risk=risk.tolist(),
        area=risk.mean().item(),
        excess_area=(risk.mean() - best.mean()).item(),
    )


def grounding_calibration(values: dict[str, Tensor], threshold: float = 0.25, bins: int = BINS) -> dict:
    """Compute reliability and risk-coverage of the `grounding` questions in `grounding.question_values`.

    Returns:
        Plain values: `threshold`, `answers`, `unanswered`, `reliability`, `risk_coverage` (at most 101 points).

    Raises:
        ValueError: scores outside [0, 1].
    """
    asked = ~values["iou"].isnan()
    answered = asked & ~values["score"].isnan()
    scores, correct = values["score"][answered], values["iou"][answered] > threshold
    unanswered = int(asked.sum() - answered.sum())
    curve = asdict(risk_coverage(scores, correct, unanswered))
    if len(curve["coverage"]) > 101:
        places = torch.linspace(0, len(curve["coverage"]) - 1, 101).round().long().tolist()
        curve |= {name: [curve[name][place] for place in places] for name in ("coverage", "risk")}
    return {
        "threshold": threshold,
        "answers": int(answered.sum()),
        "unanswered": unanswered,
        "reliability": asdict(reliability(scores, correct, bins)),
        "risk_coverage": curve,
    }


def resampled_calibration(
    values: dict[str, Tensor], weights: Iterable[Tensor], threshold: float = 0.25, bins: int = BINS
) -> dict[str, Tensor]:
    """Resample the expected calibration error and the area under the risk-coverage curve, for their intervals.

    Args:
        values: of `grounding.question_values`, with scores within [0, 1].
        weights: chunks [r, N] of copies of each question (`bootstrap.resample_weights`).
        threshold, bins: as in `grounding_calibration`, which gives the numbers of one copy of each question.

    Returns:
        `expected_calibration_error` and `risk_coverage_area`, each [R].
    """
    asked = ~values["iou"].isnan()
    answered = asked & ~values["score"].isnan()
    scores = torch.where(answered, values["score"], -1.0)  # unanswered: wrong, and last
    wrong = (~answered | ~(values["iou"] > threshold)).double()
    levels, level = torch.unique(-scores[asked], return_inverse=True)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    in_bin = torch.nn.functional.one_hot((torch.searchsorted(edges, scores) - 1).clamp(0, bins - 1), bins).double()
    in_bin = in_bin * answered.double()[:, None]
    resampled = {"expected_calibration_error": [], "risk_coverage_area": []}
    for chunk in weights:
        gap = ((chunk * (1 - wrong - scores)) @ in_bin).abs().sum(1)
        resampled["expected_calibration_error"].append(gap / (chunk @ in_bin).sum(1))
        empty = torch.zeros(len(chunk), len(levels), dtype=torch.float64)
        count = empty.index_add(1, level, chunk[:, asked])
        errors = empty.index_add(1, level, (chunk * wrong)[:, asked])
        rate = errors / count.clamp(min=1)
        # A level of n answers of error rate e, taken after m answers with E errors, has the risks (E + e (k - m)) / k,
        # k = m + 1 ... m + n. Their sum is n e + (E - e m)(H(m + n) - H(m)), H being the harmonic numbers.
        taken, before = count.cumsum(1), errors.cumsum(1) - errors
        harmonic = torch.digamma(taken + 1) - torch.digamma(taken - count + 1)
        area = (count * rate + (before - rate * (taken - count)) * harmonic).sum(1)
        resampled["risk_coverage_area"].append(area / taken[:, -1])
    return {name: torch.cat(parts) for name, parts in resampled.items()}


def _check(scores: Tensor, correct: Tensor, within: bool = True) -> tuple[Tensor, Tensor]:
    scores, correct = torch.as_tensor(scores, dtype=torch.float64), torch.as_tensor(correct).double()
    if scores.ndim != 1 or scores.shape != correct.shape:
        raise ValueError(
            f"scores and correct: got shapes {tuple(scores.shape)} and {tuple(correct.shape)}, want [N] and [N]."
        )
    if scores.isnan().any():
        raise ValueError(f"scores: got nan at {int(scores.isnan().int().argmax())}, want numbers.")
    if within and len(scores) and ((scores < 0) | (scores > 1)).any():
        raise ValueError(f"scores: got {scores.min():g} to {scores.max():g}, want values within 0 to 1.")
    return scores, correct
