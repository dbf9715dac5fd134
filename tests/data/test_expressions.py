# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Expressions: every phrase of 2,000 random scenes before a referee that shares no code with the checker."""

import json
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from scene_referee import EYE, SIZE, VOCABULARY, K, jittered, random_scene, referee, visible

from llmi3d.data.expressions import PHRASE_KINDS, make_conversation, phrases_for, rewrite_phrases
from llmi3d.data.expressions.forms import RANKS, RELATIONS, Checker, make_things, referents
from llmi3d.data.expressions.nouns import SYNONYMS, article, overlap, plural
from llmi3d.data.expressions.rewrite import same_meaning
from llmi3d.data.expressions.scene_conversation import REFUSALS
from llmi3d.data.expressions.wording import ORDINALS, WORDINGS, say
from llmi3d.data.schema import Turn, make_object, turns_of, validate_row, with_turns

RED = {"is": "attribute", "name": "color", "value": "red"}


def form(category, *conditions):
    return {"category": category, "conditions": list(conditions)}


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
        worlds = (visible(scene["objects"]), jittered(visible(scene["objects"]), draw))
        for turn in talk:
            if turn.task == "vqa":
                continue
            meant = set(turn.targets)
            for objects in worlds:
                assert referee(turn.meaning["form"], objects) == meant, (scene["image_id"], turn)
            assert {"grounding": len(meant) == 1, "multi": len(meant) > 1, "absent": not meant}[turn.task]
            assert not any(one["ignore"] for one in scene["objects"] if one["id"] in meant)
            checked[turn.task] += 1
    assert checked["grounding"] > 4000 and checked["multi"] > 200 and checked["absent"] > 400


def test_every_kind_of_phrase_occurs(conversations):
    kinds = Counter(turn.meaning["kind"] for _, talk in conversations for turn in talk if turn.task == "grounding")
    assert len(PHRASE_KINDS) >= 12 and set(kinds) == set(PHRASE_KINDS)
    assert min(kinds.values()) >= 10, kinds


def test_conversations_are_valid_rows(conversations, photograph):
    for scene, talk in conversations[:300]:
        if talk:
            K_of_photograph = [[250.0, 0.0, 160.0], [0.0, 250.0, 100.0], [0.0, 0.0, 1.0]]
            validate_row(with_turns({"image": photograph, **scene, "intrinsics": K_of_photograph}, talk))


def test_words_say_what_the_form_says(conversations):
    """Numbers, sides and ranks stand in the words, and no others do."""
    for _, talk in conversations:
        for turn in talk:
            if turn.task == "vqa":
                continue
            question, conditions = turn.question, list(turn.meaning["form"]["conditions"])
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

    nearest = form("car", {"is": "rank", "by": "near", "n": 1})
    assert referents(nearest, make_things(scene(10.0, 12.0), K, SIZE)).ids == ("0",)
    assert not referents(nearest, make_things(scene(10.0, 10.3), K, SIZE)).decided
    assert not referents(nearest, make_things(scene(10.0), K, SIZE)).decided  # the only one is no nearest


def test_an_ignored_object_makes_a_phrase_undecided():
    one = make_object("a", "car", [0, 0, 10], [1, 1, 1], EYE, K)
    other = make_object("b", "car", [1, 0, 10], [1, 1, 1], EYE, K, ignore=True)
    assert referents(form("car"), make_things([one], K, SIZE)).ids == ("a",)
    assert not referents(form("car"), make_things([one, other], K, SIZE)).decided
    van = {**other, "ignore": False, "category": "van"}
    assert not referents(form("car"), make_things([one, van], K, SIZE)).decided  # some call it a car


