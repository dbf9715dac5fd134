# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rules that keep a row's conversation true when its image is mirrored or cropped.

- Mirroring turns left into right, in words and in logical forms. If words without a form cannot be rewritten with
  certainty ("the right tool", "the second car", "clockwise", a language other than English), the row is not mirrored.
- After a crop, a turn with a form is kept only if the form still means the same objects
  (`llmi3d.data.expressions.forms`). A turn without a form is kept only if it asks for boxes and its words say nothing
  about places, order, counts or other objects. In both cases its objects must be visible: their centres, and at least
  half (`augment.LEAST_LEFT`) of what was visible of their 2D boxes. A row that would lose all turns stays as it is.
- Turns that speak of pixels or coordinates are dropped, and rows with such turns are not mirrored.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llmi3d.data.expressions.forms import X_MARGIN, Checker, make_things
from llmi3d.data.expressions.nouns import words
from llmi3d.data.expressions.wording import ORDINALS
from llmi3d.data.schema import Turn, turns_of, with_turns

Row = dict[str, Any]

_POINTING = ("grounding", "multi", "absent")


def _form(turn: Turn) -> dict | None:
    form = turn.meaning.get("form")
    return form if isinstance(form, dict) and ("conditions" in form or "of" in form) else None


def keep_turns(row: Row, moved: Row, holds: Callable[[Turn], bool]) -> Row:
    """Return the moved row with the turns that hold, or the original row if none does."""
    kept, dropped = [], False
    for turn in turns_of(row):
        refers_back = dropped and _form(turn) is None and _BACK.search(turn.question)
        if holds(turn) and not refers_back:
            kept.append(turn)
        else:
            dropped = True
    if not kept:
        return row
    return with_turns(moved, kept) if dropped else moved


def cut_turns(row: Row, size: tuple[int, int], moved: Row, well_seen: set[str]) -> Row:
    """Return the moved row with the turns that are still true, or the original row if none is.

    Args:
        row: before the move.
        size: (width, height) of its image, pixels.
        moved: after the move, with the same conversation.
        well_seen: ids of the objects that may be asked for.
    """
    if any(map(_form, turns_of(row))):
        before = Checker(make_things(row["objects"], row["intrinsics"], size))
        after = Checker(make_things(moved["objects"], moved["intrinsics"], moved["image"].size))

    def holds(turn: Turn) -> bool:
        if not well_seen.issuperset(turn.targets) or speaks_of_pixels(turn):
            return False
        form = _form(turn)
        if form is None:
            return turn.task in _POINTING and not _RELATIVE.search(f"{turn.question}\n{turn.answer}")
        if "of" in form:
            return _question_holds(form, before, after, well_seen)
        meant = after(form)
        return meant.decided and set(meant.ids) == set(turn.targets)

    return keep_turns(row, moved, holds)


def _question_holds(form: dict, before: Checker, after: Checker, well_seen: set[str]) -> bool:
    meant = [(before(one), after(one)) for one in form["of"]]
    if any(not (old.decided and new.decided) or old.ids != new.ids for old, new in meant):
        return False
    if not well_seen.issuperset(name for _, new in meant for name in new.ids):
        return False
    if form["question"] == "side":
        u = {thing.id: thing.u for thing in after.things}
        first, second = (u[new.ids[0]] for _, new in meant)
        further = second - first if form["answer"] == "left" else first - second
        return further > X_MARGIN
    return True  # all else is metric, or counts


def speaks_of_pixels(turn: Turn) -> bool:
    """Return whether a turn's words name pixels or coordinates, which every move changes."""
    return any(map(_PIXELS.search, (turn.question, turn.answer)))


def names_color(row: Row) -> bool:
    """Return whether a row's conversation names a colour, which a tint could make false."""
    text = "\n".join(message["content"] for message in row["messages"]).lower()
    attributes = [item for entry in row["objects"] for item in (entry["attributes"] or {}).items()]
    known = (words(value) for name, value in attributes if name in ("color", "colour"))
    return _COLOR.search(text) is not None or any(color in text for color in known)


class UncertainError(Exception):
    """Raised for words that cannot be mirrored with certainty."""


def mirror_conversation(row: Row) -> Row:
    """Return the row with its conversation mirrored.

    Raises:
        UncertainError: words that cannot be mirrored with certainty.
    """
    told = [message["content"] for message in row["messages"] if message["role"] == "system"]
    for entry in row["objects"]:
        told += [entry["category"], *(entry["attributes"] or {}).values()]
    if any(_SIDE.search(text) or _HANDED.search(text) for text in told):
        raise UncertainError
    mirrored = []
    for turn in turns_of(row):
        form, question, answer, meaning = _form(turn), turn.question, turn.answer, turn.meaning
        if form is None:
            # "Right." may also mean "Yes."
            side = answer.strip(" .").lower() in ("left", "right") and _SIDE.search(question)
            question = _mirror_words(question, turn.task in _POINTING)
            answer = _swap(answer) if side else _mirror_words(answer)
        else:
            question, answer, meaning = _swap(question), _swap(answer), {**meaning, "form": _mirror_form(form)}
        if speaks_of_pixels(turn):
            raise UncertainError
        mirrored.append(replace(turn, question=question, answer=answer, meaning=meaning))
    return with_turns(row, mirrored)


