# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A reader of phrases: words back to logical forms, written by hand and sharing nothing with the generator.

`read` mends one typing error, strips what stands around the noun phrase, and reads it as somebody who knows English
would. It raises `Unreadable` where it cannot, or where two readings are possible.
"""

import re
from itertools import product


class Unreadable(Exception):
    """Words without exactly one reading."""


NOUNS = {
    "armchair": "armchair", "easy chair": "armchair", "lounge chair": "armchair", "barrier": "barrier",
    "roadblock": "barrier", "bicycle": "bicycle", "bike": "bicycle", "pushbike": "bicycle", "bench": "bench",
    "bookshelf": "bookshelf", "bookcase": "bookshelf", "bus": "bus", "coach": "bus", "car": "car",
    "automobile": "car", "motorcar": "car", "cereal box": "cereal box", "box of cereal": "cereal box",
    "cornflakes box": "cereal box", "chair": "chair", "seat": "chair", "cyclist": "cyclist",
    "person on a bike": "cyclist", "bicyclist": "cyclist", "bike rider": "cyclist", "dog": "dog", "lamp": "lamp",
    "light": "lamp", "motorcycle": "motorcycle", "motorbike": "motorcycle", "motor bike": "motorcycle",
    "mug": "mug", "cup": "mug", "coffee cup": "mug", "office chair": "office chair", "desk chair": "office chair",
    "swivel chair": "office chair", "sofa": "sofa", "couch": "sofa", "settee": "sofa",
    "traffic cone": "traffic cone", "safety cone": "traffic cone", "road cone": "traffic cone", "truck": "truck",
    "lorry": "truck", "television": "television", "tv": "television", "tv set": "television",
}  # fmt: skip
PLURALS = {
    "bench": "benches", "bus": "buses", "coach": "coaches", "couch": "couches", "cereal box": "cereal boxes",
    "box of cereal": "boxes of cereal", "cornflakes box": "cornflakes boxes", "lorry": "lorries",
    "person on a bike": "people on bikes", "bookshelf": "bookshelves",
}  # fmt: skip
ADJECTIVES = {
    **{name: ("color", name) for name in ("red", "blue", "green", "gray", "purple")},
    "grey": ("color", "gray"),
    "violet": ("color", "purple"),
    **{name: ("material", name) for name in ("wooden", "plastic")},
    "made of wood": ("material", "wooden"),
    "made of plastic": ("material", "plastic"),
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NUMBERS = {word: n for n, word in enumerate(ORDINALS, 1)} | {"1st": 1, "2nd": 2, "3rd": 3, "4th": 4, "5th": 5}
SUPERLATIVES = {
    "left": "leftmost|left-most|far-left",
    "right": "rightmost|right-most|far-right",
    "near": "nearest|closest|least distant",
    "far": "farthest|furthest|most distant|remotest",
    "large": "largest|biggest|bulkiest|most voluminous",
    "small": "smallest|tiniest|least bulky",
    "tall": "tallest|loftiest",
    "short": "shortest|least tall|least high",
}
EYE = "(?:the camera|the viewer|us|me)"
# After the noun, of the first one; only where nothing else follows.
RANKS_AFTER = {
    "left": "(?:farthest|furthest) to the left|at the far left",
    "right": "(?:farthest|furthest) to the right|at the far right",
    "near": f"(?:nearest|closest) to {EYE}|at the smallest distance",
    "far": f"(?:farthest|furthest) (?:from {EYE}|away)|most distant from {EYE}|at the greatest distance",
    "large": "with the largest volume",
    "small": "with the smallest volume",
    "tall": "with the greatest height",
    "short": "with the smallest height",
}
COUNTED = {
    "left": "(?:counting )?from the left|if one starts at the left",
    "right": "(?:counting )?from the right|if one starts at the right",
    "near": "by distance",
}
IMAGE = "(?:picture|image|photo)"
PLACES = {
    side: rf"(?:over )?(?:on|at) the {side}(?:-hand)?(?: side)?(?: of the {IMAGE})?"
    rf"|in the {side} (?:third|part) of the {IMAGE}"
    for side in ("left", "right")
} | {
    "middle": rf"(?:in|around) the (?:middle|cent(?:er|re))(?: third)?(?: of the {IMAGE})?"
    rf"|in the central part of the {IMAGE}"
}
METRES = rf"(?:at a distance of )?(?:about|roughly|around|approximately|some) (\d+(?:\.\d+)?) m(?:et(?:re|er)s)?" \
    rf"(?: away| off| from {EYE})?|(\d+(?:\.\d+)?) m or so away"  # fmt: skip
RELATIONS = {
    "left_of": "(?:to the |on the )?left(?:-hand side)? of|further left than",
    "right_of": "(?:to the |on the )?right(?:-hand side)? of|further right than",
    "nearer_than": f"(?:nearer|closer)(?: to {EYE})? than|not as far away as",
    "farther_than": f"(?:farther|further) (?:away|from {EYE}) than|more (?:distant|remote) than|not as near as",
    "next_to": "next to|beside|adjacent to|close by|alongside",
    "above": "above|(?:straight )?over",
}
FRAMES = [
    r"Where (?:is|are) (.+)\?", r"Find (.+)\.", r"Show me (.+)\.", r"Point to (.+)\.", r"Please locate (.+)\.",
    r"I am looking for (.+)\.", r"Give me the 3D box of (.+)\.", r"could you show me where (.+) (?:is|are)\?",
    r"can you help me spot (.+), please\?", r"i can't find (.+), can you\?", r"hey, where did you see (.+)\?",
    r"tell me where (.+) (?:is|are), would you\?", r"look for (.+) and mark (?:it|them) for me",
    r"i need to know the position of (.+)", r"draw a box around (.+), please", r"we are interested in (.+) only",
    r"i mean (.+), yes, (?:this one|these)",
]  # fmt: skip


def read(text):
    """(logical form, whether it asks for several) of a phrase or a sentence around one."""
    text = re.sub(r"^Locate (.+) in 3D\.$", r"\1", text)
    phrase, several = noun_phrase(next((m[1] for frame in FRAMES if (m := re.fullmatch(frame, text))), text))
    return phrase, several


def noun_phrase(text, anchor=False):
    start = re.match(r"(?:all the |all |the )", text)
    if start is None:
        raise Unreadable(text)
    rest, readings = text[start.end() :], []
    for (noun, category), many in product(NOUNS.items(), (False, True)):
        word = PLURALS.get(noun, f"{noun}s") if many else noun
        for found in re.finditer(rf"(?<![\w-]){word}(?![\w-])", rest):
            before, after = rest[: found.start()].strip(), rest[found.end() :].strip()
            adjectives = conditions_before(before)
            # An anchor has nothing after its noun, and "all" asks for several.
            if adjectives is None or (anchor and after) or ("all" in start[0] and not many):
                continue
            for conditions in conditions_after(after, adjectives):
                conditions.sort(key=lambda one: one["is"] == "rank")  # among those that all else leaves
                readings.append(({"category": category, "conditions": conditions}, many))
    if len(readings) != 1:
        raise Unreadable(text, readings)
    return readings[0]


def conditions_before(text):
    """What stands before the noun: a rank and adjectives, in this order; None where anything else does."""
    found = []
    ordinal = re.match(rf"({'|'.join(NUMBERS)})(?= |$)", text)
    n, text = (NUMBERS[ordinal[1]], text[ordinal.end() :].strip()) if ordinal else (1, text)
    for by, wordings in SUPERLATIVES.items():
        if rank := re.match(rf"(?:{wordings})(?= |$)", text):
            found.append({"is": "rank", "by": by, "n": n})
            text = text[rank.end() :].strip()
            break
    else:
        if ordinal:
            found.append(n)  # counted by what follows the noun
    for word in text.split():
        if word not in ADJECTIVES:
            return None
        found.append(attribute(word))
    return found


def attribute(word):
    name, value = ADJECTIVES[word]
    return {"is": "attribute", "name": name, "value": value}


def conditions_after(text, before):
    """Readings of all conditions, with what follows the noun."""
    counted = next((one for one in before if isinstance(one, int)), None)
    before = [one for one in before if not isinstance(one, int)]
    if counted is not None:
        by = [by for by, wordings in COUNTED.items() if re.fullmatch(wordings, text)]
        return [[*before, {"is": "rank", "by": name, "n": counted}] for name in by]
    if not text:
        return [before]
    ranks = [by for by, wordings in RANKS_AFTER.items() if re.fullmatch(wordings, text)]
    readings = [[*before, {"is": "rank", "by": by, "n": 1}] for by in ranks]
    clause = re.sub(r"^that (?:is|are) ", "", text)
    for parts in splits(clause):
        conditions = [condition(part) for part in parts]
        if None not in conditions:
            readings.append([*before, *conditions])
    return readings


def splits(text):
    """Ways to cut a clause at "and"."""
    yield [text]
    for cut in re.finditer(" and ", text):
        for rest in splits(text[cut.end() :]):
            yield [text[: cut.start()], *rest]


def condition(text):
    if text in ADJECTIVES:
        return attribute(text)
    for third, wordings in PLACES.items():
        if re.fullmatch(wordings, text):
            return {"is": "place", "third": third}
    if metres := re.fullmatch(METRES, text):
        return {"is": "metres", "about": float(metres[1] or metres[2])}
    for name, wordings in RELATIONS.items():
        if relation := re.match(rf"(?:{wordings}) ", text):
            return {"is": "relation", "name": name, "to": noun_phrase(text[relation.end() :], anchor=True)[0]}
    return None


# ------------------------------------------------------------------------------------------------------- typing errors


def vocabulary():
    """Every word that this reader knows."""
    texts = [*NOUNS, *(f"{noun}s" for noun in NOUNS), *PLURALS.values(), *ADJECTIVES, *ORDINALS, *FRAMES, METRES]
    for table in (SUPERLATIVES, RANKS_AFTER, COUNTED, PLACES, RELATIONS):
        texts += table.values()
    texts += ["Locate in all the that is are and metres meters center centre", EYE, IMAGE]
    return set(re.findall(r"[a-z]+", re.sub(r"\\.", " ", " ".join(texts)).lower()))


def mended(text):
    """(the text with its misspelt word as it was meant, how many words were misspelt)."""
    known, wrong = vocabulary(), 0
    for word in re.findall(r"(?<![A-Za-z])[a-z]+", text):
        if len(word) > 2 and word not in known:
            meant = [other for other in known if one_slip(word, other)]
            if len(meant) != 1:
                raise Unreadable(text, word, meant)
            text, wrong = text.replace(word, meant[0], 1), wrong + 1
    return text, wrong


def one_slip(word, meant):
    """Whether a word is another with two neighbours swapped, or one letter more, less or other."""
    if len(word) == len(meant):
        off = [i for i, (a, b) in enumerate(zip(word, meant, strict=True)) if a != b]
        swapped = (
            len(off) == 2 and off[1] == off[0] + 1 and word[off[0]] + word[off[1]] == meant[off[1]] + meant[off[0]]
        )
        return len(off) == 1 or swapped
    short, long = sorted((word, meant), key=len)
    return len(long) == len(short) + 1 and any(long[:i] + long[i + 1 :] == short for i in range(len(long)))
