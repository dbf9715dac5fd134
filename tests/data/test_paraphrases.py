# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Wordings: what phrases say in other words, read back by a referee; nothing of the paraphrases is in training."""

import json
from collections import Counter
from random import Random

import pytest
from paraphrase_referee import Unreadable, mended, noun_phrase, read
from scene_referee import SIZE, VOCABULARY, random_scene, referee, visible
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.build import build
from llmi3d.data.dataset import load_split
from llmi3d.data.expressions import make_conversation
from llmi3d.data.expressions.paraphrases import NOUNS, PARAPHRASE, PARAPHRASE_KINDS, misspell, paraphrase_row
from llmi3d.data.expressions.wording import PLAIN, VARIED, say, unframe
from llmi3d.data.schema import turns_of, with_turns
from llmi3d.data.synthetic.ig3d_synth import Synthetic

ASKING = ("grounding", "multi", "absent")


@pytest.fixture(scope="module")
def rows():
    """Rows of random scenes, in varied words."""
    made = []
    for seed in range(700):
        scene = random_scene(seed)
        turns = make_conversation(scene, SIZE, seed=1, vocabulary=VOCABULARY, wording="varied")
        if any(turn.task in ASKING for turn in turns):
            made.append(with_turns(scene, turns))
    return made


def same(form, other):
    """Whether two forms are the same but for the order of conditions."""

    def plain(one):
        conditions = [{**c, "to": plain(c["to"])} if "to" in c else c for c in one["conditions"]]
        return one["category"].replace("_", " "), sorted(json.dumps(c, sort_keys=True) for c in conditions)

    return plain(form) == plain(other)


def test_words_of_training_and_paraphrases_say_what_the_form_says(rows):
    kinds, misspelt = Counter(), Counter()
    for row in rows:
        paraphrased = paraphrase_row(row, seed=2)
        objects = visible(row["objects"])
        for source in (row, paraphrased):
            for turn in turns_of(source):
                if turn.task not in ASKING:
                    continue
                kind = turn.meaning["kind"] if source is paraphrased else "training"
                text, wrong = mended(turn.question)
                form, several = read(text)
                assert same(form, turn.meaning["form"]), turn
                assert several == (turn.task == "multi"), turn
                assert referee(form, objects) == set(turn.targets), turn
                assert wrong == (kind == "typo") or (kind == "free" and wrong < 2), turn
                kinds[kind] += 1
                misspelt[kind] += wrong
    assert set(kinds) == {"training", *PARAPHRASE_KINDS} and min(kinds.values()) > 200, kinds
    assert misspelt["free"] > 100


def test_images_targets_and_answers_stay(rows):
    for row in rows[:200]:
        new = paraphrase_row(row)
        assert new == paraphrase_row(row) and new["split"] == "paraphrase"
        for name in ("image_id", "objects", "targets", "task"):
            assert new[name] == row[name]
        for turn, old in zip(turns_of(new), turns_of(row), strict=True):
            assert turn.answer == old.answer and (turn == old) == (turn.task == "vqa")
    assert paraphrase_row(rows[0], seed=1) != paraphrase_row(rows[0], seed=2)


def test_phrases_without_a_form_are_dropped(row):
    assert paraphrase_row({**row, "meanings": [{"kind": "given"}] * 2}) is None
    form = {"category": "car", "conditions": []}
    kept = paraphrase_row({**row, "meanings": [{"kind": "given"}, {"kind": "category", "form": form}]})
    assert len(kept["task"]) == 1 and kept["targets"] == row["targets"][1:]


def templates(wording):
    ranks = {text for lists in wording.ranks.values() for texts in lists for text in texts if "{n}" not in text}
    others = {text for group in (wording.places, wording.relations) for texts in group.values() for text in texts}
    return ranks | others | {*wording.metres, *wording.frames}


def test_no_template_noun_or_phrase_of_the_paraphrases_is_in_training(rows):
    training = templates(PLAIN) | templates(VARIED)
    assert not templates(PARAPHRASE) & training
    assert not {noun for nouns in NOUNS.values() for noun in nouns} & (
        {*NOUNS} | {name.replace("_", " ") for name in VOCABULARY}
    )
    learned, asked = set(), set()
    for row in rows:
        learned |= {turn.question for turn in turns_of(row)}
        asked |= {turn.question for turn in turns_of(paraphrase_row(row)) if turn.task != "vqa"}
    assert len(learned) > 1500 and not asked & learned
    assert not {unframe(text.removeprefix("Locate ").removesuffix(" in 3D.")) for text in learned} & asked


