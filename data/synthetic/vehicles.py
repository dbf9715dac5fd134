# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of vehicles with four and more wheels. Each function draws one and returns its parts, in the frame of
`shapes`."""

from itertools import pairwise
from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, both_sides, circle, loft, panel, sizes, tube


def wheel(x: float, y: tuple[float, float], radius: float, sides: int = 12) -> list[Part]:
    """A wheel on the floor whose tyre spans `y`; its hub stands out a little on both sides."""
    tyre = loft([circle((x, level, radius), radius, 1, sides, 180 / sides) for level in y], "rubber")
    hub = loft([circle((x, level, radius), 0.6 * radius, 1, 6) for level in (y[0] - 0.012, y[1] + 0.012)], "metal")
    return [tyre, hub]


def _section(x: float, wide: float, low: float, high: float, round_top: float = 0.12) -> list[tuple]:
    """The outline of a vehicle's body across its length: tucked in below, bent in above."""
    cut = min(round_top, 0.4 * (high - low))
    side = [(0.9 * wide, low), (wide, low + 0.3 * (high - low)), (wide, high - cut), (wide - cut, high)]
    return [(x, y, z) for y, z in side] + [(x, -y, z) for y, z in reversed(side)]


def _lights(front: float, back: float, wide: float, front_z: float, back_z: float, size: float, tall: bool = False):
    """Two white lights that look forward at x = front, two red ones that look back at x = back."""
    y, rise = (wide - 1.1 * size, wide), 0.45 * size
    white = block((front - 0.12, front), y, (front_z - rise, front_z + rise), "light")
    rise *= 2.2 if tall else 1
    return both_sides([white, block((back, back + 0.12), y, (back_z - rise, back_z + rise), "red_light")])


def car(draw: Random) -> list[Part]:
    """A car: saloon, hatchback, estate or sport utility vehicle."""
    style = draw.choice(("saloon", "hatchback", "estate", "suv"))
    typical = {
        "saloon": (4.6, 1.45, 1.8),
        "hatchback": (3.95, 1.49, 1.74),
        "estate": (4.65, 1.5, 1.8),
        "suv": (4.5, 1.68, 1.87),
    }
    length, height, width = sizes(draw, *typical[style], common=0.09, own=0.04)
    half, wide = length / 2, width / 2 - 0.015
    clear = (0.2 if style == "suv" else 0.15) * height
    bonnet, cowl, belt = 0.52 * height, 0.61 * height, 0.64 * height
    screen, back = (
        draw.uniform(0.36, 0.44) * half,
        {"saloon": -0.66, "hatchback": -0.9, "estate": -0.94, "suv": -0.92}[style] * half,
    )
    boot = (0.66 if style == "saloon" else 0.62) * height
    stations = [
        (half, 0.8, clear + 0.06, bonnet - 0.1),
        (0.96 * half, 0.93, clear, bonnet - 0.02),
        (0.8 * half, 1, clear, bonnet + 0.02),
        (screen, 1, clear, cowl),
        (0.0, 1, clear, belt),
        (back, 1, clear, belt),
        (-0.97 * half, 0.95, clear + 0.04, boot),
        (-half, 0.86, clear + 0.1, boot - 0.12),
    ]
    parts = [loft([_section(x, s * wide, low, high, 0.08) for x, s, low, high in stations], "body")]
    # glass from the belt up to a roof of sheet metal that stands on pillars
    roof_front = screen - draw.uniform(0.55, 0.72)
    roof_back = back + {"saloon": 0.55, "hatchback": 0.3, "estate": 0.18, "suv": 0.22}[style]
    low, top = belt - 0.06, height - 0.05
    bottom = [(screen + 0.02, 0.84 * wide), (back, 0.84 * wide)]
    upper = [(roof_front, 0.7 * wide), (roof_back, 0.7 * wide)]

    def ring(ends, z, grow=0.0):
        (x0, y0), (x1, y1) = ends
        y0, y1 = y0 + grow, y1 + grow
        return [(x0, y0, z), (x1, y1, z), (x1, -y1, z), (x0, -y0, z)]

    parts.append(loft([ring(bottom, low), ring(upper, top)], "glass"))
    parts.append(loft([ring(upper, top, 0.03), ring([(x, 0.86 * y) for x, y in upper], height)], "body"))
    pillars = []
    for share, thick in ((0.0, 0.035), (0.5, 0.04), (1.0, 0.05 if style == "saloon" else 0.09)):
        ends = [
            (front[0] + share * (rear[0] - front[0]), front[1], z)
            for (front, rear), z in ((bottom, low), (upper, top))
        ]
        pillars.append(tube(ends, thick, "body", 4))
    parts += both_sides(pillars)
    axle = draw.uniform(0.57, 0.63) * half
    radius = draw.uniform(0.29, 0.33) * (1.12 if style == "suv" else 1)
    for x in (axle + 0.05 * half, -axle):
        parts += both_sides(wheel(x, (wide - 0.2, wide + 0.003), radius))
    parts += _lights(half - 0.005, -half + 0.02, 0.88 * wide, bonnet - 0.17, boot - 0.2, 0.26, style != "saloon")
    grille = ((half - 0.1, half + 0.008), (-0.45 * wide, 0.45 * wide), (clear + 0.12, bonnet - 0.16))
    parts.append(block(*grille, "dark_metal"))
    parts.append(block((-half - 0.008, -half + 0.1), (-0.26, 0.26), (clear + 0.2, clear + 0.32), "paper"))
    mirror = block((screen - 0.3, screen - 0.18), (0.95 * wide, wide + 0.015), (belt, belt + 0.12), "body")
    if style == "suv" or draw.random() < 0.3:
        parts += both_sides(
            [
                block(
                    (roof_back + 0.1, roof_front - 0.1),
                    (0.55 * wide, 0.6 * wide),
                    (height - 0.01, height + 0.03),
                    "dark_metal",
                )
            ]
        )
    return [*parts, *both_sides([mirror])]


