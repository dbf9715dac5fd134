# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Experiments that ask a finished checkpoint: half of 3 (geometry), 5 open vocabulary, 6 prompts, 8 robustness."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from answers import Grounder
from arms import load
from common import HEADLINE, Place, expect, fingerprint, row, table
from evaluations import Split, split_of
from measure import Numbers, estimate, grounding, of_statistics

from llmi3d import LLMI3DProcessor
from llmi3d.data.schema import turns_of
from llmi3d.data.synthetic.scene import NOVEL_CATEGORIES, NOVEL_PAIRS
from llmi3d.evaluation.bootstrap import Statistic
from llmi3d.evaluation.corruptions import FAMILIES, SEVERITIES
from llmi3d.evaluation.question_answers import TOLERANCE, answer_is_right
from llmi3d.evaluation.records import Record
from llmi3d.evaluation.robustness import NONE, Condition

KINDS = {
    "category": ("category",),
    "attribute": ("attribute",),
    "place": ("place",),
    "relation": ("left_right", "nearer_farther", "next_to", "above"),
    "ordinal": ("ordinal",),
    "nearest, farthest": ("nearest", "farthest"),
    "size, height": ("size", "height"),
    "distance": ("metres",),
    "composed": ("composed",),
}


def geometry(place: Place) -> dict:
    """The finished checkpoint with one source of depth alone and with all fused, by switches of its configuration;
    it was trained with all three. Under another focal length the image stays and the truth moves along its rays
    (a dolly zoom), which a network that never sees K follows by construction: the sweep checks the geometry, not
    what was learned. The split `camera` has other lenses in its images. Under noise the model is told a wrong K
    and judged by the true one.
    """
    asker = Asker(place)
    sources = {"fused": ("regression", "height", "map")} | {
        f"{one} alone": (one,) for one in ("regression", "height", "map")
    }
    tables, expected = [], []
    for name in ("test", "camera"):
        found = {label: asker.numbers(name, sources=given) for label, given in sources.items()}
        tables.append(
            table(
                f"Sources of depth, split `{name}`",
                [row(label, [numbers], HEADLINE) for label, numbers in found.items()],
                HEADLINE,
                "relative_depth_error",
            )
        )
        expected += [
            expect(f"fusion beats {label}; `{name}`", metric, [found[label]], [found["fused"]], better)
            for label in list(found)[1:]
            for metric, better in (("acc@0.25", "more"), ("relative_depth_error", "less"))
        ]
    for name in ("test", "camera"):
        found = {s: asker.numbers(name, Condition("focal", s) if s != 1 else NONE) for s in (0.5, 0.75, 1, 1.25, 1.5)}
        rows = [row(f"{s:g}", [numbers], HEADLINE, x=s) for s, numbers in found.items()]
        words = {"xlabel": "scale of the focal length"}
        tables.append(table(f"Focal sweep, split `{name}`", rows, HEADLINE, "acc@0.25", **words))
    found = {s: asker.numbers("test", Condition("noise", s) if s else NONE) for s in (0.0, 0.05, 0.1, 0.2)}
    rows = [row(f"{100 * s:g} %", [numbers], HEADLINE, x=s) for s, numbers in found.items()]
    tables.append(table("Noise on K", rows, HEADLINE, "acc@0.25", xlabel="relative deviation of K"))
    return {"tables": tables, "expected": expected}


