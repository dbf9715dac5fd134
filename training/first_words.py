# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Words without boxes, which a language model that has seen no image learns first: captions and places.

They are what grounding is for an MLLM without 3D: places are percents of the image's width and height.
"""

import math
from random import Random
from typing import Any

import numpy as np

from llmi3d.data.expressions.nouns import article, words
from llmi3d.data.expressions.questions import say_metres
from llmi3d.data.schema import Turn, turns_of, with_turns
from llmi3d.training.dense import open_map


def first_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with its questions, a caption, and places in words: what is here, and where is that.

    The meaning of a turn about one object has the form {"object": id}, so that what its words speak of is known.

    Args:
        row: with an `instance_map`.

    Raises:
        ValueError: a row without one.
    """
    instances = open_map(row)
    if instances is None:
        raise ValueError(f"instance_map: row '{row['image_id']}' has none, want one to say in words where things are.")
    height, width = instances.shape
    draw = Random(row["image_id"])
    turns = [turn for turn in turns_of(row) if turn.task == "vqa"]

    def place(x: float, y: float) -> str:
        return f"{min(max(int(100 * x / width), 0), 99):02d}, {min(max(int(100 * y / height), 0), 99):02d}"

    seen = []
    for index, entry in enumerate(row["objects"]):
        pixels = np.argwhere(instances == index + 1)
        if len(pixels) and not entry["ignore"]:
            seen.append((len(pixels), entry))
            y, x = pixels[draw.randrange(len(pixels))]
            turns.append(_turn(f"What is at {place(x + 0.5, y + 0.5)}?", f"{_described(entry)}.", entry["id"]))
    largest = [entry for _, entry in sorted(seen, key=lambda counted: -counted[0])[:4]]
    if largest:
        turns.append(_turn("Describe the picture.", "; ".join(map(_described, largest)) + "."))
    objects = {entry["id"]: entry for entry in row["objects"]}
    for turn in turns_of(row):
        if turn.task == "grounding":
            left, top, right, bottom = objects[turn.targets[0]]["box_2d"]
            middle = place((max(left, 0) + min(right, width)) / 2, (max(top, 0) + min(bottom, height)) / 2)
            turns.append(_turn(f"Where is {turn.phrase}?", f"At {middle}.", turn.targets[0]))
        elif turn.task == "absent":
            turns.append(_turn(f"Where is {turn.phrase}?", turn.answer))
    return with_turns(row, turns)


def _described(entry: dict[str, Any]) -> str:
    """ "A red chair, 3.2 m away"."""
    noun = " ".join([*filter(None, [entry["attributes"].get("color")]), words(entry["category"])])
    name = f"{article(noun)} {noun}"
    return f"{name[0].upper()}{name[1:]}, {say_metres(math.dist(entry['center'], (0, 0, 0)))} away"


def _turn(question: str, answer: str, target: str | None = None) -> Turn:
    return Turn(question, answer, "caption", (), {} if target is None else {"form": {"object": target}})
