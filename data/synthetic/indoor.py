# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rooms with furniture and small things on it; cameras like SUN RGB-D's (640x480 to 730x530, held by hand)."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic import interiors, version1_scenery
from llmi3d.data.synthetic.assets import support
from llmi3d.data.synthetic.camera_effects import draw_camera
from llmi3d.data.synthetic.scene import (
    Floor,
    Placed,
    Scene,
    Traits,
    camera,
    choose,
    dressed,
    tilt,
    turn,
    upright,
)
from llmi3d.data.synthetic.version1_rendering import sensor

SIZES = ((640, 480), (730, 530), (561, 427), (800, 600))
FOCAL = (0.72, 0.98)
# Categories that stand with their back to a wall, anywhere, or on furniture, with their weights.
ALONG_WALLS = {
    "wardrobe": 1.0,
    "bookshelf": 1.2,
    "sofa": 1.2,
    "bed": 1.0,
    "desk": 1.2,
    "cabinet": 1.2,
    "night_stand": 1.0,
    "television": 1.0,
    "bench": 1.0,
    "armchair": 0.6,
}
ANYWHERE = {
    "chair": 2.5,
    "table": 1.5,
    "armchair": 1.0,
    "stool": 1.0,
    "lamp": 1.0,
    "plant": 1.0,
    "bin": 1.0,
    "suitcase": 1.0,
    "ball": 0.7,
    "sofa": 0.5,
}
ON_TOP = {
    "mug": 1.2,
    "bottle": 1.0,
    "bowl": 1.0,
    "book": 1.0,
    "laptop": 1.0,
    "vase": 1.0,
    "monitor": 0.8,
    "cereal_box": 0.8,
    "ball": 0.5,
    "camera": 0.5,
    "kettle": 1.0,
}


def indoor(draw: Random, traits: Traits) -> Scene:
    """Draw a room with furniture."""
    image_size = draw.choice(SIZES)
    intrinsics, zoom = camera(draw, image_size, FOCAL, traits)
    spread = max(1.0, zoom) * (1.5 if traits.far else 1.0)
    width, depth = draw.uniform(3.2, 6.0) * spread, draw.uniform(3.6, 6.5) * spread
    left = -width * draw.uniform(0.3, 0.7)
    room = (left, left + width, depth)
    height = draw.uniform(1.1, 1.7)
    floor = Floor()
    placed = []
    wanted = draw.randint(8, 13) if traits.dense else draw.randint(3, 7)
    for _ in range(12 * wanted):
        if len(placed) >= wanted:
            break
        item = _stand(draw, room, height, intrinsics, image_size, floor, traits)
        if item is not None:
            placed.append(item)
    for below in list(placed):
        placed += _on_top(below, draw, traits)
    tilted = tilt(math.radians(draw.uniform(4, 26)), math.radians(draw.gauss(0, 2)))
    if traits.version == 1:
        surroundings = (
            version1_scenery.room(draw, room, height),
            version1_scenery.lamplight(draw, room, height),
            sensor(draw),
        )
    else:
        surroundings = *interiors.room(draw, room, height), draw_camera(draw)
    return Scene(image_size, intrinsics, tilted, placed, *surroundings)


def _stand(draw, room, height, intrinsics, image_size, floor, traits) -> Placed | None:
    left, right, depth = room
    along = draw.random() < 0.45
    clothes = dressed(choose(ALONG_WALLS if along else ANYWHERE, draw, traits), draw, traits)
    length = clothes["asset"].size[0]
    # The view at a depth, and a little more.
    half_view = 0.55 * image_size[0] / intrinsics[0, 0]
    nearest = depth * (0.5 if traits.far else 0.2)
    if not along:
        z = draw.uniform(max(1.3, nearest), depth - 0.3)
        x = draw.uniform(max(left + 0.3, -half_view * z), min(right - 0.3, half_view * z))
        yaw = draw.uniform(-math.pi, math.pi)
    else:
        wall = draw.choice(("back", "back", "left", "right"))
        away = length / 2 + draw.uniform(0.03, 0.15)
        if wall == "back":
            z, yaw = depth - away, math.pi / 2
            x = draw.uniform(max(left + 0.4, -half_view * z), min(right - 0.4, half_view * z))
        else:
            x, yaw = (left + away, 0.0) if wall == "left" else (right - away, math.pi)
            first = max(nearest, abs(x) / half_view)
            if first > depth - 0.5:
                return None
            z = draw.uniform(first, depth - 0.5)
        yaw += math.radians(draw.gauss(0, 2))
    if not _inside(x, z, clothes["asset"].size, yaw, room) or not floor.take(x, z, clothes["asset"].size, yaw):
        return None
    return upright(x, z, height, yaw, clothes)


def _inside(x: float, z: float, size, yaw: float, room) -> bool:
    """Return whether an object stands within the walls and clear of the camera."""
    left, right, depth = room
    reach_x = (size[0] * abs(math.cos(yaw)) + size[2] * abs(math.sin(yaw))) / 2
    reach_z = (size[0] * abs(math.sin(yaw)) + size[2] * abs(math.cos(yaw))) / 2
    return left < x - reach_x and x + reach_x < right and z - reach_z > 0.7 and z + reach_z < depth


def _on_top(below: Placed, draw: Random, traits: Traits) -> list[Placed]:
    """Draw small things on a piece of furniture."""
    top = support(below.asset)
    if top is None or draw.random() < 0.15:
        return []
    y, half_length, half_width = top
    free, items = Floor(gap=0.02), []
    for _ in range(draw.randint(1, 6 if traits.dense else 3)):
        clothes = dressed(choose(ON_TOP, draw, traits), draw, traits)
        asset = clothes["asset"]
        reach = math.hypot(asset.size[0], asset.size[2]) / 2
        if reach > min(half_length, half_width):
            continue
        x, z = (draw.uniform(reach - half, half - reach) for half in (half_length, half_width))
        yaw = draw.uniform(-math.pi, math.pi)
        if asset.category in ("monitor", "laptop", "television"):  # screens face the way their furniture does
            yaw = math.radians(draw.gauss(0, 12))
        if free.take(x, z, asset.size, yaw):
            where = below.position + below.rotation @ np.array((x, y - asset.size[1] / 2, z))
            items.append(Placed(position=where, rotation=below.rotation @ turn(yaw), **clothes))
    return items