def open_vocabulary(place: Place) -> dict:
    """The finished checkpoint on things that it was never shown: categories held out altogether, whose names it has
    read only where something is absent, and known categories in colours that they never had in training.
    """
    asker = Asker(place)
    split = place.split("novel")
    colors = {
        (one["image_id"], entry["id"]): entry["attributes"].get("color")
        for one in split.rows
        for entry in one["objects"]
    }
    targets = _targets(split)

    def kind(record: Record) -> str:
        category = record.metadata["category"]
        if category in NOVEL_CATEGORIES:
            return "category"
        return "pair" if (colors[record.image_id, targets[record.id]], category) in NOVEL_PAIRS else "base"

    labels = {
        "base": "known things",
        "pair": "known category in a colour it never had",
        "category": "category never seen",
    }
    subsets = {label: (lambda record, name=name: kind(record) == name) for name, label in labels.items()}
    found = grounding(asker.records("novel"), subsets)
    rows = [row("the split `test`", [asker.numbers("test")], HEADLINE)]
    rows += [row(label, [numbers], HEADLINE) for label, numbers in found.items()]
    names = {
        f"{color} {category}": (lambda record, category=category, color=color: (
            record.metadata["category"] == category and colors[record.image_id, targets[record.id]] == color
        ))
        for color, category in sorted(NOVEL_PAIRS)
    } | {
        category: (lambda record, category=category: record.metadata["category"] == category)
        for category in sorted(NOVEL_CATEGORIES)
    }  # fmt: skip
    each = grounding(asker.records("novel"), names)
    each = [row(label, [numbers], HEADLINE) for label, numbers in each.items() if numbers["acc@0.25"].count]
    first, pair, category = ([found[label]] for label in labels.values())
    return {
        "tables": [
            table("What is asked for, split `novel`", rows, HEADLINE, "acc@0.25"),
            table("Each held-out pair and category", each, HEADLINE),
        ],
        "expected": [
            expect("known categories in new colours are harder than known things", "acc@0.25", first, pair, "less"),
            expect("categories never seen are harder than known things", "acc@0.25", first, category, "less"),
        ],
    }


def _targets(split: Split) -> dict[str, str]:
    """The object that each grounding question means, by the question's id."""
    return {
        f"{row['image_id']}#{i}": turn.targets[0]
        for row in split.rows
        for i, turn in enumerate(turns_of(row))
        if turn.task == "grounding"
    }


def prompts(place: Place) -> dict:
    """The finished checkpoint by kind of phrase, where one forward pass answers; phrases that mean several objects
    or none, where it writes; and questions, by kind.
    """
    asker, split = Asker(place), place.split("test")
    subsets = {label: (lambda record, kinds=kinds: record.phrase_kind in kinds) for label, kinds in KINDS.items()}
    records = asker.records("test")
    found = grounding(records, {"all": lambda record: True, **subsets})
    rows = [row(label, [numbers], HEADLINE) for label, numbers in found.items() if numbers["acc@0.25"].count]
    free = split.answered_freely(asker.grounder, asker.folder / "test" / f"free-{split.pictures}.jsonl")
    others = grounding(free)["all"]
    metrics = [name for name in others if name.startswith(("f1", "precision", "recall", "abstention"))]
    tables = [
        table("Phrases that mean one object", rows, HEADLINE, "acc@0.25"),
        table("Phrases that mean several objects, or none", [row("all", [others], metrics)], metrics),
    ]
    questions = split.answered_in_words(asker.grounder, asker.folder / "test" / f"words-{split.pictures}.jsonl")
    right = [answer_is_right(one["said"], one["meaning"]["form"], said=one["answer"]) for one in questions]
    kinds = sorted({one["meaning"]["kind"] for one in questions})
    masks = {"all": torch.ones(len(questions))} | {
        kind: torch.tensor([one["meaning"]["kind"] == kind for one in questions]) for kind in kinds
    }
    statistic = {"right": Statistic.of(torch.tensor(right, dtype=torch.float64))}
    answered = of_statistics(statistic, [one["image_id"] for one in questions], masks)
    rows = [row(label, [numbers], ("right",)) for label, numbers in answered.items()]
    title = f"Questions answered exactly, lengths within {100 * TOLERANCE:g} %"
    return {"tables": [*tables, table(title, rows, ("right",), "right")], "expected": []}


