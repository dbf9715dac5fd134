# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Questions that the boxes answer: distances, sizes, order, counts.

Distances are between box centres, or from the camera to one. Lengths below 1 m are said to the centimetre, others to
ten centimetres. A comparison is asked only if it is clear by the margins of `forms`.

The form of a question is {"question": kind, "of": [forms of what it is about], "answer": value, "unit": "m", "count"
or "choice"}, so that an answer can be scored without parsing words.
"""

import math
from random import Random

from llmi3d.data.expressions.forms import HEIGHT_RATIO, VOLUME_RATIO, X_MARGIN, Thing, distance_margin, referents
from llmi3d.data.expressions.nouns import UNCOUNTED, article, plural, words
from llmi3d.data.expressions.wording import PLAIN, Wording, say
from llmi3d.data.schema import Turn

_ASKED = {
    "distance": ("How far away is {x}?", "What is the distance from the camera to {x}?"),
    "separation": ("How far is {x} from {y}?", "What is the distance between {x} and {y}?"),
    "height": ("How tall is {x}?", "What is the height of {x}?"),
    "length": ("How long is {x}?", "What is the length of {x}?"),
    "width": ("How wide is {x}?", "What is the width of {x}?"),
    "farther_by": ("How much farther from the camera is {x} than {y}?",),
    "nearer": ("Which is nearer to the camera, {x} or {y}?", "What is closer to the camera: {x} or {y}?"),
    "larger": ("Which takes up more space, {x} or {y}?", "Which has the larger volume, {x} or {y}?"),
    "taller": ("Which is taller, {x} or {y}?",),
    "side": ("Is {x} left or right of {y}?", "On which side of {y} is {x}, left or right?"),
    "count": ("How many {c} are there?", "How many {c} can be seen?"),
    "existence": ("Is there {a} {c} in the picture?", "Can {a} {c} be seen?"),
}
QUESTION_KINDS = tuple(_ASKED)
# Conditions that state or decide the answer, by `is` or the rank's `by`; names of objects must not use them. Questions
# about two objects use no relation, whose anchor may be the other object.
_SIZES = {"large", "small", "tall", "short"}
_TELLING = {
    "distance": {"metres"},
    "separation": {"metres", "relation"},
    "farther_by": {"metres", "relation"},
    "nearer": {"metres", "near", "far", "relation"},
    "larger": _SIZES | {"relation"},
    "taller": _SIZES | {"relation"},
    "side": {"place", "left", "right", "relation"},
}


def say_metres(value: float) -> str:
    """Return a length in words: "0.45 m", "12.3 m"."""
    return f"{value:.2f} m" if value < 0.995 else f"{value:.1f} m"


def make_questions(
    things: list[Thing],
    unique: list[tuple[Thing, str, dict]],
    vocabulary: tuple[str, ...],
    draw: Random,
    most: int,
    counting: bool = True,
    wording: Wording = PLAIN,
) -> list[Turn]:
    """Return up to `most` questions of different kinds, as turns.

    Args:
        things: of the scene.
        unique: names of objects, from `phrases.unique_forms`.
        vocabulary: categories that may be asked for although absent.
        draw: makes all choices.
        most: maximum number of questions.
        counting: whether every visible object of a labelled category has a label.
        wording: templates of the names.
    """
    kinds = list(QUESTION_KINDS)
    draw.shuffle(kinds)
    made = []
    for kind in kinds:
        if len(made) >= most:
            break
        if kind == "count" and not counting:
            continue
        if kind in ("count", "existence"):
            question = _about_category(kind, things, vocabulary, draw)
        else:
            question = _about_objects(kind, unique, draw, wording)
        if question is not None:
            made.append(question)
    return made


def _about_category(kind: str, things: list[Thing], vocabulary: tuple[str, ...], draw: Random) -> Turn | None:
    present = list(dict.fromkeys(thing.category for thing in things if thing.askable))
    # Half of the questions about existence are about something absent.
    others = [name for name in vocabulary if name not in present]
    names = others if kind == "existence" and others and draw.random() < 0.5 else present
    names = [name for name in names if words(name) not in UNCOUNTED]
    if not names:
        return None
    name = draw.choice(names)
    form = {"category": name, "conditions": []}
    meant = referents(form, things)
    if not meant.decided:
        return None
    count = len(meant.ids)
    value = count if kind == "count" else ("yes" if count else "no")
    noun = plural(name) if kind == "count" else words(name)
    text = draw.choice(_ASKED[kind]).format(c=noun, a=article(noun))
    answer = str(count) if kind == "count" else f"{value.capitalize()}."
    return _made(kind, text, answer, [form], value, "count" if kind == "count" else "choice")


def _about_objects(kind: str, unique: list[tuple[Thing, str, dict]], draw: Random, wording: Wording) -> Turn | None:
    names = [(thing, form) for thing, _, form in unique if not _tells(form, _TELLING.get(kind, set()))]
    if not names:
        return None
    first, form = draw.choice(names)
    if kind in ("distance", "height", "length", "width"):
        length, height, width = first.size
        value = {"distance": first.distance, "height": height, "length": length, "width": width}[kind]
        text = draw.choice(_ASKED[kind]).format(x=say(form, draw, wording=wording))
        return _made(kind, text, say_metres(value), [form], value, "m")
    others = [(thing, other) for thing, other in names if thing is not first and _clear(kind, first, thing)]
    if not others:
        return None
    second, other = draw.choice(others)
    if kind == "farther_by" and first.distance < second.distance:
        first, second, form, other = second, first, other, form
    x, y = (say(named, draw, wording=wording) for named in (form, other))
    text = draw.choice(_ASKED[kind]).format(x=x, y=y)
    if kind in ("separation", "farther_by"):
        apart = math.dist(first.center, second.center)
        value = apart if kind == "separation" else first.distance - second.distance
        return _made(kind, text, say_metres(value), [form, other], value, "m")
    if kind == "side":
        value = "left" if first.u < second.u else "right"
        return _made(kind, text, f"{value.capitalize()}.", [form, other], value, "choice")
    key = {"nearer": lambda one: -one.distance, "larger": lambda one: one.volume, "taller": lambda one: one.size[1]}[
        kind
    ]
    value = x if key(first) > key(second) else y
    return _made(kind, text, f"{value[0].upper()}{value[1:]}.", [form, other], value, "choice")


def _clear(kind: str, a: Thing, b: Thing) -> bool:
    if kind in ("nearer", "farther_by"):
        return abs(a.distance - b.distance) > distance_margin(a.distance, b.distance)
    if kind == "side":
        return abs(a.u - b.u) > X_MARGIN
    if kind == "larger":
        return max(a.volume, b.volume) > VOLUME_RATIO * min(a.volume, b.volume)
    if kind == "taller":
        return max(a.size[1], b.size[1]) > HEIGHT_RATIO * min(a.size[1], b.size[1])
    return True


def _tells(form: dict, telling: set[str]) -> bool:
    return any(
        one.get("by", one["is"]) in telling or ("to" in one and _tells(one["to"], telling))
        for one in form["conditions"]
    )


def _made(kind: str, question: str, answer: str, of: list[dict], value, unit: str) -> Turn:
    form = {"question": kind, "of": of, "answer": value, "unit": unit}
    return Turn(question, answer, "vqa", meaning={"kind": kind, "form": form})