def _mirror_words(text: str, points: bool = False) -> str:
    """Rewrite English words about an image for its mirror image: left becomes right.

    Args:
        text: words.
        points: whether they point at objects, so that "right" in "the right car" cannot mean "correct".

    Raises:
        UncertainError: words that cannot be mirrored with certainty.
    """
    foreign = any(letter.isalpha() and ord(letter) > 0x24F for letter in text)
    rest = _CERTAIN.sub(" ", text)
    if points:
        rest = _POINTED.sub(" ", rest)
    if foreign or _SIDE.search(rest) or _HANDED.search(text):
        raise UncertainError
    # "The second car" may be counted from the left without saying so.
    if any(not _COUNTED.match(text, ordinal.end()) for ordinal in _ORDINAL.finditer(text)):
        raise UncertainError
    return _swap(text)


def _swap(text: str) -> str:
    return _SIDE.sub(lambda found: _other_side(found[1]) + found[2], text)


def _other_side(side: str) -> str:
    other = "right" if side.lower() == "left" else "left"
    return other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other


def _mirror_form(form):
    """Swap left and right everywhere in a logical form."""
    if isinstance(form, dict):
        return {name: _mirror_form(value) for name, value in form.items()}
    if isinstance(form, list):
        return [_mirror_form(value) for value in form]
    if not isinstance(form, str):
        return form
    return _FORM_SIDES.get(form) or _swap(form)


_FORM_SIDES = {"left": "right", "right": "left", "left_of": "right_of", "right_of": "left_of"}


def _pattern(*alternatives: str) -> re.Pattern:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_SIDE = _pattern(r"(?<![a-z])(left|right)((?:-?most|-?hand(?:ed)?|-?wards?|side)?)(?![a-z])")
_S = "(?<![a-z])(?:left|right)"
# What may follow "on the right" if it names a place; a noun may not.
_END = r"(?=\s*(?:$|[.,;:?!)\"]|(?:of(?! way)|in|is|are|and|or|from|than|with|that|which|who|next|near|behind)\b))"
_CERTAIN = _pattern(
    rf"{_S}-?(?:most|wards?|hand(?:ed)?|side)(?![a-z])",
    rf"{_S}[- ](?:hand|side|half|third|edge|end|corner|border|part|lane|facing|front|rear)s?(?![a-z])",
    rf"{_S}(?: or | and | to |, |/)(?:the )?{_S}(?![a-z])",
    rf"\b(?:far|upper|lower|top|bottom|front|rear|back|middle|cent(?:er|re))[- ]{_S}{_END}",
    rf"\b(?:on|to|at|from|towards?) (?:(?:the|its|his|her|their) )?(?:very |far )?{_S}{_END}",
    rf"\b(?:facing|turning|turned|looking|pointing|heading|moving|driving|walking) (?:to )?(?:the )?{_S}{_END}",
    rf"(?<!what is )(?<!what's )(?<!nothing ){_S} of(?! way)\b",
)
_POINTED = _pattern(rf"\b(?:the|locate|all|every|each) {_S} (?!angle|triangle|behind|over|out)(?=[a-z])")
# What mirroring changes or makes nonsense of, without the words left and right.
_HANDED = _pattern(
    r"clockwise|o'clock|starboard|\bport side|\b(?:north|south)?-?(?:east|west)(?:ern|ward)?s?\b",
    r"\b(?:driver|passenger)(?:'?s)?'? side|\b(?:near|off)-?side",
    r"\b(?:read(?:s|ing)?|text|writ(?:ten|ing)|letter(?:s|ing)?|words?|says?|spell\w*|logos?)\b",
    r"\b(?:licen[cs]e|number) plates?\b|\bmirrored\b",
    r"\b(?:links|rechts|linke\w*|rechte\w*|gauche|droite?|izquierd[ao]|derech[ao]|sinistr[ao]|destr[ao]|esquerd[ao]"
    r"|direit[ao])\b",
)
_ORDINAL = _pattern(rf"(?<!left )(?<!right )(?<!middle )\b(?:{'|'.join(ORDINALS)}|last|\d+(?:st|nd|rd|th))\b")
_COUNTED = _pattern(
    r"[- ](?:nearest|closest|farthest|furthest|largest|biggest|smallest|tallest|shortest|most)\b",
    r".*\bfrom (?:the )?(?:left|right|top|bottom|front|back|camera)\b",
)
# What a crop may make false.
_RELATIVE = _pattern(
    _SIDE.pattern,
    _ORDINAL.pattern,
    r"\b(?:middle|cent(?:er|re)|corner|edge|end|border|half|third|side|top|bottom|upper|lower|fore|back)(?:ground)?\b",
    r"\b(?:how many|count|number|two|three|four|five|six|seven|eight|nine|ten|both|only|alone|another|others?|rest)\b",
    r"\b(?:next to|beside|besides|by|between|behind|before|in front|above|below|under|over|near|among|around)\b",
    r"\b(?:opposite|adjacent|across|along|against|from|than|to)\b|\b\d+\b",
)
# Words that may refer to an earlier turn.
_BACK = _pattern(
    r"\b(?:it|its|they|them|their|this|that|these|those|same|others?|another|ones?|also|too|again)\b",
    r"\b(?:what|how) about\b",
)
_PIXELS = _pattern(
    r"\bpixels?\b|\bpx\b|\bcoordinates?\b|\bintrinsics?\b|\bfocal\b|\bfield of view\b|\b[xyzuv] ?[=:] ?-?\d",
    r"[\[({]\s*-?\d+(?:\.\d+)?\s*[,;]\s*-?\d",
)
_COLOR = _pattern(
    r"colou?r|\b(?:red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gr[ae]y|silver|gold(?:en)?|beige)\b",
    r"\b(?:turquoise|cyan|magenta|teal|navy|maroon|cream|tan|dark|light|pale|bright)",
)
