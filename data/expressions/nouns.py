# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Category names as English nouns: words, plurals, and names that may mean the same thing."""

from functools import lru_cache

_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
}
_IRREGULAR |= {
    "person on a bike": "people on bikes",
    "person on foot": "people on foot",
    "passer-by": "passers-by",
    "box of cereal": "boxes of cereal",
    "piece of luggage": "pieces of luggage",
    "piece of footwear": "pieces of footwear",
}
_IRREGULAR |= {"shelf": "shelves", "bookshelf": "bookshelves", "person sitting": "people sitting", "foot": "feet"}
# Names that are plural already, or have no plural: never counted, never asked for as several.
UNCOUNTED = frozenset(
    ("books", "shelves", "clothes", "blinds", "shoes", "stationery", "stairs", "scissors", "glasses", "debris", "food")
)
# Single words that always mean the same. "Bike" is not one: it may be a motorcycle.
SYNONYMS = ({"car", "automobile"}, {"sofa", "couch"}, {"television", "tv"}, {"motorcycle", "motorbike"})
# Names that listeners may use for one another. A name also overlaps with any that ends in the same word.
_OVERLAPS = (
    *SYNONYMS,
    {"pedestrian", "person", "person_sitting", "cyclist", "motorcyclist", "adult", "child"},
    {"bicycle", "cyclist", "bike"},
    {"motorcycle", "motorcyclist", "motorbike", "bike"},
    {"car", "automobile", "van", "vehicle"},
    {"truck", "van", "construction_vehicle", "trailer", "vehicle"},
    {"bus", "vehicle", "tram"},
    {"sofa", "couch", "sofa_chair", "chair", "armchair"},
    {"table", "desk", "coffee_table", "counter", "night_stand", "dresser", "cabinet"},
    {"wardrobe", "closet", "cabinet"},
    {"laptop", "computer"},
    {"bookcase", "bookshelf", "shelves", "shelf", "cabinet"},
    {"dresser", "dresser_mirror", "mirror"},
    {"television", "tv", "monitor", "screen"},
    {"cup", "mug"},
    {"bin", "garbage_bin", "trash_can", "box"},
    {"ottoman", "stool", "chair"},
)


@lru_cache(maxsize=4096)
def words(category: str) -> str:
    """Return a category as words: "Traffic_Cone" -> "traffic cone"."""
    return category.replace("_", " ").strip().lower()


def plural(category: str) -> str:
    """Return the plural of a category in words: "traffic_cone" -> "traffic cones"."""
    noun = words(category)
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    before, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{before} {last}".strip()


def article(noun: str) -> str:
    """Return "a" or "an" by the first letter of a noun."""
    return "an" if noun[:1] in "aeiou" else "a"


@lru_cache(maxsize=4096)
def overlap(a: str, b: str) -> bool:
    """Whether a listener might take an object called `a` for a `b`; false for equal names."""
    first, second = words(a), words(b)
    if first == second:
        return False
    if first.split()[-1] == second.split()[-1]:
        return True
    keys = {first.replace(" ", "_"), second.replace(" ", "_")}
    return any(keys <= group for group in _OVERLAPS)