def test_an_object_that_reaches_in_from_behind_is_seen_but_not_asked_for():
    ahead = make_object("a", "car", [0, 0, 10], [1, 1, 1], EYE, K, attributes={"color": "red"})
    truck = make_object("t", "truck", [3, 0, 12], [1, 1, 1], EYE, K)
    beside = make_object("b", "car", [1, 0, -0.5], [1, 1, 6], EYE, K, attributes={"color": "blue"})
    assert beside["box_2d"][0] < SIZE[0]
    checker = Checker(make_things([ahead, truck, beside], K, SIZE))
    assert checker(form("truck")).ids == ("t",) and checker(form("car", RED)).ids == ("a",)
    to_truck = {"is": "relation", "to": form("truck")}
    for conditions in (
        *([], [{**RED, "value": "blue"}], [{"is": "metres", "about": 10.0}], [{"is": "rank", "by": "near", "n": 1}]),
        *([{"is": "place", "third": third}] for third in ("left", "middle", "right")),
        *([{**to_truck, "name": name}] for name in RELATIONS),
    ):
        assert not checker(form("car", *conditions)).decided, conditions
    wholly_behind = make_object("c", "car", [1, 0, -5], [1, 1, 1], EYE, K)
    assert wholly_behind["box_2d"] is None
    assert referents(form("car"), make_things([ahead, truck, wholly_behind], K, SIZE)).ids == ("a",)


@pytest.mark.parametrize(
    ("u", "want"),
    [
        (0.2, {"left": ("a",), "middle": (), "right": ()}),
        (0.34, {"left": None, "middle": None, "right": ()}),
        (0.42, {"left": None, "middle": ("a",), "right": ()}),
        (0.5, {"left": None, "middle": ("a",), "right": None}),
        (0.58, {"left": (), "middle": ("a",), "right": None}),
        (0.8, {"left": (), "middle": (), "right": ("a",)}),
    ],
)
def test_on_the_left_is_said_only_where_the_third_and_the_half_agree(u, want):
    z = 10.0
    things = make_things([make_object("a", "car", [(u - 0.5) * 640 / 500 * z, 0, z], [1, 1, 1], EYE, K)], K, SIZE)
    found = {third: referents(form("car", {"is": "place", "third": third}), things) for third in want}
    assert {third: one.ids if one.decided else None for third, one in found.items()} == want


@pytest.mark.slow  # imports everything once more; test_build compares the words of several processes as well
def test_the_same_seed_gives_the_same_words_in_another_process():
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from scene_referee import SIZE, random_scene\n"
        "from llmi3d.data.expressions import make_conversation\n"
        "print(json.dumps([str(make_conversation(random_scene(i), SIZE, seed=5)) for i in range(20)]))"
    )
    here = [str(make_conversation(random_scene(i), SIZE, seed=5)) for i in range(20)]
    folder = __file__.rsplit("/", 1)[0]
    there = subprocess.run(
        [sys.executable, "-c", code, folder], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True
    )
    assert json.loads(there.stdout) == here


def test_another_seed_asks_otherwise():
    talks = [[make_conversation(random_scene(i), SIZE, seed=seed) for i in range(20)] for seed in (5, 5, 6)]
    assert talks[0] == talks[1] != talks[2]


def test_own_phrases_are_the_only_ones_asked():
    scene = random_scene(3)
    name = next(one["id"] for one in scene["objects"] if not one["ignore"])
    talk = make_conversation({**scene, "phrases": [{"phrase": "my thing", "objects": [name]}]}, SIZE)
    assert talk == [Turn("Locate my thing in 3D.", "<box_3d>", "grounding", (name,), {"kind": "given"})]
    with pytest.raises(ValueError, match=r"phrases\[0\]: got the objects \['nobody'\]"):
        make_conversation({**scene, "phrases": [{"phrase": "my thing", "objects": ["nobody"]}]}, SIZE)


def test_own_phrases_without_objects_are_refused():
    (turn,) = make_conversation({**random_scene(3), "phrases": [{"phrase": "my dog", "objects": []}]}, SIZE)
    assert turn.answer in REFUSALS and turn.task == "absent" and not turn.targets


def test_nothing_is_called_absent_where_labels_are_not_complete(conversations):
    for scene, _ in conversations[:200]:
        talk = make_conversation({**scene, "complete": False}, SIZE, vocabulary=VOCABULARY)
        assert not any(turn.task == "absent" or turn.meaning["kind"] == "count" for turn in talk)


def test_phrases_for_every_object():
    scene = random_scene(12)
    found = phrases_for(scene, SIZE)
    assert found == phrases_for(scene, SIZE) and {one["kind"] for one in found} <= set(PHRASE_KINDS)
    assert all(referee(one["form"], visible(scene["objects"])) == set(one["objects"]) for one in found)


