# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of a street: vehicles, people, and what stands at its side. Each function draws one and returns its parts, in
the frame of `shapes`."""

import math
from random import Random

import numpy as np

from .shapes import Part, block, both_sides, circle, ellipsoid, lathe, loft, panel, placed, prism, sizes, tube, turn


def _wheel(x: float, y: tuple[float, float], radius: float, sides: int = 12) -> list[Part]:
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
    screen, back = draw.uniform(0.36, 0.44) * half, {"saloon": -0.66, "hatchback": -0.9, "estate": -0.94, "suv": -0.92}[style] * half
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
            (a[0] + share * (b[0] - a[0]) + (0.5 - share) * 0.06, a[1] + 0.004, z)
            for (a, b), z in ((bottom, low), (upper, top))
        ] if False else [
            (p[0][0] + share * (p[1][0] - p[0][0]), p[0][1], z) for p, z in ((bottom, low), (upper, top))
        ]
        pillars.append(tube(ends, thick, "body", 4))
    parts += both_sides(pillars)
    axle = draw.uniform(0.57, 0.63) * half
    radius = draw.uniform(0.29, 0.33) * (1.12 if style == "suv" else 1)
    for x in (axle + 0.05 * half, -axle):
        parts += both_sides(_wheel(x, (wide - 0.2, wide + 0.003), radius))
    parts += _lights(half - 0.005, -half + 0.02, 0.88 * wide, bonnet - 0.17, boot - 0.2, 0.26, style != "saloon")
    grille = ((half - 0.1, half + 0.008), (-0.45 * wide, 0.45 * wide), (clear + 0.12, bonnet - 0.16))
    parts.append(block(*grille, "dark_metal"))
    parts.append(block((-half - 0.008, -half + 0.1), (-0.26, 0.26), (clear + 0.2, clear + 0.32), "paper"))
    mirror = block((screen - 0.3, screen - 0.18), (0.95 * wide, wide + 0.015), (belt, belt + 0.12), "body")
    if style == "suv" or draw.random() < 0.3:
        parts += both_sides([block((roof_back + 0.1, roof_front - 0.1), (0.55 * wide, 0.6 * wide), (height - 0.01, height + 0.03), "dark_metal")])
    return [*parts, *both_sides([mirror])]


def _slope(a: tuple, b: tuple, wide_a: float, wide_b: float, paint: str = "glass", inset: float = 0.06) -> Part:
    """A pane on the slope between two (x, z), as wide as given (half) at its lower and upper end."""
    a, b = np.array(a), np.array(b)
    low, high = a + inset * (b - a), b - inset * (b - a)
    corners = [(low[0], -wide_a, low[1]), (low[0], wide_a, low[1]), (high[0], wide_b, high[1]), (high[0], -wide_b, high[1])]
    return panel(corners, 0.015, paint)


def van(draw: Random) -> list[Part]:
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
    front_window = [(screen - 0.25, level[0]), (roof - 0.1, level[1]), (roof - 0.75, level[1]), (roof - 0.75, level[0])]
    side = [panel([(x, wide, z) for x, z in front_window], 0.015, "glass")]
    if draw.random() < 0.5:  # people's, not parcels'
        for k in range(2):
            room = (roof - 0.85 + 0.9 * half) / 2
            x = roof - 0.85 - k * room
            side.append(panel([(x, wide, level[0]), (x, wide, level[1]), (x - room + 0.1, wide, level[1]), (x - room + 0.1, wide, level[0])], 0.015, "glass"))
    parts += both_sides(side)
    rear = [(-half, y, z) for y, z in ((-0.75 * wide, level[0]), (0.75 * wide, level[0]), (0.7 * wide, level[1]), (-0.7 * wide, level[1]))]
    parts.append(panel(rear, 0.02, "glass"))
    for x in (half - 0.85, -half + 0.9):
        parts += both_sides(_wheel(x, (wide - 0.22, wide + 0.003), draw.uniform(0.31, 0.34)))
    parts += _lights(half, -half - 0.01, 0.92 * wide, nose - 0.2, 0.4 * height, 0.25, True)
    parts.append(block((half - 0.1, half + 0.01), (-0.5 * wide, 0.5 * wide), (clear + 0.12, nose - 0.18), "dark_metal"))
    parts.append(block((-half - 0.012, -half), (-0.26, 0.26), (clear + 0.15, clear + 0.27), "paper"))
    return parts + both_sides([block((screen - 0.4, screen - 0.28), (wide, wide + 0.1), (cowl, cowl + 0.22), "dark_metal")])


def truck(draw: Random) -> list[Part]:
    length, height, width = sizes(draw, *draw.choice(((5.8, 2.5, 2.05), (7.4, 3.1, 2.35), (9.0, 3.5, 2.5))), common=0.1)
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
    window = [(front - 0.35, 0.56 * roof), (front - 0.45, 0.86 * roof), (back + 0.35, 0.86 * roof), (back + 0.35, 0.56 * roof)]
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
            parts.append(block((load[0] + 0.1, load[1] - 0.1), (0.1 - wide, wide - 0.1), (bed, bed + 1.25 * wall), "soil", top=(0.6, 0.4)))
    else:
        middle, r = bed + 0.46 * (height - bed), 0.46 * (height - bed)
        rings = [circle((x, 0, middle), s, 0, 12, 15) for x, s in ((load[0], 0.8), (load[0] + 0.2, 1), (load[1] - 0.2, 1), (load[1], 0.8))]
        tank = np.array(rings) * [1, 0, 0]
        for ring, base, scale in zip(tank, rings, (0.8, 1, 1, 0.8), strict=True):
            flat = base - np.array([0, 0, middle])
            ring[:, 1:] = flat[:, 1:] / np.array([1]) * np.array([0.95 * wide, r]) * 1.0 + np.array([0, middle])
            ring[:, 1:] *= 1.0 if scale else 1.0
        parts.append(loft(tank, paint))
        parts.append(block((load[0] + 0.3, load[1] - 0.3), (-0.3, 0.3), (height - 0.1, height), "dark_metal"))
        parts.append(block(load, (-0.9 * wide, 0.9 * wide), (bed - 0.02, bed + 0.1), "dark_metal"))
    axles = [front - 0.55 * cab, -half + 0.18 * length]
    if length > 7.5:
        axles.append(axles[-1] + 2.2 * radius)
    for x in axles:
        parts += both_sides(_wheel(x, (wide - 0.3, wide - 0.02), radius))
    parts += _lights(front + 0.01, -half - 0.01, 0.93 * wide, 0.65, bed - 0.15, 0.26)
    parts.append(block((front - 0.1, front + 0.012), (-0.6 * wide, 0.6 * wide), (0.55, 0.46 * roof), "dark_metal"))
    return parts + both_sides([block((front - 0.25, front - 0.12), (wide, wide + 0.12), (0.6 * roof, 0.8 * roof), "dark_metal")])


def bus(draw: Random) -> list[Part]:
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
    front = [(half, y, z) for y, z in ((-0.86 * wide, 0.36 * height), (0.86 * wide, 0.36 * height), (0.8 * wide, 0.8 * height), (-0.8 * wide, 0.8 * height))]
    parts.append(panel(front, 0.02, "glass"))
    parts.append(block((half - 0.1, half + 0.02), (-0.6 * wide, 0.6 * wide), (0.82 * height, 0.82 * height + 0.17), "lamp"))
    parts.append(block((-half - 0.02, 0.1 - half), (-0.7 * wide, 0.7 * wide), (0.55 * height, lintel), "glass"))
    parts.append(block((-half - 0.02, 0.1 - half), (-0.6 * wide, 0.6 * wide), (0.2 * height, 0.38 * height), "dark_metal"))
    count = max(4, round(length / 1.5))
    ends = np.linspace(half - 0.25, -half + 0.25, count + 1)
    doors = (0, count // 2) if draw.random() < 0.7 else (0,)
    for sign in (1, -1):
        for k, (x1, x0) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
            low = clear + 0.1 if sign < 0 and k in doors else sill
            y = (wide - 0.02, wide + 0.012) if sign > 0 else (-wide - 0.012, 0.02 - wide)
            parts.append(block((x0 + 0.06, x1 - 0.06), y, (low, lintel), "glass"))
    if draw.random() < 0.5:
        parts += both_sides([block((0.2 - half, half - 0.2), (wide - 0.02, wide + 0.008), (0.32 * height, 0.37 * height), "trim")])
    if draw.random() < 0.5:
        parts.append(block((-0.5 * half, 0.2 * half), (-0.6 * wide, 0.6 * wide), (height - 0.02, height + 0.18), "trim", top=(0.9, 0.9)))
    radius = 0.16 * min(height, 2.9)
    for x in (half - 0.22 * length, -half + 0.24 * length):
        parts += both_sides(_wheel(x, (wide - 0.3, wide + 0.004), radius))
    parts += _lights(half + 0.01, -half - 0.01, 0.88 * wide, 0.27 * height, 0.42 * height, 0.28, True)
    mirror = block((half - 0.02, half + 0.22), (wide, wide + 0.13), (0.66 * height, 0.8 * height), "dark_metal")
    return parts + both_sides([mirror])


def _cycle(draw: Random, paint: str) -> tuple[list[Part], dict[str, np.ndarray]]:
    """A bicycle, and where its rider sits, holds and treads."""
    base, radius, frame = sizes(draw, 1.03, 0.335, 0.56, common=0.07)
    rear, front = np.array([-base / 2, 0, radius]), np.array([base / 2, 0, radius])
    crank = np.array([-0.06, 0, radius - 0.05])
    seat = crank + [-0.17, 0, frame]
    head = np.array([front[0] - 0.2, 0, radius + frame * 0.62])
    fork = head + (front - head) * 0.25
    thick = draw.uniform(0.017, 0.024)
    parts = []
    for hub in (rear, front):
        parts.append(tube(circle(hub, radius - 0.02, 1, 14), 0.022, "rubber", 4, closed=True))
        parts.append(tube([hub - [0, 0.05, 0], hub + [0, 0.05, 0]], 0.025, "metal"))
        for a in (0, 60, 120):
            spoke = (radius - 0.03) * np.array([math.cos(math.radians(a)), 0, math.sin(math.radians(a))])
            parts.append(tube([hub - spoke, hub + spoke], 0.004, "metal", 4))
    low = draw.random() < 0.35  # a step-through frame
    tubes = [(crank, seat - [0, 0, 0.06]), (crank, fork), (crank, rear), (head, fork)]
    tubes += [(crank + 0.3 * (seat - crank), head - [0, 0, 0.02])] if low else [(seat - [0, 0, 0.14], head)]
    parts += [tube(ends, thick, paint) for ends in tubes]
    parts.append(tube([rear, crank + 0.72 * (seat - crank)], 0.7 * thick, paint))
    parts.append(tube([fork, front], 0.8 * thick, paint))
    drop = draw.random() < 0.3
    grip_x, grip_z = (0.14, -0.04) if drop else (-0.1, 0.1)
    bar = head + [0, 0, 0.07]
    reach = draw.uniform(0.21, 0.29)
    parts.append(tube([head, bar], 0.016, "metal"))
    hands = [bar + [grip_x, s * reach, grip_z] for s in (1, -1)]
    bend = [bar + [0.05, s * 0.5 * reach, max(grip_z, 0.02)] for s in (1, -1)]
    parts.append(tube([hands[0], bend[0], bend[1], hands[1]], 0.014, "dark_metal", side=(0.3, 0, 1)))
    saddle = [(-0.13, 0.07), (0.02, 0.04), (0.13, 0.02)]
    rings = [[(seat[0] + x, s * w, seat[2] + z) for s, z in ((1, 0), (1, 0.035), (-1, 0.035), (-1, 0))] for x, w in saddle]
    parts.append(loft(rings, "rubber"))
    parts.append(tube([seat - [0, 0, 0.1], seat], 0.013, "metal"))
    parts.append(tube([crank - [0, 0.06, 0], crank + [0, 0.06, 0]], 0.07, "metal", 8))
    angle = draw.uniform(0, 2 * math.pi)
    arm = 0.17 * np.array([math.cos(angle), 0, math.sin(angle)])
    feet = [crank + s * arm + [0, s * 0.1, 0] for s in (1, -1)]
    for s, foot in zip((1, -1), feet, strict=True):
        parts.append(tube([crank + [0, s * 0.05, 0], foot - [0, s * 0.05, 0]], 0.013, "metal", 4))
        parts.append(block((foot[0] - 0.045, foot[0] + 0.045), (foot[1] - 0.045, foot[1] + 0.045), (foot[2] - 0.012, foot[2] + 0.012), "rubber"))
    if draw.random() < 0.4:
        parts.append(block((front[0] - 0.24, front[0] - 0.02), (-0.15, 0.15), (bar[2] - 0.22, bar[2] - 0.01), "wood", top=(1.2, 1.2)))
    if draw.random() < 0.4:
        parts.append(block((rear[0] - 0.2, rear[0] + 0.22), (-0.06, 0.06), (2 * radius + 0.06, 2 * radius + 0.08), "dark_metal"))
    lamp = bar + [0.06, 0, -0.06]
    parts.append(block((lamp[0], lamp[0] + 0.05), (-0.03, 0.03), (lamp[2] - 0.03, lamp[2] + 0.03), "light"))
    return parts, {"seat": seat, "hands": np.array(hands), "feet": np.array(feet)}


def bicycle(draw: Random) -> list[Part]:
    return _cycle(draw, "body")[0]


def _figure(draw: Random, tall: float, joint: dict[str, np.ndarray], helmet: bool = False) -> list[Part]:
    """A person of a height in metres whose joints are at `joint`: hip and neck [3]; knees, feet, elbows and hands
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
        top = hip + [0, s * 0.05 * tall * girth, 0]
        knee, foot = joint["knees"][k], joint["feet"][k]
        parts.append(tube([top, knee, foot], np.array([0.055, 0.04, 0.03]) * tall * girth, legs_paint, side=across))
        shoe = ((foot[0] - 0.04 * tall, foot[0] + 0.11 * tall), (foot[1] - 0.03 * tall, foot[1] + 0.03 * tall), (foot[2] - 0.045 * tall, foot[2]))
        parts.append(block(*shoe, "rubber", top=(0.8, 0.9)))
        shoulder = hip + 0.93 * spine + across * s * 0.108 * tall * girth
        elbow, hand = joint["elbows"][k], joint["hands"][k]
        parts.append(tube([shoulder, elbow], np.array([0.04, 0.03]) * tall, "body", side=(0.2, 0.9, 0.1)))
        parts.append(tube([elbow, hand], np.array([0.028, 0.02]) * tall, "skin" if fore else "body", side=(0.2, 0.9, 0.1)))
        parts.append(ellipsoid(hand, np.array([0.03, 0.02, 0.03]) * tall, "skin", 6, 4))
    big = 1 + 0.35 * max(0.0, 1.55 - tall)  # children's heads are large for their height
    head = neck + np.array([0.015, 0, 0.085 * big]) * tall
    size = np.array([0.056, 0.045, 0.066]) * tall * big
    parts.append(tube([neck - [0, 0, 0.02 * tall], head], 0.032 * tall, "skin"))
    parts.append(ellipsoid(head, size, "skin", 8, 6))
    parts.append(ellipsoid(head + size * [1.0, 0, -0.1], size * [0.25, 0.2, 0.2], "skin", 4, 3))
    cover = draw.choice(("hair", "hair", "cover_yellow", "cover_red", "dark_fabric"))
    if helmet:
        parts.append(ellipsoid(head + size * [-0.1, 0, 0.5], size * [1.35, 1.3, 0.85], draw.choice(("paper", "dark_metal", "cover_red")), 8, 5))
    else:
        parts.append(ellipsoid(head + size * [-0.28, 0, 0.28], size * [1.02, 1.12, 0.98], cover, 8, 5))
        if cover == "hair" and draw.random() < 0.35:
            parts.append(ellipsoid(head + size * [-0.65, 0, -0.6], size * [0.5, 0.95, 1.1], "hair", 6, 5))
    return parts


