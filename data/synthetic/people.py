# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of people. Each function draws one and returns its parts, in the frame of `shapes`."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.cycles import cycle
from llmi3d.data.synthetic.shapes import Part, block, ellipsoid, tube


def _figure(draw: Random, tall: float, joint: dict[str, np.ndarray], helmet: bool = False) -> list[Part]:
    """Return a person of a height in metres with joints at `joint`: hip and neck [3]; knees, feet, elbows and hands
    [2, 3], left first."""
    girth = draw.uniform(0.88, 1.22)
    hip, neck = joint["hip"], joint["neck"]
    spine = neck - hip
    legs_paint = draw.choice(("denim", "denim", "dark_fabric", "trim"))
    across = np.array([0, 1.0, 0])
    points = [hip + f * spine for f in (-0.08, 0.1, 0.4, 0.75, 0.93, 1.02)]
    radii = np.array([(0.085, 0.06), (0.095, 0.068), (0.085, 0.06), (0.108, 0.068), (0.105, 0.055), (0.045, 0.04)])
    parts = [tube(points, radii * tall * girth, "body", 8, side=across)]
    fore = draw.random() < 0.25  # bare forearms
    for k, s in enumerate((1, -1)):
        top = np.add(hip, (0, s * 0.05 * tall * girth, 0))
        knee, foot = joint["knees"][k], joint["feet"][k]
        parts.append(tube([top, knee, foot], np.array([0.055, 0.04, 0.03]) * tall * girth, legs_paint, side=across))
        shoe = (
            (foot[0] - 0.04 * tall, foot[0] + 0.11 * tall),
            (foot[1] - 0.03 * tall, foot[1] + 0.03 * tall),
            (foot[2] - 0.045 * tall, foot[2]),
        )
        parts.append(block(*shoe, "rubber", top=(0.8, 0.9)))
        shoulder = hip + 0.93 * spine + across * s * 0.108 * tall * girth
        elbow, hand = joint["elbows"][k], joint["hands"][k]
        parts.append(tube([shoulder, elbow], np.array([0.04, 0.03]) * tall, "body", side=(0.2, 0.9, 0.1)))
        parts.append(
            tube([elbow, hand], np.array([0.028, 0.02]) * tall, "skin" if fore else "body", side=(0.2, 0.9, 0.1))
        )
        parts.append(ellipsoid(hand, np.array([0.03, 0.02, 0.03]) * tall, "skin", 6, 4))
    big = 1 + 0.35 * max(0.0, 1.55 - tall)  # children's heads are large for their height
    head = neck + np.array([0.015, 0, 0.085 * big]) * tall
    size = np.array([0.056, 0.045, 0.066]) * tall * big
    parts.append(tube([neck - [0, 0, 0.02 * tall], head], 0.032 * tall, "skin"))
    parts.append(ellipsoid(head, size, "skin", 8, 6))
    parts.append(ellipsoid(head + size * [1.0, 0, -0.1], size * [0.25, 0.2, 0.2], "skin", 4, 3))
    cover = draw.choice(("hair", "hair", "cover_yellow", "cover_red", "dark_fabric"))
    if helmet:
        parts.append(
            ellipsoid(
                head + size * [-0.1, 0, 0.5],
                size * [1.35, 1.3, 0.85],
                draw.choice(("paper", "dark_metal", "cover_red")),
                8,
                5,
            )
        )
    else:
        parts.append(ellipsoid(head + size * [-0.28, 0, 0.28], size * [1.02, 1.12, 0.98], cover, 8, 5))
        if cover == "hair" and draw.random() < 0.35:
            parts.append(ellipsoid(head + size * [-0.65, 0, -0.6], size * [0.5, 0.95, 1.1], "hair", 6, 5))
    return parts


