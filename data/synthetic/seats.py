# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of what people sit on. Each function draws one and returns its parts, in the frame of `shapes`."""

import math
from itertools import pairwise
from random import Random

import numpy as np

from llmi3d.data.synthetic.furniture import four_legs
from llmi3d.data.synthetic.shapes import Part, block, both_sides, circle, lathe, panel, placed, sizes, tube, turn


def _swivel_base(height: float, radius: float, arms: int = 5) -> list[Part]:
    """An office chair's star with castors, and its column."""
    parts = [tube([(0, 0, 0.08), (0, 0, height)], 0.03, "dark_metal")]
    for i in range(arms):
        a = 2 * math.pi * i / arms
        end = np.array([radius * math.cos(a), radius * math.sin(a), 0.06])
        parts.append(tube([(0, 0, 0.11), end], [0.035, 0.02], "dark_metal", 4))
        parts.append(block((end[0] - 0.03, end[0] + 0.03), (end[1] - 0.025, end[1] + 0.025), (0, 0.06), "rubber"))
    return parts


def chair(draw: Random) -> list[Part]:
    """A chair on legs, bent tubes or castors; its back solid, of slats or of rails; with or without arms."""
    depth, width, height, seat = sizes(draw, 0.46, 0.46, 0.9, 0.45)
    style = draw.choice(("legs", "legs", "legs", "frame", "swivel"))
    seat = min(seat, 0.62 * height)
    thick = draw.uniform(0.025, 0.06)
    half, wide = depth / 2, width / 2
    lean = draw.uniform(0.03, 0.1)
    parts = [block((-half, half), (-wide, wide), (seat - thick, seat), "body", bevel=0.3 * thick)]
    frame = draw.choice(("trim", "wood", "metal", "body"))
    if style == "swivel":
        parts += _swivel_base(seat - thick, 0.55 * width)
        frame = "dark_metal"
    elif style == "frame":  # bent tubes
        for y in (wide - 0.02, 0.02 - wide):
            x = half - 0.02
            parts.append(tube([(x, y, seat - thick), (x, y, 0.015), (-x, y, 0.015)], 0.014, "metal"))
            parts.append(tube([(-x, y, 0.015), (-x, y, seat)], 0.014, "metal"))
        frame = "metal"
    else:
        parts += four_legs(depth, width, seat - thick, draw.uniform(0.016, 0.028), frame, draw.uniform(0, 0.05))

    def back(z, y):  # a point of the leaning back
        return (-half + 0.015 - lean * (z - seat) / (height - seat), y, z)

    low = seat + draw.uniform(0.1, 0.4) * (height - seat)
    kind = draw.choice(("solid", "solid", "slats", "rails"))
    for y in (wide - 0.025, 0.025 - wide):
        parts.append(tube([back(seat - thick, y), back(height - 0.01, y)], 0.016, frame, 4))
    if kind == "solid" or style == "swivel":
        corners = [back(low, -wide), back(low, wide), back(height, 0.92 * wide), back(height, -0.92 * wide)]
        parts.append(panel(corners, draw.uniform(0.012, 0.03), "body"))
    elif kind == "slats":
        parts.append(panel([back(z, y) for z, y in _quad(height - 0.08, height, wide)], 0.014, "body"))
        for y in np.linspace(-0.7, 0.7, draw.choice((3, 4))) * wide:
            parts.append(tube([back(seat, y), back(height - 0.05, y)], (0.02, 0.008), "body", 4, side=(0, 1, 0)))
    else:
        bars = draw.choice((2, 3))
        for top in np.linspace(height, low + 0.1, bars):
            parts.append(panel([back(z, y) for z, y in _quad(top - 0.09, top, wide)], 0.012, "body"))
    if draw.random() < 0.35:
        rest = seat + draw.uniform(0.17, 0.24)
        points = [(0.3 * depth, wide + 0.01, seat - 0.5 * thick), (0.3 * depth, wide + 0.01, rest)]
        arm = block((-half - 0.01, 0.38 * depth), (wide - 0.02, wide + 0.04), (rest, rest + 0.03), frame)
        parts += both_sides([tube(points, 0.015, frame, 4), arm])
    return parts


def _quad(low: float, high: float, wide: float) -> list[tuple[float, float]]:
    return [(low, -wide), (low, wide), (high, wide), (high, -wide)]


