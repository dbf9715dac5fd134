# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Questions: every answer of many random scenes recomputed from the boxes."""

import math
import re
from collections import Counter

import pytest
from scene_referee import SIZE, VOCABULARY, moved, random_scene, referee, seen, visible

from llmi3d.data.expressions import QUESTION_KINDS, make_conversation


@pytest.fixture(scope="module")
def questions():
    """(objects, question, answer, form)"""
    found = []
    for seed in range(700):
        scene = random_scene(seed)
        for turn in make_conversation(scene, SIZE, seed=2, vocabulary=VOCABULARY):
            if turn.task == "vqa":
                found.append((visible(scene["objects"]), turn.question, turn.answer, turn.meaning["form"]))
    return found


def test_every_kind_occurs(questions):
    kinds = Counter(form["question"] for *_, form in questions)
    assert len(QUESTION_KINDS) >= 8 and set(kinds) == set(QUESTION_KINDS)
    assert min(kinds.values()) >= 5, kinds


def test_lengths_are_those_of_the_boxes(questions):
    checked = 0
    for objects, _, answer, form in questions:
        if form["unit"] != "m":
            continue
        things = [next(one for one in objects if {one["id"]} == referee(named, objects)) for named in form["of"]]
        first, last = things[0], things[-1]
        want = {
            "distance": seen(first)[3],
            "length": first["size"][0],
            "height": first["size"][1],
            "width": first["size"][2],
            "separation": math.dist(first["center"], last["center"]),
            "farther_by": seen(first)[3] - seen(last)[3],
        }[form["question"]]
        assert form["answer"] == pytest.approx(want) and answer.endswith(" m")
        assert float(answer.removesuffix(" m")) == pytest.approx(want, abs=0.0051 if want < 0.99 else 0.051)
        checked += 1
    assert checked > 300


def test_choices_are_right_and_clear(questions):
    checked = Counter()
    for objects, question, answer, form in questions:
        kind = form["question"]
        if kind not in ("nearer", "larger", "taller", "side"):
            continue
        first, second = (next(o for o in objects if {o["id"]} == referee(named, objects)) for named in form["of"])
        value = {
            "nearer": lambda one: -seen(one)[3],
            "larger": lambda one: one["size"][0] * one["size"][1] * one["size"][2],
            "taller": lambda one: one["size"][1],
            "side": lambda one: -seen(one)[1],
        }[kind]
        said = answer.rstrip(".").lower()
        if kind == "side":
            assert said == ("left" if value(first) > value(second) else "right")
        else:
            places = question.lower().find(said), question.lower().rfind(said)
            assert min(places) > 0, question
            # The winner stands before "or" where it is the first, behind it where it is the second.
            assert (question.lower().find(f"{said} or ") > 0) == (value(first) > value(second)), question
        assert abs(value(first) - value(second)) > 0.01
        checked[kind] += 1
    assert min(checked.values()) > 10 and len(checked) == 4


def test_counts_and_existence(questions):
    for objects, _, answer, form in questions:
        if form["question"] == "count":
            assert int(answer) == form["answer"] == len(referee(form["of"][0], objects)) > 0
        if form["question"] == "existence":
            assert answer == ("Yes." if referee(form["of"][0], objects) else "No.")


def other_world(one, kind):
    """The same object where the answer to a question of this kind is another: mirrored, in another order, larger."""
    (x, y, z), size = one["center"], one["size"]
    if kind == "side":
        return moved(one, [-x, y, z], size)
    if kind == "nearer":
        scale = 100 / (x * x + y * y + z * z)
        return moved(one, [x * scale, y * scale, z * scale], size)
    if kind in ("larger", "taller"):
        return moved(one, [x, y, z], [1 / value for value in size])
    return moved(one, [3 * x, 3 * y, 3 * z], [3 * value for value in size])


def test_names_do_not_decide_the_answer(questions):
    """Where the boxes are changed so that the answer is another, each name still means the same object."""
    checked = Counter()
    for objects, question, _, form in questions:
        kind = form["question"]
        if kind not in ("count", "existence", "height", "length", "width"):  # no name says how long a thing is
            changed = [other_world(one, kind) for one in objects]
            for named in form["of"]:
                assert referee(named, changed) == referee(named, objects) is not None, question
            checked[kind] += 1
    assert len(checked) == 7 and min(checked.values()) > 20, checked


def test_words_do_not_state_the_answer(questions):
    asking = r"left or right( of)?|on which side of|(nearer|closer) to the camera|takes up more space|larger volume"
    size = r"larg|big|small|tallest|short"
    stating = {
        "side": r"left|right|middle|side",
        "nearer": r"near|clos|far(?!thest to the)|distant|metre|\d",
        **{"larger": size, "taller": size},
        **{"distance": r"\d|metre", "separation": r"\d|metre", "farther_by": r"\d|metre"},
    }
    for _, question, _, form in questions:
        if form["question"] in stating:
            rest = re.sub(asking, "", question.lower())
            assert not re.search(stating[form["question"]], rest), question
