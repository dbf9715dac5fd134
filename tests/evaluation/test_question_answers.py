# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Answers in words are judged by what they say."""

import pytest

from llmi3d.evaluation.question_answers import answer_is_right


@pytest.mark.parametrize(
    ("text", "answer", "unit", "right"),
    [
        ("2.2 m", 2.0, "m", True),
        ("about 1.81 metres", 2.0, "m", True),
        ("2.3 m", 2.0, "m", False),
        ("far", 2.0, "m", False),
        ("", 2.0, "m", False),
        ("3", 3, "count", True),
        ("3.1", 3, "count", False),
        ("Yes.", "yes", "choice", True),
        ("The red car.", "the red car", "choice", True),
        ("The red carpet.", "the red car", "choice", False),
    ],
)
def test_numbers_and_choices(text, answer, unit, right):
    assert answer_is_right(text, {"answer": answer, "unit": unit}) is right


def test_the_rows_own_words_are_right():
    form = {"answer": 0.044, "unit": "m"}
    assert answer_is_right("0.04 m", form, said="0.04 m")
    assert not answer_is_right("0.05 m", form, said="0.04 m")


def test_unknown_units_are_refused():
    with pytest.raises(ValueError, match="unit 'deg'"):
        answer_is_right("3", {"answer": 3, "unit": "deg"})
