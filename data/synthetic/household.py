# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of smaller things that stand about in rooms. Each function draws one and returns its parts, in the frame of
`shapes`."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, ellipsoid, hoop, lathe, placed, sizes, tube, turn


def lamp(draw: Random) -> list[Part]:
    """A floor or table lamp with an open shade, or a reading lamp with a bent neck."""
    kind = draw.choice(("floor", "floor", "table", "table", "reading"))
    height, across = sizes(draw, *((1.5, 0.4) if kind != "table" else (0.52, 0.3)), common=0.18)
    pole = draw.choice(("metal", "dark_metal", "wood"))
    r = across / 2
    if kind == "reading":
        reach = draw.uniform(0.25, 0.45)
        neck = [(0, 0, 0.03), (0, 0, 0.75 * height), (0.25 * reach, 0, 0.94 * height), (reach, 0, 0.97 * height)]
        base = lathe([(0.6 * r + 0.03, 0), (0.6 * r + 0.03, 0.03)], pole)
        shade = lathe([(0.1, -0.1), (0.1, -0.08), (0.05, 0.08), (0.02, 0.1)], "body")
        bulb = lathe([(0.08, -0.11), (0.08, -0.09)], "lamp", sides=8)
        head = placed([shade, bulb], (reach + 0.02, 0, 0.93 * height), turn(1, -25))
        return [base, tube(neck, 0.014, pole), *head]
    tall = draw.uniform(0.16, 0.22) * height if kind == "floor" else draw.uniform(0.38, 0.5) * height
    top = draw.uniform(0.55, 0.95) * r
    low = height - tall
    # the shade is open below and above, with a wall
    wall = [(r, low), (top, height), (top - 0.01, height), (r - 0.01, low)]
    parts = [hoop(wall, "body"), ellipsoid((0, 0, low + 0.45 * tall), (0.05, 0.05, 0.06), "lamp", 6, 4)]
    parts.append(lathe([(0.9 * top, height - 0.02), (0.9 * top, height - 0.014)], "lamp"))
    if kind == "table" and draw.random() < 0.6:
        belly = draw.uniform(0.4, 0.65) * r
        profile = [
            (0.6 * belly, 0),
            (belly, 0.35 * low),
            (0.7 * belly, 0.7 * low),
            (0.02, low),
            (0.015, low + 0.4 * tall),
        ]
        return [*parts, lathe(profile, "trim")]
    foot = draw.uniform(0.6, 0.85) * r
    parts.append(lathe([(foot, 0), (foot, 0.012), (0.03, 0.035)], pole))
    return [*parts, tube([(0, 0, 0.02), (0, 0, low + 0.4 * tall)], 0.012 if kind == "floor" else 0.02, pole)]


