# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of vehicles with two wheels. Each function draws one and returns its parts, in the frame of `shapes`."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, both_sides, circle, ellipsoid, loft, prism, sizes, tube
from llmi3d.data.synthetic.vehicles import wheel


def cycle(draw: Random, paint: str) -> tuple[list[Part], dict[str, np.ndarray]]:
    """Return a bicycle with a frame of some paint, and where its rider's seat [3], hands and feet [2, 3] are."""
    base, radius, frame = sizes(draw, 1.03, 0.335, 0.56, common=0.07)
    rear, front = np.array([-base / 2, 0, radius]), np.array([base / 2, 0, radius])
    crank = np.array([-0.06, 0, radius - 0.05])
    seat = np.add(crank, (-0.17, 0, frame))
    head = np.array([front[0] - 0.2, 0, radius + frame * 0.62])
    fork = head + (front - head) * 0.25
    thick = draw.uniform(0.017, 0.024)
    parts = []
    for hub in (rear, front):
        parts.append(tube(circle(hub, radius - 0.02, 1, 14), 0.022, "rubber", 4, closed=True))
        parts.append(tube([hub - [0, 0.05, 0], np.add(hub, (0, 0.05, 0))], 0.025, "metal", 4))
        for a in (0, 60, 120):
            spoke = (radius - 0.03) * np.array([math.cos(math.radians(a)), 0, math.sin(math.radians(a))])
            parts.append(tube([hub - spoke, hub + spoke], 0.004, "metal", 3))
    low = draw.random() < 0.35  # a step-through frame
    tubes = [(crank, seat - [0, 0, 0.06]), (crank, fork), (crank, rear), (head, fork)]
    tubes += [(crank + 0.3 * (seat - crank), head - [0, 0, 0.02])] if low else [(seat - [0, 0, 0.14], head)]
    parts += [tube(ends, thick, paint, 4) for ends in tubes]
    parts.append(tube([rear, crank + 0.72 * (seat - crank)], 0.7 * thick, paint, 4))
    parts.append(tube([fork, front], 0.8 * thick, paint, 4))
    drop = draw.random() < 0.3
    grip_x, grip_z = (0.14, -0.04) if drop else (-0.1, 0.1)
    bar = np.add(head, (0, 0, 0.07))
    reach = draw.uniform(0.21, 0.29)
    parts.append(tube([head, bar], 0.016, "metal"))
    hands = [np.add(bar, (grip_x, s * reach, grip_z)) for s in (1, -1)]
    bend = [np.add(bar, (0.05, s * 0.5 * reach, max(grip_z, 0.02))) for s in (1, -1)]
    parts.append(tube([hands[0], bend[0], bend[1], hands[1]], 0.014, "dark_metal", side=(0.3, 0, 1)))
    saddle = [(-0.13, 0.07), (0.02, 0.04), (0.13, 0.02)]
    rings = [
        [(seat[0] + x, s * w, seat[2] + z) for s, z in ((1, 0), (1, 0.035), (-1, 0.035), (-1, 0))] for x, w in saddle
    ]
    parts.append(loft(rings, "rubber"))
    parts.append(tube([seat - [0, 0, 0.1], seat], 0.013, "metal"))
    parts.append(tube([crank - [0, 0.06, 0], np.add(crank, (0, 0.06, 0))], 0.07, "metal", 8))
    angle = draw.uniform(0, 2 * math.pi)
    arm = 0.17 * np.array([math.cos(angle), 0, math.sin(angle)])
    feet = [crank + s * np.add(arm, (0, s * 0.1, 0)) for s in (1, -1)]
    for s, foot in zip((1, -1), feet, strict=True):
        parts.append(tube([np.add(crank, (0, s * 0.05, 0)), foot - [0, s * 0.05, 0]], 0.013, "metal", 4))
        parts.append(
            block(
                (foot[0] - 0.045, foot[0] + 0.045),
                (foot[1] - 0.045, foot[1] + 0.045),
                (foot[2] - 0.012, foot[2] + 0.012),
                "rubber",
            )
        )
    if draw.random() < 0.4:
        parts.append(
            block(
                (front[0] - 0.24, front[0] - 0.02),
                (-0.15, 0.15),
                (bar[2] - 0.22, bar[2] - 0.01),
                "wood",
                top=(1.2, 1.2),
            )
        )
    if draw.random() < 0.4:
        parts.append(
            block((rear[0] - 0.2, rear[0] + 0.22), (-0.06, 0.06), (2 * radius + 0.06, 2 * radius + 0.08), "dark_metal")
        )
    lamp = np.add(bar, (0.06, 0, -0.06))
    parts.append(block((lamp[0], lamp[0] + 0.05), (-0.03, 0.03), (lamp[2] - 0.03, lamp[2] + 0.03), "light"))
    return parts, {"seat": seat, "hands": np.array(hands), "feet": np.array(feet)}


