# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""AP3D: average precision of detection by 3D IoU, as Omni3D defines it (Brazil et al., CVPR 2023).

    AP3D            mean of COCO's 101-point interpolated precision over categories and the IoU thresholds 0.05, 0.10,
                    ... 0.50
    AP3D@15 ...     at the IoU 0.15, 0.25, 0.50 alone
    AP3D-near ...   over true boxes whose centre lies 0 to 10, 10 to 35, or more than 35 m deep (z, both ends included)

Within an image and a category at most 100 boxes are matched, in the order of their scores. Each takes the free true
box of the highest IoU, if that is at least the threshold (COCO's rule; acc@t wants more than t). True boxes that count
come first. A box that takes a true box to ignore is neither right nor wrong, nor is an unmatched box outside the range
of depths. Categories without a true box that counts have no AP. If a data set does not label everything (Omni3D says
so of SUN RGB-D and Objectron), boxes are left out whose 2D box overlaps no labelled 2D box of their category by more
than 0.3.

Given the same IoUs this gives the numbers of Omni3D's evaluator to the last digits. The IoU is exact here.

Shapes: N records, T thresholds, D detections of a category, G true boxes, R resamples.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmi3d.evaluation.overlaps import group_ious
from llmi3d.evaluation.records import Record, check_ids
from llmi3d.processing.geometry_llmi3d import box_2d_iou

IOU_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 11))
RECALL_POINTS = 101
DEPTH_RANGES = {"all": (0.0, 1e5), "near": (0.0, 10.0), "medium": (10.0, 35.0), "far": (35.0, 1e5)}
MAX_DETECTIONS = 100
PROXIMITY_IOU = 0.3


@dataclass(frozen=True, eq=False)
class _Matches:
    """The detections of one category within one range of depths, over all images, highest score first.

    Attributes:
        record: [D] index of the detection's record.
        right, wrong: [T, D] bool; both False for a detection that does not count.
        wanted: [N] number of true boxes that count in each record.
    """

    record: Tensor
    right: Tensor
    wrong: Tensor
    wanted: Tensor

    def average_precision(self, weights: Tensor | None = None) -> Tensor:
        """Return the AP [T] for copies `weights` [N] of each record; nan if no true box counts."""
        copies = torch.ones_like(self.wanted) if weights is None else weights.double()
        wanted = (copies * self.wanted).sum()
        if wanted == 0:
            return torch.full((len(self.right),), math.nan, dtype=torch.float64)
        if not len(self.record):
            return torch.zeros(len(self.right), dtype=torch.float64)
        copies = copies[self.record]
        right, wrong = (self.right * copies).cumsum(1), (self.wrong * copies).cumsum(1)
        precision = right / (right + wrong).clamp(min=1e-12)
        # The best precision at this recall or any higher one.
        precision = precision.flip(1).cummax(1).values.flip(1)
        # COCO's own recalls: some are reached exactly, and then the last bit decides.
        recall = torch.from_numpy(np.linspace(0, 1, RECALL_POINTS)).expand(len(right), -1).contiguous()
        place = torch.searchsorted(right / wanted, recall)
        precision = torch.cat((precision, precision.new_zeros(len(right), 1)), 1)
        return precision.gather(1, place).mean(1)