def plant(draw: Random) -> list[Part]:
    """A plant in a pot: broad leaves, leaves like swords, a palm or a bush."""
    height, across = sizes(draw, draw.choice((0.35, 0.6, 0.9, 1.2)), 1.0, common=0.2)
    across = height * draw.uniform(0.5, 0.75)
    pot = height * draw.uniform(0.22, 0.32)
    r = min(0.3 * across, 0.75 * pot) * draw.uniform(0.8, 1.1)
    rim = [(0.72 * r, 0), (r, pot), (1.06 * r, pot), (1.06 * r, 1.12 * pot)]
    if draw.random() < 0.4:
        rim = [(0.7 * r, 0), (1.02 * r, 0.45 * pot), (0.9 * r, pot), (0.95 * r, 1.12 * pot)]
    parts = [lathe([*rim, (0.86 * r, 1.12 * pot), (0.86 * r, 1.02 * pot)], "body")]
    parts.append(lathe([(0.88 * r, pot), (0.88 * r, 1.06 * pot)], "soil"))
    kind = draw.choice(("broad", "sword", "bush", "palm"))
    half = []  # one half of the leaves; the other is the same after half a turn
    if kind == "bush":
        stem = tube([(0, 0, pot), (0, 0, 0.6 * height)], 0.06 * r + 0.005, "wood")
        for _ in range(5):
            a, out = draw.uniform(0, math.pi), draw.uniform(0.12, 0.3) * across
            size = draw.uniform(0.13, 0.2) * across
            z = draw.uniform(pot * 1.3 + size, height - size)
            half.append(ellipsoid((out * math.cos(a), out * math.sin(a), z), (size, size, size), "leaves", 6, 4))
        parts.append(ellipsoid((0, 0, 0.72 * height), (0.2 * across, 0.2 * across, 0.26 * height), "leaves", 8, 5))
        parts.append(stem)
    else:
        crown = pot if kind != "palm" else 0.62 * height
        if kind == "palm":
            parts.append(tube([(0, 0, pot), (0, 0, crown)], [0.1 * r + 0.008, 0.06 * r + 0.006], "wood"))
        for i in range(6):
            a = math.pi * (i + draw.uniform(-0.3, 0.3)) / 6
            reach = (0.4 if kind == "sword" else 0.48) * across * draw.uniform(0.75, 1)
            rise = (height - crown) * draw.uniform(0.7, 1)
            wide = across * {"broad": 0.13, "sword": 0.05, "palm": 0.07}[kind]
            droop = {"broad": -0.15, "sword": 0.0, "palm": -0.55}[kind] * rise
            bend = [(0, 0, crown), (0.45 * reach, 0, crown + 0.75 * rise), (0.75 * reach, 0, crown + rise)]
            bend.append((reach, 0, crown + rise + droop))
            if kind == "sword":
                bend = [(0.2 * r, 0, crown), (0.3 * r, 0, crown + 0.5 * rise), (reach, 0, crown + rise)]
            widths = np.array([0.12, 0.6, 1.0, 0.15] if kind != "sword" else [0.7, 1, 0.15]) * wide
            leaf = tube(bend, np.c_[widths, np.full(len(bend), 0.006)], "leaves", 4, side=(0, 1, 0))
            half += placed([leaf], matrix=turn(2, math.degrees(a)))
    return [*parts, *half, *placed(half, matrix=np.diag([-1.0, -1, 1]))]


def television(draw: Random) -> list[Part]:
    """A television on two feet or a plate."""
    height, width = sizes(draw, *draw.choice(((0.45, 0.75), (0.6, 1.0), (0.7, 1.2))), common=0.16)
    deep, foot = draw.uniform(0.03, 0.06), draw.uniform(0.04, 0.1)
    half = width / 2
    edge = draw.uniform(0.012, 0.03)
    parts = [block((-deep / 2, deep / 2), (-half, half), (foot, height), "body")]
    screen = ((deep / 2 - 0.005, deep / 2 + 0.004), (edge - half, half - edge), (foot + edge, height - edge))
    parts.append(block(*screen, "screen"))
    parts.append(block((-1.6 * deep, 0), (-0.6 * half, 0.6 * half), (foot + 0.05, 0.55 * height), "trim", bevel=0.02))
    reach = draw.uniform(0.09, 0.14)
    if draw.random() < 0.5:
        for y in (-0.68 * half, 0.68 * half):
            feet = [(reach, y, 0.008), (0, y, foot + 0.01), (-reach, y, 0.008)]
            parts.append(tube(feet, 0.008, "trim", 4))
    else:
        parts.append(block((-reach, reach), (-0.3 * half, 0.3 * half), (0, 0.015), "trim"))
        parts.append(block((-0.03, 0.0), (-0.1 * half, 0.1 * half), (0.01, foot + 0.02), "trim"))
    return parts


