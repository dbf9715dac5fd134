# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Expressions: every phrase of 2,000 random scenes before a referee that shares no code with the checker."""

import json
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from scene_referee import EYE, SIZE, VOCABULARY, K, jittered, random_scene, referee, visible

from llmi3d.training.ig3d.expressions import PHRASE_KINDS, make_conversation, phrases_for, rewrite_phrases
from llmi3d.training.ig3d.expressions.forms import RANKS, RELATIONS, make_things, referents
from llmi3d.training.ig3d.expressions.nouns import overlap, plural
from llmi3d.training.ig3d.expressions.wording import ORDINALS, say
from llmi3d.training.ig3d.schema import make_object, validate_row


@pytest.fixture(scope="module")
def conversations():
    found = []
    for seed in range(2000):
        scene = random_scene(seed)
        found.append((scene, make_conversation(scene, SIZE, seed=1, vocabulary=VOCABULARY)))
    return found


def test_no_phrase_of_2000_scenes_means_what_it_should_not(conversations):
    checked = Counter()
    draw = random.Random(0)
    for scene, talk in conversations:
        targets = iter(talk["targets"])
        worlds = (visible(scene["objects"]), jittered(visible(scene["objects"]), draw))
        answers = [message["content"] for message in talk["messages"][1::2]]
        for answer, task, meaning in zip(answers, talk["task"], talk["meanings"], strict=True):
            meant = {next(targets) for _ in range(answer.count("<box_3d>"))}
            if task == "vqa":
                continue
            for objects in worlds:
                assert referee(meaning["form"], objects) == meant, (scene["image_id"], meaning)
            assert len(meant) == 1 if task == "grounding" else len(meant) > 1 if task == "multi" else not meant
            assert not any(one["ignore"] for one in scene["objects"] if one["id"] in meant)
            checked[task] += 1
    assert checked["grounding"] > 4000 and checked["multi"] > 200 and checked["absent"] > 400


def test_every_kind_of_phrase_occurs(conversations):
    kinds = Counter(
        meaning["kind"]
        for _, talk in conversations
        for task, meaning in zip(talk["task"], talk["meanings"], strict=True)
        if task == "grounding"
    )
    assert len(PHRASE_KINDS) >= 12 and set(kinds) == set(PHRASE_KINDS)
    assert min(kinds.values()) >= 10, kinds


def test_conversations_are_valid_rows(conversations, photograph):
    for scene, talk in conversations[:300]:
        if talk["messages"]:
            K_of_photograph = [[250.0, 0.0, 160.0], [0.0, 250.0, 100.0], [0.0, 0.0, 1.0]]
            validate_row({"image": photograph, **scene, "intrinsics": K_of_photograph, **talk})


def test_words_say_what_the_form_says(conversations):
    """Numbers, sides and ranks stand in the words, and no others do."""
    for _, talk in conversations:
        questions = [message["content"] for message in talk["messages"][::2]]
        for question, task, meaning in zip(questions, talk["task"], talk["meanings"], strict=True):
            if task == "vqa":
                continue
            conditions = list(meaning["form"]["conditions"])
            for one in list(conditions):
                conditions += one.get("to", {}).get("conditions", [])
            sides = {side for side in ("left", "right") if side in question}
            wanted = {one.get("third") for one in conditions} | {one.get("by") for one in conditions}
            wanted |= {str(one.get("name")).removesuffix("_of") for one in conditions}
            assert sides == wanted & {"left", "right"}, question
            ranks = [one for one in conditions if one["is"] == "rank"]
            later = {ORDINALS[one["n"] - 1] for one in ranks if one["n"] > 1}
            words = question.replace("third of the picture", "")
            assert later == {word for word in ORDINALS[1:] if f" {word} " in words}, question
            assert [float(n) for n in re.findall(r"(\d+(?:\.\d+)?) m", question)] == [
                one["about"] for one in conditions if one["is"] == "metres"
            ]


def test_ties_are_not_called():
    def scene(*distances):
        return [make_object(str(i), "car", [0.3 * i, 0, z], [1, 1, 1], EYE, K) for i, z in enumerate(distances)]

    nearest = {"category": "car", "conditions": [{"is": "rank", "by": "near", "n": 1}]}
    assert referents(nearest, make_things(scene(10.0, 12.0), K, SIZE)).ids == ("0",)
    assert not referents(nearest, make_things(scene(10.0, 10.3), K, SIZE)).decided
    assert not referents(nearest, make_things(scene(10.0), K, SIZE)).decided  # the only one is no nearest


