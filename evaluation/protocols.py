# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Named protocols: everything that must be equal for two numbers to be comparable.

Protocols are frozen. `variant` changes fields together with the name, so a number taken on another split or with
another IoU never passes for one of the named protocol.

The LLMI3D paper names its data sets and its two accuracies. Its splits, categories and prompts are not known to us.
The splits below are the data sets' own, and the categories those that Omni3D evaluates on them, as `notes` say.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from llmi3d.evaluation.detection import IOU_THRESHOLDS, category_key
from llmi3d.evaluation.overlaps import IOUS
from llmi3d.evaluation.records import Record, check_ids
from llmi3d.evaluation.symmetry import SYMMETRIES
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT


@dataclass(frozen=True)
class Grouping:
    """A breakdown by a value of the records (`Record.get`).

    Attributes:
        key: name of the value.
        edges: increasing bounds of half-open bins [low, high); empty to group by the value itself.
        unit: printed after the bins. It does not tell protocols apart.
    """

    key: str
    edges: tuple[float, ...] = ()
    unit: str = field(default="", compare=False)

    def label(self, record: Record) -> str | None:
        """Return the name of a record's group, or None if the record has no such value."""
        value = record.get(self.key)
        if value is None or not self.edges:
            return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for low, high in zip(self.edges, self.edges[1:], strict=False):
            if low <= value < high:
                return self._name(low, high)
        return None

    def order(self) -> list[str]:
        """Return the names of the bins, in order."""
        return [self._name(low, high) for low, high in zip(self.edges, self.edges[1:], strict=False)]

    def _name(self, low: float, high: float) -> str:
        span = f"{low:g} and more" if math.isinf(high) else f"{low:g} to {high:g}"
        return f"{span} {self.unit}".strip()


# Distances are Omni3D's near, medium and far, truncations KITTI's limits. The other bounds are round numbers.
GROUPINGS = (
    Grouping("distance", (0, 10, 35, math.inf), "m"),
    Grouping("diagonal", (0, 0.5, 1, 2, 5, math.inf), "m"),
    Grouping("image_area", (0, 0.01, 0.05, 0.2, math.inf), "of the image"),
    Grouping("truncation", (0, 0.15, 0.3, 0.5, math.inf)),
    Grouping("occlusion"),
    Grouping("distractors", (0, 1, 2, 4, math.inf)),
    Grouping("phrase_kind"),
    Grouping("category"),
)


