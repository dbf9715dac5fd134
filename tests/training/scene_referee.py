# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Random scenes, and a referee of what forms mean that shares no code with the checker."""

import math
import random

from llmi3d.training.ig3d.schema import make_object

SIZE = (640, 480)
K = [[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]]
EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
VOCABULARY = ("car", "truck", "traffic_cone", "mug", "bench", "dog")
NAMES = ("car", "truck", "traffic_cone", "mug", "office_chair", "chair")
COLORS = ("red", "blue", "green")


def random_scene(seed: int) -> dict:
    draw = random.Random(seed)
    objects = []
    for i in range(draw.randint(1, 10)):
        z = draw.uniform(3, 30)
        x, y = draw.uniform(-0.6, 0.6) * z, draw.uniform(-0.4, 0.4) * z
        if objects and draw.random() < 0.15:  # a near tie
            x, y, z = (value * draw.uniform(0.98, 1.02) for value in objects[-1]["center"])
        size = [draw.uniform(0.3, 3) for _ in range(3)]
        attributes = {"color": draw.choice(COLORS)} if draw.random() < 0.8 else {}
        objects.append(
            make_object(
                str(i), draw.choice(NAMES[: draw.randint(1, len(NAMES))]), [x, y, z], size, EYE, K,
                ignore=draw.random() < 0.1, attributes=attributes, visibility=draw.choice((None, 0.05, 0.5, 1.0)),
            )
        )  # fmt: skip
    return {"image_id": f"test/{seed}", "source": "test", "split": "train", "intrinsics": K, "objects": objects}


# ------------------------------------------------------------------------------------------------------------- referee
# Written from the words of the forms' documentation, with plain numbers and no margins: what the phrase means.


def seen(entry):
    x, y, z = entry["center"]
    return z > 0, 500 * x / z + 320, 500 * y / z + 240, math.sqrt(x * x + y * y + z * z)


def referee(form, objects):
    """Ids that satisfy a form, boundaries taken as they are."""
    kept = [one for one in objects if one["category"].replace("_", " ") == form["category"].replace("_", " ")]
    for condition in form["conditions"]:
        kind = condition["is"]
        if kind == "attribute":
            kept = [one for one in kept if one["attributes"].get(condition["name"]) == condition["value"]]
        elif kind == "place":
            thirds = {"left": 0, "middle": 1, "right": 2}
            kept = [
                one for one in kept if min(2, max(0, int(seen(one)[1] // (640 / 3)))) == thirds[condition["third"]]
            ]
        elif kind == "metres":
            kept = [
                one for one in kept if abs(seen(one)[3] - condition["about"]) <= max(0.1 * condition["about"], 0.25)
            ]
        elif kind == "relation":
            [anchor] = [one for one in objects if one["id"] in referee(condition["to"], objects)]
            kept = [one for one in kept if one is not anchor and related(one, condition["name"], anchor)]
        elif kind == "rank":
            value = {
                "left": lambda one: seen(one)[1],
                "right": lambda one: -seen(one)[1],
                "near": lambda one: seen(one)[3],
                "far": lambda one: -seen(one)[3],
                "large": lambda one: -one["size"][0] * one["size"][1] * one["size"][2],
                "small": lambda one: one["size"][0] * one["size"][1] * one["size"][2],
                "tall": lambda one: -one["size"][1],
                "short": lambda one: one["size"][1],
            }[condition["by"]]
            kept = sorted(kept, key=value)[condition["n"] - 1 : condition["n"]]
    return {one["id"] for one in kept}


def related(one, name, anchor):
    (_, u, v, d), (_, au, av, ad) = seen(one), seen(anchor)
    if name == "next_to":
        diagonals = math.hypot(*one["size"]) + math.hypot(*anchor["size"])
        return math.dist(one["center"], anchor["center"]) <= diagonals / 2
    left, _, right, _ = anchor["box_2d"]
    return {
        "left_of": u < au, "right_of": u > au, "nearer_than": d < ad, "farther_than": d > ad,
        "above": v < av and left < u < right,
    }[name]  # fmt: skip


def visible(objects):
    """What a listener may see: everything before the camera and in the picture."""
    return [
        one
        for one in objects
        if one["center"][2] > 0
        and one["box_2d"][0] < 640 and one["box_2d"][2] > 0 and one["box_2d"][1] < 480 and one["box_2d"][3] > 0
    ]  # fmt: skip


def jittered(objects, draw, share=0.01):
    """The same objects, each moved along its ray and across it, and resized, by less than any margin."""
    moved = []
    for one in objects:
        x, y, z = one["center"]
        scale = 1 + draw.uniform(-share, share)
        center = [x * scale + draw.uniform(-1, 1) * 0.003 * z, y * scale, z * scale]
        size = [value * (1 + draw.uniform(-0.015, 0.015)) for value in one["size"]]
        moved.append(
            {**make_object(one["id"], one["category"], center, size, EYE, K), "attributes": one["attributes"]}
        )
    return moved
