# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Grounding metrics: is the right box found, how far off is it, and does the model abstain when nothing is there.

For a question that means one box (`grounding`) the answer's box of the highest score is judged:

    iou                 exact oriented 3D IoU; 0 without a box. acc@t counts iou strictly above t.
    depth_error         |difference of the centres' z|, metres
    length_error ...    |difference of length, width, height|, metres, on the description of the predicted box chosen
                        by the symmetry (see symmetry.py; `none` compares them as they are named)
    center_distance     metres
    rotation_error      geodesic angle, degrees, up to the symmetry
    rotation_error_any_axes  the same up to renaming the axes: 0 for two boxes that are the same set of points
    iou_2d              2D IoU of the projected 3D boxes, not clipped to the image
    center_2d_error     distance of the projected centres, pixels
    box_2d_iou          2D IoU of the answer's own 2D box, if it gives one, with the projected true box

The paper's definition of DepthError, LengthError, WidthError and HeightError is not known to us. Here they are mean
absolute errors, with medians beside them. Questions answered without a box have no errors, are wrong in every
accuracy, and are always counted in the report.

For `multi` questions boxes are paired by Hungarian matching on exact IoU, as in Multi3DRefer (Zhang et al., ICCV
2023): f1@t is the mean F1 over questions, and precision@t and recall@t count boxes. To abstain is to answer with no
box. Abstention precision is the share of abstentions, over all questions, that are right. Abstention recall is the
share of `absent` questions on which the model abstained. No answer at all is not an abstention.

Shapes: N questions, B of them with one true and at least one predicted box.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmi3d.evaluation.bootstrap import Statistic
from llmi3d.evaluation.iou3d import box3d_iou
from llmi3d.evaluation.overlaps import IOUS, group_ious, mono3dvg_iou
from llmi3d.evaluation.records import QUESTION_TASKS, Record, check_ids, concatenate_boxes
from llmi3d.evaluation.symmetry import align_axes, rotation_error
from llmi3d.processing.geometry_llmi3d import box_2d_iou, geodesic_angle

THRESHOLDS = (0.25, 0.5)
ERRORS = (
    "depth_error",
    "length_error",
    "width_error",
    "height_error",
    "center_distance",
    "rotation_error",
    "rotation_error_any_axes",
    "center_2d_error",
)
UNITS = {
    **{name: "m" for name in ERRORS},
    "rotation_error": "deg",
    "rotation_error_any_axes": "deg",
    "center_2d_error": "px",
}


def grounding_metrics(
    records: Sequence[Record],
    *,
    iou: str = "exact",
    thresholds: Sequence[float] = THRESHOLDS,
    symmetry: str | dict[str, str] = "none",
) -> dict[str, float | int | None]:
    """Compute all grounding metrics as plain numbers.

    Args:
        records: with unique ids, none of the task `detection`.
        iou: `exact`, or `mono3dvg` to *add* accuracies and mean of the rotation-blind IoU, under names that start with
            "mono3dvg/". The exact ones never depend on this.
        thresholds: of IoU.
        symmetry: one of `symmetry.SYMMETRIES`, or a mapping from category to one of them with the key "" for others.

    Returns:
        Metrics as listed at the top of this file (shares within 0 to 1, None if no question counts) and the counts of
        `count_answers`.

    Raises:
        ValueError: duplicate ids, a detection record, an unknown IoU or symmetry.
    """
    statistics = grounding_statistics(question_values(records, symmetry), iou=iou, thresholds=thresholds)
    metrics = {name: statistic.value().item() for name, statistic in statistics.items()}
    return {
        **{name: None if math.isnan(value) else value for name, value in metrics.items()},
        **count_answers(records),
    }


def count_answers(records: Sequence[Record]) -> dict[str, int]:
    """Count the questions by task and by answer.

    `answered` means at least one box, `abstained` none, `unanswered` no answer. `missing` are the questions about
    something that is there that got no box.
    """
    counts = {"questions": len(records)}
    for task in QUESTION_TASKS:
        counts[task] = sum(record.task == task for record in records)
    counts["answered"] = sum(bool(record.predicted) for record in records)
    counts["abstained"] = sum(record.predicted is not None and not len(record.predicted) for record in records)
    counts["unanswered"] = sum(record.predicted is None for record in records)
    counts["missing"] = sum(record.task != "absent" and not record.predicted for record in records)
    return counts


