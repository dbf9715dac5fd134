# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Calibration: fits the map from a box's score to the probability that the box is right (exact IoU above 0.25).

The network's score is trained to predict the IoU, which is not the probability of being right: a box with an IoU of
0.3 is right, and its score should be high. Two numbers, a temperature and a bias before the sigmoid, map the one to
the other. They keep the order of all boxes, and so every metric that depends on the order alone. They minimise the log
loss, a proper scoring rule with a single minimum over them (Platt, 1999; Guo et al., ICML 2017, for the temperature
alone, which is evaluated beside it). People read a score of 0.7 as a probability, thresholds need one, and the
calibration error of every report is measured against it.

No fit is evaluated on images it has seen: all numbers come from five fits, each evaluated on the fifth of the images
that was held out. The stored fit uses all images.

Shapes: N answers or questions.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from llmi3d.data.outputs import write_whole
from llmi3d.evaluation.bootstrap import interval, resample_weights
from llmi3d.evaluation.grounding import question_values
from llmi3d.evaluation.records import Record
from llmi3d.evaluation.reliability import expected_calibration_error, reliability

FOLDS = 5
RESAMPLES = 1000
RAW, TEMPERATURE, BOTH = "as it is", "temperature", "temperature and bias"
PROCESSOR_CONFIG = "processor_config.json"


@dataclass(frozen=True)
class ScoreMap:
    """score -> sigmoid(logit(score) / temperature + bias)."""

    temperature: float = 1.0
    bias: float = 0.0

    def __call__(self, scores: Tensor) -> Tensor:
        """Map scores [N] within 0 to 1."""
        return (_logits(scores) / self.temperature + self.bias).sigmoid()