def _slope(a: tuple, b: tuple, wide_a: float, wide_b: float, paint: str = "glass", inset: float = 0.06) -> Part:
    """A pane on the slope between two (x, z), as wide as given (half) at its lower and upper end."""
    a, b = np.array(a), np.array(b)
    low, high = a + inset * (b - a), b - inset * (b - a)
    corners = [
        (low[0], -wide_a, low[1]),
        (low[0], wide_a, low[1]),
        (high[0], wide_b, high[1]),
        (high[0], -wide_b, high[1]),
    ]
    return panel(corners, 0.015, paint)


def van(draw: Random) -> list[Part]:
    """A van, small or large, for people or for parcels."""
    small = draw.random() < 0.45
    length, height, width = sizes(draw, *((4.5, 1.82, 1.82) if small else (5.4, 2.25, 1.98)), common=0.1, own=0.06)
    half, wide = length / 2, width / 2 - 0.015
    clear, nose, cowl = 0.2, 0.44 * height, 0.54 * height
    screen, roof = half - draw.uniform(0.6, 0.95), half - draw.uniform(1.45, 1.8)
    stations = [
        (half, 0.82, clear + 0.08, nose - 0.1),
        (half - 0.15, 0.97, clear, nose),
        (screen, 1, clear, cowl),
        (roof, 1, clear, height - 0.02),
        (-0.3 * half, 1, clear, height),
        (-half, 0.98, clear + 0.05, height - 0.04),
    ]
    parts = [loft([_section(x, s * wide, low, high) for x, s, low, high in stations], "body")]
    parts.append(_slope((screen, cowl), (roof, height - 0.02), wide - 0.16, wide - 0.16))
    level = (0.58 * height, 0.86 * height)
    front_window = [
        (screen - 0.25, level[0]),
        (roof - 0.1, level[1]),
        (roof - 0.75, level[1]),
        (roof - 0.75, level[0]),
    ]
    side = [panel([(x, wide, z) for x, z in front_window], 0.015, "glass")]
    if draw.random() < 0.5:  # people's, not parcels'
        for k in range(2):
            room = (roof - 0.85 + 0.9 * half) / 2
            x = roof - 0.85 - k * room
            side.append(
                panel(
                    [
                        (x, wide, level[0]),
                        (x, wide, level[1]),
                        (x - room + 0.1, wide, level[1]),
                        (x - room + 0.1, wide, level[0]),
                    ],
                    0.015,
                    "glass",
                )
            )
    parts += both_sides(side)
    rear = [
        (-half, y, z)
        for y, z in (
            (-0.75 * wide, level[0]),
            (0.75 * wide, level[0]),
            (0.7 * wide, level[1]),
            (-0.7 * wide, level[1]),
        )
    ]
    parts.append(panel(rear, 0.02, "glass"))
    for x in (half - 0.85, -half + 0.9):
        parts += both_sides(wheel(x, (wide - 0.22, wide + 0.003), draw.uniform(0.31, 0.34)))
    parts += _lights(half + 0.01, -half - 0.01, 0.92 * wide, nose - 0.2, 0.4 * height, 0.25, True)
    parts.append(
        block((half - 0.1, half + 0.01), (-0.5 * wide, 0.5 * wide), (clear + 0.12, nose - 0.18), "dark_metal")
    )
    parts.append(block((-half - 0.012, -half), (-0.26, 0.26), (clear + 0.15, clear + 0.27), "paper"))
    return parts + both_sides(
        [block((screen - 0.4, screen - 0.28), (wide, wide + 0.1), (cowl, cowl + 0.22), "dark_metal")]
    )