def question_values(records: Sequence[Record], symmetry: str | dict[str, str] = "none") -> dict[str, Tensor]:
    """Measure everything on each question, for tables, plots and breakdowns.

    Args:
        records, symmetry: as in `grounding_metrics`.

    Returns:
        float64 [N] by name, nan if a question has no such value: the names at the top of this file, `iou_mono3dvg`,
        `score` of the judged box, `center_depth` of the true box in metres, for `multi` questions `true_boxes` and
        `predicted_boxes`, and for all questions `is_absent` and `is_abstained`. `matched_ious` [N, most pairs] holds
        the IoUs of matched pairs.

    Raises:
        ValueError: as `grounding_metrics`.
    """
    check_ids(records)
    for record in records:
        if record.task not in QUESTION_TASKS:
            raise ValueError(f"{record.id}: got the task '{record.task}', want one of {', '.join(QUESTION_TASKS)}.")
    count = len(records)
    absent = torch.tensor([record.task == "absent" for record in records], dtype=torch.float64)
    abstained = [record.predicted is not None and not len(record.predicted) for record in records]
    values = {"is_absent": absent, "is_abstained": torch.tensor(abstained, dtype=torch.float64)}
    values |= _single_values(records, symmetry)
    values |= _multi_values(records)
    return {name: value if value.ndim > 1 else value.reshape(count) for name, value in values.items()}


def _single_values(records: Sequence[Record], symmetry: str | dict[str, str]) -> dict[str, Tensor]:
    names = ("iou", "iou_mono3dvg", *ERRORS, "iou_2d", "box_2d_iou", "score", "center_depth")
    values = {name: torch.full((len(records),), math.nan, dtype=torch.float64) for name in names}
    single = [i for i, record in enumerate(records) if record.task == "grounding"]
    for name in ("iou", "iou_mono3dvg"):
        values[name][single] = 0.0
    for i in single:
        values["center_depth"][i] = records[i].true.center[0, 2]
    rows = [i for i in single if records[i].predicted]
    if not rows:
        return values
    best = [int(records[i].predicted.score.argmax()) for i in rows]
    judged = concatenate_boxes([records[i].predicted[[b]] for i, b in zip(rows, best, strict=True)])
    true = concatenate_boxes([records[i].true for i in rows])
    symmetries = symmetry
    if isinstance(symmetry, dict):
        symmetries = [symmetry.get(category or "", symmetry.get("", "none")) for category in true.category]
    size, rotation = align_axes(judged.size, judged.rotation, true.size, true.rotation, symmetries)
    off = (size - true.size).abs()
    any_axes = rotation_error(judged.size, judged.rotation, true.size, true.rotation, "any_axes")
    measured = {
        "iou": box3d_iou(judged.corners(), true.corners(), paired=True),
        "iou_mono3dvg": mono3dvg_iou(judged.center, judged.size, true.center, true.size),
        "depth_error": (judged.center - true.center)[:, 2].abs(),
        "length_error": off[:, 0],
        "height_error": off[:, 1],
        "width_error": off[:, 2],
        "center_distance": (judged.center - true.center).norm(dim=1),
        "rotation_error": geodesic_angle(rotation, true.rotation).rad2deg(),
        "rotation_error_any_axes": any_axes.rad2deg(),
        "score": judged.score,
    }
    with_camera = [k for k, i in enumerate(rows) if records[i].intrinsics is not None]
    if with_camera:
        intrinsics = torch.stack([records[rows[k]].intrinsics for k in with_camera])
        seen, wanted = judged[with_camera], true[with_camera]
        wanted_2d = wanted.projected_2d(intrinsics)
        in_pixels = {
            "center_2d_error": (seen.centers_2d(intrinsics) - wanted.centers_2d(intrinsics)).norm(dim=1),
            # A predicted box behind the camera covers nothing of the image.
            "iou_2d": box_2d_iou(seen.projected_2d(intrinsics), wanted_2d).nan_to_num(nan=0.0),
            "box_2d_iou": box_2d_iou(seen.box_2d, wanted_2d),
        }
        for name, value in in_pixels.items():
            values[name][[rows[k] for k in with_camera]] = value
    for name, value in measured.items():
        values[name][rows] = value
    return values