def bicycle(draw: Random) -> list[Part]:
    """A bicycle without a rider, its frame in the body's paint."""
    return cycle(draw, "body")[0]


def motorcycle(draw: Random) -> list[Part]:
    """A motorcycle, or a scooter with a shield and a floor."""
    base, radius, high, grip = sizes(draw, 1.4, 0.31, 0.8, 0.36, common=0.13)
    scooter = draw.random() < 0.35
    if scooter:
        base, radius = 0.92 * base, 0.75 * radius
    rear, front = np.array([-base / 2, 0, radius]), np.array([base / 2, 0, radius])
    wide = 0.07
    parts = []
    for hub in (rear, front):
        parts += wheel(hub[0], (-wide, wide), radius)
    bar = np.array([front[0] - 0.42, 0, high + 0.2])
    forks = [tube([np.add(front, (0, 0.1, 0)), np.add(bar, (0.05, 0.1, -0.05))], 0.025, "metal")]
    parts += both_sides(forks)
    ends = [np.add(bar, (-0.12, s * grip, 0.02)) for s in (1, -1)]
    bend = [np.add(bar, (0, s * 0.4 * grip, 0.06)) for s in (1, -1)]
    parts.append(tube([ends[0], bend[0], bend[1], ends[1]], 0.018, "dark_metal", side=(0.3, 0, 1)))
    parts.append(ellipsoid(np.add(bar, (0.16, 0, -0.1)), (0.07, 0.1, 0.1), "light", 8, 5))
    fender = [
        front + (radius + 0.03) * np.array([math.cos(a), 0, math.sin(a)]) for a in np.radians([40, 75, 110, 145])
    ]
    parts.append(tube(fender, np.broadcast_to((0.09, 0.015), (4, 2)), "body", 4, side=(0, 1, 0)))
    parts += both_sides(
        [
            tube([np.add(bar, (0.0, 0.2, 0.06)), np.add(bar, (-0.05, 0.27, 0.2))], 0.01, "dark_metal", 4),
            ellipsoid(np.add(bar, (-0.05, 0.28, 0.22)), (0.02, 0.07, 0.045), "dark_metal", 6, 4),
        ]
    )
    if scooter:
        shield = prism(
            [
                (bar[0] - 0.02, high + 0.08),
                (bar[0] + 0.1, high + 0.08),
                (front[0] - 0.18, 0.32),
                (front[0] - 0.3, 0.24),
            ],
            (-0.2, 0.2),
            "body",
        )
        floor = block((-0.1, front[0] - 0.24), (-0.16, 0.16), (0.22, 0.3), "trim")
        tail = prism(
            [(0.02, 0.24), (0.0, high - 0.1), (rear[0] - 0.3, high - 0.08), (rear[0] - 0.22, 2 * radius)],
            (-0.15, 0.15),
            "body",
        )
        parts += [shield, floor, tail]
        seat_x = (rear[0] - 0.22, 0.02)
    else:
        tank = [(0.1, 0.04, high - 0.08), (0.02, 0.14, high + 0.04), (-0.25, 0.15, high + 0.08), (-0.42, 0.05, high)]
        rings = [
            [
                (bar[0] - 0.02 + x, s * w, z)
                for s, z in (
                    (1, high - 0.22),
                    (1, top - 0.06),
                    (0.5, top),
                    (-0.5, top),
                    (-1, top - 0.06),
                    (-1, high - 0.22),
                )
            ]
            for x, w, top in tank
        ]
        parts.append(loft(rings, "body"))
        parts.append(block((-0.24, 0.22), (-0.17, 0.17), (0.24, high - 0.2), "dark_metal", bevel=0.05))
        parts.append(tube([(bar[0], 0, high - 0.1), (0.3, 0, 0.35), (-0.2, 0, 0.3), rear], 0.03, "metal"))
        parts.append(
            prism(
                [(-0.1, high - 0.15), (-0.1, high - 0.02), (rear[0] - 0.28, high + 0.08), (rear[0] - 0.3, high)],
                (-0.11, 0.11),
                "body",
            )
        )
        seat_x = (rear[0] - 0.1, bar[0] - 0.36)
    parts.append(block(seat_x, (-0.14, 0.14), (high - 0.1, high + 0.05), "rubber", bevel=0.03))
    parts.append(tube([(0.1, -0.19, 0.25), (rear[0] - 0.2, -0.19, 0.36)], [0.035, 0.055], "metal"))
    parts.append(block((rear[0] - 0.34, rear[0] - 0.28), (-0.08, 0.08), (high - 0.05, high + 0.03), "red_light"))
    return parts