def truck(draw: Random) -> list[Part]:
    """A truck of three sizes with a box, a tipper or a tank."""
    length, height, width = sizes(
        draw, *draw.choice(((5.8, 2.5, 2.05), (7.4, 3.1, 2.35), (9.0, 3.5, 2.5))), common=0.1
    )
    half, wide = length / 2, width / 2
    radius = draw.uniform(0.15, 0.17) * min(height, 3.1)
    bed = 2.0 * radius + 0.12
    cab = draw.uniform(1.5, 1.9) * width / 2.3
    roof = draw.uniform(0.78, 0.97) * height
    front, back = half, half - cab
    stations = [
        (front, 0.94, 0.35, 0.52 * roof),
        (front - 0.06, 0.98, 0.3, 0.55 * roof),
        (front - 0.3, 0.98, 0.3, roof - 0.03),
        (back, 0.98, 0.3, roof),
    ]
    parts = [loft([_section(x, s * wide, low, high, 0.1) for x, s, low, high in stations], "body")]
    parts.append(_slope((front - 0.06, 0.55 * roof), (front - 0.3, roof - 0.03), wide - 0.17, wide - 0.17))
    window = [
        (front - 0.35, 0.56 * roof),
        (front - 0.45, 0.86 * roof),
        (back + 0.35, 0.86 * roof),
        (back + 0.35, 0.56 * roof),
    ]
    parts += both_sides([panel([(x, 0.98 * wide, z) for x, z in window], 0.015, "glass")])
    parts.append(block((-half, back + 0.1), (-0.4 * wide, 0.4 * wide), (bed - 0.3, bed), "dark_metal"))
    load = (-half, back - 0.15)
    kind = draw.choice(("box", "box", "box", "tipper", "tank"))
    paint = draw.choice(("body", "body", "trim"))
    if kind == "box":
        parts.append(block(load, (-wide, wide), (bed, height), paint))
        parts.append(block((load[0] - 0.015, load[0]), (-0.03, 0.03), (bed + 0.05, height - 0.05), "dark_metal"))
    elif kind == "tipper":
        wall = draw.uniform(0.35, 0.5) * (height - bed)
        parts.append(block(load, (-wide, wide), (bed, bed + 0.12), paint))
        parts += both_sides([block(load, (wide - 0.08, wide), (bed, bed + wall), paint)])
        parts.append(block((load[0], load[0] + 0.08), (-wide, wide), (bed, bed + wall), paint))
        parts.append(block((load[1] - 0.08, load[1]), (-wide, wide), (bed, max(bed + wall, 0.92 * roof)), paint))
        if draw.random() < 0.6:
            parts.append(
                block(
                    (load[0] + 0.1, load[1] - 0.1),
                    (0.1 - wide, wide - 0.1),
                    (bed, bed + 1.25 * wall),
                    "soil",
                    top=(0.6, 0.4),
                )
            )
    else:
        r = (height - bed) / 2
        ends = ((load[0], 0.8), (load[0] + 0.2, 1), (load[1] - 0.2, 1), (load[1], 0.8))
        oval = np.array([1, 0.95 * wide, 0.95 * r])
        tank = [circle((0, 0, 0), scale, 0, 12, 15) * oval + [x, 0, bed + r] for x, scale in ends]
        parts.append(loft(tank, paint))
        parts.append(block((load[0] + 0.3, load[1] - 0.3), (-0.3, 0.3), (height - 0.3, height), "dark_metal"))
        parts.append(block(load, (-0.9 * wide, 0.9 * wide), (bed - 0.02, bed + 0.1), "dark_metal"))
    axles = [front - 0.55 * cab, -half + 0.18 * length]
    if length > 7.5:
        axles.append(axles[-1] + 2.2 * radius)
    for x in axles:
        parts += both_sides(wheel(x, (wide - 0.3, wide - 0.02), radius))
    parts += _lights(front + 0.01, -half - 0.01, 0.93 * wide, 0.65, bed - 0.15, 0.26)
    parts.append(block((front - 0.1, front + 0.012), (-0.6 * wide, 0.6 * wide), (0.55, 0.46 * roof), "dark_metal"))
    return parts + both_sides(
        [block((front - 0.25, front - 0.12), (wide, wide + 0.12), (0.6 * roof, 0.8 * roof), "dark_metal")]
    )


