# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Answers in words, judged by the question's meaning and not by the answer's wording.

A length is right within 10 %, a count if it is equal, a choice if it names the right one.
"""

import re

TOLERANCE = 0.1
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def answer_is_right(text: str, form: dict, said: str | None = None, tolerance: float = TOLERANCE) -> bool:
    """Return whether a text answers a question rightly.

    Args:
        text: what the model wrote.
        form: logical form of the question (`llmi3d.data.expressions.questions`): its `answer`, and its `unit` `m`,
            `count` or `choice`.
        said: the row's own answer. A text equal to it is right, however coarsely it is rounded.
        tolerance: of lengths, relative.

    Raises:
        ValueError: another unit.
    """
    if said is not None and _plain(text) == _plain(said):
        return True
    answer, unit = form["answer"], form["unit"]
    if unit == "choice":
        return _plain(text) == _plain(str(answer))
    if unit not in ("m", "count"):
        raise ValueError(f"form: got the unit {unit!r}, want m, count or choice.")
    number = _NUMBER.search(text)
    if number is None:
        return False
    value = float(number.group())
    return value == answer if unit == "count" else abs(value - answer) <= tolerance * abs(answer) + 1e-9


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()