def waste_bin(draw: Random) -> list[Part]:
    """A waste bin: a pail, one with a pedal, with a swing lid, or on wheels."""
    kind = draw.choice(("pail", "pedal", "swing", "wheels"))
    if kind == "wheels":  # rubbish bin with a lid, hinged at the back
        depth, height, width = sizes(draw, 0.55, 0.95, 0.5, common=0.17)
        half, wide = depth / 2, width / 2
        parts = [
            block(
                (-0.82 * half, 0.82 * half), (-0.82 * wide, 0.82 * wide), (0.05, 0.9 * height), "body", 0, (1.2, 1.2)
            )
        ]
        parts.append(
            block(
                (-half - 0.02, half + 0.03),
                (-wide - 0.02, wide + 0.02),
                (0.9 * height, height),
                "trim",
                top=(0.85, 0.8),
            )
        )
        parts.append(
            tube(
                [(-half - 0.07, -0.7 * wide, 0.92 * height), (-half - 0.07, 0.7 * wide, 0.92 * height)], 0.018, "trim"
            )
        )
        for y in (-0.8 * wide, 0.8 * wide):
            parts.append(
                block((-half - 0.07, 0.02 - half), (y - 0.02, y + 0.02), (0.88 * height, 0.93 * height), "trim")
            )
            parts.append(tube([(-0.8 * half, y - 0.03, 0.1), (-0.8 * half, y + 0.03, 0.1)], 0.1, "rubber", 10))
        parts.append(block((0.3 * half, 0.75 * half), (-0.6 * wide, 0.6 * wide), (0, 0.06), "trim"))
        return parts
    height, across = sizes(draw, {"pail": 0.36, "pedal": 0.5, "swing": 0.65}[kind], 0.3, common=0.18)
    r = across / 2
    if kind == "pail":
        low = draw.uniform(0.65, 0.9) * r
        return [
            lathe(
                [
                    (low, 0),
                    (r, 0.93 * height),
                    (r + 0.008, 0.93 * height),
                    (r + 0.008, height),
                    (r - 0.01, height),
                    (low - 0.01, 0.02),
                    (0, 0.02),
                ],
                "body",
                sides=14,
            )
        ]
    if kind == "pedal":
        parts = [lathe([(r, 0.03), (r, 0.86 * height)], "body", sides=14)]
        parts.append(
            lathe([(r + 0.006, 0.86 * height), (r + 0.006, 0.9 * height), (0.5 * r, height)], "trim", sides=14)
        )
        parts.append(lathe([(1.02 * r, 0), (1.02 * r, 0.04)], "dark_metal", sides=14))
        parts.append(block((0.9 * r, 1.35 * r), (-0.3 * r, 0.3 * r), (0.012, 0.03), "metal"))
        parts.append(block((-1.15 * r, -0.8 * r), (-0.35 * r, 0.35 * r), (0.8 * height, 0.9 * height), "dark_metal"))
        return parts
    tank = block((-0.8 * r, 0.8 * r), (-0.64 * r, 0.64 * r), (0, 0.75 * height), "body", 0, (1.25, 1.25))
    return [
        tank,
        block(
            (-r - 0.01, r + 0.01), (-0.8 * r - 0.01, 0.8 * r + 0.01), (0.75 * height, height), "trim", top=(0.35, 0.7)
        ),
    ]


def suitcase(draw: Random) -> list[Part]:
    """An upright suitcase on wheels with pockets or ribs, its handle pulled out or not."""
    depth, height, width = sizes(draw, 0.25, 0.58, 0.4, common=0.18)
    half, wide, foot = depth / 2, width / 2, 0.05
    top = foot + height
    parts = [block((-half, half), (-wide, wide), (foot, top), "body", bevel=0.05)]
    for y in (-0.85 * wide, 0.85 * wide):
        for x in (-0.7 * half, 0.7 * half):
            parts.append(tube([(x, y - 0.012, 0.028), (x, y + 0.012, 0.028)], 0.028, "rubber", 8))
            parts.append(block((x - 0.02, x + 0.02), (y - 0.02, y + 0.02), (0.03, foot + 0.02), "dark_metal"))
    if draw.random() < 0.5:  # a pocket, or ribs
        parts.append(
            block(
                (half - 0.01, half + 0.03),
                (-0.75 * wide, 0.75 * wide),
                (foot + 0.08, foot + 0.52 * height),
                "trim",
                bevel=0.015,
            )
        )
        parts.append(
            block(
                (half - 0.01, half + 0.02),
                (-0.75 * wide, 0.75 * wide),
                (foot + 0.6 * height, foot + 0.85 * height),
                "trim",
                bevel=0.01,
            )
        )
    else:
        for y in np.linspace(-0.62, 0.62, 4) * wide:
            parts.append(block((half - 0.01, half + 0.014), (y - 0.022, y + 0.022), (foot + 0.06, top - 0.06), "trim"))
    parts.append(
        tube(
            [(0.02, -0.06, top - 0.01), (0.02, -0.06, top + 0.03), (0.02, 0.06, top + 0.03), (0.02, 0.06, top - 0.01)],
            0.01,
            "dark_metal",
            4,
        )
    )
    if draw.random() < 0.55:
        pull, y = top + draw.uniform(0.15, 0.4), 0.45 * wide
        path = [
            (0.03 - half, y, top - 0.02),
            (0.03 - half, y, pull),
            (0.03 - half, -y, pull),
            (0.03 - half, -y, top - 0.02),
        ]
        parts.append(tube(path, 0.011, "metal", 4))
    return parts