def test_plurals_and_overlaps():
    assert [plural(name) for name in ("traffic_cone", "box", "person", "bookshelf", "battery", "bus")] == [
        "traffic cones", "boxes", "people", "bookshelves", "batteries", "buses"
    ]  # fmt: skip
    assert [plural(name) for name in ("bench", "wardrobe", "mug", "lamp", "armchair", "person_sitting")] == [
        "benches", "wardrobes", "mugs", "lamps", "armchairs", "people sitting"
    ]  # fmt: skip
    assert article("armchair") == "an" and article("wardrobe") == "a"
    assert overlap("office_chair", "chair") and overlap("van", "car") and not overlap("chair", "chair")
    assert overlap("cup", "mug") and overlap("shelf", "bookshelf") and overlap("armchair", "sofa")
    assert overlap("cyclist", "bicycle") and overlap("wardrobe", "cabinet")
    assert not overlap("car", "chair") and not overlap("bottle", "bowl") and not overlap("bus", "truck")
    # What a captioner may say instead of a noun must be clear of every other category.
    assert all(overlap(one, other) for group in SYNONYMS for one in group for other in group - {one})


def test_adjectives_stand_as_in_english():
    wooden, striped = (
        {"is": "attribute", "name": n, "value": v} for n, v in (("material", "wooden"), ("pattern", "striped"))
    )
    for conditions in ((RED, wooden), (wooden, RED)):
        assert say(form("chair", *conditions), random.Random(0)) == "the red wooden chair"
    assert say(form("chair", wooden, striped, RED), random.Random(0), several=True).endswith(
        "red striped wooden chairs"
    )


def test_nothing_is_measured_from_the_camera_where_one_is_seen():
    found = Counter()
    for seed in range(80):
        scene = random_scene(seed)
        for category in ("mug", "digital_camera", "camera"):
            objects = [{**one, "category": category if i == 0 else "box"} for i, one in enumerate(scene["objects"])]
            if visible(objects[:1]):
                renamed = {**scene, "objects": objects}
                texts = [text for turn in make_conversation(renamed, SIZE) for text in (turn.question, turn.answer)]
                texts += [one["phrase"] for one in phrases_for(renamed, SIZE)]
                found[category] += sum(bool(re.search(r"\b(to|from|between|and) the camera\b", one)) for one in texts)
    assert found["mug"] > 40 and found["digital_camera"] == found["camera"] == 0


def test_unknown_forms_are_refused():
    things = make_things([make_object("a", "car", [0, 0, 5], [1, 1, 1], EYE, K)], K, SIZE)
    assert set(RANKS) >= {"near"} and set(RELATIONS) >= {"above"}
    for condition in ({"is": "colour"}, {"is": "rank", "by": "age", "n": 1}, {"is": "rank", "by": "near", "n": 0}):
        with pytest.raises(ValueError, match="form: got"):
            referents(form("car", condition), things)


# ----------------------------------------------------------------------------------------------------------- captioner


def rewrite(row, answer):
    def captioner(text, max_new_tokens, return_full_text):
        assert text[0]["content"][0]["type"] == "image" and not return_full_text
        return [{"generated_text": answer}]

    return rewrite_phrases([{**row, "meanings": [{"kind": "category"}, {"kind": "category"}]}], captioner)[0]


def test_captioner_changes_words_alone(row):
    new = rewrite(row, '"The automobile".')
    assert new["messages"][0]["content"] == "<image>\nLocate the automobile in 3D."
    assert new["messages"][2]["content"] == "Locate the cone in 3D."  # that is no automobile
    assert new["meanings"] == [{"kind": "category", "rewritten": True}, {"kind": "category"}]
    assert new["targets"] == row["targets"] and new["task"] == row["task"]
    validate_row(new)


def test_captioner_changes_a_phrase_within_a_sentence(row):
    asked = [replace(turn, question=f"Where is {turn.phrase}?") for turn in turns_of(row)]
    new = rewrite(with_turns(row, asked), "the automobile")
    assert [turn.question for turn in turns_of(new)] == ["Where is the automobile?", "Where is the cone?"]


