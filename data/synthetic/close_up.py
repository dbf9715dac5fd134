# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Single things from nearby, by a telephone held upright and askew, as in Objectron: nine degrees of freedom."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.backdrops import tabletop
from llmi3d.data.synthetic.camera_effects import draw_camera
from llmi3d.data.synthetic.render import Light, Piece, Surface
from llmi3d.data.synthetic.scene import (
    Floor,
    Placed,
    Scene,
    Traits,
    block,
    camera,
    choose,
    dressed,
    ground,
    pale,
    sensor,
    tilt,
    turn,
)

SIZES, FOCAL = ((480, 640), (720, 960)), (1.02, 1.3)
SMALL = {
    "mug": 1.5,
    "bottle": 1.5,
    "bowl": 1,
    "book": 1.2,
    "laptop": 1.2,
    "vase": 1,
    "cereal_box": 1.2,
    "ball": 0.8,
    "camera": 1.5,
    "shoe": 1.5,
    "kettle": 1,
}
LARGE = {"chair": 2, "suitcase": 1, "bicycle": 1.5, "plant": 1, "bin": 0.7, "ball": 0.4, "shoe": 0.6, "stool": 0.7}
# Things that may lie on a side, by a quarter turn about one of these axes of theirs.
LYING = {"bottle": "xz", "mug": "z", "cereal_box": "xz", "camera": "z", "vase": "xz", "shoe": "x"}
QUARTERS = {
    "x": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "z": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}


def objects(draw: Random, traits: Traits) -> Scene:
    """A few things on a table, or larger ones on a floor."""
    image_size = draw.choice(SIZES)
    intrinsics, zoom = camera(draw, image_size, FOCAL, traits)
    small = draw.random() < 0.7
    pitch = math.radians(draw.uniform(18, 58) if small else draw.uniform(12, 38))
    distance = draw.uniform(0.4, 1.1) if small else draw.uniform(1.5, 3.2)
    distance *= zoom * (2.2 if traits.far else 1.0)
    height = distance * math.sin(pitch)
    to_camera = tilt(pitch, math.radians(draw.gauss(0, 10)))
    floor, placed = Floor(gap=0.01), []
    wanted = draw.randint(6, 10) if traits.dense else draw.randint(1, 5)
    middle = distance * math.cos(pitch)
    spread = distance * 0.5 * image_size[0] / intrinsics[0, 0]
    for _ in range(15 * wanted):
        if len(placed) >= wanted:
            break
        clothes = dressed(choose(SMALL if small else LARGE, draw, traits), draw, traits)
        x = draw.gauss(0, 0.12 if not placed else 0.55) * spread
        z = middle + draw.gauss(0, 0.1 if not placed else 0.8) * spread
        yaw = draw.uniform(-math.pi, math.pi)
        axes = LYING.get(clothes["asset"].category, "")
        laid = QUARTERS[draw.choice(axes)] if axes and draw.random() < 0.25 else np.eye(3)
        size = np.abs(laid) @ np.array(clothes["asset"].size)  # along the axes in which it stands or lies
        if z > 0.12 + max(size) and floor.take(x, z, size, yaw):
            placed.append(
                Placed(position=np.array((x, height - size[1] / 2, z)), rotation=turn(yaw) @ laid, **clothes)
            )
    if traits.version == 1:
        surroundings = _scenery(draw, placed, middle, height, small), _light(draw), sensor(draw)
    else:
        spots = [(one.position[0], one.position[2], math.hypot(*one.asset.size) / 2) for one in placed]
        last = max((z + radius for _, z, radius in spots), default=middle)
        side = max((abs(x) + radius for x, _, radius in spots), default=0.0)
        drawn = tabletop(draw, middle, last, side, spots, height, small)
        surroundings = *drawn, draw_camera(draw, shallow=True)
    return Scene(image_size, intrinsics, to_camera, placed, *surroundings)


def _scenery(draw: Random, placed: list[Placed], middle: float, height: float, small: bool) -> list[Piece]:
    # Nothing hangs in the air, or in a wall.
    reach = [math.hypot(*one.asset.size) / 2 for one in placed]
    last = max((one.position[2] + r for one, r in zip(placed, reach, strict=True)), default=middle)
    side = max((abs(one.position[0]) + r for one, r in zip(placed, reach, strict=True)), default=0.0)
    wood = (draw.uniform(0.4, 0.8), draw.uniform(0.3, 0.6), draw.uniform(0.2, 0.4))
    unit = 0.3 if small else 1.0
    surface = draw.choice(
        (
            Surface(wood, "wood", scale=0.8 * unit, second=tuple(0.8 * one for one in wood), gloss=0.05),
            Surface(wood, "planks", scale=0.4 * unit),
            Surface(pale(draw, 0.3, 0.9), "tiles", scale=0.8 * unit),
            Surface(pale(draw, 0.3, 0.9), "speckle", scale=0.3 * unit),
            Surface(pale(draw, 0.4, 0.9)),
        )
    )
    back = last + draw.uniform(0.5, 2.5) * (1 if small else 1.6)
    wall = Surface(pale(draw), draw.choice(("plain", "cloud", "bricks")), scale=0.6)
    room = [
        block((0, height - 3, back), (30, 8, 0.1), wall),
        ground((-15, 15), (-4, back), height + (0.75 if small else 0.0), Surface(pale(draw, 0.3, 0.7), "speckle")),
    ]
    if not small:
        return [ground((-15, 15), (-4, back), height, surface), *room]
    edge = min(back - 0.2, last + draw.uniform(0.02, 0.5))
    half = side + draw.uniform(0.05, 0.7)
    return [block((0, height + 0.02, (edge - 0.6) / 2), (2 * half, 0.04, edge + 0.6), surface), *room]


def _light(draw: Random) -> Light:
    strength, warm = draw.uniform(0.45, 0.95), draw.uniform(-0.06, 0.12)
    return Light(
        position=(draw.uniform(-2, 2), -draw.uniform(1.2, 2.5), draw.uniform(-1.5, 2.0)),
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(draw.uniform(0.3, 0.55),) * 3,
    )