def pedestrian(draw: Random) -> list[Part]:
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
        parts.append(block(*(tuple(tall * v for v in span) for span in pack), draw.choice(("dark_fabric", "cover_blue", "cover_red")), bevel=0.03))
    elif carried < 0.4:
        x, y, z = tall * np.array(hands[1])
        parts.append(block((x - 0.15, x + 0.15), (y - 0.05, y + 0.05), (z - 0.38, z - 0.08), draw.choice(("paper", "dark_fabric")), top=(0.8, 0.5)))
        parts.append(tube([(x, y, z - 0.1), (x, y, z)], 0.012, "dark_fabric", 4))
    return parts


def _bent(a: np.ndarray, b: np.ndarray, upper: float, lower: float, toward: np.ndarray) -> np.ndarray:
    """The joint between a and b whose limbs have these lengths, on the side of `toward`."""
    line = b - a
    reach = np.linalg.norm(line)
    line = line / reach
    along = np.clip((upper**2 - lower**2 + reach**2) / (2 * reach), 0, upper)
    out = toward - (toward @ line) * line
    return a + along * line + math.sqrt(max(upper**2 - along**2, 1e-6)) * out / np.linalg.norm(out)


def cyclist(draw: Random) -> list[Part]:
    parts, place = _cycle(draw, draw.choice(("dark_metal", "metal", "cover_red", "cover_blue")))
    tall = draw.uniform(1.55, 1.9)
    hip = place["seat"] + [0.0, 0, 0.1]
    lean = math.radians(draw.uniform(15, 48))
    neck = hip + 0.31 * tall * np.array([math.sin(lean), 0, math.cos(lean)])
    feet = place["feet"] + [-0.02, 0, 0.09]
    spread = np.array([0, 0.05 * tall, 0])
    knees = [_bent(hip + s * spread, foot, 0.25 * tall, 0.245 * tall, np.array([1.0, 0.1 * s, 0.2])) for s, foot in zip((1, -1), feet, strict=True)]
    shoulders = [neck - 0.02 * tall * np.array([0, 0, 1]) + s * np.array([0, 0.11 * tall, 0]) for s in (1, -1)]
    hands = place["hands"] + [0, 0, 0.02]
    elbows = [_bent(a, b, 0.18 * tall, 0.19 * tall, np.array([-0.3, 0.5 * s, -1])) for s, a, b in zip((1, -1), shoulders, hands, strict=True)]
    joint = {"hip": hip, "neck": neck, "knees": knees, "feet": feet, "elbows": elbows, "hands": hands}
    return parts + _figure(draw, tall, joint, helmet=draw.random() < 0.6)