def test_captioner_takes_rows_of_which_no_meaning_is_known(row):
    def answering(text):
        return rewrite_phrases([row], lambda **_: [{"generated_text": text}])[0]

    assert row["meanings"] is None and answering("the bus") == row
    assert answering("the automobile")["meanings"] == [{"rewritten": True}, {}]


@pytest.mark.parametrize("answer", ["", "a\nb", "<box_3d> car", "the second car", "the car 3 m away", "x" * 300])
def test_captioner_that_fails_changes_nothing(row, answer):
    assert rewrite(row, answer)["messages"] == row["messages"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("the nearest red car", "the red automobile closest to the camera"),
        ("the leftmost car", "the car farthest to the left"),
        ("the car on the left", "the car that is in the left third of the photo"),
        ("the second car from the left", "the 2nd car from the left"),
        ("the car about 20 m away", "the car roughly 20 meters from the camera"),
        ("the couch to the left of the nearest tv", "the sofa left of the closest television"),
        ("all sofas farther away than the bed", "all the couches further from the viewer than the bed"),
        ("the least tall mug", "the shortest mug"),
    ],
)
def test_true_rewordings_are_taken(old, new):
    assert same_meaning(new, old) and same_meaning(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("the leftmost car", "the rightmost car"),
        ("the car nearer than the bus", "the car farther away than the bus"),
        ("the nearest car", "the farthest car"),
        ("the tallest mug", "the shortest mug"),
        ("the car about 20 m away", "the car about 20 feet away"),
        ("the car about 20 m away", "the car about 21 m away"),
        ("the car about 2.5 m away", "the car about 25 m away"),
        ("the car about 20 m away", "the car 20 m away from the bus"),
        ("the car about 20 m away", "the car less than 20 m away"),
        ("the sixth car from the left", "the fifth car from the left"),
        ("the fourteenth car from the left", "the thirteenth car from the left"),
        ("the second car from the left", "the second car from the right"),
        ("the red car", "the blue car"),
        ("the red car", "the dark red car"),
        ("the red car", "the car"),
        ("the car", "the red car"),
        ("the car", "the bus"),
        ("the car", "the cars"),
        ("the car", "a car"),
        ("the car", "the car on the left"),
        ("the car on the left", "the car"),
        ("the car on the left", "the car in the left half of the picture"),
        ("the car on the left", "the car on the left of the bus"),
        ("the car on the left", "the car not on the left"),
        ("the car left of the bus", "the bus left of the car"),
        ("the red car left of the blue bus", "the blue car left of the red bus"),
        ("the nearest car left of the bus", "the car left of the nearest bus"),
        ("the nearest car left of the bus", "the car left of the bus nearest to the camera"),
        ("the mug above the box", "the mug below the box"),
        ("the mug next to the box", "the mug behind the box"),
        ("all red cars", "the red cars"),
        ("the bicycle", "the bike"),  # where there is a motorcycle as well?
        ("the mug in the box", "the mug on the box"),
        ("the camera box", "the box camera"),
    ],
)
def test_rewordings_that_mean_something_else_are_not_taken(old, new):
    assert not same_meaning(new, old) and not same_meaning(old, new)


@pytest.mark.parametrize("wording", WORDINGS.values(), ids=WORDINGS)
def test_wordings_mean_the_same_if_their_forms_are_the_same(wording):
    compared = Counter()
    for seed in range(60):
        forms = [one["form"] for one in phrases_for(random_scene(seed), SIZE)][:40]
        texts = [say(one, random.Random(seed + i), wording=wording) for i, one in enumerate(forms)]
        for one, other in combinations(range(len(forms)), 2):
            assert same_meaning(texts[one], texts[other]) == (forms[one] == forms[other]), (texts[one], texts[other])
        for i, one in enumerate(forms):
            other = say(one, random.Random(i), wording=wording)
            assert same_meaning(other, texts[i]), (other, texts[i])
            compared[other != texts[i]] += 1
    assert compared[True] > 300


def test_say_is_one_of_few_wordings():
    second = form("car", {"is": "rank", "by": "near", "n": 2})
    assert {say(second, random.Random(i)) for i in range(20)} == {"the second nearest car", "the second closest car"}
