# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The car of version 2, in the frame of `shapes`."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, both_sides, circle, ellipsoid, loft, panel, sizes, tube


def modern_car(draw: Random) -> list[Part]:
    """A car with rounded sections, glass between pillars, wheel arches, and lights at the corners."""
    style = draw.choice(("saloon", "hatchback", "hatchback", "estate", "suv", "mini"))
    length, height, width = sizes(draw, *_CARS[style]["size"], common=0.07, own=0.035)
    half, wide = length / 2, width / 2 - 0.02
    shape = _CARS[style]
    clear, belt = shape["clear"] * height, draw.uniform(0.6, 0.64) * height
    hood, cowl = draw.uniform(0.5, 0.54) * height, 0.6 * height
    screen = half - shape["hood"] * length  # where the windscreen meets the bonnet
    rear, deck = -half + shape["rear"] * length, shape["deck"] * height
    nose = draw.uniform(0.82, 0.9)
    stations = [
        (half, 0.66 * nose, clear + 0.1, hood - 0.2),
        (half - 0.04, 0.8 * nose, clear + 0.03, hood - 0.13),
        (half - 0.16, 0.97 * nose, clear, hood - 0.07),
        (half - 0.45, 0.96, clear, hood),
        (half - 0.9, 1, clear, hood + 0.3 * (cowl - hood)),
        (screen, 1, clear, cowl),
        (0.1 * screen, 1, clear, belt - 0.01),
        (0.5 * (rear - half * 0.3), 1, clear, belt),
        (rear, 0.99, clear, max(belt, deck)),
        (-half + 0.16, 0.95, clear + 0.02, deck),
        (-half + 0.04, 0.86, clear + 0.06, deck - 0.07),
        (-half, 0.74, clear + 0.12, deck - 0.16),
    ]
    parts = [loft([_body(x, share * wide, low, high) for x, share, low, high in stations], "body")]
    # The cabin: glass, a roof, and pillars in the body's colour between the panes.
    top, roof_front, roof_back = height - 0.035, screen - shape["screen"] * height, rear + shape["back"] * height
    low = belt - 0.04
    foot, head = 0.9 * wide, draw.uniform(0.68, 0.74) * wide

    def cabin(share, grow=0.0):
        bend = share**1.25
        front, back = (
            screen + 0.05 + share * (roof_front - screen - 0.05),
            rear - 0.02 + share * (roof_back - rear + 0.02),
        )
        side = foot + bend * (head - foot) + grow
        z = low + share * (top - low)
        left = [
            (front + grow, 0.86 * side, z),
            (front - 0.12, side, z),
            (back + 0.1, side, z),
            (back - grow, 0.88 * side, z),
        ]
        return left + [(x, -y, z) for x, y, z in reversed(left)]

    parts.append(loft([cabin(share) for share in (0, 0.5, 1)], "glass"))
    rim, crown = cabin(1, 0.02), cabin(1, -0.1)
    roof = [rim, [(x, y, z + 0.022) for x, y, z in cabin(1, -0.02)], [(x, y, height) for x, y, _ in crown]]
    parts.append(loft(roof, "body"))
    sides = []
    for corner, thick in ((1, 0.03), (2, 0.035 if style == "saloon" else 0.06)):
        path = [np.add(cabin(share)[corner], (0, -0.006, 0)) for share in (0, 0.5, 1)]
        sides.append(tube(path, np.full((3, 2), (thick, 0.025)), "body", 6, side=(1, 0, 0)))
    middle = draw.uniform(0.42, 0.5)
    for at in (middle,) if style == "mini" else (middle, middle + 0.32) if style == "estate" else (middle,):
        path = [(1 - at) * np.array(cabin(share)[1]) + at * np.array(cabin(share)[2]) for share in (0, 0.5, 1)]
        sides.append(
            tube(path, np.full((3, 2), (0.035, 0.012)), draw.choice(("body", "dark_metal")), 4, side=(1, 0, 0))
        )
    # Wheels in dark arches, sills, handles, mirrors.
    radius = draw.uniform(0.29, 0.33) * shape["wheels"]
    axles = (half - draw.uniform(0.17, 0.19) * length, -half + draw.uniform(0.17, 0.2) * length)
    for x in axles:
        arch = [circle((x, y, radius), 1.17 * radius, 1, 12, 15) for y in (wide - 0.3, wide + 0.004)]
        sides.append(loft(arch, "rubber"))
        sides += _wheel(x, (wide - 0.2, wide + 0.012), radius, draw)
    sides.append(block((axles[1], axles[0]), (wide - 0.1, wide - 0.01), (clear - 0.03, clear + 0.1), "rubber"))
    for x in (0.06 * length, -0.16 * length):
        sides.append(
            block(
                (x - 0.09, x + 0.09),
                (wide - 0.03, wide + 0.01),
                (belt - 0.13, belt - 0.1),
                draw.choice(("body", "metal")),
            )
        )
    sides.append(ellipsoid((screen - 0.3, wide - 0.07, belt + 0.07), (0.07, 0.1, 0.075), "body", 8, 6))
    front_lamp = _corner_lamp(half - 0.1, hood - 0.2, wide * nose, 0.24, draw.uniform(0.06, 0.09), 1)
    sides.append(panel(front_lamp, 0.05, "light"))
    tall = shape["lamps"]
    rear_z = deck - 0.2 if tall < 0.1 else deck - 0.1
    sides.append(panel(_corner_lamp(-half + 0.06, rear_z, 0.86 * wide, 0.2, tall, -1), 0.06, "red_light"))
    parts += both_sides(sides)
    # Grilles, bumpers, plates.
    grille = 0.42 * wide * nose
    parts.append(block((half - 0.1, half + 0.004), (-grille, grille), (hood - 0.3, hood - 0.2), "dark_metal"))
    parts.append(block((half - 0.1, half + 0.006), (-0.6 * wide, 0.6 * wide), (clear + 0.08, clear + 0.2), "rubber"))
    parts.append(
        block(
            (-half - 0.006, -half + 0.1),
            (-0.7 * wide, 0.7 * wide),
            (clear + 0.08, clear + 0.2),
            draw.choice(("rubber", "body")),
        )
    )
    for x, z in ((half, clear + 0.24), (-half, draw.choice((clear + 0.28, deck - 0.3)))):
        parts.append(block((x - 0.02, x + 0.02), (-0.26, 0.26), (z, z + 0.11), "paper"))
    if style in ("suv", "estate") and draw.random() < 0.7:
        rails = block(
            (roof_back + 0.15, roof_front - 0.15),
            (0.6 * wide, 0.63 * wide),
            (height - 0.02, height + 0.03),
            draw.choice(("metal", "dark_metal")),
        )
        parts += both_sides([rails])
    return parts


