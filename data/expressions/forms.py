# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Logical forms of phrases, and the objects of a scene that they mean.

A form is a JSON mapping {"category": name, "conditions": [...]}. Each condition is a mapping with the key "is":

    {"is": "attribute", "name": "color", "value": "red"}       of ADJECTIVES; others are rarely visible
    {"is": "place", "third": "left" | "middle" | "right"}       third of the image width with the box's centre;
        some say "on the left" of the whole half, so between the third and the half it is too close to call
    {"is": "metres", "about": 20.0}                             distance of the box's centre from the camera
    {"is": "relation", "name": ..., "to": form}                 with `to` meaning one object, the anchor:
        left_of, right_of        the centre is further left or right in the image
        nearer_than, farther_than   the centre is nearer to or farther from the camera
        next_to                  the centres are no farther apart than half the sum of the two boxes' diagonals
        above                    the centre is higher in the image, within the anchor's width
    {"is": "rank", "by": ..., "n": 1}                           the n-th among those that all other conditions leave:
        left, right              counted from that side of the image
        near, far                by distance from the camera
        large, small             by volume
        tall, short              by height

Everything is seen from the camera. A rank comes last and alone. An object satisfies a condition, does not, or is too
close to call: within a margin of the threshold. A form is decided only if no object that matters is too close to call.

Ignored and hardly visible objects are never meant and never anchors. A listener may still see them, so they are too
close to call unless they clearly fail a condition. The same holds for objects of a category that overlaps with the
named one. An object that reaches into the image from behind the camera can fail only category and attributes, since
the image does not show where its centre is.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from llmi3d.data.expressions.nouns import overlap, words
from llmi3d.processing.geometry_llmi3d import project

# Margins within which it is too close to call: annotations and people's eyes are off by some centimetres and pixels.
X_MARGIN = 0.03  # share of the image width, between centres or to a third's edge
Y_MARGIN = 0.05  # share of the image height
DISTANCE_MARGIN = (0.05, 0.05)  # share of the larger distance, and metres
VOLUME_RATIO, HEIGHT_RATIO = 1.3, 1.1
# "About" means within a tenth or 0.25 m: (share, metres) up to which an object clearly satisfies it, and from which it
# clearly does not.
METRES = ((0.07, 0.18), (0.2, 0.5))
NEXT_TO = (0.9, 1.5)  # in half sums of diagonals: up to which it clearly is, and from which it clearly is not
# Objects that are less visible, or more truncated, are not asked for.
LEAST_VISIBILITY, MOST_TRUNCATION = 0.1, 0.7

# Visible attributes that a phrase can put before the noun, in English order.
ADJECTIVES = ("color", "colour", "pattern", "material")
YES, MAYBE, NO = 2, 1, 0
RELATIONS = ("left_of", "right_of", "nearer_than", "farther_than", "next_to", "above")
RANKS = ("left", "right", "near", "far", "large", "small", "tall", "short")
# Descending rank -> the ascending rank of the same quantity.
_UPWARD = {"right": "left", "far": "near", "large": "small", "tall": "short"}


@dataclass(frozen=True)
class Thing:
    """An object as the forms see it: u, v are its projected centre in shares of the image; lengths are metres.

    u, v are nan if the centre is not in front of the camera.
    """

    id: str
    category: str
    attributes: dict[str, str]
    askable: bool
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    distance: float
    u: float
    v: float
    left: float
    right: float

    @property
    def behind(self) -> bool:
        return self.center[2] <= 0

    @property
    def volume(self) -> float:
        return math.prod(self.size)

    @property
    def diagonal(self) -> float:
        return math.hypot(*self.size)


@dataclass(frozen=True)
class Referents:
    """The objects that a form means.

    Attributes:
        ids: in the scene's order.
        decided: false if something is too close to call; `ids` is then meaningless.
    """

    ids: tuple[str, ...]
    decided: bool


UNDECIDED = Referents((), False)


