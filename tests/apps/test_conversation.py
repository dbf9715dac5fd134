# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Conversations about one image."""

import json
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from llmi3d.apps.conversation import BOX_PLACEHOLDER, Conversation, describe, mentions
from llmi3d.data.expressions.questions import _ASKED

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "examples" / "pictures"
ENTRIES = json.loads((PICTURES / "pictures.json").read_text())
PICTURE, K = PICTURES / ENTRIES[0]["image"], ENTRIES[0]["intrinsics"]


@pytest.fixture(scope="module")
def ground():
    return pipeline("image-3d-grounding", model=str(ROOT / "model_cards" / "llmi3d-tiny"), device="cpu")


@pytest.fixture
def chat(ground):
    return Conversation(ground, str(PICTURE), K)


@pytest.mark.parametrize("kind", [kind for kind, ways in _ASKED.items() if "{x}" in ways[0]])
@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["image"] for entry in ENTRIES])
def test_names_are_found_in_every_kind_of_question(entry, kind):
    phrases = [one["phrase"] for one in entry["phrases"]]
    for way in _ASKED[kind]:
        for x, y in zip(phrases, [*phrases[1:], phrases[0]], strict=True):
            question = way.format(x=x, y=y)
            want = sorted([x, y] if "{y}" in way else [x], key=question.index)
            assert mentions(question) == want, question


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("How many parked cars are there?", ["all parked cars"]),
        ("Is there a ball in the picture?", ["a ball"]),
        ("Locate the red car in 3D.", ["the red car"]),
        ("Tell me about the chair next to the window.", ["the chair next to the window"]),
        ("How far is the camera from the lamp?", ["the lamp"]),
        ("the distance between the left chair and my cup of tea", ["the left chair", "my cup of tea"]),
        ("How far is the van from the van?", ["the van"]),
        ("Is it tall?", []),
        ("", []),
    ],
)
def test_names_in_questions_of_people(question, names):
    assert mentions(question) == names


def test_a_question_is_answered_in_words_and_boxes_of_what_it_speaks_of(chat):
    answer = chat.ask("How far is the black plant from the purple table?")
    assert answer["text"].endswith(" m") and answer["intrinsics_source"] == "given"
    assert [one["name"] for one in answer["spoken_of"]] == ["the black plant", "the purple table"]
    assert [box["label"] for box in answer["boxes"]] == ["the black plant", "the purple table"]
    apart = torch.dist(*(torch.tensor(box["center"]) for box in answer["boxes"])).item()
    assert describe(answer)[-1] == f"From the centre of [1] to that of [2]: {apart:.2f} m"
    json.dumps(answer)


def test_what_the_answer_writes_are_its_boxes(chat, ground):
    answer = chat.ask("Locate the black plant in 3D.")
    assert answer["spoken_of"] == [] and [box["label"] for box in answer["boxes"]] == ["the black plant"]
    assert chat.messages[1] == {"role": "assistant", "content": BOX_PLACEHOLDER}
    # The first turn is what the pipeline asks.
    (same,) = ground(str(PICTURE), prompt="the black plant", intrinsics=K, mode="generate")["boxes"]
    assert answer["boxes"][0]["center"] == pytest.approx(same["center"], abs=1e-4)


def test_earlier_turns_are_seen(chat, ground):
    chat.ask("Locate the black plant in 3D.")
    seen = []
    forward, ground.forward = ground.forward, lambda inputs, **rest: seen.append(inputs) or forward(inputs, **rest)
    try:
        chat.ask("How tall is it?")
    finally:
        del ground.forward
    ids = seen[0]["inputs"]["input_ids"][0]
    words = ground.processor.tokenizer.decode(ids)
    assert words.count("USER:") == 2 and "Locate the black plant" in words
    assert (ids == ground.processor.box_3d_token_id).sum() == 1


def test_a_conversation_goes_on_from_its_messages(chat, ground):
    questions = ["Locate the ball in 3D.", "How far is the ball from the bowl?"]
    whole = [chat.ask(question) for question in questions]
    first = Conversation(ground, str(PICTURE), K)
    first.ask(questions[0])
    second = Conversation(ground, str(PICTURE), K, messages=json.loads(json.dumps(first.messages)))
    assert second.ask(questions[1]) == whole[1] and second.messages == chat.messages


def test_what_is_not_there_is_said(ground):
    for entry in ENTRIES:
        chat = Conversation(ground, str(PICTURES / entry["image"]), entry["intrinsics"])
        answer = chat.ask(f"Locate {entry['absent']} in 3D.")
        if not answer["boxes"]:
            break
    assert answer["spoken_of"] == [{"name": entry["absent"], "boxes": 0}]
    assert f"{entry['absent']}: not in the image" in describe(answer)


def test_half_the_focal_length_halves_the_depth(ground):
    near, far = (
        Conversation(ground, str(PICTURE), [focal, focal, 320, 240]).ask("Locate the ball in 3D.")["boxes"][0]
        for focal in (300, 600)
    )
    assert 2 * near["center"][2] == pytest.approx(far["center"][2])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "assistant", "content": "a"}], r"messages\[0\]: got .*want a turn of the user"),
        ([{"role": "user", "content": "a"}], "got a question without its answer at the end"),
        ([{"role": "user", "content": 7}], r"messages\[0\]: got the content 7, want text"),
        (["a"], r"messages\[0\]: got 'a'"),
        ([{"role": "user", "content": "<image>"}], "got the special token '<image>'"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "<|box_3d|>"}], "special token"),
    ],
)
def test_messages_that_are_no_turns_are_refused(ground, messages, message):
    with pytest.raises(ValueError, match=message):
        Conversation(ground, str(PICTURE), messages=messages)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("  ", "question: got '  ', want text"),
        (None, "question: got None"),
        ("<|box_3d|>", "special token"),
        ("far " * 1000, r"conversation: got \d+ tokens and 128 for the answer, want at most 1024"),
    ],
)
def test_bad_questions_leave_the_conversation_as_it_was(chat, question, message):
    with pytest.raises(ValueError, match=message):
        chat.ask(question)
    assert chat.messages == []
