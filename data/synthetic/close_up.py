# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Close views of single things by a phone held upright, as in Objectron: nine degrees of freedom."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic import interiors, version1_scenery
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
)
from llmi3d.data.synthetic.version1_rendering import sensor

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
# Categories that may lie on a side, by a quarter turn about one of these of their axes.
LYING = {"bottle": "xz", "mug": "z", "cereal_box": "xz", "camera": "z", "vase": "xz", "shoe": "x"}
QUARTERS = {
    "x": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "z": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}


def objects(draw: Random, traits: Traits) -> Scene:
    """Draw a few things on a table, or larger ones on a floor."""
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
        surroundings = (
            version1_scenery.tabletop(draw, placed, middle, height, small),
            version1_scenery.tabletop_light(draw),
            sensor(draw),
        )
    else:
        spots = [(item.position[0], item.position[2], math.hypot(*item.asset.size) / 2) for item in placed]
        last = max((z + radius for _, z, radius in spots), default=middle)
        side = max((abs(x) + radius for x, _, radius in spots), default=0.0)
        drawn = interiors.tabletop(draw, middle, last, side, spots, height, small)
        surroundings = *drawn, draw_camera(draw, shallow=True)
    return Scene(image_size, intrinsics, to_camera, placed, *surroundings)