# Size (m); ground clearance, boot lid and rear lights as shares of the height; lengths of the bonnet, the boot, the
# slopes of windscreen and rear window; wheels.
_CARS = {
    "saloon": dict(
        size=(4.65, 1.45, 1.82),
        clear=0.13,
        hood=0.28,
        rear=0.13,
        deck=0.66,
        screen=0.5,
        back=0.42,
        lamps=0.08,
        wheels=1.0,
    ),
    "hatchback": dict(
        size=(4.15, 1.48, 1.78),
        clear=0.13,
        hood=0.25,
        rear=0.035,
        deck=0.62,
        screen=0.5,
        back=0.22,
        lamps=0.16,
        wheels=0.98,
    ),
    "estate": dict(
        size=(4.65, 1.48, 1.81),
        clear=0.13,
        hood=0.26,
        rear=0.035,
        deck=0.62,
        screen=0.5,
        back=0.2,
        lamps=0.18,
        wheels=1.0,
    ),
    "suv": dict(
        size=(4.5, 1.68, 1.87),
        clear=0.16,
        hood=0.26,
        rear=0.035,
        deck=0.62,
        screen=0.4,
        back=0.17,
        lamps=0.15,
        wheels=1.12,
    ),
    "mini": dict(
        size=(3.6, 1.5, 1.66),
        clear=0.13,
        hood=0.2,
        rear=0.03,
        deck=0.62,
        screen=0.45,
        back=0.16,
        lamps=0.16,
        wheels=0.92,
    ),
}


def _body(x: float, wide: float, low: float, high: float) -> list[tuple]:
    """The outline of a car's body across its length, rounded at sill, flank and shoulder."""
    tall = high - low
    cut = min(0.13, 0.35 * tall)
    side = [(0.84, 0.0, 0), (0.95, 0.1, 0), (1.0, 0.42, 0), (0.985, 0.7, 0)]
    points = [(share * wide, low + rise * tall) for share, rise, _ in side]
    points += [(0.93 * wide, high - 0.3 * cut), (0.93 * wide - cut, high), (0.4 * wide, high + 0.012)]
    return [(x, y, z) for y, z in points] + [(x, -y, z) for y, z in reversed(points)]


def _corner_lamp(x: float, z: float, wide: float, inward: float, tall: float, sign: int) -> list[tuple]:
    """Corners of a lamp about a corner of the car, which looks forward (sign 1) or back, and a little to the left."""
    back = x - sign * 0.08
    return [
        (x, wide - inward, z - tall),
        (back, wide, z - 0.8 * tall),
        (back, wide, z + tall),
        (x, wide - inward, z + 0.9 * tall),
    ]


def _wheel(x: float, y: tuple[float, float], radius: float, draw: Random) -> list[Part]:
    """A wheel on the floor: tyre, bright rim, dark gaps between its spokes."""
    tyre = loft(
        [circle((x, level, radius), r * radius, 1, 14) for level, r in ((y[0], 1), (y[1] - 0.03, 1), (y[1], 0.93))],
        "rubber",
    )
    rim = loft([circle((x, level, radius), 0.68 * radius, 1, 12) for level in (y[0] + 0.1, y[1] + 0.004)], "metal")
    spokes, gaps = draw.choice((4, 5, 5, 6)), []
    for k in range(spokes):
        angle = 2 * math.pi * k / spokes
        ring = [(r * radius, angle + turn) for r, turn in ((0.2, 0), (0.6, -2.4 / spokes), (0.6, 2.4 / spokes))]
        corners = [(x + r * math.cos(a), y[1] + 0.003, radius + r * math.sin(a)) for r, a in ring]
        gaps.append(panel(corners, 0.004, "rubber"))
    return [tyre, rim, *gaps]
