# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Forms in words. Every template of a condition says the same thing, no more and no less.

Three wordings share one grammar: `PLAIN` repeats the data sets of the first release; `VARIED` has more templates, and
sentences around some of the phrases; `paraphrases.PARAPHRASE` has templates that neither has, to measure how a model
that was trained on them takes words that it never met.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from llmi3d.data.expressions.forms import ADJECTIVES
from llmi3d.data.expressions.nouns import plural, words

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True, eq=False)
class Wording:
    """Templates for the parts of a phrase.

    Attributes:
        ranks: for each rank the templates of the first and of a later one; {np} is the noun phrase so far, {n} an
            ordinal.
        places: for each third of the image.
        relations: {to} is the anchor's phrase.
        metres: {d} is a number.
        frames: sentences around a phrase {x}; {is}, {it} and {one} agree with its number.
        clauses: whether what follows the noun may be a clause, "the car that is on the left".
        late_adjectives: words for adjectives in such a clause, "the car that is red", "made of wood" for "wooden";
            None where they stand before the noun.
        ordinals: for the ranks.
        nouns: other nouns for a category, instead of its name.
        adjectives: other words for an attribute's value, instead of itself.
    """

    ranks: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    places: Mapping[str, tuple[str, ...]]
    relations: Mapping[str, tuple[str, ...]]
    metres: tuple[str, ...]
    frames: tuple[str, ...] = ()
    clauses: bool = False
    late_adjectives: Mapping[str, str] | None = None
    ordinals: tuple[str, ...] = ORDINALS
    nouns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    adjectives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


PLAIN = Wording(
    ranks={
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
    },
    places={
        "left": ("on the left", "in the left third of the picture", "on the left side"),
        "middle": ("in the middle", "in the middle third of the picture"),
        "right": ("on the right", "in the right third of the picture", "on the right side"),
    },
    relations={
        "left_of": ("left of {to}", "to the left of {to}"),
        "right_of": ("right of {to}", "to the right of {to}"),
        "nearer_than": ("nearer than {to}", "closer to the camera than {to}"),
        "farther_than": ("farther away than {to}", "farther from the camera than {to}"),
        "next_to": ("next to {to}", "beside {to}"),
        "above": ("above {to}",),
    },
    metres=("about {d} m away", "at a distance of about {d} m", "roughly {d} metres away"),
)


def _more(plain: Mapping[str, tuple], added: Mapping[str, tuple]) -> dict[str, tuple]:
    return {name: (*templates, *added.get(name, ())) for name, templates in plain.items()}


_MORE_RANKS = {
    "left": ("{np} furthest to the left",),
    "right": ("{np} furthest to the right",),
    "near": ("{np} nearest to the viewer", "{np} closest to the viewer"),
    "far": ("furthest {np}", "{np} farthest away", "{np} most distant from the camera"),
}
VARIED = Wording(
    ranks={name: ((*first, *_MORE_RANKS.get(name, ())), later) for name, (first, later) in PLAIN.ranks.items()},
    places=_more(
        PLAIN.places,
        {
            "left": ("at the left", "on the left side of the image"),
            "middle": ("in the center", "in the middle of the image"),
            "right": ("at the right", "on the right side of the image"),
        },
    ),
    relations=_more(
        PLAIN.relations,
        {
            "nearer_than": ("closer than {to}", "nearer to the camera than {to}"),
            "farther_than": ("more distant than {to}", "further away than {to}"),
            "next_to": ("adjacent to {to}",),
        },
    ),
    metres=(*PLAIN.metres, "around {d} m away", "approximately {d} m from the camera"),
    frames=(
        "Where {is} {x}?",
        "Find {x}.",
        "Show me {x}.",
        "Point to {x}.",
        "Please locate {x}.",
        "I am looking for {x}.",
        "Give me the 3D box of {x}.",
    ),
    clauses=True,
)
WORDINGS = {"plain": PLAIN, "varied": VARIED}

_VIEWER = re.compile(r"\b(?:to|from|between|and|far is) the camera\b")
_NUMBER = {False: {"is": "is", "it": "it", "one": "this one"}, True: {"is": "are", "it": "them", "one": "these"}}


def takes_camera_for_viewer(text: str, categories: Iterable[str]) -> bool:
    """Whether a text measures from "the camera" where the image shows one: nobody could tell which is meant."""
    return _VIEWER.search(text) is not None and any(words(name).endswith("camera") for name in categories)


def say(form: dict, draw: Random, several: bool = False, anchor: bool = False, wording: Wording = PLAIN) -> str:
    """Return a form as a noun phrase, "the second red car from the left".

    Args:
        form: see `forms`.
        draw: chooses among templates that mean the same.
        several: for a form that means two or more, "all red cars".
        anchor: the phrase stands inside another, so nothing may follow the noun that could belong to that.
        wording: templates.
    """
    adjectives, after, relations, rank = [], [], [], None
    for condition in form["conditions"]:
        kind = condition["is"]
        if kind == "attribute":
            adjectives.append((ADJECTIVES.index(condition["name"]), words(condition["value"])))
        elif kind == "place":
            after.append(draw.choice(wording.places[condition["third"]]))
        elif kind == "metres":
            after.append(draw.choice(wording.metres).format(d=f"{condition['about']:g}"))
        elif kind == "relation":
            template = draw.choice(wording.relations[condition["name"]])
            relations.append(template.format(to=say(condition["to"], draw, anchor=True, wording=wording)))
        else:
            rank = condition
    after += relations  # last, since what follows an anchor would belong to it
    before = [_other(adjective, wording.adjectives, draw) for _, adjective in sorted(adjectives)]
    clause = bool(after) and wording.clauses and draw.random() < 0.3
    if before and wording.late_adjectives is not None and not anchor:
        late = [wording.late_adjectives.get(adjective, adjective) for adjective in before]
        before, after, clause = [], [*late, *after], True
    noun = _other(words(form["category"]), wording.nouns, draw)
    phrase = " ".join([*before, plural(noun) if several else noun])
    if rank is not None:
        templates = wording.ranks[rank["by"]][rank["n"] > 1]
        # What follows the noun must not be taken to follow the rank: "the nearest car left of the bus".
        if after or anchor:
            templates = [template for template in templates if template.endswith("{np}")]
        phrase = draw.choice(templates).format(np=phrase, n=wording.ordinals[rank["n"] - 1])
    if clause:
        after = [f"that {_NUMBER[several]['is']}", " and ".join(after)]
    start = draw.choice(("all", "all the", "the")) if several else "the"
    return " ".join([start, phrase, *after])


def _other(word: str, others: Mapping[str, tuple[str, ...]], draw: Random) -> str:
    return draw.choice(others[word]) if word in others else word


def frame(phrase: str, draw: Random, several: bool = False, wording: Wording = VARIED) -> str:
    """Return a sentence that asks for a phrase: "Where is the red mug?"."""
    return draw.choice(wording.frames).format(x=phrase, **_NUMBER[several])


def unframe(question: str, wording: Wording = VARIED) -> str:
    """Return the phrase of a sentence that `frame` made; any other text as it is."""
    for template in wording.frames:
        for numbered in _NUMBER.values():
            before, after = template.format(x="\n", **numbered).split("\n")
            if question.startswith(before) and question.endswith(after):
                return question[len(before) : len(question) - len(after)]
    return question
