# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Records, the input of every metric: one question each, with its true boxes and the answer.

    rows of IG3D --records_from_row / detection_record--> records --with_predictions--> answered records

There are three kinds of answers: none (`predicted=None`: a crash, an unreadable text), one without a box (an
abstention), and boxes. Lengths are metres in the camera frame (x right, y down, z forward), pixels are of the image
frame.

Shapes: N boxes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from llmi3d.processing.geometry_llmi3d import box_corners, check_intrinsics, project, project_box_2d

# `detection` asks for everything in the image. The others are the tasks of IG3D rows that boxes answer.
QUESTION_TASKS = ("grounding", "multi", "absent")
TASKS = (*QUESTION_TASKS, "detection")
FRAME = "camera"
# Wide enough for matrices written with four decimals, as in the row's own validation.
ROTATION_TOLERANCE = 1e-3
_TENSORS = ("center", "size", "rotation", "score", "ignore", "box_2d")


@dataclass(frozen=True, eq=False)
class Boxes3D:
    """N oriented boxes, float64.

    Attributes:
        center: [N, 3], metres, camera frame.
        size: [N, 3] = (length, height, width), metres.
        rotation: [N, 3, 3], box to camera.
        score: [N]; 1 if none is given.
        category: N names, None if none is given.
        ignore: [N] bool; true boxes that are neither asked for nor counted as mistakes if found.
        box_2d: [N, 4] xyxy pixels as given, nan if none is. Most metrics project the 3D box instead.
    """

    center: Tensor
    size: Tensor
    rotation: Tensor
    score: Tensor
    category: tuple[str | None, ...]
    ignore: Tensor
    box_2d: Tensor

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, index: Sequence[int]) -> "Boxes3D":
        index = [int(i) for i in index]
        tensors = {name: getattr(self, name)[index] for name in _TENSORS}
        return Boxes3D(**tensors, category=tuple(self.category[i] for i in index))

    def corners(self) -> Tensor:
        """Return the corners [N, 8, 3], metres, camera frame."""
        return box_corners(self.center, self.size, self.rotation)

    def centers_2d(self, intrinsics: Tensor) -> Tensor:
        """Return the projected centres [N, 2], pixels; nan for centres that are not in front of the camera."""
        in_front = self.center[:, 2:] > 0
        return torch.where(in_front, project(torch.where(in_front, self.center, 1.0), intrinsics), torch.nan)

    def projected_2d(self, intrinsics: Tensor) -> Tensor:
        """Return the amodal 2D boxes [N, 4] xyxy, pixels; nan for boxes wholly behind the camera."""
        return project_box_2d(self.corners(), intrinsics)


def make_boxes(entries: Iterable[dict], where: str = "boxes") -> Boxes3D:
    """Build boxes from dicts such as the pipeline's `boxes` or a row's `objects`.

    Args:
        entries: each with `center`, `size` and `rotation`, and optionally `score`, `category` (or `label`), `ignore`,
            `box_2d` and `frame`. Other keys are ignored. Rounded rotations are made orthonormal again.
        where: name of the boxes in errors.

    Raises:
        ValueError: a missing or misshapen field, a value that is not finite, a size that is not positive, a matrix
            that is not a rotation, or a frame other than the camera's.
    """
    entries = list(entries)
    for i, entry in enumerate(entries):
        missing = [name for name in ("center", "size", "rotation") if entry.get(name) is None]
        if missing:
            raise ValueError(f"{where}[{i}]: misses {', '.join(missing)}; want center, size and rotation.")
        _check_frame(f"{where}[{i}]", entry)
    center, size = (_stack(where, name, [entry[name] for entry in entries], (3,)) for name in ("center", "size"))
    rotation = _stack(where, "rotation", [entry["rotation"] for entry in entries], (3, 3))
    given = {name: [entry.get(name) for entry in entries] for name in ("score", "box_2d")}
    score = _stack(where, "score", [1.0 if value is None else value for value in given["score"]], ())
    box_2d = _stack(where, "box_2d", [[0.0] * 4 if value is None else value for value in given["box_2d"]], (4,))
    box_2d[[i for i, value in enumerate(given["box_2d"]) if value is None]] = torch.nan
    for i in (size <= 0).any(1).nonzero().flatten().tolist():
        raise ValueError(f"{where}[{i}].size: got {size[i].tolist()}, want (length, height, width) above 0 m.")
    off = (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2)) > ROTATION_TOLERANCE
    for i in (off | (torch.linalg.det(rotation) < 0)).nonzero().flatten().tolist():
        raise ValueError(
            f"{where}[{i}].rotation: got {rotation[i].tolist()}, want orthonormal columns and determinant +1."
        )
    left, _, right = torch.linalg.svd(rotation)
    return Boxes3D(
        center=center,
        size=size,
        rotation=left @ right,
        score=score,
        category=tuple(entry.get("category", entry.get("label")) for entry in entries),
        ignore=torch.tensor([bool(entry.get("ignore", False)) for entry in entries], dtype=torch.bool),
        box_2d=box_2d,
    )