def make_things(objects: list[dict], intrinsics, image_size: tuple[int, int]) -> list[Thing]:
    """Return the objects of a row that are at least partly in the image.

    Args:
        objects: as in a row.
        intrinsics: [3, 3], pixels.
        image_size: (width, height), pixels.
    """
    width, height = image_size
    seen = [entry for entry in objects if entry.get("box_2d") is not None]
    if not seen:
        return []
    centers = torch.tensor([entry["center"] for entry in seen], dtype=torch.float64)
    points = project(centers, torch.as_tensor(intrinsics, dtype=torch.float64)).tolist()
    things = []
    for entry, (x, y) in zip(seen, points, strict=True):
        left, top, right, bottom = entry["box_2d"]
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            continue
        if entry["center"][2] <= 0:  # its projection means nothing
            x = y = math.nan
        visibility, truncation = entry.get("visibility"), entry.get("truncation")
        askable = (
            not entry["ignore"]
            and 0 <= x < width
            and 0 <= y < height
            and (visibility is None or visibility >= LEAST_VISIBILITY)
            and (truncation is None or truncation <= MOST_TRUNCATION)
        )
        things.append(
            Thing(
                id=entry["id"],
                category=entry["category"],
                attributes={name: value for name, value in entry["attributes"].items() if name in ADJECTIVES},
                askable=askable,
                center=tuple(entry["center"]),
                size=tuple(entry["size"]),
                distance=math.hypot(*entry["center"]),
                u=x / width,
                v=y / height,
                left=left / width,
                right=right / width,
            )
        )
    return things


def referents(form: dict, things: list[Thing]) -> Referents:
    """Return the objects that a form means among `things` (`make_things`); for many forms of a scene use `Checker`.

    Raises:
        ValueError: an invalid form.
    """
    return Checker(things)(form)


class Checker:
    """Finds what forms mean in one scene: `checker(form)` is as `referents`.

    Hundreds of forms share a few conditions, so each condition is checked against the objects only once. Sets of
    objects are the bits of an integer, the first object being the lowest bit.

    Args:
        things: of the scene (`make_things`).
    """

    def __init__(self, things: list[Thing]):
        self.things = things
        self._index = {thing.id: i for i, thing in enumerate(things)}
        self._askable = sum(thing.askable << i for i, thing in enumerate(things))
        self._held, self._orders = {}, {}

    def __call__(self, form: dict) -> Referents:
        filters, rank = form["conditions"], None
        if filters and filters[-1]["is"] == "rank":
            filters, rank = filters[:-1], filters[-1]
        if any(condition["is"] == "rank" for condition in filters):
            raise ValueError(f"form: got the conditions {form['conditions']}, want at most one rank, at the end.")
        category = form["category"]
        clear, possible = self._hold(category, lambda thing: _of_category(thing, category))
        for condition in filters:
            if condition["is"] == "relation":
                meant = self(condition["to"])
                if not meant.decided or len(meant.ids) != 1:
                    return UNDECIDED
                name = condition["name"]
                key, holds = (name, meant.ids), self._relation(name, meant.ids[0])
            else:
                key, holds = frozenset(condition.items()), partial(_holds, condition=condition)
            also_clear, also_possible = self._hold(key, holds)
            clear, possible = clear & also_clear, possible & also_possible
        # An object that may be meant leaves the form undecided, as does one that is clearly meant but never asked for.
        if clear & self._askable != possible:
            return UNDECIDED
        return self._rank(clear, rank) if rank else Referents(tuple(thing.id for thing in self._of(clear)), True)

    def _hold(self, key: Hashable, holds: Callable[[Thing], int]) -> tuple[int, int]:
        """Return the objects that satisfy a condition, and those that do not clearly fail it."""
        if key not in self._held:
            clear = possible = 0
            for i, thing in enumerate(self.things):
                value = holds(thing)
                clear |= (value == YES) << i
                possible |= (value != NO) << i
            self._held[key] = clear, possible
        return self._held[key]

    def _relation(self, name: str, anchor_id: str) -> Callable[[Thing], int]:
        anchor = self.things[self._index[anchor_id]]
        return lambda thing: NO if thing is anchor else MAYBE if thing.behind else _related(thing, name, anchor)

    def _of(self, chosen: int) -> list[Thing]:
        return [thing for i, thing in enumerate(self.things) if chosen >> i & 1]

    def _rank(self, chosen: int, rank: dict) -> Referents:
        by, n = rank["by"], rank["n"]
        if by not in RANKS or not isinstance(n, int) or n < 1:
            raise ValueError(f"form: got the rank {rank}, want by one of {', '.join(RANKS)} and n from 1.")
        if (by, chosen) not in self._orders:
            self._orders[by, chosen] = _order(self._of(chosen), by)
        ids, clear = self._orders[by, chosen]
        if len(ids) < max(2, n):
            # "The nearest car" is odd if there is only one.
            return UNDECIDED if ids else Referents((), True)
        # The order must be clear up to the n-th and the one after it.
        return Referents((ids[n - 1],), True) if clear >= min(n, len(ids) - 1) else UNDECIDED