class Detections:
    """Answers matched with the truth, to compute AP3D for any weighting of the images.

    Attributes:
        categories: names, sorted.
        counts: numbers of `images`, `unanswered` images, `true`, `ignored` and `predicted` boxes, and of predicted
            boxes `of_other_categories`, which are left out.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        categories: Sequence[str] | None = None,
        proximity: Sequence[bool] | bool = False,
        thresholds: Sequence[float] = IOU_THRESHOLDS,
        max_detections: int = MAX_DETECTIONS,
    ):
        """Match all answers.

        Args:
            records: of the task `detection`, with unique ids. A missing answer counts as one without boxes.
            categories: to evaluate (default: all of the true boxes). Case and underscores do not matter.
            proximity: leave out boxes far from every labelled box; for all records, or for each.
            thresholds: of IoU.
            max_detections: boxes per image and category.

        Raises:
            ValueError: records of another task, duplicate ids, boxes without a category, or, for proximity, neither a
                2D box nor intrinsics.
        """
        check_ids(records)
        for record in records:
            if record.task != "detection":
                raise ValueError(f"{record.id}: got the task '{record.task}', want 'detection'.")
            for side in ("true", "predicted"):
                if None in (getattr(record, side).category if getattr(record, side) else ()):
                    raise ValueError(f"{record.id}: {side}: got a box without a category, want one for each.")
        self.thresholds = torch.tensor(thresholds, dtype=torch.float64)
        names = {category_key(name) for record in records for name in record.true.category}
        self.categories = sorted(names if categories is None else {category_key(name) for name in categories})
        near_only = [proximity] * len(records) if isinstance(proximity, bool) else list(proximity)
        if len(near_only) != len(records):
            raise ValueError(f"proximity: got {len(near_only)} for {len(records)} records, want one for each.")
        self._count(records)

        groups = _by_category(records, set(self.categories), max_detections)
        pairs = [
            (records[i].predicted[predicted].corners(), records[i].true[true].corners())
            if predicted and true
            else (torch.zeros(len(predicted), 8, 3), torch.zeros(len(true), 8, 3))
            for i, _, predicted, true in groups
        ]
        matched = defaultdict(list)
        for (i, category, predicted, true), iou in zip(groups, group_ious(pairs), strict=True):
            record = records[i]
            close = _proximity(record, predicted, true) if near_only[i] else torch.ones_like(iou, dtype=torch.bool)
            boxes = record.predicted[predicted] if predicted else None
            score = boxes.score if predicted else torch.zeros(0, dtype=torch.float64)
            depth = boxes.center[:, 2] if predicted else score
            true_depth, to_ignore = record.true.center[true, 2], record.true.ignore[true]
            for name, (low, high) in DEPTH_RANGES.items():
                ignored = to_ignore | (true_depth < low) | (true_depth > high)
                taken, by_ignored = _match(iou, close, ignored, self.thresholds)
                skip = by_ignored | (~taken & ((depth < low) | (depth > high)))
                if near_only[i] and predicted and true:
                    skip |= ~close.any(1)
                matched[category, name].append((i, score, taken & ~skip, ~taken & ~skip, int((~ignored).sum())))
        self._matches = {key: _concatenate(parts, len(records)) for key, parts in matched.items()}

    def _count(self, records: Sequence[Record]) -> None:
        kept = set(self.categories)
        true = [(category_key(name) in kept, bool(ignore)) for r in records for name, ignore in _named(r.true)]
        predicted = [category_key(name) in kept for r in records if r.predicted for name in r.predicted.category]
        self.counts = {
            "images": len(records),
            "unanswered": sum(record.predicted is None for record in records),
            "true": sum(known and not ignore for known, ignore in true),
            "ignored": sum(known and ignore for known, ignore in true),
            "predicted": sum(predicted),
            "of_other_categories": len(predicted) - sum(predicted),
        }

    def average_precisions(self, depth_range: str = "all", weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the AP [T] of each category with a true box that counts; `weights` [N] are copies of each record."""
        precisions = {}
        for category in self.categories:
            matches = self._matches.get((category, depth_range))
            if matches is not None:
                ap = matches.average_precision(weights)
                if not ap.isnan().any():
                    precisions[category] = ap
        return precisions

    def metrics(self, weights: Tensor | None = None) -> dict[str, float]:
        """Return AP3D and its variants, within 0 to 1; nan if no true box counts."""
        metrics = {}
        for name in DEPTH_RANGES:
            values = list(self.average_precisions(name, weights).values())
            stacked = torch.stack(values) if values else torch.full((1, len(self.thresholds)), math.nan)
            metrics["AP3D" if name == "all" else f"AP3D-{name}"] = stacked.mean().item()
            if name == "all":
                for threshold in (0.15, 0.25, 0.5):
                    at = (self.thresholds - threshold).abs() < 1e-9
                    if at.any():
                        metrics[f"AP3D@{100 * threshold:.0f}"] = stacked[:, at].mean().item()
        return metrics