@dataclass(frozen=True)
class Protocol:
    """The data, the questions and the rules of judging.

    Attributes:
        name: printed with every number.
        kind: `grounding` (questions) or `detection` (images).
        sources: allowed `source` of a record; empty for any.
        split: required `split` of a record.
        categories: of the objects asked for, compared without case and underscores; empty for all. Questions about
            other categories are left out and counted.
        iou: `exact`, or `mono3dvg` to add the rotation-blind IoU.
        thresholds: of IoU.
        prompt: turns a phrase into a request.
        mode: `direct` (the prompt ends in the 3D query token) or `generate` (the model writes an answer).
        score_threshold: boxes of a lower score are not part of the answer.
        condition: change of images and cameras before the model saw them (`robustness.Condition`).
        symmetry: of rotation and length errors.
        category_symmetry: (category, symmetry) of categories with another symmetry.
        groupings: breakdowns.
        proximity: sources in which detections far from every labelled object are left out.
        notes: where the choices come from. They do not tell protocols apart.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    split: str
    categories: tuple[str, ...] = ()
    iou: str = "exact"
    thresholds: tuple[float, ...] = (0.25, 0.5)
    prompt: str = GROUNDING_PROMPT
    mode: str = "direct"
    score_threshold: float = 0.0
    condition: str = "none"
    symmetry: str = "none"
    category_symmetry: tuple[tuple[str, str], ...] = ()
    groupings: tuple[Grouping, ...] = GROUPINGS
    proximity: tuple[str, ...] = ()
    notes: str = field(default="", compare=False)

    def __post_init__(self):
        choices = {
            "kind": ("grounding", "detection"),
            "iou": IOUS,
            "mode": ("direct", "generate"),
            "symmetry": SYMMETRIES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, want one of {', '.join(allowed)}.")

    def variant(self, **changes) -> "Protocol":
        """Return this protocol with some fields changed, and a name that says which.

        >>> get_protocol("ig3d-kitti").variant(split="training").name
        'ig3d-kitti[split=training]'

        Raises:
            ValueError: an unknown field.
        """
        known = {known.name for known in fields(self)} - {"name"}
        for name in changes:
            if name not in known:
                raise ValueError(
                    f"protocol {self.name}: got the field {name!r}, want one of {', '.join(sorted(known))}."
                )
        changes = {name: value for name, value in changes.items() if value != getattr(self, name)}
        if not changes:
            return self
        said = ", ".join(f"{name}={value}" for name, value in sorted(changes.items()))
        return replace(self, name=f"{self.name}[{said}]", **changes)

    def symmetries(self) -> str | dict[str, str]:
        """Return the symmetries as `grounding.grounding_metrics` takes them."""
        return {"": self.symmetry, **dict(self.category_symmetry)} if self.category_symmetry else self.symmetry

    def select(self, records: Sequence[Record]) -> tuple[list[Record], dict[str, int]]:
        """Select the records that the protocol judges, ordered by id, without boxes below the score threshold.

        Returns:
            (records, numbers of records left out for `other_tasks` and `other_categories`).

        Raises:
            ValueError: duplicate ids, a source or split that is not the protocol's, or no record left.
        """
        check_ids(records)
        for record in records:
            if (self.sources and record.source not in self.sources) or record.split != self.split:
                raise ValueError(
                    f"protocol {self.name}: got the record {record.id!r} of {record.source}/{record.split}, want "
                    f"{' or '.join(self.sources) or 'any source'}, split {self.split}. One report holds one protocol; "
                    "for other data take protocol.variant(...), whose name says so."
                )
        tasks = ("detection",) if self.kind == "detection" else ("grounding", "multi", "absent")
        of_task = [record for record in records if record.task in tasks]
        kept = [record for record in of_task if self.kind == "detection" or self._asks_for(record)]
        left_out = {"other_tasks": len(records) - len(of_task), "other_categories": len(of_task) - len(kept)}
        if not kept:
            raise ValueError(f"protocol {self.name}: got {len(records)} records, of which none is left ({left_out}).")
        return sorted((self._above_threshold(record) for record in kept), key=lambda record: record.id), left_out

    def _asks_for(self, record: Record) -> bool:
        category = record.get("category")
        wanted = {category_key(name) for name in self.categories}
        return not wanted or record.task == "absent" or (category is not None and category_key(category) in wanted)

    def _above_threshold(self, record: Record) -> Record:
        if record.predicted is None or not len(record.predicted):
            return record
        kept = (record.predicted.score >= self.score_threshold).nonzero().flatten().tolist()
        return replace(record, predicted=record.predicted[kept]) if len(kept) < len(record.predicted) else record

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        plain = asdict(self)
        for grouping in plain["groupings"]:
            grouping["edges"] = [None if math.isinf(edge) else edge for edge in grouping["edges"]]
        return plain

    @classmethod
    def from_dict(cls, plain: dict) -> "Protocol":
        """Read what `to_dict` returned, directly or from JSON."""
        plain = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in plain.items()}
        plain["category_symmetry"] = tuple(tuple(pair) for pair in plain["category_symmetry"])
        plain["groupings"] = tuple(
            Grouping(entry["key"], tuple(math.inf if edge is None else edge for edge in entry["edges"]), entry["unit"])
            for entry in plain["groupings"]
        )
        return cls(**plain)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


# Omni3D's categories of each data set (Brazil et al., CVPR 2023).
_KITTI = _names("pedestrian, car, cyclist, van, truck")
_NUSCENES = _names("pedestrian, car, truck, traffic cone, barrier, motorcycle, bicycle, bus, trailer")
_OBJECTRON = _names("bicycle, books, bottle, camera, cereal box, chair, cup, laptop, shoes")
_SUNRGBD = _names(
    "bathtub, bed, bicycle, bin, blinds, bookcase, books, bottle, box, cabinet, chair, clothes, counter, cup, "
    "curtain, desk, door, floor mat, lamp, laptop, machine, mirror, night stand, oven, picture, pillow, refrigerator, "
    "shelves, shoes, sink, sofa, stationery, stove, table, television, toilet, towel, window"
)
_OMNI3D = tuple(sorted({*_KITTI, *_NUSCENES, *_OBJECTRON, *_SUNRGBD}))
_MONO3DREFER = (*_KITTI, "tram", "bus", "person_sitting", "motorcyclist")
_OMNI3D_CATEGORIES = "Categories: those that Omni3D evaluates on this data set; the paper's are not known to us."

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="ig3d-sunrgbd",
            kind="grounding",
            sources=("sunrgbd",),
            split="test",
            categories=_SUNRGBD,
            notes=f"SUN RGB-D's 5,050 test images. {_OMNI3D_CATEGORIES}",
        ),
        Protocol(
            name="ig3d-nuscenes",
            kind="grounding",
            sources=("nuscenes",),
            split="val",
            categories=_NUSCENES,
            notes=f"The 150 validation scenes of nuScenes, key frames, six cameras. {_OMNI3D_CATEGORIES}",
        ),
        Protocol(
            name="ig3d-kitti",
            kind="grounding",
            sources=("kitti",),
            split="val",
            categories=_KITTI,
            notes="The 3,769 validation frames of KITTI's training set (Chen et al., 2015), since the test set has no "
            f"public labels. {_OMNI3D_CATEGORIES}",
        ),
        Protocol(
            name="ig3d-objectron",
            kind="grounding",
            sources=("objectron",),
            split="test",
            categories=_OBJECTRON,
            category_symmetry=(("bottle", "continuous"),),
            notes="Objectron's test videos. Rotation and lengths of bottles are judged up to a turn about their "
            f"upright axis, which no image shows; cups have handles, and IoU knows no exception. "
            f"{_OMNI3D_CATEGORIES}",
        ),
        Protocol(
            name="mono3drefer",
            kind="grounding",
            sources=("mono3drefer",),
            split="test",
            categories=_MONO3DREFER,
            iou="mono3dvg",
            groupings=(Grouping("uniqueness"), Grouping("distance_band"), Grouping("difficulty"), *GROUPINGS),
            notes="Mono3DRefer's test split (Zhan et al., AAAI 2024). Its published table uses the mono3dvg IoU; its "
            "groups Unique/Multiple, Near/Medium/Far and Easy/Moderate/Hard are lists of instances, to be given as "
            "the records' metadata uniqueness, distance_band and difficulty.",
        ),
        Protocol(
            name="omni3d",
            kind="detection",
            sources=("sunrgbd", "hypersim", "arkitscenes", "objectron", "kitti", "nuscenes"),
            split="test",
            categories=_OMNI3D,
            thresholds=IOU_THRESHOLDS,
            prompt="",
            groupings=(),
            proximity=("sunrgbd", "objectron"),
            notes="Omni3D's test split and its 50 categories; AP3D of the data sets taken together.",
        ),
        Protocol(
            name="ig3d-synth",
            kind="grounding",
            sources=("synthetic",),
            split="test",
            category_symmetry=(
                *((name, "continuous") for name in ("ball", "bottle", "plant", "stool", "traffic_cone", "vase")),
                ("table", "half_turn"),
            ),
            notes="Rendered scenes with exact truth; all categories. Rotations are judged up to the turns after which "
            "a model looks the same.",
        ),
        Protocol(name="own", kind="grounding", sources=(), split="test", notes="Any data; all categories."),
    )
}


def get_protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises:
        ValueError: an unknown name. The message lists the known ones.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol: got {name!r}, want one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