def _upholstered(draw: Random, depth: float, width: float, height: float, seats: int) -> list[Part]:
    seat = draw.uniform(0.46, 0.54) * height
    foot = draw.choice((0.02, 0.06, 0.12))
    arm = draw.uniform(0.1, 0.2)
    arm_top = draw.uniform(0.62, 0.8) * height
    back = draw.uniform(0.18, 0.26)
    half, wide = depth / 2, width / 2
    inner = wide - arm
    parts = [block((-half, half - 0.02), (-wide + 0.02, wide - 0.02), (foot, seat - 0.12), "body")]
    parts += both_sides([block((-half, half), (inner, wide), (foot, arm_top), "body", bevel=0.05)])
    parts.append(block((-half, back - half), (-inner, inner), (foot, height), "body", bevel=0.05))
    lean = turn(1, -draw.uniform(6, 12))
    for y in np.linspace(-inner, inner, seats + 1)[:-1]:
        side = (y + 0.008, y + 2 * inner / seats - 0.008)
        parts.append(block((back - half, half + 0.01), side, (seat - 0.14, seat), "trim", bevel=0.04))
        cushion = block((back - half - 0.02, back - half + 0.13), side, (seat, 0.97 * height), "trim", bevel=0.05)
        parts += placed([cushion], matrix=lean, about=(back - half, 0, seat))
    parts += four_legs(depth - 0.08, width - 0.08, foot, 0.03, draw.choice(("wood", "metal")))
    if draw.random() < 0.3:
        y = draw.choice((-1, 1)) * (inner - 0.2)
        pillow = block((-0.07, 0.07), (y - 0.2, y + 0.2), (0, 0.38), draw.choice(("linen", "dark_fabric")), bevel=0.06)
        parts += placed([pillow], (back - half + 0.2, 0, seat), lean)
    return parts


def armchair(draw: Random) -> list[Part]:
    """An upholstered chair with arms."""
    depth, width, height = sizes(draw, 0.84, 0.84, 0.86)
    return _upholstered(draw, depth, width, height, 1)


def sofa(draw: Random) -> list[Part]:
    """A sofa for two or three."""
    seats = draw.choice((2, 2, 3))
    depth, width, height = sizes(draw, 0.88, 0.55 + 0.5 * seats, 0.82)
    return _upholstered(draw, depth, width, height, seats)


def stool(draw: Random) -> list[Part]:
    """A stool, round or with corners, on four legs or one foot."""
    height, across = sizes(draw, draw.choice((0.45, 0.5, 0.7)), draw.choice((0.34, 0.4)))
    r, thick = across / 2, draw.uniform(0.03, 0.07)
    under = height - thick
    legs = draw.choice(("trim", "metal", "wood", "dark_metal"))
    if draw.random() < 0.65:
        parts = [lathe([(0.95 * r, under), (r, under + 0.3 * thick), (r, height)], "body", sides=16)]
    else:
        parts = [block((-r, r), (-0.9 * r, 0.9 * r), (under, height), "body")]
    if draw.random() < 0.25:
        foot = [(0.9 * r, 0), (0.9 * r, 0.015), (0.025, 0.04), (0.025, under)]
        return [
            *parts,
            lathe(foot, "metal"),
            tube(circle((0, 0, 0.35 * height), 0.6 * r, 2), 0.01, "metal", 4, closed=True),
        ]
    splay = draw.uniform(0, 0.25) * r
    spread = 1.35 * r
    parts += four_legs(spread, spread, under, 0.017, legs, splay)
    level, reach = 0.35 * under, spread / 2 - 0.017 + 0.65 * splay
    ends = [(sx * reach, sy * reach, level) for sx, sy in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    return parts + [tube([ends[i], ends[i - 1]], 0.009, legs, 4) for i in range(4)]


def bench(draw: Random) -> list[Part]:
    """A bench of one board or several, with or without a back; with a back, arms or none."""
    depth, seat, width = sizes(draw, 0.44, 0.45, 1.45, common=0.17)
    half, wide = depth / 2, width / 2
    frame = draw.choice(("metal", "dark_metal", "trim", "wood"))
    slats = draw.choice((1, 3, 4))
    parts = []
    for x in np.linspace(-half, half, slats + 1)[:-1]:
        parts.append(block((x + 0.008, x + depth / slats - 0.008), (-wide, wide), (seat - 0.04, seat), "body"))
    for y in (-0.8 * wide, 0.8 * wide):
        parts.append(block((0.02 - half, half - 0.02), (y - 0.03, y + 0.03), (seat - 0.1, seat - 0.04), frame))
        for x in (0.05 - half, half - 0.05):
            parts.append(block((x - 0.03, x + 0.03), (y - 0.028, y + 0.028), (0, seat - 0.05), frame))
    if draw.random() < 0.3:
        return parts
    high, lean = seat + draw.uniform(0.32, 0.5), draw.uniform(0.05, 0.14)

    def back(z, y):
        return (-half - lean * (z - seat) / (high - seat), y, z)

    for y in (-0.8 * wide, 0.8 * wide):
        parts.append(tube([back(seat - 0.1, y), back(high - 0.02, y)], 0.025, frame, 4))
    levels = np.linspace(seat + 0.1, high, draw.choice((2, 3, 4)))
    for low, top in pairwise(levels):
        parts.append(
            panel([(x + 0.03, y, z) for x, y, z in (back(*p) for p in _quad(low + 0.015, top, wide))], 0.015, "body")
        )
    if draw.random() < 0.6:
        rest = seat + 0.2
        parts += both_sides(
            [
                tube([(half - 0.05, 0.92 * wide, seat - 0.05), (half - 0.05, 0.92 * wide, rest)], 0.022, frame, 4),
                block((-half - 0.05, half), (0.92 * wide - 0.03, 0.92 * wide + 0.03), (rest, rest + 0.03), frame),
            ]
        )
    return parts
