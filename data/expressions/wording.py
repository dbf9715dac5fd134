# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Forms in words. Every template of a condition says the same thing, no more and no less."""

import re
from random import Random

from llmi3d.data.expressions.forms import ADJECTIVES, Thing
from llmi3d.data.expressions.nouns import plural, words

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
# {np} is the noun phrase so far, {n} an ordinal; the first list is for n = 1.
_RANKS = {
    "left": (("leftmost {np}", "{np} farthest to the left"), ("{n} {np} from the left",)),
    "right": (("rightmost {np}", "{np} farthest to the right"), ("{n} {np} from the right",)),
    "near": (
        ("nearest {np}", "closest {np}", "{np} nearest to the camera", "{np} closest to the camera"),
        ("{n} nearest {np}", "{n} closest {np}"),
    ),
    "far": (("farthest {np}", "most distant {np}", "{np} farthest from the camera"), ()),
    "large": (("largest {np}", "biggest {np}"), ()),
    "small": (("smallest {np}",), ()),
    "tall": (("tallest {np}",), ()),
    "short": (("shortest {np}", "least tall {np}"), ()),
}
_PLACES = {
    "left": ("on the left", "in the left third of the picture", "on the left side"),
    "middle": ("in the middle", "in the middle third of the picture"),
    "right": ("on the right", "in the right third of the picture", "on the right side"),
}
_RELATIONS = {
    "left_of": ("left of {to}", "to the left of {to}"),
    "right_of": ("right of {to}", "to the right of {to}"),
    "nearer_than": ("nearer than {to}", "closer to the camera than {to}"),
    "farther_than": ("farther away than {to}", "farther from the camera than {to}"),
    "next_to": ("next to {to}", "beside {to}"),
    "above": ("above {to}",),
}
_METRES = ("about {d} m away", "at a distance of about {d} m", "roughly {d} metres away")

_VIEWER = re.compile(r"\b(?:to|from|between|and|far is) the camera\b")


def takes_camera_for_viewer(text: str, things: list[Thing]) -> bool:
    """Whether a text measures from "the camera" where the picture shows one: nobody could tell which is meant."""
    return _VIEWER.search(text) is not None and any(words(one.category).endswith("camera") for one in things)


def say(form: dict, draw: Random, several: bool = False, anchor: bool = False) -> str:
    """A form as a noun phrase, "the second red car from the left".

    Args:
        form: see `forms`.
        draw: chooses among wordings that mean the same.
        several: for a form that means two or more, "all red cars".
        anchor: the phrase stands inside another, so nothing may follow the noun that could belong to that.
    """
    adjectives, behind, rank = [], [], None
    for condition in form["conditions"]:
        kind = condition["is"]
        if kind == "attribute":
            adjectives.append((ADJECTIVES.index(condition["name"]), words(condition["value"])))
        elif kind == "place":
            behind.append(draw.choice(_PLACES[condition["third"]]))
        elif kind == "metres":
            behind.append(draw.choice(_METRES).format(d=f"{condition['about']:g}"))
        elif kind == "relation":
            behind.append(
                draw.choice(_RELATIONS[condition["name"]]).format(to=say(condition["to"], draw, anchor=True))
            )
        else:
            rank = condition
    noun = plural(form["category"]) if several else words(form["category"])
    phrase = " ".join([*(word for _, word in sorted(adjectives)), noun])
    if rank is not None:
        first, later = _RANKS[rank["by"]]
        if (
            behind or anchor
        ):  # what follows the noun must not be taken to follow the rank: "the nearest car left of the bus"
            first = [template for template in first if template.endswith("{np}")]
        template = draw.choice(first if rank["n"] == 1 else later)
        phrase = template.format(np=phrase, n=ORDINALS[rank["n"] - 1])
    # A relation comes last: what followed it would belong to its anchor.
    behind.sort(key=lambda part: any(part.startswith(t.split(" {")[0]) for ts in _RELATIONS.values() for t in ts))
    start = draw.choice(("all", "all the", "the")) if several else "the"
    return " ".join([start, phrase, *behind])