@dataclass(frozen=True)
class Refusal:
    """Refusing by a threshold: boxes of a lower score are left out, and an answer without a box is a refusal.

    Attributes:
        threshold: boxes of a lower score are left out.
        precision, recall, f1: of refusing `absent` questions, as in `grounding`; each image is judged by a threshold
            fitted on other images.
        right_lost: share of the right boxes (grounding questions) that are left out too.
        absent, questions: their numbers.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    right_lost: float
    absent: int
    questions: int


@dataclass(frozen=True)
class Calibration:
    """A fitted map, and how it does on held-out images.

    Attributes:
        iou: a box is right if its IoU is above this.
        answers, images: numbers fitted on.
        right: share of the answers that are right.
        ways: by `RAW`, `TEMPERATURE`, `BOTH`: `log_loss`, `brier`, `expected_calibration_error`, `mean_score`, and for
            the last two `log_loss_change` against the first with its 95% interval `low`, `high` over images.
        chosen: the way of the lowest log loss whose interval lies below 0; `RAW` if there is none.
        score_temperature, score_bias: of the chosen way, fitted on all images.
        refusal: on the scale of the chosen way; None without `absent` questions.
        before, after: reliability diagrams, as in `reliability.Reliability`.
    """

    iou: float
    answers: int
    images: int
    right: float
    ways: dict[str, dict[str, float]]
    chosen: str
    score_temperature: float
    score_bias: float
    refusal: Refusal | None
    before: dict
    after: dict

    def to_json(self) -> str:
        """Return all fields as JSON, nan (of bins without answers) as null."""
        plain = asdict(self)
        for name in ("before", "after"):
            for key in ("score", "accuracy"):
                plain[name][key] = [None if math.isnan(value) else value for value in plain[name][key]]
        return json.dumps(plain, indent=1, allow_nan=False)

    def to_markdown(self) -> str:
        """Return the comparison of the ways, the chosen map and the refusal as Markdown."""
        names = ("log_loss", "brier", "expected_calibration_error", "mean_score")
        lines = [
            f"Probability that the exact IoU is above {self.iou:g}: {self.answers} answers about {self.images} "
            f"images, {100 * self.right:.1f} % right. Each row is evaluated on images it was not fitted on.",
            "",
            "| score | log loss | Brier | ECE (%) | mean score (%) | log loss, change (95% interval) |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for way, numbers in self.ways.items():
            loss, brier, error, mean = (numbers[name] for name in names)
            change = "-"
            if way != RAW:
                change = f"{numbers['log_loss_change']:+.4f} ({numbers['low']:+.4f} to {numbers['high']:+.4f})"
            cells = (way, f"{loss:.4f}", f"{brier:.4f}", f"{100 * error:.2f}", f"{100 * mean:.2f}", change)
            lines.append(f"| {' | '.join(cells)} |")
        if self.chosen == RAW:
            lines += ["", "Neither is certainly better than the score as it is: there is nothing to store."]
        else:
            lines += ["", f"score_temperature {self.score_temperature:.4f}, score_bias {self.score_bias:.4f}"]
        if (refusal := self.refusal) is not None:
            lines += [
                "",
                f"score_threshold {refusal.threshold:.4f}, the best F1 of refusing what is not there "
                f"({refusal.absent} of {refusal.questions} questions): precision {100 * refusal.precision:.1f} %, "
                f"recall {100 * refusal.recall:.1f} %, F1 {100 * refusal.f1:.1f} %. It leaves out "
                f"{100 * refusal.right_lost:.1f} % of the right boxes too.",
            ]
        return "\n".join(lines) + "\n"


def calibrate(records: Sequence[Record], iou: float = 0.25, folds: int = FOLDS, seed: int = 0) -> Calibration:
    """Fit a calibration of the score, and evaluate it by cross-validation.

    Args:
        records: with answers whose scores are the network's own.
        iou: a box is right if its exact IoU is above this.
        folds: number of parts of the images; each is judged by a fit of the others.
        seed: of the bootstrap.

    Raises:
        ValueError: too few images; answers that are all right or all wrong; scores that `fit_scores` refuses.
    """
    values = question_values(records)
    names = [record.image_id or record.id for record in records]
    fold = _folds(names, folds)
    answered = ~values["iou"].isnan() & ~values["score"].isnan()
    scores, right, part = values["score"][answered], values["iou"][answered] > iou, fold[answered]
    if len(right) and (right.all() or not right.any()):
        raise ValueError(f"answers: got {int(right.sum())} right ones of {len(right)}, want right and wrong ones.")
    clusters = [name for name, counts in zip(names, answered.tolist(), strict=True) if counts]
    fits: dict[str, Callable[[Tensor, Tensor], ScoreMap]] = {
        RAW: lambda scores, right: ScoreMap(),
        TEMPERATURE: lambda scores, right: fit_scores(scores, right, bias=False),
        BOTH: fit_scores,
    }
    judged = {}
    for way, fit in fits.items():
        judged[way] = torch.empty_like(scores)
        for held_out in part.unique().tolist():
            own = part == held_out
            judged[way][own] = fit(scores[~own], right[~own])(scores[own])
    ways, losses = {}, {way: _log_loss(judged[way], right) for way in fits}
    weights = torch.cat(list(resample_weights(clusters, RESAMPLES, seed)))
    for way in fits:
        ways[way] = {
            "log_loss": losses[way].mean().item(),
            "brier": (judged[way] - right.double()).square().mean().item(),
            "expected_calibration_error": expected_calibration_error(judged[way], right),
            "mean_score": judged[way].mean().item(),
        }
        if way != RAW:
            change = losses[way] - losses[RAW]
            low, high = interval((weights @ change) / weights.sum(1)) or (math.nan, math.nan)
            ways[way] |= {"log_loss_change": change.mean().item(), "low": low, "high": high}
    better = [way for way in (TEMPERATURE, BOTH) if ways[way]["high"] < 0]
    chosen = min(better, key=lambda way: ways[way]["log_loss"], default=RAW)
    fitted = fits[chosen](scores, right)
    return Calibration(
        iou=iou,
        answers=len(scores),
        images=len(set(clusters)),
        right=right.double().mean().item(),
        ways=ways,
        chosen=chosen,
        score_temperature=fitted.temperature,
        score_bias=fitted.bias,
        refusal=_refusal(records, fold, iou, values["iou"], fitted),
        before=asdict(reliability(judged[RAW], right)),
        after=asdict(reliability(judged[chosen], right)),
    )


def fit_scores(scores: Tensor, right: Tensor, bias: bool = True) -> ScoreMap:
    """Fit the map of the lowest log loss.

    Targets are drawn towards the middle, as by one more right and one more wrong answer (Platt, 1999), so a minimum
    exists even if some score separates right from wrong boxes.

    Args:
        scores: [N] within 0 to 1.
        right: [N] bool.
        bias: fit a bias beside the temperature.

    Raises:
        ValueError: no answer; scores outside 0 to 1, or not higher for right boxes.
    """
    if not len(scores) or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores: got {scores.tolist()[:5]}, want at least one, and all within 0 to 1.")
    logits, count = _logits(scores), right.sum().double()
    target = torch.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2))
    slope_and_bias = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    fitter = torch.optim.LBFGS(
        [slope_and_bias], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        fitter.zero_grad()
        slope, offset = slope_and_bias
        value = F.binary_cross_entropy_with_logits(logits * slope + offset * bias, target)
        value.backward()
        return value

    fitter.step(loss)
    slope, offset = slope_and_bias.tolist()
    if slope <= 0:
        raise ValueError("scores: got none higher for right boxes than for wrong ones, want some relation to fit.")
    return ScoreMap(1 / slope, offset if bias else 0.0)


def best_threshold(best: Tensor, absent: Tensor) -> float:
    """Return the score below which refusing has the highest F1: midway between two scores, 0 to refuse none.

    Args:
        best: [N] highest score of each answer's boxes; minus infinity for answers without a box.
        absent: [N] bool.
    """
    order = best.argsort(stable=True)
    scores, right = best[order], absent[order].double().cumsum(0)
    refused = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    f1 = 2 * right / (refused + absent.sum())
    # A threshold separates only scores that differ. Answers without a box are refusals at any threshold.
    possible = scores.isfinite() & torch.cat((scores[:-1] < scores[1:], torch.tensor([False])))
    empty = int(scores.isinf().sum())
    nothing = f1[empty - 1].item() if empty else 0.0
    if not possible.any() or f1[possible].max().item() <= nothing:
        return 0.0
    at = int(torch.where(possible, f1, -1.0).argmax())
    return ((scores[at] + scores[at + 1]) / 2).item()


def store_calibration(checkpoint: str | Path, calibration: Calibration) -> None:
    """Write temperature, bias and threshold into a checkpoint's processor_config.json, all or nothing.

    Raises:
        ValueError: a folder without such a file; a calibration that is not certainly better.
    """
    path = check_store(checkpoint)
    if calibration.chosen == RAW:
        raise ValueError("calibration: got one that is not certainly better than the raw score, want one that is.")
    config = json.loads(path.read_text())
    config |= {"score_temperature": calibration.score_temperature, "score_bias": calibration.score_bias}
    config["score_threshold"] = 0.0 if calibration.refusal is None else calibration.refusal.threshold
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_store(checkpoint: str | Path) -> Path:
    """Return the file that `store_calibration` writes.

    Raises:
        ValueError: no such file.
    """
    path = Path(checkpoint) / PROCESSOR_CONFIG
    if not path.is_file():
        raise ValueError(
            f"checkpoint: got {str(checkpoint)!r}, want a folder with a {PROCESSOR_CONFIG} to store into."
        )
    return path


def _refusal(records: Sequence[Record], fold: Tensor, iou: float, ious: Tensor, scale: ScoreMap) -> Refusal | None:
    read = torch.tensor([record.predicted is not None for record in records])
    absent = torch.tensor([record.task == "absent" for record in records])
    if not (read & absent).any():
        return None
    best = torch.tensor(
        [record.predicted.score.max().item() if record.predicted else -math.inf for record in records],
        dtype=torch.float64,
    )
    refused = torch.zeros(len(records), dtype=torch.bool)
    for held_out in fold.unique().tolist():
        own = fold == held_out
        refused[own] = best[own] < best_threshold(best[read & ~own], absent[read & ~own])
    refused = read & (refused | best.isinf())
    hits = (refused & absent).sum().item()
    right = ious > iou
    threshold = best_threshold(best[read], absent[read])
    return Refusal(
        threshold=scale(torch.tensor([threshold], dtype=torch.float64)).item() if threshold > 0 else 0.0,
        precision=hits / max(1, int(refused.sum())),
        recall=hits / int(absent.sum()),
        f1=2 * hits / int(refused.sum() + absent.sum()),
        right_lost=(right & refused).sum().item() / max(1, int(right.sum())),
        absent=int(absent.sum()),
        questions=len(records),
    )


def _folds(names: Sequence[str], folds: int) -> Tensor:
    """Return the part of each question, [N]. The questions about one image are in one part."""
    images = sorted(set(names))
    if len(images) < folds:
        raise ValueError(f"images: got {len(images)}, want at least {folds}, one for each part.")
    part = {name: index % folds for index, name in enumerate(images)}
    return torch.tensor([part[name] for name in names])


def _logits(scores: Tensor) -> Tensor:
    return torch.logit(scores.double(), eps=1e-12)


def _log_loss(scores: Tensor, right: Tensor) -> Tensor:
    """Return the log loss of each answer, [N]."""
    return F.binary_cross_entropy(scores.clamp(1e-12, 1 - 1e-12), right.double(), reduction="none")