def motorcycle(draw: Random) -> list[Part]:
    base, radius, high, grip = sizes(draw, 1.4, 0.31, 0.8, 0.36, common=0.13)
    scooter = draw.random() < 0.35
    if scooter:
        base, radius = 0.92 * base, 0.75 * radius
    rear, front = np.array([-base / 2, 0, radius]), np.array([base / 2, 0, radius])
    wide = 0.07
    parts = []
    for hub in (rear, front):
        parts += _wheel(hub[0], (-wide, wide), radius)
    bar = np.array([front[0] - 0.42, 0, high + 0.2])
    forks = [tube([front + [0, 0.1, 0], bar + [0.05, 0.1, -0.05]], 0.025, "metal")]
    parts += both_sides(forks)
    ends = [bar + [-0.12, s * grip, 0.02] for s in (1, -1)]
    bend = [bar + [0, s * 0.4 * grip, 0.06] for s in (1, -1)]
    parts.append(tube([ends[0], bend[0], bend[1], ends[1]], 0.018, "dark_metal", side=(0.3, 0, 1)))
    parts.append(ellipsoid(bar + [0.16, 0, -0.1], (0.07, 0.1, 0.1), "light", 8, 5))
    fender = [front + (radius + 0.03) * np.array([math.cos(a), 0, math.sin(a)]) for a in np.radians([40, 75, 110, 145])]
    parts.append(tube(fender, np.broadcast_to((0.09, 0.015), (4, 2)), "body", 4, side=(0, 1, 0)))
    parts += both_sides([tube([bar + [0.0, 0.2, 0.06], bar + [-0.05, 0.27, 0.2]], 0.01, "dark_metal", 4), ellipsoid(bar + [-0.05, 0.28, 0.22], (0.02, 0.07, 0.045), "dark_metal", 6, 4)])
    if scooter:
        shield = prism([(bar[0] - 0.02, high + 0.08), (bar[0] + 0.1, high + 0.08), (front[0] - 0.18, 0.32), (front[0] - 0.3, 0.24)], (-0.2, 0.2), "body")
        floor = block((-0.1, front[0] - 0.24), (-0.16, 0.16), (0.22, 0.3), "trim")
        tail = prism([(0.02, 0.24), (0.0, high - 0.1), (rear[0] - 0.3, high - 0.08), (rear[0] - 0.22, 2 * radius)], (-0.15, 0.15), "body")
        parts += [shield, floor, tail]
        seat_x = (rear[0] - 0.22, 0.02)
    else:
        tank = [(0.1, 0.04, high - 0.08), (0.02, 0.14, high + 0.04), (-0.25, 0.15, high + 0.08), (-0.42, 0.05, high)]
        rings = [[(bar[0] - 0.02 + x, s * w, z) for s, z in ((1, high - 0.22), (1, top - 0.06), (0.5, top), (-0.5, top), (-1, top - 0.06), (-1, high - 0.22))] for x, w, top in tank]
        parts.append(loft(rings, "body"))
        parts.append(block((-0.24, 0.22), (-0.17, 0.17), (0.24, high - 0.2), "dark_metal", bevel=0.05))
        parts.append(tube([(bar[0], 0, high - 0.1), (0.3, 0, 0.35), (-0.2, 0, 0.3), rear], 0.03, "metal"))
        parts.append(prism([(-0.1, high - 0.15), (-0.1, high - 0.02), (rear[0] - 0.28, high + 0.08), (rear[0] - 0.3, high)], (-0.11, 0.11), "body"))
        seat_x = (rear[0] - 0.1, bar[0] - 0.36)
    parts.append(block(seat_x, (-0.14, 0.14), (high - 0.1, high + 0.05), "rubber", bevel=0.03))
    parts.append(tube([(0.1, -0.19, 0.25), (rear[0] - 0.2, -0.19, 0.36)], [0.035, 0.055], "metal"))
    parts.append(block((rear[0] - 0.34, rear[0] - 0.28), (-0.08, 0.08), (high - 0.05, high + 0.03), "red_light"))
    return parts