def _of_category(thing: Thing, category: str) -> int:
    if words(thing.category) == words(category):
        return YES
    return MAYBE if overlap(thing.category, category) else NO


def _holds(thing: Thing, condition: dict) -> int:
    kind = condition["is"]
    if kind == "attribute":
        value = thing.attributes.get(condition["name"])
        # Not annotated, so the object may have it.
        return MAYBE if value is None else YES if value == condition["value"] else NO
    if thing.behind and kind in ("place", "metres"):
        return MAYBE
    if kind == "place":
        if condition["third"] == "middle":
            return _between(min(thing.u - 1 / 3, 2 / 3 - thing.u), X_MARGIN)
        inwards = {"left": thing.u, "right": 1 - thing.u}[condition["third"]]
        return YES if inwards < 1 / 3 - X_MARGIN else NO if inwards > 1 / 2 + X_MARGIN else MAYBE
    if kind == "metres":
        off, about = abs(thing.distance - condition["about"]), condition["about"]
        (share, metres), (no_share, no_metres) = METRES
        if off <= max(share * about, metres):
            return YES
        return NO if off >= max(no_share * about, no_metres) else MAYBE
    raise ValueError(f"form: got the condition {condition}, want one of attribute, place, metres, relation, rank.")


def _related(thing: Thing, name: str, anchor: Thing) -> int:
    if name in ("left_of", "right_of"):
        further = anchor.u - thing.u if name == "left_of" else thing.u - anchor.u
        return _between(further, X_MARGIN)
    if name in ("nearer_than", "farther_than"):
        further = anchor.distance - thing.distance if name == "nearer_than" else thing.distance - anchor.distance
        return _between(further, distance_margin(anchor.distance, thing.distance))
    if name == "next_to":
        apart = math.dist(thing.center, anchor.center) / ((thing.diagonal + anchor.diagonal) / 2)
        return YES if apart <= NEXT_TO[0] else NO if apart >= NEXT_TO[1] else MAYBE
    if name == "above":
        higher = _between(anchor.v - thing.v, Y_MARGIN)
        over = _between(min(thing.u - anchor.left, anchor.right - thing.u), X_MARGIN / 2)
        return min(higher, over)
    raise ValueError(f"form: got the relation {name!r}, want one of {', '.join(RELATIONS)}.")


def _order(things: list[Thing], by: str) -> tuple[list[str], int]:
    """Return ids in a rank's order, and how many neighbours from the first on are clearly ordered."""
    value, apart = {
        "left": (lambda thing: thing.u, lambda a, b: b - a > X_MARGIN),
        "near": (lambda thing: thing.distance, lambda a, b: b - a > distance_margin(a, b)),
        "small": (lambda thing: thing.volume, lambda a, b: b > a * VOLUME_RATIO),
        "short": (lambda thing: thing.size[1], lambda a, b: b > a * HEIGHT_RATIO),
    }[_UPWARD.get(by, by)]
    ordered = sorted(things, key=value, reverse=by in _UPWARD)
    values = [value(thing) for thing in ordered]
    unclear = (i for i, pair in enumerate(pairwise(values)) if not apart(min(pair), max(pair)))
    return [thing.id for thing in ordered], next(unclear, len(ordered))


def distance_margin(a: float, b: float) -> float:
    """Return the metres within which two distances count as equal."""
    return DISTANCE_MARGIN[0] * max(a, b) + DISTANCE_MARGIN[1]


def _between(value: float, margin: float) -> int:
    return YES if value > margin else NO if value < -margin else MAYBE