def detection_metrics(records: Sequence[Record], **options) -> dict:
    """Return AP3D and its variants, `categories` (AP3D of each) and `counts`. Arguments and errors: `Detections`."""
    detections = Detections(records, **options)
    by_category = {name: ap.mean().item() for name, ap in detections.average_precisions().items()}
    metrics = {name: None if math.isnan(value) else value for name, value in detections.metrics().items()}
    return {**metrics, "categories": by_category, "counts": detections.counts}


def category_key(name: str) -> str:
    """Return the form in which category names are compared: "Traffic_Cone" becomes "traffic cone"."""
    return " ".join(name.replace("_", " ").lower().split())


def _named(boxes) -> list[tuple[str, bool]]:
    return list(zip(boxes.category, boxes.ignore.tolist(), strict=True))


def _by_category(records: Sequence[Record], categories: set[str], most: int) -> list[tuple]:
    """Return (record, category, predicted boxes by falling score, true boxes) per image and category, as indices."""
    groups = []
    for i, record in enumerate(records):
        true, predicted = defaultdict(list), defaultdict(list)
        for j, name in enumerate(record.true.category):
            true[category_key(name)].append(j)
        if record.predicted:
            for j in (-record.predicted.score).argsort(stable=True).tolist():
                predicted[category_key(record.predicted.category[j])].append(j)
        for category in sorted((set(true) | set(predicted)) & categories):
            groups.append((i, category, predicted[category][:most], true[category]))
    return groups


def _match(iou: Tensor, close: Tensor, ignored: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Match greedily at all thresholds: (took a true box [T, D], took one to ignore [T, D])."""
    taken = np.zeros((len(thresholds), len(iou)), dtype=bool)
    by_ignored = taken.copy()
    # numpy's steps on arrays this small cost a tenth of torch's.
    iou, to_ignore, levels = torch.where(close, iou, -1.0).numpy(), ignored.numpy(), thresholds.numpy()[:, None]
    free = np.ones((len(thresholds), iou.shape[1]), dtype=bool)
    for d in np.flatnonzero((iou >= levels.min()).any(1)):
        possible = free & (iou[d] >= levels)
        counted = possible & ~to_ignore
        # One to ignore only if there is no other; among equal IoUs the last one, as in COCO.
        possible = np.where(counted.any(1, keepdims=True), counted, possible)
        best = iou.shape[1] - 1 - np.where(possible, iou[d], -1.0)[:, ::-1].argmax(1)
        hit = possible.any(1)
        taken[:, d], by_ignored[:, d] = hit, hit & to_ignore[best]
        free[hit, best[hit]] = False
    return torch.from_numpy(taken), torch.from_numpy(by_ignored)


def _proximity(record: Record, predicted: list[int], true: list[int]) -> Tensor:
    """Return whether predicted box i is near true box j in the image, [D, G]."""
    sides = []
    for name, index in (("predicted", predicted), ("true", true)):
        if not index:
            return torch.zeros(len(predicted), len(true), dtype=torch.bool)
        boxes = getattr(record, name)[index]
        if record.intrinsics is None and boxes.box_2d.isnan().any():
            raise ValueError(f"{record.id}: {name}: proximity needs box_2d or intrinsics, got neither.")
        given = boxes.box_2d
        if record.intrinsics is not None:
            given = torch.where(given.isnan(), boxes.projected_2d(record.intrinsics), given)
        sides.append(given)
    return box_2d_iou(sides[0][:, None], sides[1][None]) > PROXIMITY_IOU


def _concatenate(parts: list[tuple], records: int) -> _Matches:
    wanted = torch.zeros(records, dtype=torch.float64)
    for i, _, _, _, count in parts:
        wanted[i] = count
    score = torch.cat([part[1] for part in parts])
    record = torch.cat([torch.full((len(part[1]),), part[0]) for part in parts])
    order = (-score).argsort(stable=True)
    right, wrong = (torch.cat([part[place] for part in parts], 1)[:, order] for place in (2, 3))
    return _Matches(record[order], right, wrong, wanted)