@pytest.mark.parametrize(
    ("others", "never"),
    [(("motorcycle",), "bike"), (("cup",), "cup"), (("bench",), "seat"), ((), None)],
)
def test_a_noun_that_something_else_could_bear_is_not_used(others, never):
    names = {"bike": "bicycle", "cup": "mug", "seat": "chair", None: "bicycle"}
    form = {"category": names[never], "conditions": []}
    things = [{"id": str(i), "category": name} for i, name in enumerate((names[never], *others))]
    turn = {"role": "assistant", "content": "<box_3d>"}
    row = {
        "objects": things, "targets": ["0"], "task": ["grounding"], "meanings": [{"kind": "category", "form": form}],
        "messages": [{"role": "user", "content": "<image>\nLocate it in 3D."}, turn], "split": "test",
    }  # fmt: skip
    asked = [turns_of(paraphrase_row({**row, "image_id": str(i)}))[0].question for i in range(150)]
    words = {word for text in asked for word in text.replace("?", "").replace(",", "").split()}
    assert never not in words
    assert never is not None or "bike" in words


def test_where_a_camera_is_seen_nothing_is_measured_from_the_camera():
    form = {"category": "mug", "conditions": [{"is": "rank", "by": "near", "n": 1}]}
    turn = {"role": "assistant", "content": "<box_3d>"}
    row = {
        "objects": [{"id": "0", "category": "mug"}, {"id": "1", "category": "camera"}], "targets": ["0"],
        "task": ["grounding"], "meanings": [{"kind": "nearest", "form": form}], "split": "test",
        "messages": [{"role": "user", "content": "<image>\nLocate it in 3D."}, turn],
    }  # fmt: skip
    for i in range(100):
        assert "the camera" not in mended(turns_of(paraphrase_row({**row, "image_id": str(i)}))[0].question)[0]


def test_a_typing_error_changes_one_word_that_can_still_be_read():
    draw = Random(0)
    for text in ("the second nearest traffic cone", "the couch that is purple and next to the window"):
        for _ in range(50):
            new = misspell(text, draw)
            assert sum(a != b for a, b in zip(text.split(), new.split(), strict=True)) == 1
    assert misspell("the car", draw) == "the car"  # no word that is long enough


def test_the_referee_refuses_what_has_no_reading_or_two():
    assert read("Where is the red mug?") == noun_phrase("the red mug")
    for text in ("a mug", "the mug of my mother", "the mug next to the box", "the tallest nearest mug", "the"):
        with pytest.raises(Unreadable):
            read(text)


def test_plain_words_are_the_few_of_the_first_release():
    place = {"category": "car", "conditions": [{"is": "place", "third": "left"}]}
    said = {wording: {say(place, Random(i), wording=wording) for i in range(60)} for wording in (PLAIN, VARIED)}
    assert {f"the car {text}" for text in PLAIN.places["left"]} == said[PLAIN] < said[VARIED]
    assert "the car that is at the left" in said[VARIED]


def test_a_split_in_other_words_is_built_by_the_command(tmp_path):
    source = Synthetic(frames="test:4", domains="objects", long_side=64, version=1)
    source.wording = "varied"
    build(source, tmp_path / "built", progress=False)
    command = ["data", "split", str(tmp_path / "built"), "--out", str(tmp_path / "new"), "--paraphrase"]
    done = CliRunner().invoke(app, [*command, "test"])
    assert done.exit_code == 0 and "paraphrase: 4 rows" in done.output, done.output
    for old, new in zip(
        load_split(tmp_path / "built", "test"), load_split(tmp_path / "new", "paraphrase"), strict=True
    ):
        assert new["image"].tobytes() == old["image"].tobytes() and new["targets"] == old["targets"]
        assert new["messages"] != old["messages"]
    assert json.loads((tmp_path / "new" / "splits.json").read_text()) == {
        "split": "test", "seed": 0, "rows": {"paraphrase": 4}
    }  # fmt: skip
    assert "--paraphrase test" in (tmp_path / "new" / "README.md").read_text()
    done = CliRunner().invoke(app, [*command[:-2], str(tmp_path / "other"), "--paraphrase", "novel"])
    assert done.exit_code == 2 and "paraphrase: got 'novel', want one of test" in done.output