def test_an_ignored_object_makes_a_phrase_undecided():
    form = {"category": "car", "conditions": []}
    one = make_object("a", "car", [0, 0, 10], [1, 1, 1], EYE, K)
    other = make_object("b", "car", [1, 0, 10], [1, 1, 1], EYE, K, ignore=True)
    assert referents(form, make_things([one], K, SIZE)).ids == ("a",)
    assert not referents(form, make_things([one, other], K, SIZE)).decided
    van = {**other, "ignore": False, "category": "van"}
    assert not referents(form, make_things([one, van], K, SIZE)).decided  # some call it a car


def test_the_same_seed_gives_the_same_words_in_another_process():
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from scene_referee import SIZE, random_scene\n"
        "from llmi3d.training.ig3d.expressions import make_conversation\n"
        "print(json.dumps([make_conversation(random_scene(i), SIZE, seed=5) for i in range(20)]))"
    )
    here = [make_conversation(random_scene(i), SIZE, seed=5) for i in range(20)]
    folder = __file__.rsplit("/", 1)[0]
    there = subprocess.run(
        [sys.executable, "-c", code, folder], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True
    )
    assert json.loads(there.stdout) == here
    assert [make_conversation(random_scene(i), SIZE, seed=6) for i in range(20)] != here


def test_own_phrases_are_the_only_ones_asked():
    scene = random_scene(3)
    name = next(one["id"] for one in scene["objects"] if not one["ignore"])
    talk = make_conversation({**scene, "phrases": [{"phrase": "my thing", "objects": [name]}]}, SIZE)
    assert talk["messages"][0]["content"] == "<image>\nLocate my thing in 3D." and talk["targets"] == [name]
    assert talk["meanings"] == [{"kind": "given"}]
    with pytest.raises(ValueError, match=r"phrases\[0\]: got the objects \['nobody'\]"):
        make_conversation({**scene, "phrases": [{"phrase": "my thing", "objects": ["nobody"]}]}, SIZE)


def test_nothing_is_called_absent_where_labels_are_not_complete(conversations):
    for scene, _ in conversations[:200]:
        talk = make_conversation({**scene, "complete": False}, SIZE, vocabulary=VOCABULARY)
        kinds = {
            meaning["kind"] for task, meaning in zip(talk["task"], talk["meanings"], strict=True) if task == "vqa"
        }
        assert "absent" not in talk["task"] and "count" not in kinds


def test_phrases_for_every_object():
    scene = random_scene(12)
    found = phrases_for(scene, SIZE)
    assert found == phrases_for(scene, SIZE) and {one["kind"] for one in found} <= set(PHRASE_KINDS)
    assert all(referee(one["form"], visible(scene["objects"])) == set(one["objects"]) for one in found)


def test_plurals_and_overlaps():
    assert [plural(name) for name in ("traffic_cone", "box", "person", "bookshelf", "battery", "bus")] == [
        "traffic cones", "boxes", "people", "bookshelves", "batteries", "buses"
    ]  # fmt: skip
    assert overlap("office_chair", "chair") and overlap("van", "car") and not overlap("chair", "chair")
    assert not overlap("car", "chair")


def test_unknown_forms_are_refused():
    things = make_things([make_object("a", "car", [0, 0, 5], [1, 1, 1], EYE, K)], K, SIZE)
    assert set(RANKS) >= {"near"} and set(RELATIONS) >= {"above"}
    for condition in ({"is": "colour"}, {"is": "rank", "by": "age", "n": 1}, {"is": "rank", "by": "near", "n": 0}):
        with pytest.raises(ValueError, match="form: got"):
            referents({"category": "car", "conditions": [condition]}, things)


# ----------------------------------------------------------------------------------------------------------- captioner


def rewrite(row, answer):
    def captioner(text, max_new_tokens, return_full_text):
        assert text[0]["content"][0]["type"] == "image" and not return_full_text
        return [{"generated_text": answer}]

    return rewrite_phrases([{**row, "meanings": [{"kind": "category"}, {"kind": "category"}]}], captioner)[0]


def test_captioner_changes_words_alone(row):
    new = rewrite(row, '"the parked vehicle".')
    assert new["messages"][0]["content"] == "<image>\nLocate the parked vehicle in 3D."
    assert new["messages"][2]["content"] == "Locate the parked vehicle in 3D."
    assert new["meanings"] == [{"kind": "category", "rewritten": True}] * 2
    assert new["targets"] == row["targets"] and new["task"] == row["task"]
    validate_row(new)


@pytest.mark.parametrize("answer", ["", "a\nb", "<box_3d> car", "the second car", "the car 3 m away", "x" * 300])
def test_captioner_that_fails_changes_nothing(row, answer):
    assert rewrite(row, answer)["messages"] == row["messages"]


def test_say_is_one_of_few_wordings():
    form = {"category": "car", "conditions": [{"is": "rank", "by": "near", "n": 2}]}
    assert {say(form, random.Random(i)) for i in range(20)} == {"the second nearest car", "the second closest car"}
