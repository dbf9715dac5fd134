# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Phrases in words that people use and that training never contains, to measure what is understood beyond templates.

A turn keeps its image, targets, answer and form, and is asked in one of these ways:

    synonym    another noun, or another word for a colour: "the nearest couch", "the person on a bike"
    order      other templates and another word order: "the car that is red", "the 2nd car counting from the left"
    sentence   a sentence around the phrase: "could you show me where the red mug is?"
    typo       one typing error: "the neraest mug"
    free       all of these together, each where it is possible

No template, sentence or noun here is one of `wording.PLAIN` or `wording.VARIED`. A noun is taken only where no other
object in the image could bear it, and a misspelt word is nearer to what it was than to any other word that is used.
"""

import re
import string
from dataclasses import replace
from random import Random

from llmi3d.data.expressions.nouns import overlap, plural, words
from llmi3d.data.expressions.wording import (
    ORDINALS,
    PLAIN,
    VARIED,
    Wording,
    frame,
    say,
    takes_camera_for_viewer,
)
from llmi3d.data.schema import Turn, turns_of, with_turns
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT

PARAPHRASE_KINDS = ("synonym", "order", "sentence", "typo", "free")
SPLIT = "paraphrase"
# Category -> nouns that mean the same.
NOUNS = {
    "armchair": ("easy chair", "lounge chair"),
    "barrier": ("roadblock",),
    "bicycle": ("bike", "pushbike"),
    "bin": ("dustbin", "wastebasket"),
    "bookshelf": ("bookcase",),
    "bus": ("coach",),
    "cabinet": ("cupboard",),
    "car": ("automobile", "motorcar"),
    "cereal box": ("box of cereal", "cornflakes box"),
    "chair": ("seat",),
    "cyclist": ("person on a bike", "bicyclist", "bike rider"),
    "desk": ("writing table", "work table"),
    "kettle": ("teakettle", "tea kettle"),
    "lamp": ("light",),
    "laptop": ("notebook computer", "portable computer"),
    "monitor": ("computer screen", "computer display"),
    "motorcycle": ("motorbike", "motor bike"),
    "mug": ("cup", "coffee cup"),
    "night stand": ("bedside table",),
    "office chair": ("desk chair", "swivel chair"),
    "pedestrian": ("person on foot", "passer-by"),
    "person": ("human",),
    "plant": ("houseplant",),
    "shoe": ("piece of footwear",),
    "sofa": ("couch", "settee"),
    "suitcase": ("travel case", "piece of luggage"),
    "television": ("tv", "tv set"),
    "traffic cone": ("safety cone", "road cone"),
    "tram": ("streetcar",),
    "truck": ("lorry",),
    "vase": ("flower vase",),
    "wardrobe": ("closet",),
}
# Categories, beside those that `nouns.overlap` knows, that might bear a noun as well.
_CLASHES = {
    "bike": {"motorcycle", "cyclist", "motorcyclist"},
    "seat": {"bench", "stool", "sofa", "armchair", "office chair"},
    "light": {"traffic light", "lantern"},
    "cupboard": {"wardrobe", "bookshelf", "shelf", "night stand", "dresser"},
    "easy chair": {"chair", "sofa"},
    "coach": {"truck", "van", "train"},
    "closet": {"cabinet", "bookshelf"},
    "human": {"pedestrian", "cyclist", "motorcyclist"},
}
_ADJECTIVES = {"gray": ("grey",), "purple": ("violet",)}
_MADE_OF = ("plastic", "metal", "glass", "leather", "ceramic")
_LATE = {"wooden": "made of wood", "fabric": "made of cloth", **{name: f"made of {name}" for name in _MADE_OF}}

PARAPHRASE = Wording(
    ranks={
        "left": (
            ("{np} at the far left", "far-left {np}", "left-most {np}"),
            ("{n} {np} counting from the left", "{n} {np} if one starts at the left"),
        ),
        "right": (
            ("{np} at the far right", "far-right {np}", "right-most {np}"),
            ("{n} {np} counting from the right", "{n} {np} if one starts at the right"),
        ),
        "near": (
            ("{np} nearest to us", "{np} closest to me", "{np} at the smallest distance", "least distant {np}"),
            ("{n} least distant {np}", "{n} {np} by distance"),
        ),
        "far": (("remotest {np}", "{np} farthest from us", "{np} at the greatest distance"), ()),
        "large": (("bulkiest {np}", "most voluminous {np}", "{np} with the largest volume"), ()),
        "small": (("tiniest {np}", "least bulky {np}", "{np} with the smallest volume"), ()),
        "tall": (("loftiest {np}", "{np} with the greatest height"), ()),
        "short": (("least high {np}", "{np} with the smallest height"), ()),
    },
    places={
        "left": ("over on the left", "on the left-hand side", "in the left part of the photo"),
        "middle": ("in the centre", "around the middle", "in the central part of the photo"),
        "right": ("over on the right", "on the right-hand side", "in the right part of the photo"),
    },
    relations={
        "left_of": ("on the left-hand side of {to}", "further left than {to}"),
        "right_of": ("on the right-hand side of {to}", "further right than {to}"),
        "nearer_than": ("not as far away as {to}", "closer to us than {to}"),
        "farther_than": ("not as near as {to}", "more remote than {to}"),
        "next_to": ("close by {to}", "alongside {to}"),
        "above": ("over {to}", "straight over {to}"),
    },
    metres=("some {d} m off", "about {d} meters from us", "{d} m or so away"),
    frames=(
        "could you show me where {x} {is}?",
        "can you help me spot {x}, please?",
        "i can't find {x}, can you?",
        "hey, where did you see {x}?",
        "tell me where {x} {is}, would you?",
        "look for {x} and mark {it} for me",
        "i need to know the position of {x}",
        "draw a box around {x}, please",
        "we are interested in {x} only",
        "i mean {x}, yes, {one}",
    ),
    clauses=True,
    late_adjectives=_LATE,
    ordinals=("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 11))),
    nouns=NOUNS,
    adjectives=_ADJECTIVES,
)


def paraphrase_row(row: dict, seed: int = 0) -> dict | None:
    """Return a row in which every phrase that has a form is asked in other words; None where none has.

    Its split becomes `paraphrase`; the `kind` of a turn's meaning becomes the kind of paraphrase. Questions in words
    stay, so that turns keep their numbers and can be compared with those of the row. Phrases without form are dropped.

    Args:
        row: valid row.
        seed: decides everything together with `image_id`.
    """
    draw = Random(f"paraphrase {seed}/{row['image_id']}")
    present = {words(entry["category"]) for entry in row["objects"]}
    turns = []
    for turn in turns_of(row):
        if turn.task not in ("grounding", "multi", "absent"):
            turns.append(turn)
        elif "conditions" in (turn.meaning.get("form") or {}):
            turns.append(_paraphrased(turn, present, draw))
    if all(turn.task == "vqa" for turn in turns):
        return None
    return {**with_turns(row, turns), "split": SPLIT}


def _paraphrased(turn: Turn, present: set[str], draw: Random) -> Turn:
    form, several = turn.meaning["form"], turn.task == "multi"
    nouns = {
        name: free
        for name, nouns in NOUNS.items()
        if (free := tuple(noun for noun in nouns if not _may_be_another(noun, name, present)))
    }
    kinds = [kind for kind in PARAPHRASE_KINDS if kind in ("sentence", "typo", "free")]
    if words(form["category"]) in nouns or _has_synonym(form):
        kinds.append("synonym")
    if form["conditions"]:
        kinds.append("order")
    kind = draw.choice(kinds)
    wording = {
        "synonym": replace(VARIED, nouns=nouns, adjectives=_ADJECTIVES),
        "order": replace(PARAPHRASE, nouns={}, adjectives={}),
        "free": replace(PARAPHRASE, nouns=nouns),
    }.get(kind, VARIED)
    phrase = say(form, draw, several, wording=wording)
    while takes_camera_for_viewer(phrase, present):
        phrase = say(form, draw, several, wording=wording)
    if kind in ("typo", "free"):
        misspelt = misspell(phrase, draw)
        if kind == "typo" and misspelt == phrase:  # "the car" has no word that is long enough
            kind = "sentence"
        phrase = misspelt
    if kind in ("sentence", "free"):
        phrase = frame(phrase, draw, several, PARAPHRASE)
    question = GROUNDING_PROMPT.format(phrase=phrase)
    return replace(turn, question=question, meaning={**turn.meaning, "kind": kind})


def _may_be_another(noun: str, category: str, present: set[str]) -> bool:
    others = present - {category}
    return noun in present or bool(others & _CLASHES.get(noun, set())) or any(overlap(noun, name) for name in others)


def _has_synonym(form: dict) -> bool:
    return any(condition.get("value") in _ADJECTIVES for condition in form["conditions"])


# ------------------------------------------------------------------------------------------------------ typing errors


def misspell(text: str, draw: Random) -> str:
    """Return a text with one typing error, in a word of four letters or more: swapped, missing, doubled or wrong.

    The new word is no word that any phrase uses, and one edit from no such word but the old one.
    """
    known = _KNOWN | set(_WORD.findall(text))
    places = list(_WORD.finditer(text))
    for place in draw.sample(places, len(places)):
        letters = place[0]
        for _ in range(10):
            i = draw.randrange(1, len(letters) - 1)  # people rarely miss the first letter
            new = draw.choice(
                (
                    letters[:i] + letters[i + 1] + letters[i] + letters[i + 2 :],
                    letters[:i] + letters[i + 1 :],
                    letters[:i] + letters[i] + letters[i:],
                    letters[:i] + _KEYS_BESIDE[letters[i]] + letters[i + 1 :],
                )
            )
            if new not in known and _one_edit_from(new) & known == {letters}:
                return text[: place.start()] + new + text[place.end() :]
    return text


_WORD = re.compile(r"(?<![\w'-])[a-z]{4,}(?![\w'-])")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_KEYS_BESIDE = {key: (row[i + 1] if i + 1 < len(row) else row[i - 1]) for row in _ROWS for i, key in enumerate(row)}


def _one_edit_from(word: str) -> set[str]:
    """Words that a swap of neighbours, or one letter more, less or other, makes of a word."""
    parts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    edits = {before + after[1:] for before, after in parts if after}
    edits |= {before + after[1] + after[0] + after[2:] for before, after in parts if len(after) > 1}
    edits |= {before + letter + after[1:] for before, after in parts if after for letter in string.ascii_lowercase}
    return edits | {before + letter + after for before, after in parts for letter in string.ascii_lowercase}


def _words_of(wording: Wording) -> set[str]:
    texts = [*wording.metres, *wording.frames, *(wording.late_adjectives or {}).values()]
    texts += [template for lists in wording.ranks.values() for templates in lists for template in templates]
    groups = (wording.places, wording.relations, wording.nouns, wording.adjectives)
    texts += [text for group in groups for templates in group.values() for text in templates]
    return set(re.findall(r"[a-z]+", " ".join([*texts, *map(plural, texts)]).lower()))


_COLORS = "beige black blue brown gold gray green grey orange pink purple red silver violet white yellow"
_KNOWN = _words_of(PLAIN) | _words_of(VARIED) | _words_of(PARAPHRASE) | set(_COLORS.split()) | {*ORDINALS, "these"}
_KNOWN |= {word for name in NOUNS for noun in (name, plural(name)) for word in noun.split()}