def robustness(place: Place) -> dict:
    """The finished checkpoint where things are small, far, hidden or many, where it is told a wrong K, and on
    corrupted images, which are asked on half of the images.
    """
    asker = Asker(place)
    test = asker.records("test")

    def bins(key: str, edges: Sequence[float], unit: str) -> dict[str, Callable[[Record], bool]]:
        return {
            f"{low:g} to {high:g} {unit}".strip(): (
                lambda record, low=low, high=high: (
                    record.metadata[key] is not None and low <= record.metadata[key] < high
                )
            )
            for low, high in pairwise(edges)
        }

    tables = []
    for title, key, edges, unit in (
        ("Scale: share of the image that the object covers", "image_area", (0, 0.01, 0.05, 0.2, 1.01), ""),
        ("Distance, split `test`", "distance", (0, 2, 5, 10, 20, 40, 1000), "m"),
        ("Other objects of the same category", "distractors", (0, 1, 2, 4, 100), ""),
    ):
        found = grounding(test, bins(key, edges, unit))
        rows = [row(label, [numbers], HEADLINE) for label, numbers in found.items() if numbers["acc@0.25"].count]
        tables.append(table(title, rows, HEADLINE, "acc@0.25"))
    hidden = {0.0: "more than 90 % seen", 1.0: "50 to 90 % seen", 2.0: "less than 50 % seen"}
    found = grounding(
        test,
        {
            label: (lambda record, level=level: record.metadata["occlusion"] == level)
            for level, label in hidden.items()
        },
    )
    rows = [row(label, [numbers], HEADLINE) for label, numbers in found.items()]
    tables.append(table("Occlusion", rows, HEADLINE, "acc@0.25"))
    numbers = {name: asker.numbers(name) for name in ("test", "dense", "far")}
    rows = [row(f"`{name}`", [one], HEADLINE) for name, one in numbers.items()]
    tables.append(table("Density and distance as splits", rows, HEADLINE, "acc@0.25"))
    noise = {s: asker.numbers("test", Condition("noise", s) if s else NONE) for s in (0.0, 0.05, 0.1, 0.2)}
    rows = [row(f"{100 * s:g} %", [one], HEADLINE, x=s) for s, one in noise.items()]
    tables.append(table("Error of K", rows, HEADLINE, "acc@0.25", xlabel="relative deviation of K"))

    fewer = max(place.pictures // 2, 1)
    clean = asker.numbers("test", pictures=fewer)
    corrupted = {
        family: {s: asker.numbers("test", Condition(family, s), pictures=fewer) for s in SEVERITIES}
        for family in FAMILIES
    }
    rows = [
        {
            "label": family.replace("_", " "),
            "numbers": {str(s): estimate([one])["acc@0.25"] for s, one in ({0: clean} | by_severity).items()},
        }
        for family, by_severity in corrupted.items()
    ]
    severities = [str(s) for s in (0, *SEVERITIES)]
    title = "acc@0.25 on corrupted images, by severity"
    tables.append(table(title, rows, severities, "columns", xlabel="severity", ylabel="acc@0.25 (%)"))
    expected = [
        expect(f"the split `{name}` is harder than `test`", "acc@0.25", [numbers["test"]], [numbers[name]], "less")
        for name in ("dense", "far")
    ]
    return {"tables": tables, "expected": expected}


# ------------------------------------------------------------------------------------------ the checkpoint


class Asker:
    """The checkpoint, asked under conditions; answers are kept by its weights' fingerprint."""

    def __init__(self, place: Place):
        self.place, self._grounder = place, None
        self.folder = place.out / "answers" / fingerprint(place.checkpoint)

    @property
    def grounder(self) -> Grounder:
        folder = self.place.checkpoint
        self._grounder = self._grounder or Grounder(load(folder), LLMI3DProcessor.from_pretrained(folder))
        return self._grounder

    def records(
        self, split: str, condition: Condition = NONE, sources: Sequence[str] = (), pictures: int | None = None
    ) -> list[Record]:
        """Answered grounding questions; `sources` of depth other than those it fuses by itself."""
        pictures = pictures or self.place.pictures
        kept = "+".join(sources) or "own"
        path = self.folder / split / f"{condition}-{kept}-{pictures}.jsonl"
        grounder = self.grounder
        config, names = grounder.model.config, ("regression", "height", "map")
        own = {name: getattr(config, f"depth_from_{name}") for name in names}
        for name in names if sources else ():
            setattr(config, f"depth_from_{name}", name in sources)
        try:
            return split_of(self.place.data, split, pictures).answered(grounder, path, condition)
        finally:
            for name, value in own.items():
                setattr(config, f"depth_from_{name}", value)

    def numbers(self, *args, **kwargs) -> Numbers:
        """Of all questions; arguments as of `records`."""
        return grounding(self.records(*args, **kwargs))["all"]