def concatenate_boxes(boxes: Sequence[Boxes3D]) -> Boxes3D:
    """Concatenate one or more sets of boxes."""
    tensors = {name: torch.cat([getattr(part, name) for part in boxes]) for name in _TENSORS}
    return Boxes3D(**tensors, category=tuple(name for part in boxes for name in part.category))


def _stack(where: str, name: str, values: list, shape: tuple[int, ...]) -> Tensor:
    """Return one field of N boxes, [N, *shape] float64."""
    values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    if not values:
        return torch.zeros(0, *shape, dtype=torch.float64)
    stacked = _numbers(values)
    if stacked is not None and stacked.shape[1:] == shape and stacked.isfinite().all():
        return stacked
    for i, value in enumerate(values):
        numbers = _numbers(value)
        if numbers is None or numbers.shape != shape or not numbers.isfinite().all():
            want = f"finite numbers of shape {shape}" if shape else "a finite number"
            raise ValueError(f"{where}[{i}].{name}: got {value!r}, want {want}.")
    raise ValueError(f"{where}: {name}: got {values!r}, want finite numbers of shape {(len(values), *shape)}.")


def _numbers(value) -> Tensor | None:
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def _check_frame(where: str, entry: dict) -> None:
    if entry.get("frame", FRAME) != FRAME:
        raise ValueError(
            f"{where}.frame: got {entry['frame']!r}, want '{FRAME}' (x right, y down, z forward, metres); boxes of "
            "different frames cannot be compared."
        )


# ------------------------------------------------------------------------------------------------------------ records


@dataclass(frozen=True, eq=False)
class Record:
    """One evaluated question.

    Attributes:
        id: unique over the evaluation, "kitti/training/000008#0".
        task: `grounding` (one box is meant), `multi` (one or more), `absent` (none) or `detection` (all in the image).
        true: the boxes that are meant; for detection all, with those to ignore.
        predicted: the answer's boxes, empty for an abstention, None for no answer.
        intrinsics: float64 [3, 3] K, pixels, or None (metrics in pixels then have no value).
        image_size: (width, height), pixels, or None.
        image_id: the image. The bootstrap draws the questions about one image together.
        source, split: where the row comes from.
        phrase, phrase_kind: what is asked for, and the kind of the phrase (for breakdowns).
        metadata: numbers and names for breakdowns; from a row, those of `describe_targets`.
    """

    id: str
    task: str
    true: Boxes3D
    predicted: Boxes3D | None = None
    intrinsics: Tensor | None = None
    image_size: tuple[int, int] | None = None
    image_id: str = ""
    source: str = ""
    split: str = ""
    phrase: str | None = None
    phrase_kind: str | None = None
    metadata: dict[str, float | str | None] = field(default_factory=dict)

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"{self.id}: task: got {self.task!r}, want one of {', '.join(TASKS)}.")
        count = len(self.true)
        if (
            (self.task == "grounding" and count != 1)
            or (self.task == "absent" and count)
            or (self.task == "multi" and not count)
        ):
            want = {"grounding": "exactly 1", "multi": "1 or more", "absent": "none"}[self.task]
            raise ValueError(f"{self.id}: got {count} true boxes for the task '{self.task}', want {want}.")

    def get(self, key: str) -> float | str | None:
        """Return a value for breakdowns: `phrase_kind`, `task`, `source`, or a key of the metadata."""
        return getattr(self, key) if key in ("phrase_kind", "task", "source") else self.metadata.get(key)


def make_record(record_id: str, task: str, true: Iterable[dict], intrinsics: Any = None, **fields) -> Record:
    """Build a record from plain values: `true` as in `make_boxes`, `intrinsics` as lists, other `fields` as is."""
    boxes = make_boxes(true, f"{record_id}: true")
    if intrinsics is not None:
        intrinsics = check_intrinsics(intrinsics)
    return Record(id=record_id, task=task, true=boxes, intrinsics=intrinsics, **fields)


