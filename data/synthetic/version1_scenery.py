# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Scenery and light of version 1, kept so that its images can be made again: streets, rooms and table tops."""

import math
from dataclasses import replace
from random import Random

import numpy as np

from llmi3d.data.synthetic.render import Light, Piece, Surface
from llmi3d.data.synthetic.scene import Placed, block, ground, pale, quad, tilt, turn


def street(draw: Random, edges, lane: float, lanes: int, height: float) -> list[Piece]:
    """Draw a street along z; see `townscape.street`."""
    left, right, parking, pavement = edges
    far = 160.0
    grass = (draw.uniform(0.3, 0.45), draw.uniform(0.42, 0.55), draw.uniform(0.2, 0.3))
    asphalt = (draw.uniform(0.25, 0.42),) * 3
    outer_left, outer_right = left - parking, right + parking
    pieces = [
        ground((-far, far), (-far, far), height + 0.02, Surface(grass, "cloud", scale=2.0)),
        ground((outer_left, outer_right), (-far, far), height, Surface(asphalt, "speckle", scale=1.5)),
    ]
    paving = Surface(pale(draw, 0.5, 0.7), "tiles", scale=0.6)
    for a, b in ((outer_left - pavement, outer_left), (outer_right, outer_right + pavement)):
        pieces.append(ground((a, b), (-far, far), height - 0.003, paving))
    paint = Surface((0.9, 0.9, 0.88))
    for number in range(lanes + 1):
        x = left + number * lane
        if number in (0, lanes):
            pieces.append(ground((x - 0.07, x + 0.07), (-far, far), height - 0.004, paint))
        else:
            start = draw.uniform(0, 9)
            for z in np.arange(-40 + start, 70, 9.0):
                pieces.append(ground((x - 0.07, x + 0.07), (z, z + 3), height - 0.004, paint))
    for side, edge in ((-1, outer_left - pavement), (1, outer_right + pavement)):
        built, z = draw.random() < 0.75, -45.0
        while z < 110:
            deep = draw.uniform(8, 22)
            if built and draw.random() < 0.85:
                pieces.append(_house(draw, side, edge, z, deep, height))
            else:
                pieces += _tree(draw, edge + side * draw.uniform(0.5, 5), z + deep / 2, height)
            z += deep + draw.choice((0.0, 0.0, draw.uniform(1, 6)))
    return pieces


def _house(draw: Random, side: int, edge: float, z: float, deep: float, height: float) -> Piece:
    wide, tall, away = draw.uniform(6, 14), draw.uniform(4, 18), draw.choice((0.3, draw.uniform(0.3, 7)))
    color = tuple(min(1.0, c * draw.uniform(0.8, 1.0)) for c in pale(draw, 0.4, 0.85))
    surface = draw.choice(
        (
            Surface(color, "windows", second=(0.2, 0.25, 0.32), scale=draw.uniform(2.0, 3.5)),
            Surface(color, "windows", second=(0.2, 0.25, 0.32), scale=draw.uniform(2.0, 3.5)),
            Surface(color, "bricks", scale=0.5),
        )
    )
    return block((edge + side * (away + wide / 2), height - tall / 2, z + deep / 2), (wide, tall, deep), surface)


def _tree(draw: Random, x: float, z: float, height: float) -> list[Piece]:
    tall, crown = draw.uniform(3.5, 8), draw.uniform(1.2, 2.6)
    leaves = (draw.uniform(0.12, 0.28), draw.uniform(0.3, 0.48), draw.uniform(0.08, 0.18))
    pieces = [block((x, height - tall / 4, z), (0.3, tall / 2, 0.3), Surface((0.3, 0.22, 0.15)))]
    for _ in range(4):  # a few turned cubes read as a crown
        around = np.array([draw.gauss(0, crown / 3) for _ in range(3)])
        lump = block((0, 0, 0), (crown,) * 3, Surface(leaves, "cloud", scale=0.6))
        spun = lump.vertices @ turn(draw.uniform(0, 3)).T @ tilt(draw.uniform(0, 3), draw.uniform(0, 3)).T
        pieces.append(replace(lump, vertices=spun + around + (x, height - tall * 0.7, z), local=lump.vertices))
    return pieces


def daylight(draw: Random) -> Light:
    """Draw sun, sky and haze."""
    azimuth, elevation = draw.uniform(-math.pi, math.pi), math.radians(draw.uniform(20, 75))
    away = 500.0
    overcast = draw.random() < 0.35
    strength = draw.uniform(0.15, 0.35) if overcast else draw.uniform(0.6, 1.0)
    ambient = draw.uniform(0.5, 0.75) if overcast else draw.uniform(0.3, 0.5)
    horizon = pale(draw, 0.75, 0.95)
    zenith = pale(draw, 0.6, 0.85) if overcast else (draw.uniform(0.3, 0.5), draw.uniform(0.5, 0.65), 0.92)
    return Light(
        position=(
            away * math.cos(elevation) * math.sin(azimuth),
            -away * math.sin(elevation),
            away * math.cos(elevation) * math.cos(azimuth),
        ),
        color=(strength, strength * 0.97, strength * 0.9),
        ambient=(ambient * 0.95, ambient, ambient * 1.05),
        sky=(horizon, zenith),
        haze=draw.choice((0.0, draw.uniform(0.1, 0.8))),
    )


