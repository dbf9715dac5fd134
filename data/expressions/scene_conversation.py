# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Conversation about a scene: grounding, several objects, something absent, and questions, in a seeded order."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from llmi3d.data.expressions.forms import Thing, make_things
from llmi3d.data.expressions.phrases import absent_forms, several_forms, unique_forms
from llmi3d.data.expressions.questions import make_questions
from llmi3d.data.expressions.wording import WORDINGS, Wording, frame, say, takes_camera_for_viewer
from llmi3d.data.schema import BOX_PLACEHOLDER, GROUNDING_ANSWER, IMAGE_PLACEHOLDER, Turn
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT

REFUSALS = ("It is not in the picture.", "There is no such object in the picture.", "I cannot see it in the picture.")
# Share of turns that are questions in words; the others ask for boxes.
QUESTION_SHARE = 0.25
# Share of the phrases that stand in a sentence, if the wording has sentences. Half of these sentences stand in
# GROUNDING_PROMPT, as when a user types one where a phrase is wanted.
FRAMED_SHARE = 0.3


def make_conversation(
    scene: dict,
    image_size: tuple[int, int],
    *,
    seed: int = 0,
    max_turns: int = 8,
    vocabulary: tuple[str, ...] = (),
    wording: str = "plain",
) -> list[Turn]:
    """Return the turns of a conversation about a scene; none where nothing can be asked.

    If the source has phrases of its own, only those are asked. A phrase without objects means that there is no such
    object.

    Args:
        scene: row without a conversation.
        image_size: (width, height), pixels.
        seed: decides everything together with the scene's `image_id`.
        max_turns: maximum number of turns, at least 1.
        vocabulary: categories of which every instance in an image is labelled, so that others can be called absent.
        wording: of WORDINGS; "plain" gives the conversations of the first release.

    Raises:
        ValueError: `max_turns` below 1, or a phrase of the source about an object that is missing or ignored.
    """
    if max_turns < 1:
        raise ValueError(f"max_turns: got {max_turns}, want at least 1.")
    draw = Random(f"{seed}/{scene['image_id']}")
    if scene.get("phrases"):
        turns = _given(scene, draw)
    else:
        turns = _made(scene, image_size, draw, max_turns, vocabulary, WORDINGS[wording])
    return turns[:max_turns]


def _given(scene: dict, draw: Random) -> list[Turn]:
    askable = {entry["id"] for entry in scene["objects"] if not entry["ignore"]}
    turns = []
    for i, given in enumerate(scene["phrases"]):
        phrase = given["phrase"]
        if not phrase.strip() or any(token in phrase for token in (BOX_PLACEHOLDER, IMAGE_PLACEHOLDER)):
            raise ValueError(f"phrases[{i}]: got {phrase!r}, want words without placeholders.")
        unknown = [name for name in given["objects"] if name not in askable]
        if unknown:
            raise ValueError(f"phrases[{i}]: got the objects {unknown}, want some of {sorted(askable)}.")
        meaning = {"kind": given.get("kind") or "given"}
        turns.append(_boxes_turn(phrase, given["objects"], meaning, draw.choice(REFUSALS)))
    return turns


def _made(
    scene: dict,
    image_size: tuple[int, int],
    draw: Random,
    max_turns: int,
    vocabulary: tuple[str, ...],
    wording: Wording,
) -> list[Turn]:
    things = make_things(scene["objects"], scene["intrinsics"], image_size)
    complete = scene.get("complete", True)
    vocabulary = vocabulary if complete else ()
    unique = unique_forms(things, draw)
    turns = []
    if max_turns > 2:
        several, absent = several_forms(things), absent_forms(things, vocabulary, draw)
        if several and draw.random() < 0.5:
            kind, form, ids = draw.choice(several)
            turns.append(_asked(kind, form, ids, draw, wording))
        if absent and draw.random() < 0.5:
            kind, form = draw.choice(absent)
            turns.append(_asked(kind, form, (), draw, wording))
        most = max(1, round(QUESTION_SHARE * max_turns))
        turns += make_questions(things, unique, vocabulary, draw, most, counting=complete, wording=wording)
    turns += _single_turns(unique, draw, max_turns - len(turns), wording)
    categories = [thing.category for thing in things]
    turns = [turn for turn in turns if not takes_camera_for_viewer(turn.question, categories)]
    draw.shuffle(turns)
    return turns


def _single_turns(unique: list[tuple[Thing, str, dict]], draw: Random, most: int, wording: Wording) -> list[Turn]:
    """One phrase for each of many objects before a second for any; rare kinds are drawn as often as common ones."""
    left = {}
    for thing, kind, form in unique:
        left.setdefault(thing.id, {}).setdefault(kind, []).append(form)
    turns = []
    while left and len(turns) < most:
        names = list(left)
        draw.shuffle(names)
        for name in names[: most - len(turns)]:
            kind = draw.choice(list(left[name]))
            form = draw.choice(left[name].pop(kind))
            turns.append(_asked(kind, form, (name,), draw, wording))
            if not left[name]:
                del left[name]
    return turns


def _asked(kind: str, form: dict, ids: tuple[str, ...], draw: Random, wording: Wording) -> Turn:
    several = len(ids) > 1
    phrase = say(form, draw, several=several, wording=wording)
    turn = _boxes_turn(phrase, ids, {"kind": kind, "form": form}, "" if ids else draw.choice(REFUSALS))
    if wording.frames and draw.random() < FRAMED_SHARE:
        sentence = frame(phrase, draw, several, wording)
        turn = replace(turn, question=sentence if draw.random() < 0.5 else GROUNDING_PROMPT.format(phrase=sentence))
    return turn


def _boxes_turn(phrase: str, ids: Sequence[str], meaning: dict, refusal: str) -> Turn:
    task = "absent" if not ids else "grounding" if len(ids) == 1 else "multi"
    answer = GROUNDING_ANSWER * len(ids) if ids else refusal
    return Turn(GROUNDING_PROMPT.format(phrase=phrase), answer, task, tuple(ids), meaning)