def bus(draw: Random) -> list[Part]:
    """A bus of three sizes, its doors on the right."""
    kind = draw.choice(((6.8, 2.65, 2.2), (10.5, 3.05, 2.5), (11.5, 3.15, 2.5)))
    length, height, width = sizes(draw, *kind, common=0.1, own=0.05)
    half, wide = length / 2, width / 2
    clear, sill, lintel = 0.28, 0.42 * height, 0.82 * height
    stations = [
        (half, 0.93, clear + 0.05, height - 0.3),
        (half - 0.15, 1, clear, height - 0.06),
        (half - 0.5, 1, clear, height),
        (-half + 0.3, 1, clear, height),
        (-half, 0.95, clear + 0.05, height - 0.12),
    ]
    parts = [loft([_section(x, s * wide, low, high, 0.16) for x, s, low, high in stations], "body")]
    front = [
        (half, y, z)
        for y, z in (
            (-0.86 * wide, 0.36 * height),
            (0.86 * wide, 0.36 * height),
            (0.8 * wide, 0.8 * height),
            (-0.8 * wide, 0.8 * height),
        )
    ]
    parts.append(panel(front, 0.02, "glass"))
    parts.append(
        block((half - 0.1, half + 0.02), (-0.6 * wide, 0.6 * wide), (0.82 * height, 0.82 * height + 0.17), "lamp")
    )
    parts.append(block((-half - 0.02, 0.1 - half), (-0.7 * wide, 0.7 * wide), (0.55 * height, lintel), "glass"))
    parts.append(
        block((-half - 0.02, 0.1 - half), (-0.6 * wide, 0.6 * wide), (0.2 * height, 0.38 * height), "dark_metal")
    )
    count = max(4, round(length / 1.5))
    ends = np.linspace(half - 0.25, -half + 0.25, count + 1)
    doors = (0, count // 2) if draw.random() < 0.7 else (0,)
    for sign in (1, -1):
        for k, (x1, x0) in enumerate(pairwise(ends)):
            low = clear + 0.1 if sign < 0 and k in doors else sill
            y = (wide - 0.02, wide + 0.012) if sign > 0 else (-wide - 0.012, 0.02 - wide)
            parts.append(block((x0 + 0.06, x1 - 0.06), y, (low, lintel), "glass"))
    if draw.random() < 0.5:
        parts += both_sides(
            [block((0.2 - half, half - 0.2), (wide - 0.02, wide + 0.008), (0.32 * height, 0.37 * height), "trim")]
        )
    if draw.random() < 0.5:
        parts.append(
            block(
                (-0.5 * half, 0.2 * half),
                (-0.6 * wide, 0.6 * wide),
                (height - 0.02, height + 0.18),
                "trim",
                top=(0.9, 0.9),
            )
        )
    radius = 0.16 * min(height, 2.9)
    for x in (half - 0.22 * length, -half + 0.24 * length):
        parts += both_sides(wheel(x, (wide - 0.3, wide + 0.004), radius))
    parts += _lights(half + 0.01, -half - 0.01, 0.88 * wide, 0.27 * height, 0.42 * height, 0.28, True)
    mirror = block((half - 0.02, half + 0.22), (wide, wide + 0.13), (0.66 * height, 0.8 * height), "dark_metal")
    return parts + both_sides([mirror])