def traffic_cone(draw: Random) -> list[Part]:
    height, across = sizes(draw, draw.choice((0.4, 0.55, 0.75)), 0.36, common=0.16)
    foot = across / 2 * (0.6 + 0.6 * height)
    plate, r0, r1 = 0.04 * height + 0.01, 0.72 * foot, 0.09 * foot + 0.01
    parts = [block((-foot, foot), (-foot, foot), (0, plate), draw.choice(("rubber", "body")), top=(0.94, 0.94))]
    parts.append(lathe([(r0, plate), (r1, height)], "body"))
    for low, high in ((0.3, 0.48), (0.66, 0.8)) if draw.random() < 0.6 else ((0.4, 0.68),):
        band = [(r0 + share * (r1 - r0) + 0.006, plate + share * (height - plate)) for share in (low, high)]
        parts.append(lathe(band, "paper"))
    return parts


def barrier(draw: Random) -> list[Part]:
    kind = draw.choice(("jersey", "planks", "fence", "jersey"))
    if kind == "jersey":  # of concrete or plastic, wide below
        deep, height, width = sizes(draw, 0.52, 0.86, 1.9, common=0.17, own=0.1)
        foot, half = 0.1 * height, deep / 2
        side = [(half, 0), (half, foot), (0.6 * half, 0.4 * height), (0.36 * half, height)]
        parts = [prism(side + [(-x, z) for x, z in reversed(side)], (-width / 2, width / 2), "body")]
        for y in np.linspace(-0.3, 0.3, 2) * width if draw.random() < 0.5 else ():
            stripe = [(0.36 * half + 0.012, height - 0.02), (0.6 * half + 0.012, 0.4 * height + 0.05)]
            stripe += [(-x, z) for x, z in reversed(stripe)]
            parts.append(prism(stripe, (y - 0.12 * width, y + 0.12 * width), "paper"))
        return parts
    if kind == "planks":  # striped boards on feet
        height, width = sizes(draw, 1.0, 1.5, common=0.17)
        reach = draw.uniform(0.22, 0.35)
        parts = []
        for y in (-0.42 * width, 0.42 * width):
            parts.append(tube([(reach, y, 0), (0, y, height - 0.02), (-reach, y, 0)], 0.025, "metal", 4))
        for top in (height, 0.62 * height):
            bottom = top - 0.2 * height
            parts.append(block((-0.02, 0.02), (-width / 2, width / 2), (bottom, top), "body"))
            for y in np.linspace(-0.4, 0.4, 4) * width:
                skew, step = 0.05 * width, 0.05 * width
                corners = [(0, y - step - skew, bottom), (0, y + step - skew, bottom), (0, y + step + skew, top), (0, y - step + skew, top)]
                parts.append(panel(np.array(corners) * [1, 0.92, 1], 0.024, "paper"))
        return parts
    height, width = sizes(draw, 1.05, 2.1, common=0.14)
    half, low = width / 2, 0.16
    frame = np.array([(0, -half, low), (0, half, low), (0, half, height), (0, -half, height)])
    parts = [tube([frame[i], frame[i - 1]], 0.022, "body") for i in range(4)]
    parts += [tube([(0, y, low), (0, y, height)], 0.012, "body", 4) for y in np.linspace(-half, half, 11)[1:-1]]
    for y in (-0.7 * half, 0.7 * half):
        parts.append(block((-0.3, 0.3), (y - 0.025, y + 0.025), (0, 0.025), "metal"))
        parts.append(tube([(0, y, 0.02), (0, y, low)], 0.02, "metal", 4))
    return parts