def records_from_row(row: dict, image_size: tuple[int, int] | None = None) -> list[Record]:
    """Build records of a valid IG3D row's questions that are answered by boxes or by their absence.

    Args:
        row: as in `llmi3d.data.schema`.
        image_size: (width, height) of its image, pixels; needed only for the targets' share of the image.

    Returns:
        One record per turn whose task is grounding, multi or absent, in order, with the id "<image_id>#<turn>". A
        grounding turn with several boxes becomes a `multi` question.
    """
    from llmi3d.data.schema import turns_of  # needs the datasets library

    objects = {entry["id"]: entry for entry in row["objects"]}
    records = []
    for i, turn in enumerate(turns_of(row)):
        if turn.task not in QUESTION_TASKS:
            continue
        meant = [objects[target] for target in turn.targets]
        records.append(
            make_record(
                f"{row['image_id']}#{i}",
                "multi" if turn.task == "grounding" and len(meant) > 1 else turn.task,
                meant,
                row["intrinsics"],
                image_size=image_size,
                image_id=row["image_id"],
                source=row["source"],
                split=row["split"],
                phrase=turn.phrase,
                phrase_kind=turn.meaning.get("kind"),
                metadata=describe_targets(meant, row["objects"], image_size),
            )
        )
    return records


def detection_record(row: dict, image_size: tuple[int, int] | None = None) -> Record:
    """Build the record that asks for everything in an IG3D row's image. Its id is the image's."""
    names = {"image_id": row["image_id"], "source": row["source"], "split": row["split"]}
    return make_record(row["image_id"], "detection", row["objects"], row["intrinsics"], image_size=image_size, **names)


def describe_targets(
    meant: list[dict], objects: list[dict], image_size: tuple[int, int] | None = None
) -> dict[str, float | str | None]:
    """Return the values for breakdowns: means over the targets, None if unknown.

    Returns:
        `category` (of the first target), `distance` of the centre from the camera in metres, `diagonal` of the box in
        metres, `truncation`, `occlusion` and `visibility` as in the row, `image_area` (share of the image covered by
        the 2D box), `distractors` (other objects of the targets' categories that are not to be ignored).
    """
    if not meant:
        return {"category": None}
    wanted = {entry["id"] for entry in meant}
    categories = {entry["category"] for entry in meant}
    alike = [o for o in objects if o["category"] in categories and o["id"] not in wanted and not o["ignore"]]
    described = {
        "category": meant[0]["category"],
        "distance": _mean([math.hypot(*entry["center"]) for entry in meant]),
        "diagonal": _mean([math.hypot(*entry["size"]) for entry in meant]),
        "image_area": None,
        "distractors": float(len(alike)),
    }
    for name in ("truncation", "occlusion", "visibility"):
        described[name] = _mean([entry.get(name) for entry in meant])
    if image_size is not None and all(entry.get("box_2d") is not None for entry in meant):
        limits = torch.tensor([*image_size, *image_size], dtype=torch.float64)
        inside = torch.tensor([entry["box_2d"] for entry in meant], dtype=torch.float64).clamp(min=0).minimum(limits)
        described["image_area"] = ((inside[:, 2:] - inside[:, :2]).prod(1) / limits[:2].prod()).mean().item()
    return described


def _mean(values: list[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(sum(values) / len(values))


# -------------------------------------------------------------------------------------------------------- predictions


def with_predictions(records: Sequence[Record], predictions: Iterable[dict]) -> list[Record]:
    """Return the records with their answers.

    Args:
        records: with unique ids.
        predictions: each {"id", "boxes"} and optionally "frame"; boxes as in `make_boxes`, an empty list for an
            abstention, None for an answer that could not be read. A record without a prediction stays unanswered.

    Raises:
        ValueError: duplicate ids, predictions for unknown ids, boxes of another frame, or invalid boxes.
    """
    check_ids(records)
    answers = {}
    known = {record.id for record in records}
    for i, prediction in enumerate(predictions):
        if not isinstance(prediction, dict) or "id" not in prediction or "boxes" not in prediction:
            raise ValueError(f"predictions[{i}]: got {prediction!r}, want a dict with id and boxes.")
        name = prediction["id"]
        if name in answers:
            raise ValueError(f"predictions[{i}]: got the id {name!r} a second time, want one prediction per question.")
        if name not in known:
            raise ValueError(f"predictions[{i}]: got the id {name!r}, which none of the {len(known)} questions has.")
        _check_frame(f"prediction {name!r}", prediction)
        boxes = prediction["boxes"]
        answers[name] = None if boxes is None else make_boxes(boxes, f"prediction {name!r}: boxes")
    return [replace(record, predicted=answers.get(record.id)) for record in records]


def check_ids(records: Iterable[Record]) -> None:
    """Raise a ValueError for an id that two records share."""
    seen = set()
    for record in records:
        if record.id in seen:
            raise ValueError(f"records: got the id {record.id!r} a second time, want unique ids.")
        seen.add(record.id)