def pedestrian(draw: Random) -> list[Part]:
    """An adult or a child who stands or walks; some in a coat or skirt, with a bag, or on the telephone."""
    child = draw.random() < 0.22
    tall = draw.uniform(1.0, 1.5) if child else draw.uniform(1.52, 1.93)
    stride = draw.choice((0.0, 1.0, 1.0)) * draw.uniform(0.3, 1) * draw.choice((1, -1))
    hip = np.array([0, 0, 0.51])
    neck = np.array([draw.uniform(0, 0.03), 0, 0.82])
    knees, feet, elbows, hands = [], [], [], []
    for s in (1, -1):
        swing = s * stride
        lift = 0.05 if swing < -0.3 else 0.0
        knees.append((0.10 * swing + 0.012, s * 0.05, 0.275))
        feet.append((0.19 * swing - (0.02 if lift else 0), s * 0.052, 0.045 + lift))
        elbows.append((-0.08 * swing + neck[0] - 0.01, s * 0.155, 0.64))
        hands.append((-0.17 * swing + neck[0] + 0.04, s * 0.145, 0.48 + 0.03 * abs(swing)))
    gesture = draw.random()
    if gesture < 0.15:  # a telephone in front of the face
        elbows[0], hands[0] = (0.02, 0.15, 0.63), (0.14, 0.06, 0.73)
    elif gesture < 0.25:  # hands on the hips
        elbows = [(-0.05, s * 0.2, 0.66) for s in (1, -1)]
        hands = [(0.03, s * 0.12, 0.55) for s in (1, -1)]
    names = {"hip": hip, "neck": neck, "knees": knees, "feet": feet, "elbows": elbows, "hands": hands}
    parts = _figure(draw, tall, {name: tall * np.asarray(points, float) for name, points in names.items()})
    dress = draw.random()
    if dress < 0.25:  # a coat or a skirt
        hem = draw.uniform(0.25, 0.4)
        points = tall * np.array([(0.0, 0, 0.56), (0, 0, 0.48), (0, 0, hem)])
        radii = tall * np.array([(0.095, 0.07), (0.105, 0.08), (0.12, 0.08 + 0.06 * abs(stride))])
        parts.append(tube(points, radii, "body", 8))
    carried = draw.random()
    if carried < 0.25:
        pack = ((-0.16, -0.05), (-0.085, 0.085), (0.56, 0.79))
        parts.append(
            block(
                *(tuple(tall * v for v in span) for span in pack),
                draw.choice(("dark_fabric", "cover_blue", "cover_red")),
                bevel=0.03,
            )
        )
    elif carried < 0.4:
        x, y, z = tall * np.array(hands[1])
        parts.append(
            block(
                (x - 0.15, x + 0.15),
                (y - 0.05, y + 0.05),
                (z - 0.38, z - 0.08),
                draw.choice(("paper", "dark_fabric")),
                top=(0.8, 0.5),
            )
        )
        parts.append(tube([(x, y, z - 0.1), (x, y, z)], 0.012, "dark_fabric", 4))
    return parts


def _bent(a: np.ndarray, b: np.ndarray, upper: float, lower: float, toward: np.ndarray) -> np.ndarray:
    """Return the joint between a and b of limbs of these lengths, on the side of `toward`."""
    line = b - a
    reach = np.linalg.norm(line)
    line = line / reach
    along = np.clip((upper**2 - lower**2 + reach**2) / (2 * reach), 0, upper)
    out = toward - (toward @ line) * line
    return a + along * line + math.sqrt(max(upper**2 - along**2, 1e-6)) * out / np.linalg.norm(out)


def cyclist(draw: Random) -> list[Part]:
    """A person on a bicycle, clothes in the body's paint; some with a helmet."""
    parts, place = cycle(draw, draw.choice(("dark_metal", "metal", "cover_red", "cover_blue")))
    tall = draw.uniform(1.55, 1.9)
    hip = place["seat"] + [0.0, 0, 0.1]
    lean = math.radians(draw.uniform(15, 48))
    neck = hip + 0.31 * tall * np.array([math.sin(lean), 0, math.cos(lean)])
    feet = place["feet"] + [-0.02, 0, 0.09]
    spread = np.array([0, 0.05 * tall, 0])
    knees = [
        _bent(hip + s * spread, foot, 0.25 * tall, 0.245 * tall, np.array([1.0, 0.1 * s, 0.2]))
        for s, foot in zip((1, -1), feet, strict=True)
    ]
    shoulders = [neck - 0.02 * tall * np.array([0, 0, 1]) + s * np.array([0, 0.11 * tall, 0]) for s in (1, -1)]
    hands = place["hands"] + [0, 0, 0.02]
    elbows = [
        _bent(a, b, 0.18 * tall, 0.19 * tall, np.array([-0.3, 0.35 * s, -1]))
        for s, a, b in zip((1, -1), shoulders, hands, strict=True)
    ]
    joint = {"hip": hip, "neck": neck, "knees": knees, "feet": feet, "elbows": elbows, "hands": hands}
    return parts + _figure(draw, tall, joint, helmet=draw.random() < 0.6)
