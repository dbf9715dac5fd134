# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of things that stand on a table. Each function draws one and returns its parts, in the frame of `shapes`."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, circle, ellipsoid, lathe, loft, panel, placed, sizes, tube, turn


def _vessel(outer, wall: float, paint: str, sides: int = 14) -> Part:
    """An open vessel from its outer profile of (radius, z), bottom to rim."""
    inner = [(r - wall, z) for r, z in reversed(outer[1:])]
    return lathe([*outer, *inner, (inner[-1][0], outer[0][1] + wall), (0, outer[0][1] + wall)], paint, sides=sides)


def mug(draw: Random) -> list[Part]:
    """A mug with a handle, full or empty."""
    height, across = sizes(draw, 0.1, 0.085, common=0.16)
    r = across / 2
    waist = draw.choice((1.0, 0.92, 1.06))
    low = draw.uniform(0.72, 1.0)
    outer = [(0.9 * low * r, 0), (low * r, 0.06 * height), (waist * (1 + low) / 2 * r, height / 2), (r, height)]
    parts = [_vessel(outer, 0.07 * r, "body")]
    if draw.random() < 0.7:
        levels = (0.7 * height, 0.8 * height)
        radii = np.interp(levels, [z for _, z in outer], [r for r, _ in outer]) - 0.035 * r
        drink = draw.choice(("coffee", "coffee", "paper"))
        parts.append(lathe(zip(radii, levels, strict=True), drink, sides=14))
    span = draw.uniform(0.26, 0.34) * height
    middle = draw.uniform(0.48, 0.58) * height
    reach = draw.uniform(0.5, 0.75) * r
    turns = np.linspace(-math.pi / 2, math.pi / 2, 7)
    arc = np.c_[(low + 1) / 2 * 0.93 * r + reach * np.cos(turns), 0 * turns, middle + span * np.sin(turns)]
    parts.append(tube(arc, np.full((len(arc), 2), (0.1 * r + 0.003, 0.008)), "body"))
    return parts


def bottle(draw: Random) -> list[Part]:
    """A bottle with a cap, with or without a label."""
    height, across = sizes(draw, 0.26, draw.choice((0.07, 0.085)), common=0.17)
    r = across / 2
    shoulder = draw.uniform(0.5, 0.72)
    neck = draw.uniform(0.3, 0.45) * r
    slope = draw.uniform(0.08, 0.2)
    profile = [
        (0.92 * r, 0),
        (r, 0.03 * height),
        (r, shoulder * height),
        (0.75 * r, (shoulder + 0.6 * slope) * height),
    ]
    profile += [(neck, (shoulder + slope) * height), (0.9 * neck, 0.92 * height)]
    parts = [lathe(profile, "body")]
    parts.append(
        lathe([(1.15 * neck, 0.91 * height), (1.15 * neck, height)], draw.choice(("trim", "metal", "dark_metal")))
    )
    if draw.random() < 0.7:
        low = draw.uniform(0.12, 0.25)
        parts.append(
            lathe([(1.02 * r, low * height), (1.02 * r, (shoulder - 0.08) * height)], draw.choice(("paper", "trim")))
        )
    return parts


def bowl(draw: Random) -> list[Part]:
    """A bowl, empty or with fruit."""
    height, across = sizes(draw, 0.08, 0.19, common=0.2, own=0.12)
    r = across / 2
    foot = draw.uniform(0.35, 0.5) * r
    deep = draw.uniform(0.6, 0.85)
    outer = [(foot, 0), (foot, 0.1 * height), (deep * r, 0.4 * height), (0.94 * r, 0.75 * height), (r, height)]
    parts = [_vessel(outer, 0.06 * r, "body", 16)]
    if draw.random() < 0.35:
        for i in range(3):  # fruit
            a = 2 * math.pi * i / 3 + draw.uniform(0, 1)
            size, paint = 0.3 * r, draw.choice(("cover_red", "cover_green", "cover_yellow"))
            at = (0.4 * r * math.cos(a), 0.4 * r * math.sin(a), 0.75 * height)
            parts.append(ellipsoid(at, (size, size, size), paint, 6, 5))
    return parts