def _multi_values(records: Sequence[Record]) -> dict[str, Tensor]:
    from scipy.optimize import linear_sum_assignment

    multi = [i for i, record in enumerate(records) if record.task == "multi"]
    both = [i for i in multi if records[i].predicted]
    ious = group_ious([(records[i].predicted.corners(), records[i].true.corners()) for i in both])
    most = max([min(iou.shape) for iou in ious], default=0)
    counts = ("true_boxes", "predicted_boxes")
    values = {name: torch.full((len(records),), math.nan, dtype=torch.float64) for name in counts}
    matched = torch.zeros(len(records), most, dtype=torch.float64)
    for i in multi:
        values["true_boxes"][i] = len(records[i].true)
        values["predicted_boxes"][i] = len(records[i].predicted or ())
    for i, iou in zip(both, ious, strict=True):
        row, column = linear_sum_assignment(iou.numpy(), maximize=True)
        matched[i, : len(row)] = iou[torch.from_numpy(row), torch.from_numpy(column)]
    return {**values, "matched_ious": matched}


def grounding_statistics(
    values: dict[str, Tensor], *, iou: str = "exact", thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, Statistic]:
    """Return the metrics as statistics over `question_values`; other arguments as in `grounding_metrics`.

    Raises:
        ValueError: an unknown IoU.
    """
    if iou not in IOUS:
        raise ValueError(f"iou: got {iou!r}, want one of {', '.join(IOUS)}.")
    statistics = {}
    if not values["iou"].isnan().all():
        statistics |= _single_statistics(values, iou, thresholds)
    if not values["true_boxes"].isnan().all():
        statistics |= _multi_statistics(values, thresholds)
    if values["is_absent"].any():
        absent, abstained = values["is_absent"], values["is_abstained"]
        right = absent * abstained
        statistics["abstention_precision"] = Statistic(right, abstained)
        statistics["abstention_recall"] = Statistic(right, absent)
        statistics["abstention_f1"] = Statistic(2 * right, absent + abstained)
    return statistics


def _single_statistics(values: dict[str, Tensor], iou: str, thresholds: Sequence[float]) -> dict[str, Statistic]:
    statistics = {}
    kinds = {"": "iou"} if iou == "exact" else {"": "iou", "mono3dvg/": "iou_mono3dvg"}
    for prefix, name in kinds.items():
        judged = values[name]
        for threshold in thresholds:
            hit = torch.where(judged.isnan(), judged, (judged > threshold).double())
            statistics[f"{prefix}acc@{threshold:g}"] = Statistic.of(hit)
        statistics[f"{prefix}mean_iou"] = Statistic.of(judged)
    for name in ERRORS:
        statistics[name] = Statistic.of(values[name])
        statistics[f"{name}_median"] = Statistic.of(values[name], "median")
    for name in ("iou_2d", "box_2d_iou"):
        statistics[name] = Statistic.of(values[name])
    return statistics


def _multi_statistics(values: dict[str, Tensor], thresholds: Sequence[float]) -> dict[str, Statistic]:
    statistics = {}
    true, predicted = (values[name].nan_to_num(nan=0.0) for name in ("true_boxes", "predicted_boxes"))
    for threshold in thresholds:
        hits = (values["matched_ious"] > threshold).sum(1).double()
        f1 = torch.where(true > 0, 2 * hits / (true + predicted).clamp(min=1), torch.nan)
        statistics[f"f1@{threshold:g}"] = Statistic.of(f1)
        statistics[f"precision@{threshold:g}"] = Statistic(hits, predicted)
        statistics[f"recall@{threshold:g}"] = Statistic(hits, true)
    return statistics