def room(draw: Random, room, height: float) -> list[Piece]:
    """Draw a room; see `interiors.room`."""
    left, right, depth = room
    top, behind = height - draw.uniform(2.4, 3.0), -1.5
    wood = (draw.uniform(0.4, 0.75), draw.uniform(0.3, 0.5), draw.uniform(0.2, 0.35))
    floor = draw.choice(
        (
            Surface(wood, "planks", scale=0.15, gloss=0.05),
            Surface(pale(draw, 0.4, 0.85), "tiles", scale=draw.uniform(0.3, 0.6), gloss=0.1),
            Surface(pale(draw, 0.25, 0.7), "speckle", scale=0.15),
        )
    )
    color = pale(draw)
    wall = draw.choice(
        (
            Surface(color),
            Surface(color, "cloud", scale=1.0, second=tuple(0.9 * c for c in color)),
            Surface(color, "bricks", scale=0.4, second=tuple(0.85 * c for c in color)),
            Surface(color, "stripes", scale=0.3, second=tuple(0.93 * c for c in color)),
        )
    )
    pieces = [
        ground((left, right), (behind, depth), height, floor),
        ground((left, right), (behind, depth), top, Surface(pale(draw, 0.8, 0.95))),
        quad([(left, height, depth), (right, height, depth), (right, top, depth), (left, top, depth)], wall),
        quad([(left, height, behind), (left, height, depth), (left, top, depth), (left, top, behind)], wall),
        quad([(right, height, behind), (right, height, depth), (right, top, depth), (right, top, behind)], wall),
        quad([(left, height, behind), (right, height, behind), (right, top, behind), (left, top, behind)], wall),
    ]
    if draw.random() < 0.5:  # a rug
        x, z = draw.uniform(left + 1, right - 1), draw.uniform(2, depth - 1)
        half = draw.uniform(0.5, 1.0)
        rug = Surface(pale(draw, 0.2, 0.7), draw.choice(("checks", "stripes", "weave")), scale=0.25)
        pieces.append(ground((x - half, x + half), (z - half, z + half), height - 0.004, rug))
    for _ in range(draw.randint(0, 2)):  # posters, or a window in the back wall
        x, y = draw.uniform(left + 0.6, right - 0.6), draw.uniform(top + 0.5, height - 1.3)
        size = draw.uniform(0.25, 0.7), draw.uniform(0.25, 0.5)
        bright = draw.random() < 0.4
        surface = Surface((0.85, 0.93, 1.0), glow=0.5) if bright else Surface(pale(draw, 0.2, 0.8), "cloud", scale=0.2)
        pieces.append(block((x, y, depth - 0.01), (*size, 0.02), surface))
    return pieces


def lamplight(draw: Random, room, height: float) -> Light:
    """Draw a lamp below the ceiling."""
    left, right, depth = room
    strength, warm = draw.uniform(0.45, 0.9), draw.uniform(-0.05, 0.12)
    return Light(
        position=(draw.uniform(left + 0.3, right - 0.3), height - 2.3, draw.uniform(0.0, depth - 0.5)),
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(draw.uniform(0.3, 0.55),) * 3,
    )


def tabletop(draw: Random, placed: list[Placed], middle: float, height: float, small: bool) -> list[Piece]:
    """Draw a table, or a floor, and a wall."""
    # Nothing hangs in the air, or in a wall.
    reach = [math.hypot(*item.asset.size) / 2 for item in placed]
    last = max((item.position[2] + r for item, r in zip(placed, reach, strict=True)), default=middle)
    side = max((abs(item.position[0]) + r for item, r in zip(placed, reach, strict=True)), default=0.0)
    wood = (draw.uniform(0.4, 0.8), draw.uniform(0.3, 0.6), draw.uniform(0.2, 0.4))
    unit = 0.3 if small else 1.0
    surface = draw.choice(
        (
            Surface(wood, "wood", scale=0.8 * unit, second=tuple(0.8 * c for c in wood), gloss=0.05),
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


def tabletop_light(draw: Random) -> Light:
    """Draw a lamp about the table."""
    strength, warm = draw.uniform(0.45, 0.95), draw.uniform(-0.06, 0.12)
    return Light(
        position=(draw.uniform(-2, 2), -draw.uniform(1.2, 2.5), draw.uniform(-1.5, 2.0)),
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(draw.uniform(0.3, 0.55),) * 3,
    )
