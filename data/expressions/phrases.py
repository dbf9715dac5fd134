# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Phrases of many kinds for the objects of a scene, kept only if their forms mean what they should."""

from itertools import combinations
from random import Random

from llmi3d.data.expressions.forms import RANKS, Checker, Referents, Thing, make_things
from llmi3d.data.expressions.nouns import UNCOUNTED, words
from llmi3d.data.expressions.wording import say, takes_camera_for_viewer

PHRASE_KINDS = (
    *("category", "attribute", "place", "ordinal", "nearest", "farthest", "size", "height", "left_right"),
    *("nearer_farther", "next_to", "above", "metres", "composed"),
)
# Limits of objects that get phrases, of anchors and of ranks; they bound the work in crowded scenes.
MOST_TARGETS, MOST_ANCHORS, MOST_RANK = 10, 6, 4
_RANK_KIND = {"left": "ordinal", "right": "ordinal", "near": "nearest", "far": "farthest", "large": "size"}
_RANK_KIND |= {"small": "size", "tall": "height", "short": "height"}
_RELATION_KIND = {"left_of": "left_right", "right_of": "left_right", "next_to": "next_to", "above": "above"}
_RELATION_KIND |= {"nearer_than": "nearer_farther", "farther_than": "nearer_farther"}


def phrases_for(scene: dict, image_size: tuple[int, int], seed: int = 0) -> list[dict]:
    """Return every phrase found that means one object.

    Args:
        scene: row; its conversation, if any, is not read.
        image_size: (width, height), pixels.
        seed: of the wording, and of the choice of objects in crowded scenes.

    Returns:
        List of {"phrase", "kind", "form", "objects" (one id)}.
    """
    draw = Random(f"{seed}/{scene['image_id']}")
    things = make_things(scene["objects"], scene["intrinsics"], image_size)
    found = [
        {"phrase": say(form, draw), "kind": kind, "form": form, "objects": [thing.id]}
        for thing, kind, form in unique_forms(things, draw)
    ]
    categories = [thing.category for thing in things]
    return [one for one in found if not takes_camera_for_viewer(one["phrase"], categories)]


def unique_forms(things: list[Thing], draw: Random) -> list[tuple[Thing, str, dict]]:
    """Return (object, kind, form) of every form found that means one object."""
    targets = [thing for thing in things if thing.askable]
    if len(targets) > MOST_TARGETS:
        targets = draw.sample(targets, MOST_TARGETS)
    meant = Checker(things)
    found, anchors = [], []
    for thing in targets:
        for kind, form in _simple_forms(thing, things):
            if meant(form).ids == (thing.id,):
                found.append((thing, kind, form))
                new = all(thing is not other for other, _ in anchors)
                if new and len(anchors) < MOST_ANCHORS and _can_be_anchor(form):
                    anchors.append((thing, form))
    for thing in targets:
        for kind, form in _compound_forms(thing, things, anchors, draw):
            if meant(form).ids == (thing.id,):
                found.append((thing, kind, form))
    return found


def several_forms(things: list[Thing]) -> list[tuple[str, dict, tuple[str, ...]]]:
    """Return (kind, form, ids) of forms that mean two or more objects."""
    meant, found = Checker(things), []
    for category in dict.fromkeys(thing.category for thing in things if thing.askable):
        if words(category) in UNCOUNTED:
            continue
        forms = [("category", _form(category))]
        forms += [("place", _form(category, _place(third))) for third in ("left", "middle", "right")]
        forms += [
            ("attribute", _form(category, {"is": "attribute", "name": name, "value": value}))
            for name, value in _attributes(things, category)
        ]
        for kind, form in forms:
            ids = meant(form).ids
            if len(ids) > 1:
                found.append((kind, form, ids))
    return found


