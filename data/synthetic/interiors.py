# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rooms and table tops of version 2, and their light.

Nothing here is labelled, so nothing here may look like one of the categories.
"""

import math
from dataclasses import replace
from random import Random

import numpy as np

from llmi3d.data.synthetic.render import Light, Piece, Surface
from llmi3d.data.synthetic.scene import STEEL, block, ground, pale, quad, stained, stand
from llmi3d.data.synthetic.shapes import block as solid
from llmi3d.data.synthetic.shapes import ellipsoid, lathe, tube

PAINT = (
    (0.9, 0.88, 0.84),
    (0.86, 0.86, 0.86),
    (0.82, 0.8, 0.74),
    (0.78, 0.82, 0.84),
    (0.72, 0.74, 0.68),
    (0.85, 0.78, 0.7),
)
TIMBER = ((0.55, 0.38, 0.22), (0.68, 0.52, 0.34), (0.4, 0.26, 0.16), (0.78, 0.66, 0.48), (0.5, 0.42, 0.34))


def flooring(draw: Random) -> Surface:
    """Draw a floor: boards, tiles, carpet, stone or concrete."""
    kind = draw.choice(("planks", "planks", "tiles", "carpet", "carpet", "stone", "plaster"))
    color = stained(draw, TIMBER) if kind == "planks" else pale(draw, 0.35, 0.8)
    second = {"tiles": 0.75, "carpet": 0.75}.get(kind, 0.65)
    scale = {"planks": draw.uniform(0.07, 0.18), "tiles": draw.uniform(0.25, 0.6)}.get(kind, 0.3)
    gloss = draw.choice((0.0, draw.uniform(0.1, 0.4))) if kind in ("planks", "tiles", "stone") else 0.0
    return Surface(color, kind, tuple(second * c for c in color), scale, gloss)


def room(draw: Random, walls, height: float) -> tuple[list[Piece], Light]:
    """Draw a room and its light.

    Args:
        walls: x of the left and the right wall, z of the back wall, metres.
        height: of the camera above the floor, metres.
    """
    left, right, depth = walls
    top, behind = height - draw.uniform(2.4, 3.0), -1.5
    color = stained(draw, PAINT)
    wall = Surface(
        color,
        draw.choice(("plaster", "plaster", "plaster", "plain", "bricks")),
        scale=0.3,
        second=tuple(0.85 * c for c in color),
    )
    accent = (
        replace(wall, albedo=stained(draw, (*PAINT, (0.35, 0.42, 0.5), (0.5, 0.3, 0.25), (0.4, 0.45, 0.35))))
        if draw.random() < 0.3
        else wall
    )
    white = Surface(pale(draw, 0.82, 0.95), "plaster")
    pieces = [
        ground((left, right), (behind, depth), height, flooring(draw)),
        ground((left, right), (behind, depth), top, white),
        quad([(left, height, depth), (right, height, depth), (right, top, depth), (left, top, depth)], accent),
        quad([(left, height, behind), (left, height, depth), (left, top, depth), (left, top, behind)], wall),
        quad([(right, height, behind), (right, height, depth), (right, top, depth), (right, top, behind)], wall),
        quad([(left, height, behind), (right, height, behind), (right, top, behind), (left, top, behind)], wall),
    ]
    skirting = Surface(stained(draw, ((0.9, 0.9, 0.88), *TIMBER)), "plain")
    for center, size in (
        (((left + right) / 2, depth), (right - left, 0.03)),
        ((left, (depth + behind) / 2), (0.03, depth - behind)),
        ((right, (depth + behind) / 2), (0.03, depth - behind)),
    ):
        pieces.append(block((center[0], height - 0.05, center[1]), (size[0], 0.1, size[1]), skirting))
    bright = draw.uniform(0.5, 2.5)
    window = None
    for side in draw.sample(("back", "left", "right"), draw.randint(0, 2)):
        pieces += _window(draw, side, walls, height, top, bright)
        window = side
    if draw.random() < 0.35:
        pieces += _door(draw, walls, height)
    for _ in range(draw.randint(0, 3)):
        pieces += _framed(draw, walls, height, top)
    if draw.random() < 0.4:
        pieces += _rug(draw, walls, height)
    pieces += _litter(draw, walls, height)
    if draw.random() < 0.25:  # a pillar, or the edge of a partition
        x = draw.choice((left, right))
        wide, z = draw.uniform(0.2, 0.9), draw.uniform(0.45, 0.9) * depth
        pieces.append(block((x, (height + top) / 2, z), (2 * wide, height - top, 0.3), wall))
    for _ in range(draw.choice((0, 1, 2, 4))):  # lights in the ceiling
        x, z = draw.uniform(left + 0.4, right - 0.4), draw.uniform(0.5, depth - 0.4)
        pieces.append(
            block(
                (x, top, z), (draw.uniform(0.2, 1.2), 0.06, draw.uniform(0.2, 0.6)), Surface((1, 0.98, 0.92), glow=3.0)
            )
        )
    return pieces, _lamplight(draw, walls, height, window)


def _on_wall(side: str, walls, along: float, y: float, size, deep: float, surface: Surface) -> Piece:
    """Return a block on a wall; `along` is its x on the back wall, its z on the others; size (m) along and upright."""
    left, right, depth = walls
    if side == "back":
        return block((along, y, depth), (size[0], size[1], 2 * deep), surface)
    return block((left if side == "left" else right, y, along), (2 * deep, size[1], size[0]), surface)


def _span(draw: Random, side: str, walls, margin: float) -> float:
    left, right, depth = walls
    low, high = (left, right) if side == "back" else (0.3 * depth, depth)
    return draw.uniform(low + margin, max(low + margin, high - margin))


def _window(draw: Random, side: str, walls, height: float, top: float, bright: float) -> list[Piece]:
    wide, tall = draw.uniform(0.8, 2.2), draw.uniform(0.9, 1.5)
    along, y = _span(draw, side, walls, wide / 2 + 0.1), top + 0.3 + tall / 2
    view = Surface(
        (0.75, 0.85, 0.95),
        "outside",
        second=draw.choice(((0.4, 0.5, 0.35), (0.95, 0.97, 1.0), (0.6, 0.58, 0.55))),
        glow=bright,
    )
    frame = Surface(stained(draw, ((0.92, 0.92, 0.9), (0.3, 0.3, 0.3), *TIMBER)), "plain", gloss=0.1)
    pieces = [_on_wall(side, walls, along, y, (wide, tall), 0.01, view)]
    bars = [(along - wide / 2, y, (0.07, tall)), (along + wide / 2, y, (0.07, tall)), (along, y, (0.05, tall))]
    bars += [(along, y - tall / 2, (wide, 0.07)), (along, y + tall / 2, (wide + 0.15, 0.06))]
    pieces += [_on_wall(side, walls, at, level, size, 0.04, frame) for at, level, size in bars]
    if draw.random() < 0.5:
        cloth = Surface(stained(draw, (*PAINT, (0.45, 0.3, 0.25), (0.35, 0.4, 0.5), (0.5, 0.5, 0.48))), "cloth")
        hang = draw.uniform(1.1, 1.5) * tall
        for sign in (-1, 1):
            for k in range(3):  # folds
                at = along + sign * (wide / 2 + 0.06 + 0.1 * k)
                pieces.append(
                    _on_wall(side, walls, at, y - tall / 2 - 0.1 + hang / 2, (0.1, hang), 0.09 + 0.03 * (k % 2), cloth)
                )
    elif draw.random() < 0.4:
        drop = draw.uniform(0.2, 0.7) * tall
        slats = Surface((0.88, 0.87, 0.84), "bricks", second=(0.6, 0.6, 0.6), scale=0.12)
        pieces.append(_on_wall(side, walls, along, y - tall / 2 + drop / 2, (wide, drop), 0.05, slats))
    if draw.random() < 0.4:  # a radiator below
        ribs = Surface((0.9, 0.9, 0.88), "planks", second=(0.65, 0.65, 0.65), scale=0.06, gloss=0.1)
        pieces.append(_on_wall(side, walls, along, height - 0.4, (min(wide, 1.2), 0.55), 0.09, ribs))
    return pieces


def _door(draw: Random, walls, height: float) -> list[Piece]:
    side = draw.choice(("back", "left", "right"))
    along, wide = _span(draw, side, walls, 0.6), draw.uniform(0.8, 0.95)
    color = stained(draw, ((0.9, 0.9, 0.88), *TIMBER))
    leaf, frame = Surface(color, "wood", gloss=0.1), Surface(tuple(0.85 * c for c in color), "plain")
    pieces = [
        _on_wall(side, walls, along, height - 1.05, (wide + 0.16, 2.12), 0.02, frame),
        _on_wall(side, walls, along, height - 1.02, (wide, 2.04), 0.03, leaf),
        _on_wall(side, walls, along + 0.42 * wide, height - 1.03, (0.12, 0.03), 0.07, STEEL),
    ]
    for y in (0.62, 1.5):
        pieces.append(_on_wall(side, walls, along, height - y, (0.65 * wide, 0.6), 0.035, frame))
    return pieces


def _framed(draw: Random, walls, height: float, top: float) -> list[Piece]:
    """Draw a poster or a board on a wall."""
    side = draw.choice(("back", "back", "left", "right"))
    wide, tall = draw.uniform(0.25, 1.3), draw.uniform(0.25, 0.9)
    along, y = _span(draw, side, walls, wide / 2 + 0.05), draw.uniform(top + 0.35, height - 1.1)
    edge = Surface(stained(draw, ((0.1, 0.1, 0.1), (0.9, 0.9, 0.88), *TIMBER)), "plain", gloss=0.1)
    sheet = Surface(
        stained(draw, (*PAINT, (0.3, 0.4, 0.5), (0.6, 0.4, 0.3), (0.2, 0.3, 0.2))),
        draw.choice(("printed", "printed", "outside", "plain")),
        second=pale(draw, 0.2, 0.9),
        scale=draw.uniform(0.15, 0.8),
    )
    return [
        _on_wall(side, walls, along, y, (wide + 0.05, tall + 0.05), 0.015, edge),
        _on_wall(side, walls, along, y, (wide, tall), 0.02, sheet),
    ]


def _rug(draw: Random, walls, height: float) -> list[Piece]:
    left, right, depth = walls
    x, z = draw.uniform(left + 1, right - 1), draw.uniform(2, max(2.1, depth - 1))
    wide, deep = draw.uniform(0.5, 1.2), draw.uniform(0.4, 0.9)
    color = stained(draw, ((0.5, 0.2, 0.18), (0.3, 0.34, 0.42), (0.62, 0.57, 0.5), (0.35, 0.35, 0.35)))
    look = Surface(color, draw.choice(("cloth", "carpet", "printed")), second=pale(draw, 0.3, 0.7), scale=0.4)
    edge = replace(look, albedo=tuple(0.6 * c for c in color), texture="carpet")
    return [
        ground((x - wide - 0.07, x + wide + 0.07), (z - deep - 0.07, z + deep + 0.07), height - 0.004, edge),
        ground((x - wide, x + wide), (z - deep, z + deep), height - 0.008, look),
    ]


def _litter(draw: Random, walls, height: float) -> list[Piece]:
    """Draw cartons, papers, cables, clothes and boards on the floor and along the walls."""
    left, right, depth = walls
    pieces = []
    for _ in range(draw.randint(0, 4)):
        kind = draw.choice(("carton", "paper", "cable", "clothes", "board"))
        x = draw.choice((left, right)) if draw.random() < 0.6 else draw.uniform(left + 0.3, right - 0.3)
        x = min(max(x, left + 0.25), right - 0.25)
        z = draw.uniform(0.35 * depth, depth - 0.3)
        at, yaw = (x, height, z), draw.uniform(-math.pi, math.pi)
        if kind == "carton":
            a, b, c = (draw.uniform(0.1, 0.24) for _ in range(3))
            look = Surface(
                stained(draw, ((0.62, 0.48, 0.33), (0.7, 0.58, 0.42), (0.8, 0.8, 0.78))),
                "printed" if draw.random() < 0.3 else "leather",
                second=(0.5, 0.4, 0.3),
                scale=0.5,
            )
            pieces += stand([solid((-a, a), (-b, b), (0, 2 * c), "box")], at, yaw, {"box": look})
        elif kind == "paper":
            look = Surface((0.93, 0.93, 0.9), "printed", second=(0.85, 0.85, 0.85), scale=0.25)
            pieces += stand([solid((-0.15, 0.15), (-0.105, 0.105), (0.001, 0.003), "paper")], at, yaw, {"paper": look})
        elif kind == "cable":
            path = _wandering(draw, (0.12, 0.1), 0.15) + np.array((0, 0, 0.006))
            dark = Surface(draw.choice(((0.06, 0.06, 0.06), (0.85, 0.85, 0.83))))
            pieces += stand([tube(path, 0.005, "cable", 5)], at, yaw, {"cable": dark})
        elif kind == "clothes":
            look = Surface(
                stained(draw, ((0.3, 0.34, 0.45), (0.6, 0.58, 0.55), (0.5, 0.25, 0.25), (0.2, 0.2, 0.2))), "cloth"
            )
            lumps = [
                ellipsoid(
                    (draw.gauss(0, 0.1), draw.gauss(0, 0.1), 0.04),
                    (draw.uniform(0.1, 0.22), draw.uniform(0.08, 0.2), draw.uniform(0.04, 0.09)),
                    "cloth",
                    9,
                    6,
                )
                for _ in range(4)
            ]
            pieces += stand(lumps, at, yaw, {"cloth": look})
        else:
            look = Surface(stained(draw, TIMBER), "wood", scale=0.2)
            lean = draw.uniform(0.8, 1.6)
            pieces.append(
                _on_wall(
                    draw.choice(("left", "right")),
                    walls,
                    z,
                    height - lean / 2,
                    (draw.uniform(0.1, 0.5), lean),
                    0.04,
                    look,
                )
            )
    return pieces


def _lamplight(draw: Random, walls, height: float, window: str | None) -> Light:
    left, right, depth = walls
    level = draw.uniform(0.22, 0.55)
    if window and draw.random() < 0.6:  # daylight through it
        strength, warm = draw.uniform(0.5, 1.1), draw.uniform(-0.12, 0.06)
        along = {
            "back": ((left + right) / 2, depth - 0.4),
            "left": (left + 0.3, 0.6 * depth),
            "right": (right - 0.3, 0.6 * depth),
        }
        x, z = along[window]
        position, size = (x, height - draw.uniform(1.4, 1.9), z), draw.uniform(0.3, 0.6)
    else:
        strength, warm = draw.uniform(0.45, 0.95), draw.uniform(-0.03, 0.22)
        position = draw.uniform(left + 0.5, right - 0.5), height - 2.2, draw.uniform(0.0, depth - 0.5)
        size = draw.uniform(0.1, 0.6)
    return Light(
        position=position,
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(level * (1 + warm / 2), level, level * (1 - warm / 2)),
        sky=(pale(draw, 0.6, 0.9), pale(draw, 0.6, 0.9)),
        size=size,
        bounce=(level * 0.75, level * 0.7, level * 0.62),
        reach=1.2,
    )


def tabletop(
    draw: Random, middle: float, last: float, side: float, spots, height: float, small: bool
) -> tuple[list[Piece], Light]:
    """Draw a table, or a floor, with clutter on it and behind it, and its light.

    Args:
        middle, last: z of the middle of the objects and of where the last one ends, metres.
        side: |x| of where they end, metres.
        spots: (x, z, radius) that objects take, metres.
        height: of the camera above what they stand on, metres.
        small: whether that is a table.
    """
    kind = draw.choice(("wood", "wood", "planks", "stone", "cloth", "plain", "plaster"))
    unit = 0.3 if small else 1.0
    color = (
        stained(draw, TIMBER)
        if kind in ("wood", "planks")
        else stained(draw, (*PAINT, (0.3, 0.3, 0.32), (0.55, 0.5, 0.45)))
    )
    top = Surface(
        color,
        kind,
        tuple(draw.uniform(0.55, 0.85) * c for c in color),
        draw.uniform(0.3, 0.8) * unit,
        draw.choice((0.0, 0.05, 0.2, 0.35)),
    )
    if not small:
        top = flooring(draw)
    back = last + draw.uniform(0.5, 2.5) * (1 if small else 1.6)
    wall = Surface(
        stained(draw, PAINT),
        draw.choice(("plaster", "plaster", "bricks", "windows")),
        second=(0.5, 0.5, 0.5),
        scale=draw.uniform(0.2, 2),
    )
    low = height + (0.75 if small else 0.0)
    pieces = [block((0, height - 3, back), (30, 8, 0.1), wall)]
    pieces.append(ground((-15, 15), (-4, back), low, flooring(draw) if small else top))
    if small:
        edge = min(back - 0.2, last + draw.uniform(0.02, 0.5))
        half = side + draw.uniform(0.05, 0.7)
        pieces.append(block((0, height + 0.02, (edge - 0.6) / 2), (2 * half, 0.04, edge + 0.6), top))
        pieces += _strewn(draw, spots, half, (max(0.15, middle - 0.5), edge), height)
    for _ in range(draw.randint(1, 6)):  # furniture out of reach, curtains, boxes, posters: blocks before the wall
        wide, tall, z = draw.uniform(0.2, 1.3), draw.uniform(0.3, 2), back - draw.uniform(0.05, 0.35)
        look = Surface(
            stained(draw, (*PAINT, *TIMBER, (0.2, 0.22, 0.25), (0.3, 0.35, 0.45))),
            draw.choice(("printed", "wood", "cloth", "plaster", "outside", "planks")),
            second=pale(draw, 0.2, 0.8),
            scale=draw.uniform(0.1, 0.6),
        )
        pieces.append(
            block((draw.uniform(-2.5, 2.5), low - tall / 2 * draw.choice((1, 1, 2)), z), (wide, tall, 0.1), look)
        )
    strength, warm, level = draw.uniform(0.4, 1.0), draw.uniform(-0.1, 0.2), draw.uniform(0.22, 0.55)
    light = Light(
        position=(draw.uniform(-2, 2), -draw.uniform(0.8, 2.5), draw.uniform(-1.5, 2.0)),
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(level * (1 + warm / 2), level, level * (1 - warm / 2)),
        sky=(pale(draw, 0.6, 0.95), pale(draw, 0.6, 0.95)),
        size=draw.uniform(0.05, 0.6),
        bounce=(level * 0.7, level * 0.66, level * 0.6),
        reach=0.25 if small else 0.8,
    )
    return pieces, light


def _strewn(draw: Random, spots, half: float, z: tuple[float, float], height: float) -> list[Piece]:
    """Draw sheets, pens, cables, plates and cards between the objects."""
    pieces = []
    for _ in range(draw.randint(0, 7)):
        kind = draw.choice(("sheet", "sheet", "pen", "cable", "plate", "card", "cutlery"))
        x, at, reach = (
            draw.uniform(-half + 0.1, half - 0.1),
            draw.uniform(*z),
            {"plate": 0.12, "sheet": 0.0, "card": 0.0}.get(kind, 0.06),
        )
        if reach and any(math.hypot(x - a, at - b) < r + reach for a, b, r in spots):
            continue
        where, yaw = (x, height - 0.0005, at), draw.uniform(-math.pi, math.pi)
        if kind in ("sheet", "card"):
            a, b = (0.149, 0.105) if kind == "sheet" else (0.043, 0.027)
            look = Surface(
                stained(draw, ((0.93, 0.93, 0.9), (0.85, 0.85, 0.8), (0.6, 0.7, 0.8))),
                "printed",
                second=pale(draw, 0.5, 0.9),
                scale=draw.uniform(0.08, 0.3),
            )
            parts, surfaces = [solid((-a, a), (-b, b), (0, 0.0008), "sheet")], {"sheet": look}
        elif kind == "pen":
            look = Surface(
                stained(draw, ((0.1, 0.1, 0.1), (0.1, 0.2, 0.6), (0.7, 0.1, 0.1), (0.85, 0.75, 0.3))), gloss=0.3
            )
            parts, surfaces = (
                [tube([(-0.07, 0, 0.004), (0.06, 0, 0.004), (0.072, 0, 0.004)], [0.004, 0.004, 0.001], "pen", 7)],
                {"pen": look},
            )
        elif kind == "cutlery":
            parts = [
                tube(
                    [(-0.1, 0, 0.004), (0.02, 0, 0.004), (0.06, 0, 0.006), (0.1, 0, 0.004)],
                    [(0.005, 0.002), (0.003, 0.002), (0.011, 0.003), (0.003, 0.002)],
                    "steel",
                    8,
                    side=(0, 1, 0),
                )
            ]
            surfaces = {"steel": Surface((0.7, 0.7, 0.72), gloss=0.9)}
        elif kind == "plate":
            parts, surfaces = (
                [
                    lathe(
                        [(0.06, 0), (0.07, 0.004), (0.11, 0.014), (0.115, 0.016), (0.08, 0.006), (0, 0.005)],
                        "plate",
                        sides=20,
                    )
                ],
                {"plate": Surface(stained(draw, PAINT), gloss=0.35)},
            )
        else:
            path = _wandering(draw, (0.06, 0.03), 0.06) + np.array((-0.2, 0, 0.003))
            parts, surfaces = (
                [tube(path, 0.0028, "cable", 5)],
                {"cable": Surface(draw.choice(((0.06, 0.06, 0.06), (0.88, 0.88, 0.86))))},
            )
        pieces += stand(parts, where, yaw, surfaces)
    return pieces


def _wandering(draw: Random, step: tuple[float, float], aside: float) -> np.ndarray:
    """Draw seven points of a cable [7, 3], metres; `step` is mean and standard deviation of its steps ahead."""
    return np.cumsum([[draw.gauss(*step), draw.gauss(0, aside), 0] for _ in range(7)], 0)
