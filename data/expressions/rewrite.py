# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rewrites phrases with any vision-language model, without changing what they mean.

A captioner's words are not checked against the boxes, so a rewording is accepted only if it must mean the same: known
wordings of places, orders, relations and distances, and listed synonyms of nouns, are interchangeable; every other
word must stay in its place. Refusing a true rewording costs variety; accepting a false one makes a wrong label.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from llmi3d.data.expressions.nouns import SYNONYMS, plural
from llmi3d.data.expressions.wording import ORDINALS, unframe
from llmi3d.data.schema import turns_of, upright_image, with_turns

REQUEST = (
    "Say in other words, as one short noun phrase in English that means exactly the same thing in this picture: "
    '"{phrase}". Answer with the phrase alone.'
)
MOST_LETTERS = 200

# Words that may come and go. An "a" may not: "a car" is not "the car".
_EMPTY = {"the", "that", "which", "is", "are", "located", "situated"}
_EYE = r" (?:camera|viewer|observer|us|me)"
_PICTURE = r"(?: of (?:picture|image|photo|photograph))?"
_SIDE = rf"(?:on|at) {{0}}(?: hand)?(?: side)?{_PICTURE}(?! of)|in {{0}} third{_PICTURE}"
_RELATIONS = {
    "LEFT_OF": "(?:to )?left of",
    "RIGHT_OF": "(?:to )?right of",
    "NEARER": f"(?:nearer|closer)(?: to{_EYE})? than",
    "FARTHER": f"(?:farther|further|more distant)(?: away)?(?: from{_EYE})? than",
    "NEXT_TO": "next to|beside|adjacent to",
    "ABOVE": "above",
}
_SUPERLATIVES = {
    "LEFTMOST": "leftmost|(?:farthest|furthest)(?: to)? left",
    "RIGHTMOST": "rightmost|(?:farthest|furthest)(?: to)? right",
    "FARTHEST": f"(?:(?:farthest|furthest)(?: away)?|most distant)(?: from{_EYE})?",
    "NEAREST": f"(?:nearest|closest)(?: to{_EYE})?",
    "LARGEST": "largest|biggest",
    "SHORTEST": "shortest|least tall",
}
# Sign -> the wordings it stands for in a phrase without its empty words; matched in this order.
_SIGNS = {
    r"METRES_\1": r"(?:at a distance of )?(?:about|around|roughly|approximately) (\d+(?:\.\d+)?) ?"
    rf"(?:m|met(?:er|re)s?)(?: away)?(?: from{_EYE})?",
    "ON_LEFT": _SIDE.format("left"),
    "ON_RIGHT": _SIDE.format("right"),
    "MIDDLE": f"in (?:middle|center|centre)(?: third)?{_PICTURE}(?! of)",
    "FROM_LEFT": "from left",
    "FROM_RIGHT": "from right",
    **_RELATIONS,
    **_SUPERLATIVES,
    **{f"NUMBER_{i}": rf"{word}|{i}(?:st|nd|rd|th)" for i, word in enumerate(ORDINALS, start=1)},
}
_SIGNS = {sign: re.compile(rf"(?<!\S)(?:{wordings})(?!\S)") for sign, wordings in _SIGNS.items()}
_NOUNS = {form(noun): form(min(group)) for group in SYNONYMS for noun in group for form in (str, plural)}


def rewrite_phrases(rows: list[dict], captioner: Callable, max_new_tokens: int = 40) -> list[dict]:
    """Return rows with grounding phrases rewritten by a captioner.

    Task, targets and form of a turn stay; its meaning gets `rewritten`. An answer is refused if it is empty, long, of
    several lines, holds a placeholder or special token, or might mean something else.

    Args:
        rows: valid rows; `meanings` may be null.
        captioner: an `image-text-to-text` pipeline of transformers, or a callable like it.
        max_new_tokens: limit of an answer.
    """
    rewritten = []
    for row in rows:
        image, turns = upright_image(row["image"]), []
        for turn in turns_of(row):
            phrase = unframe(turn.phrase)
            if turn.task in ("grounding", "multi", "absent") and phrase != turn.question:
                text = {"type": "text", "text": REQUEST.format(phrase=phrase)}
                content = [{"type": "image", "image": image}, text]
                answer = captioner(
                    text=[{"role": "user", "content": content}], max_new_tokens=max_new_tokens, return_full_text=False
                )
                new = str(answer[0]["generated_text"]).strip(" \n\"'.")
                new = re.sub("^The ", "the ", new)  # it becomes part of a sentence
                if new.lower() != phrase.lower() and same_meaning(new, phrase):
                    meaning = {**turn.meaning, "rewritten": True}
                    turn = replace(turn, question=turn.question.replace(phrase, new), meaning=meaning)
            turns.append(turn)
        rewritten.append(with_turns(row, turns))
    return rewritten


def same_meaning(new: str, old: str) -> bool:
    """Whether one phrase surely means the same as another, by its words alone."""
    if not new or len(new) > MOST_LETTERS or "\n" in new or re.search(r"[<>|{}\[\]]", new):
        return False
    return _signs(new) == _signs(old)


def _signs(phrase: str) -> list[str]:
    """Return what a phrase says, in order: two phrases with the same signs mean the same."""
    words = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])|,", " ", phrase.lower()).split()
    text = " ".join(word for word in words if word not in _EMPTY)
    for sign, wordings in _SIGNS.items():
        text = wordings.sub(sign, text)
    signs = [_NOUNS.get(word, word) for word in text.split()]
    # "The car nearest to the camera" is the nearest car; after a relation, its anchor would be the nearest.
    if signs and signs[-1] in _SUPERLATIVES and not _RELATIONS.keys() & signs:
        signs.insert(0, signs.pop())
    return signs