def absent_forms(things: list[Thing], vocabulary: tuple[str, ...], draw: Random) -> list[tuple[str, dict]]:
    """Return (kind, form) of forms that mean nothing in the scene, of categories labelled wherever they are seen."""
    present = {words(thing.category) for thing in things}
    forms = [("category", _form(name)) for name in vocabulary if words(name) not in present]
    categories = list(dict.fromkeys(thing.category for thing in things if thing.askable))
    categories = [name for name in categories if name in vocabulary]
    for category in categories:
        forms += [("place", _form(category, _place(third))) for third in ("left", "middle", "right")]
        forms += [
            ("attribute", _form(category, {"is": "attribute", "name": name, "value": value}))
            for other in categories
            for name, value in _attributes(things, other)
        ]
    draw.shuffle(forms)
    nothing, meant = Referents((), True), Checker(things)
    return [(kind, form) for kind, form in forms if meant(form) == nothing]


def _simple_forms(thing: Thing, things: list[Thing]):
    alike = [other for other in things if other.category == thing.category]
    yield "category", _form(thing.category)
    for name, value in thing.attributes.items():
        yield "attribute", _form(thing.category, {"is": "attribute", "name": name, "value": value})
    if len(alike) > 1:
        third = "left" if thing.u < 1 / 3 else "middle" if thing.u < 2 / 3 else "right"
        yield "place", _form(thing.category, _place(third))
        for by in RANKS:
            for n in range(1, min(len(alike), MOST_RANK) + 1):
                # Nobody points with "the second smallest".
                if n == 1 or by in ("left", "right", "near"):
                    yield _RANK_KIND[by], _form(thing.category, {"is": "rank", "by": by, "n": n})
        yield "metres", _form(thing.category, {"is": "metres", "about": round_metres(thing.distance)})


def _compound_forms(thing: Thing, things: list[Thing], anchors: list[tuple[Thing, dict]], draw: Random):
    alike = sum(other.category == thing.category for other in things)
    for anchor, anchor_form in anchors:
        if anchor is thing or (alike < 2 and draw.random() < 0.7):
            continue
        for name, kind in _RELATION_KIND.items():
            relation = {"is": "relation", "name": name, "to": anchor_form}
            yield kind, _form(thing.category, relation)
            if alike > 2 and draw.random() < 0.3:
                by = draw.choice(("near", "far", "left", "right"))
                yield "composed", _form(thing.category, relation, {"is": "rank", "by": by, "n": 1})
    third = "left" if thing.u < 1 / 3 else "middle" if thing.u < 2 / 3 else "right"
    filters = [_place(third)]
    filters += [{"is": "attribute", "name": name, "value": value} for name, value in thing.attributes.items()]
    for condition in filters if alike > 2 else ():
        for by in ("near", "far", "large", "tall", "left", "right"):
            if condition["is"] == "place" and by in ("left", "right"):
                continue
            yield "composed", _form(thing.category, condition, {"is": "rank", "by": by, "n": 1})
    if alike > 1:
        for condition in filters[1:]:
            yield "composed", _form(thing.category, condition, filters[0])
        for pair in combinations(filters[1:], 2):
            yield "composed", _form(thing.category, *pair)


def _can_be_anchor(form: dict) -> bool:
    """Whether a form can be said with nothing after the noun."""
    return all(
        condition["is"] == "attribute"
        or (condition["is"] == "rank" and (condition["n"] == 1 or condition["by"] == "near"))
        for condition in form["conditions"]
    )


def round_metres(distance: float) -> float:
    """Round as one would say it: to whole metres, below 5 m to half metres."""
    return round(2 * distance) / 2 if distance < 5 else float(round(distance))


def _form(category: str, *conditions: dict) -> dict:
    return {"category": category, "conditions": list(conditions)}


def _place(third: str) -> dict:
    return {"is": "place", "third": third}


def _attributes(things: list[Thing], category: str) -> list[tuple[str, str]]:
    pairs = [pair for thing in things if thing.category == category for pair in thing.attributes.items()]
    return list(dict.fromkeys(pairs))
