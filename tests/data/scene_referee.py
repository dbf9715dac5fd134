# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Random scenes, and a referee of what forms mean that shares no code with the checker."""

import math
import random

from llmi3d.data.schema import make_object

SIZE = (640, 480)
K = [[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]]
EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
VOCABULARY = ("car", "truck", "traffic_cone", "mug", "bench", "dog")
NAMES = ("car", "truck", "traffic_cone", "mug", "office_chair", "chair")
COLORS = ("red", "blue", "green")
MATERIALS = ("wooden", "plastic")


def random_scene(seed: int) -> dict:
    draw = random.Random(seed)
    objects = []
    for i in range(draw.randint(1, 10)):
        z = draw.uniform(3, 30)
        x, y = draw.uniform(-0.6, 0.6) * z, draw.uniform(-0.4, 0.4) * z
        if objects and draw.random() < 0.15:  # a near tie
            x, y, z = (value * draw.uniform(0.98, 1.02) for value in objects[-1]["center"])
        attributes = {"color": draw.choice(COLORS)} if draw.random() < 0.8 else {}
        if draw.random() < 0.3:
            attributes["material"] = draw.choice(MATERIALS)
        objects.append(
            entry(
                str(i), draw.choice(NAMES[: draw.randint(1, len(NAMES))]), [x, y, z],
                [draw.uniform(0.3, 3) for _ in range(3)], attributes=attributes,
                ignore=draw.random() < 0.1, visibility=draw.choice((None, 0.05, 0.5, 1.0)),
            )
        )  # fmt: skip
    if draw.random() < 0.06:  # one beside the camera, of which a part reaches into the picture
        center = [draw.choice((-1, 1)) * draw.uniform(1, 2), draw.uniform(-1, 1), -draw.uniform(0, 1)]
        objects.append(
            make_object(
                "beside", draw.choice(NAMES), center, [1.5, 1.5, 8], EYE, K,
                ignore=True, attributes={"color": draw.choice(COLORS)},
            )
        )  # fmt: skip
    return {"image_id": f"test/{seed}", "source": "test", "split": "train", "intrinsics": K, "objects": objects}


def entry(name, category, center, size, attributes, ignore=False, visibility=None):
    """As `make_object`, for upright boxes wholly before the camera; plain numbers, for thousands of scenes."""
    (x, y, z), (length, height, width) = center, size
    depths = (z - width / 2, z + width / 2)
    us = [500 * (x + side * length / 2) / depth + 320 for side in (-1, 1) for depth in depths]
    vs = [500 * (y + side * height / 2) / depth + 240 for side in (-1, 1) for depth in depths]
    return {
        "id": name, "category": category, "center": center, "size": size, "rotation": EYE,
        "box_2d": [min(us), min(vs), max(us), max(vs)], "visibility": visibility, "truncation": None,
        "occlusion": None, "ignore": ignore, "attributes": attributes,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- referee
# Written from the words of the forms' documentation, with plain numbers and no margins: what the phrase means.


def seen(one):
    """(before the camera, u, v, distance)"""
    x, y, z = one["center"]
    return z > 0, 500 * x / z + 320, 500 * y / z + 240, math.sqrt(x * x + y * y + z * z)


def referee(form, objects):
    """Ids that satisfy a form, boundaries taken as they are; None where listeners may differ about it."""
    # "On the left" is the left third to one, the left half to another.
    readings = [meant(form, objects, side) for side in (640 / 3, 640 / 2)]
    return readings[0] if readings[0] == readings[1] else None


def meant(form, objects, side):
    kept = [one for one in objects if one["category"].replace("_", " ") == form["category"].replace("_", " ")]
    beside = [one for one in kept if one["center"][2] <= 0]
    for condition in form["conditions"]:
        if condition["is"] == "attribute":
            name, value = condition["name"], condition["value"]
            beside = [one for one in beside if one["attributes"].get(name, value) == value]
    if beside:  # it is seen, but where its centre is is not
        return None
    kept = [one for one in kept if one["center"][2] > 0]
    for condition in form["conditions"]:
        kind = condition["is"]
        if kind == "attribute":
            kept = [one for one in kept if one["attributes"].get(condition["name"]) == condition["value"]]
        elif kind == "place":
            low, high = {"left": (0, side), "middle": (640 / 3, 1280 / 3), "right": (640 - side, 640)}[
                condition["third"]
            ]
            kept = [one for one in kept if low <= min(640, max(0, seen(one)[1])) <= high]
        elif kind == "metres":
            kept = [
                one for one in kept if abs(seen(one)[3] - condition["about"]) <= max(0.1 * condition["about"], 0.25)
            ]
        elif kind == "relation":
            [anchor] = [one for one in objects if one["id"] in meant(condition["to"], objects, side)]
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
    """What a listener may see: everything that is in the picture."""
    return [
        one
        for one in objects
        if one["box_2d"] is not None
        and one["box_2d"][0] < 640 and one["box_2d"][2] > 0 and one["box_2d"][1] < 480 and one["box_2d"][3] > 0
    ]  # fmt: skip


def moved(one, center, size):
    """The same object elsewhere or of another size."""
    if one["center"][2] <= 0:
        return {**one, "center": center, "size": size}
    return entry(one["id"], one["category"], center, size, one["attributes"])


def jittered(objects, draw, share=0.01):
    """The same objects, each moved along its ray and across it, and resized, by less than any margin."""
    found = []
    for one in objects:
        x, y, z = one["center"]
        scale = 1 + draw.uniform(-share, share)
        center = [x * scale + draw.uniform(-1, 1) * 0.003 * z, y * scale, z * scale]
        found.append(moved(one, center, [value * (1 + draw.uniform(-0.015, 0.015)) for value in one["size"]]))
    return found