def book(draw: Random) -> list[Part]:
    """A closed book, lying or standing."""
    length, thick, width = sizes(draw, 0.22, 0.032, 0.155, common=0.17, own=0.1)
    thick *= draw.choice((0.7, 1, 1.5))
    half, wide, board = length / 2, width / 2, 0.1 * thick
    cover = 0.004
    parts = [block((-half, half), (-wide, wide), (0, board), "body")]
    parts.append(block((-half, half), (-wide, wide), (thick - board, thick), "body"))
    parts.append(block((-half, half), (wide - board, wide + 0.002), (0.5 * board, thick - 0.5 * board), "body"))
    pages = ((cover - half, half - cover), (cover - wide, wide - board), (board, thick - board))
    parts.append(block(*pages, "paper"))
    title = draw.uniform(0.1, 0.4) * length
    parts.append(
        block(
            (title - 0.04, min(title + 0.04, half - 0.01)), (-0.7 * wide, 0.7 * wide), (thick, thick + 0.0008), "trim"
        )
    )
    if draw.random() < 0.3:  # standing, its back to the front
        parts = placed(parts, (0, 0, half), np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    return parts


def laptop(draw: Random) -> list[Part]:
    """An open laptop."""
    deep, width = sizes(draw, 0.23, 0.33)
    half, wide, thick = deep / 2, width / 2, 0.018
    case = [block((-half, half), (-wide, wide), (0, thick), "body", bevel=0.004)]
    case.append(block((-0.62 * half, 0.22 * half), (-0.88 * wide, 0.88 * wide), (thick, thick + 0.002), "dark_metal"))
    case.append(block((0.35 * half, 0.88 * half), (-0.3 * wide, 0.3 * wide), (thick, thick + 0.001), "trim"))
    lid = [block((-0.009, 0), (-wide, wide), (0, deep), "body")]
    lid.append(block((-0.001, 0.002), (-0.94 * wide, 0.94 * wide), (0.015, deep - 0.012), "screen"))
    hinge = (-half + 0.006, 0, thick)
    return case + placed(lid, hinge, turn(1, -draw.uniform(5, 35)))


def vase(draw: Random) -> list[Part]:
    """A vase of one of four shapes, empty or with flowers."""
    height, across = sizes(draw, 0.26, draw.choice((0.1, 0.13)), common=0.2, own=0.14)
    r = across / 2
    kind = draw.choice(("belly", "pear", "flared", "cylinder"))
    shape = {
        "belly": [(0.5, 0), (0.85, 0.2), (1, 0.45), (0.8, 0.7), (0.42, 0.85), (0.55, 1)],
        "pear": [(0.7, 0), (1, 0.18), (0.9, 0.4), (0.5, 0.65), (0.36, 0.85), (0.42, 1)],
        "flared": [(0.5, 0), (0.45, 0.15), (0.5, 0.4), (0.62, 0.65), (0.8, 0.85), (1, 1)],
        "cylinder": [(0.75, 0), (0.8, 0.1), (0.85, 0.5), (0.95, 0.9), (1, 1)],
    }[kind]
    parts = [_vessel([(a * r, b * height) for a, b in shape], 0.09 * r, "body")]
    if draw.random() < 0.4:
        stems = []
        flower = draw.choice(("cover_red", "cover_yellow", "paper", "cover_blue"))
        for _ in range(2):
            a, out = draw.uniform(0, math.pi), draw.uniform(0.3, 0.8) * r
            end = np.array([out * math.cos(a), out * math.sin(a), height * draw.uniform(1.25, 1.5)])
            stems.append(
                tube(
                    [(0, 0, 0.3 * height), (0.25 * end[0], 0.25 * end[1], height), end],
                    0.003,
                    "leaves",
                    4,
                    side=(0.1, 1, 0),
                )
            )
            stems.append(ellipsoid(end, (0.025, 0.025, 0.02), flower, 6, 4))
        parts += stems + placed(stems, matrix=turn(2, 180))
    return parts


def monitor(draw: Random) -> list[Part]:
    """A computer's monitor on a round foot or one with corners."""
    height, width = sizes(draw, 0.33, 0.56, common=0.17)
    deep, foot = draw.uniform(0.025, 0.05), draw.uniform(0.08, 0.14)
    half, edge = width / 2, draw.uniform(0.01, 0.02)
    top = foot + height
    parts = [block((-deep / 2, deep / 2), (-half, half), (foot, top), "body")]
    parts.append(
        block(
            (deep / 2 - 0.004, deep / 2 + 0.003), (edge - half, half - edge), (foot + 1.8 * edge, top - edge), "screen"
        )
    )
    parts.append(block((-1.3 * deep, 0), (-0.45 * half, 0.45 * half), (foot + 0.05, top - 0.07), "trim", bevel=0.012))
    back = -0.9 * deep
    parts.append(tube([(back - 0.04, 0, 0.01), (back - 0.015, 0, foot + 0.4 * height)], (0.04, 0.012), "trim", 4))
    r = draw.uniform(0.09, 0.12)
    if draw.random() < 0.5:
        parts.append(lathe([(r, 0), (r, 0.012)], "trim", (back + 0.02, 0)))
    else:
        parts.append(block((back + 0.02 - r, back + 0.02 + r), (-0.45 * half, 0.45 * half), (0, 0.012), "trim"))
    return parts


def cereal_box(draw: Random) -> list[Part]:
    """A box of cereals, printed on all four sides."""
    deep, height, width = sizes(draw, 0.065, 0.28, 0.19, common=0.17)
    half, wide = deep / 2, width / 2
    parts = [block((-half, half), (-wide, wide), (0, height), "body")]
    front = half + 0.0008
    low, high = draw.uniform(0.62, 0.7), draw.uniform(0.88, 0.94)
    parts.append(block((0, front), (-0.85 * wide, 0.85 * wide), (low * height, high * height), "paper"))
    bowl_at = (half, draw.uniform(-0.3, 0.3) * wide, 0.32 * height)
    disc = circle(bowl_at, 0.55 * wide, 0, 10)
    parts.append(panel(disc, 0.001, draw.choice(("cover_yellow", "cover_red", "trim"))))
    parts.append(block((-front, 0), (-0.7 * wide, 0.7 * wide), (0.15 * height, 0.6 * height), "paper"))
    parts.append(
        block((-0.3 * half, 0.3 * half), (-wide - 0.0008, wide + 0.0008), (0.1 * height, 0.7 * height), "paper")
    )
    return parts


def ball(draw: Random) -> list[Part]:
    """A ball: plain, with a band, or with spots."""
    (across,) = sizes(draw, draw.choice((0.12, 0.17, 0.22, 0.26)), common=0.12)
    r = across / 2
    kind = draw.choice(("plain", "bands", "spots"))
    parts = [ellipsoid((0, 0, r), (r, r, r), "body", 14, 11)]
    if kind == "bands":
        parts.append(
            lathe(
                [(0.93 * r, 0.75 * r), (1.0 * r, 0.8 * r), (1.0 * r, 1.2 * r), (0.93 * r, 1.25 * r)], "trim", sides=14
            )
        )
    elif kind == "spots":
        half = []
        for z, angles in ((0.55, (40, 130)), (-0.2, (0, 85)), (0.97, (90,)), (-0.75, (45,))):
            for a in angles:
                out = math.sqrt(1 - z * z)
                at = np.array([out * math.cos(math.radians(a)), out * math.sin(math.radians(a)), z])
                half.append(_spot(at, r))
        parts += half + placed(half, matrix=turn(2, 180))
    return parts


def _spot(at: np.ndarray, radius: float) -> Part:
    """A patch on a ball about (0, 0, radius), at the unit vector `at`."""
    across = np.cross(at, (0.3, 0.2, 1))
    across /= np.linalg.norm(across)
    other = np.cross(at, across)
    ring = [math.cos(a) * across + math.sin(a) * other for a in np.arange(6) * math.pi / 3]
    center = np.array([0, 0, radius])
    levels = ((0.6, 0.33), (0.955, 0.33), (0.99, 0.17))
    return loft([[center + radius * (depth * at + out * p) for p in ring] for depth, out in levels], "trim")


def camera(draw: Random) -> list[Part]:
    """A camera that looks forward, its lens long or short."""
    width, height, deep = sizes(draw, 0.13, 0.085, 0.06, common=0.17)
    half, wide = deep / 2, width / 2
    parts = [block((-half, half), (-wide, wide), (0, 0.8 * height), "body", bevel=0.008)]
    # the grip, on the photographer's right
    parts.append(
        block((0, half + 0.018), (0.003 - wide, -0.55 * wide), (0.002, 0.74 * height), "dark_fabric", bevel=0.006)
    )
    hump = draw.uniform(0.32, 0.42) * wide
    parts.append(
        block((-0.8 * half, 0.8 * half), (-hump, hump), (0.78 * height, 1.05 * height), "trim", top=(0.7, 0.6))
    )
    r, reach = draw.uniform(0.3, 0.38) * height, draw.uniform(0.03, 0.09)
    at, lens = 0.1 * wide, [(0.0, 1.0), (0.55 * reach, 1.0), (0.6 * reach, 0.88), (reach, 0.92)]
    barrel = [circle((half - 0.005 + x, at, 0.4 * height), scale * r, 0) for x, scale in lens]
    parts.append(loft(barrel, "dark_metal"))
    front = half - 0.005 + reach
    parts.append(loft([circle((x, at, 0.4 * height), 0.72 * r, 0) for x in (front, front + 0.002)], "glass"))
    parts.append(lathe([(0.01, 0.8 * height), (0.01, 0.9 * height)], "metal", (0, -0.72 * wide), 8))
    parts.append(block((-half - 0.003, 0), (-0.5 * wide, 0.6 * wide), (0.1 * height, 0.68 * height), "screen"))
    return parts


def kettle(draw: Random) -> list[Part]:
    """A kettle with a short or a long spout; its handle behind, or a bow over the lid."""
    height, across = sizes(draw, 0.21, 0.16, common=0.17)
    r, low = across / 2, 0.025
    top = draw.uniform(0.6, 0.8) * r
    parts = [lathe([(1.05 * r, 0), (1.05 * r, low)], "dark_metal", sides=14)]
    profile = [(r, low), (0.98 * r, 0.35 * height), (top, 0.88 * height)]
    parts.append(lathe(profile, "body", sides=14))
    parts.append(lathe([(0.95 * top, 0.87 * height), (0.6 * top, 0.95 * height)], "trim", sides=14))
    parts.append(lathe([(0.14 * r, 0.94 * height), (0.18 * r, height)], "dark_metal", sides=8))
    if draw.random() < 0.5:  # a spout like a beak, or a long one
        beak = [(0.5 * top, 0, 0.66 * height), (top + 0.25 * r, 0, 0.82 * height), (top + 0.4 * r, 0, 0.9 * height)]
        parts.append(tube(beak, [0.32 * r, 0.2 * r, 0.1 * r], "body"))
    else:
        path = [(0.8 * r, 0, 0.28 * height), (1.25 * r, 0, 0.45 * height), (1.6 * r, 0, 0.82 * height)]
        parts.append(tube(path, [0.24 * r, 0.17 * r, 0.1 * r], "body"))
    grip = draw.choice(("dark_metal", "trim", "wood"))
    if draw.random() < 0.7:
        path = [(-0.75 * top, 0, 0.85 * height), (-top - 0.45 * r, 0, 0.87 * height)]
        path += [(-1.5 * r, 0, 0.6 * height), (-0.95 * r, 0, 0.22 * height)]
        parts.append(tube(path, 0.1 * r, grip))
    else:  # a bow over the lid
        bow = [
            (x * 0.8 * r, 0, 0.85 * height + 0.45 * height * z)
            for x, z in ((-1, 0), (-0.75, 0.7), (0, 1), (0.75, 0.7), (1, 0))
        ]
        parts.append(tube(bow, 0.08 * r, grip))
    return parts


def shoe(draw: Random) -> list[Part]:
    """A shoe or a boot, its toe forward."""
    length, height, width = sizes(draw, 0.28, 0.11, 0.1, common=0.17)
    half, wide = length / 2, width / 2
    sole = [(-1, 0.6), (-0.85, 0.8), (-0.3, 0.72), (0.35, 1), (0.75, 0.85), (1, 0.35)]  # (x, half width)
    left = [(x * half, w * wide) for x, w in sole]
    outline = left + [(x, -y) for x, y in reversed(left)]
    thick = 0.24 * height
    parts = [loft([[(x, y, z) for x, y in outline] for z in (0, thick)], draw.choice(("paper", "rubber", "trim")))]
    boot = draw.random() < 0.3
    ankle = (1.6 if boot else 1.0) * height
    stations = [(-0.97, 0.5, ankle), (-0.75, 0.68, ankle), (-0.15, 0.6, ankle), (0.05, 0.68, 0.82 * height)]
    stations += [(0.4, 0.88, 0.58 * height), (0.75, 0.75, 0.5 * height), (0.96, 0.35, 0.36 * height)]
    rings = []
    for x, w, z in stations:
        y = w * wide
        rings.append(
            [
                (x * half, s * y, level)
                for s, level in (
                    (1, thick),
                    (1, 0.4 * thick + 0.6 * z),
                    (0.6, z),
                    (-0.6, z),
                    (-1, 0.4 * thick + 0.6 * z),
                    (-1, thick),
                )
            ]
        )
    parts.append(loft(rings, "body"))
    opening = [
        (-0.85 * half, -0.4 * wide),
        (-0.85 * half, 0.4 * wide),
        (-0.2 * half, 0.36 * wide),
        (-0.2 * half, -0.36 * wide),
    ]
    parts.append(loft([[(x, y, z) for x, y in opening] for z in (0.5 * ankle, ankle + 0.002)], "dark_fabric"))
    for x in (0.02, 0.14, 0.26):  # laces
        z = height * (0.86 - 0.75 * (x - 0.02))
        parts.append(tube([(x * half, -0.42 * wide, z), (x * half, 0.42 * wide, z)], 0.006, "paper", 4))
    return parts
