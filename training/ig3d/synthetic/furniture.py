# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of things that stand on a floor. Each function draws one and returns its parts, in the frame of `shapes`."""

import math
from random import Random

import numpy as np

from .shapes import Part, block, both_sides, circle, ellipsoid, hoop, lathe, mirrored, panel, placed, sizes, tube, turn


def _legs(length: float, width: float, height: float, thick: float, paint: str, splay: float = 0.0, sides: int = 4):
    """Four legs under a rectangle about the middle; `splay` is how far each foot stands out along x and y."""
    tops = [(sx * (length / 2 - thick), sy * (width / 2 - thick), height) for sx in (1, -1) for sy in (1, -1)]
    feet = [(x + math.copysign(splay, x), y + math.copysign(splay, y), 0) for x, y, _ in tops]
    legs = [tube([foot, top], [0.8 * thick, thick], paint, sides) for foot, top in zip(feet, tops, strict=True)]
    return legs


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
        parts += _legs(depth, width, seat - thick, draw.uniform(0.016, 0.028), frame, draw.uniform(0, 0.05))

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
    parts += _legs(depth - 0.08, width - 0.08, foot, 0.03, draw.choice(("wood", "metal")))
    if draw.random() < 0.3:
        y = draw.choice((-1, 1)) * (inner - 0.2)
        pillow = block((-0.07, 0.07), (y - 0.2, y + 0.2), (0, 0.38), draw.choice(("linen", "dark_fabric")), bevel=0.06)
        parts += placed([pillow], (back - half + 0.2, 0, seat), lean)
    return parts


def armchair(draw: Random) -> list[Part]:
    depth, width, height = sizes(draw, 0.84, 0.84, 0.86)
    return _upholstered(draw, depth, width, height, 1)


def sofa(draw: Random) -> list[Part]:
    seats = draw.choice((2, 2, 3))
    depth, width, height = sizes(draw, 0.88, 0.55 + 0.5 * seats, 0.82)
    return _upholstered(draw, depth, width, height, seats)


def table(draw: Random) -> list[Part]:
    kind = draw.choice(("dining", "dining", "coffee", "side"))
    typical = {"dining": (1.35, 0.74, 0.82), "coffee": (0.95, 0.43, 0.56), "side": (0.6, 0.56, 0.5)}[kind]
    length, height, width = sizes(draw, *typical, common=0.17)
    thick = draw.uniform(0.02, 0.05)
    legs = draw.choice(("trim", "metal", "wood", "dark_metal"))
    under = height - thick
    if draw.random() < 0.35:
        length = width = 0.5 * (length + width)
        parts = [lathe([(length / 2, under), (length / 2, height)], "body", sides=20)]
        if draw.random() < 0.6:
            foot = draw.uniform(0.5, 0.7) * length / 2
            profile = [(foot, 0), (foot, 0.02), (0.045, 0.06), (0.04, under - 0.05), (0.12, under)]
            return [*parts, lathe(profile, legs)]
        return parts + _legs(0.72 * length, 0.72 * length, under, 0.03, legs, draw.uniform(0, 0.06), 6)
    parts = [block((-length / 2, length / 2), (-width / 2, width / 2), (under, height), "body")]
    if draw.random() < 0.2:  # on two trestles
        at = 0.33 * length
        for x in (-at, at):
            parts.append(block((x - 0.03, x + 0.03), (-0.36 * width, 0.36 * width), (0, 0.05), legs))
            parts.append(block((x - 0.04, x + 0.04), (-0.12 * width, 0.12 * width), (0.05, under), legs))
        return [*parts, block((-at, at), (-0.02, 0.02), (0.25 * height, 0.25 * height + 0.07), legs)]
    thick_leg = draw.uniform(0.022, 0.045)
    parts += _legs(0.96 * length, 0.94 * width, under, thick_leg, legs, draw.choice((0, 0, 0.02)))
    parts.append(block((-0.43 * length, 0.43 * length), (-0.42 * width, 0.42 * width), (under - 0.08, under), legs))
    if kind == "coffee" and draw.random() < 0.5:
        shelf = (0.3 * height, 0.3 * height + 0.02)
        parts.append(block((-0.45 * length, 0.45 * length), (-0.43 * width, 0.43 * width), shelf, "body"))
    return parts


def _drawers(x: float, y: tuple[float, float], z: tuple[float, float], rows: int, paint: str = "trim") -> list[Part]:
    """Drawer fronts with handles, on a face that looks forward at x."""
    parts, step = [], (z[1] - z[0]) / rows
    for i in range(rows):
        low, high = z[0] + i * step + 0.008, z[0] + (i + 1) * step - 0.008
        parts.append(block((x - 0.005, x + 0.014), (y[0] + 0.01, y[1] - 0.01), (low, high), paint))
        middle, wide, level = (y[0] + y[1]) / 2, 0.22 * (y[1] - y[0]), low + 0.72 * (high - low)
        handle = block((x + 0.01, x + 0.035), (middle - wide, middle + wide), (level - 0.01, level + 0.01), "metal")
        parts.append(handle)
    return parts


def _doors(x: float, y: tuple[float, float], z: tuple[float, float], count: int, paint: str = "trim") -> list[Part]:
    """Doors with upright handles, on a face that looks forward at x."""
    parts, step = [], (y[1] - y[0]) / count
    for i in range(count):
        low, high = y[0] + i * step + 0.008, y[0] + (i + 1) * step - 0.008
        parts.append(block((x - 0.005, x + 0.014), (low, high), (z[0] + 0.01, z[1] - 0.01), paint))
        hand = high - 0.05 if i % 2 == 0 else low + 0.05
        middle, long = (z[0] + z[1]) / 2, min(0.12, 0.2 * (z[1] - z[0]))
        parts.append(block((x + 0.01, x + 0.04), (hand - 0.012, hand + 0.012), (middle - long, middle + long), "metal"))
    return parts


def desk(draw: Random) -> list[Part]:
    depth, height, width = sizes(draw, 0.65, 0.75, 1.3)
    half, wide, under = depth / 2, width / 2, height - 0.035
    legs = draw.choice(("trim", "metal", "dark_metal"))
    parts = [block((-half, half), (-wide, wide), (under, height), "body")]
    parts.append(block((-half + 0.04, -half + 0.06), (-wide + 0.04, wide - 0.04), (0.45 * height, under), "body"))
    chest = draw.uniform(0.28, 0.34) * width
    side = [block((-half + 0.03, half - 0.05), (wide - chest, wide - 0.02), (0.04, under), "body")]
    side += _drawers(half - 0.05, (wide - chest, wide - 0.02), (0.06, under - 0.01), draw.choice((2, 3)))
    side.append(block((-half + 0.06, half - 0.08), (wide - chest + 0.03, wide - 0.05), (0, 0.04), "dark_metal"))
    style = draw.random()
    if style < 0.3:
        return parts + both_sides(side)
    if style < 0.6:
        other = [block((-half + 0.02, half - 0.03), (-wide + 0.01, -wide + 0.04), (0, under), "body")]
    else:
        feet = [(half - 0.05, 0.03 - wide), (0.03 - half, 0.03 - wide)]
        other = [tube([(x, y, 0), (x, y, under)], 0.025, legs, 4) for x, y in feet]
    parts += side + other
    return mirrored(parts) if draw.random() < 0.5 else parts


def bed(draw: Random) -> list[Part]:
    single = draw.random() < 0.45
    length, height, width = sizes(draw, 2.05, 0.95, 0.98 if single else 1.55)
    half, wide = length / 2, width / 2
    base, top = draw.uniform(0.24, 0.34), draw.uniform(0.46, 0.58)
    frame = draw.choice(("wood", "trim", "dark_fabric"))
    low = draw.choice((0.0, 0.12))
    parts = [block((-half, half), (-wide, wide), (low, base), frame)]
    parts.append(block((-half - 0.05, -half), (-wide, wide), (0 if low == 0 else low, height), frame, bevel=0.015))
    parts.append(block((-half, half - 0.02), (0.02 - wide, wide - 0.02), (base, top - 0.03), "linen", bevel=0.03))
    fold = -half + draw.uniform(0.28, 0.4) * length
    blanket = block((fold, half - 0.005), (-wide, wide), (draw.uniform(base - 0.08, base + 0.1), top), "body", bevel=0.03)
    parts.append(blanket)
    if low:
        parts += _legs(length, width, low, 0.04, frame)
    if draw.random() < 0.4:
        parts.append(block((half, half + 0.04), (-wide, wide), (low, draw.uniform(top - 0.1, top + 0.12)), frame))
    for y in (0,) if single else (-0.25 * width, 0.25 * width):
        span = 0.3 if single else 0.23 * width
        pillow = block((-half + 0.06, -half + 0.46), (y - span, y + span), (top - 0.04, top + 0.09), "linen", bevel=0.05)
        parts += placed([pillow], matrix=turn(1, 8), about=(-half + 0.46, 0, top))
    return parts


def wardrobe(draw: Random) -> list[Part]:
    doors = draw.choice((1, 2, 2, 3))
    depth, height, width = sizes(draw, 0.56, 1.85, 0.3 + 0.38 * doors)
    half, wide = depth / 2, width / 2
    foot = draw.choice((0.04, 0.08))
    parts = [block((-half, half), (-wide, wide), (foot, height), "body")]
    parts.append(block((0.03 - half, half - 0.03), (0.03 - wide, wide - 0.03), (0, foot), "dark_metal"))
    if draw.random() < 0.5:
        parts.append(block((-half, half + 0.03), (-wide - 0.02, wide + 0.02), (height, height + 0.04), "trim"))
    low = foot
    if draw.random() < 0.4:
        low = foot + 0.16 * height
        parts += _drawers(half, (-wide, wide), (foot, low), 1)
    return parts + _doors(half, (-wide, wide), (low, height), doors)


def cabinet(draw: Random) -> list[Part]:
    tall = draw.random() < 0.3
    depth, height, width = sizes(draw, 0.42, 1.25 if tall else 0.78, 0.75 if tall else 1.05, common=0.17)
    half, wide = depth / 2, width / 2
    foot = draw.choice((0.05, 0.12))
    parts = [block((-half, half), (-wide, wide), (foot, height - 0.03), "body")]
    parts.append(block((-half, half + 0.02), (-wide - 0.015, wide + 0.015), (height - 0.03, height), "body"))
    if foot > 0.1:
        parts += _legs(depth, width, foot, 0.022, draw.choice(("wood", "metal")))
    else:
        parts.append(block((0.02 - half, half - 0.03), (0.03 - wide, wide - 0.03), (0, foot), "dark_metal"))
    split = height - 0.03 - draw.uniform(0.25, 0.4) * height
    style = draw.choice(("doors", "drawers", "both", "half"))
    if style == "doors":
        parts += _doors(half, (-wide, wide), (foot, height - 0.03), 2)
    elif style == "drawers":
        for y in ((-wide, 0), (0, wide)):
            parts += _drawers(half, y, (foot, height - 0.03), 3)
    elif style == "both":
        parts += _drawers(half, (-wide, 0), (split, height - 0.03), 1) + _drawers(half, (0, wide), (split, height - 0.03), 1)
        parts += _doors(half, (-wide, wide), (foot, split), 2)
    else:
        parts += _drawers(half, (-wide, 0), (foot, height - 0.03), 3)
        parts += _doors(half, (0, wide), (foot, height - 0.03), 1)
    return parts


def night_stand(draw: Random) -> list[Part]:
    depth, height, width = sizes(draw, 0.4, 0.56, 0.46, common=0.2)
    half, wide = depth / 2, width / 2
    foot = draw.choice((0.03, 0.14, 0.14))
    low = foot
    legs = draw.choice(("trim", "wood", "body"))
    parts = [block((-half, half + 0.015), (-wide - 0.01, wide + 0.01), (height - 0.025, height), "body")]
    rows = 2
    if draw.random() < 0.35:  # an open shelf below one drawer
        low, rows = 0.62 * height, 1
        parts.append(block((-half, half), (-wide, wide), (foot, foot + 0.02), "body"))
        parts += both_sides([block((-half, half), (wide - 0.02, wide), (foot, low), "body")])
        parts.append(block((-half, 0.015 - half), (-wide, wide), (foot, low), "trim"))
    parts.append(block((-half, half), (-wide, wide), (low, height - 0.025), "body"))
    parts += _drawers(half, (-wide, wide), (low, height - 0.025), rows)
    return parts + _legs(depth - 0.02, width - 0.02, foot, 0.02, legs)


def bookshelf(draw: Random) -> list[Part]:
    depth, height, width = sizes(draw, 0.3, 1.6, 0.8, common=0.2)
    half, wide, board = depth / 2, width / 2, 0.025
    parts = both_sides([block((-half, half), (wide - board, wide), (0, height), "body")])
    parts.append(block((-half, 0.012 - half), (board - wide, wide - board), (0.02, height), "trim"))
    rows = max(3, round(height / draw.uniform(0.33, 0.42)))
    levels = np.linspace(0.05, height - board, rows + 1)
    for z in levels:
        parts.append(block((0.012 - half, half), (board - wide, wide - board), (z, z + board), "body"))
    for low, high in zip(levels[:-1] + board, levels[1:], strict=True):
        y, room = -wide + board + 0.01, high - low
        end = y + draw.uniform(0.3, 1) * (2 * wide - 2 * board - 0.02)
        while y < end - 0.05:  # books, some of several volumes
            step = min(draw.uniform(0.04, 0.16), end - y)
            paint = draw.choice(("cover_red", "cover_blue", "cover_green", "cover_yellow", "paper", "dark_fabric"))
            front = half - draw.uniform(0.03, 0.08)
            parts.append(block((0.03 - half, front), (y, y + step - 0.004), (low, low + draw.uniform(0.55, 0.9) * room), paint))
            y += step
    return parts


def lamp(draw: Random) -> list[Part]:
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
        profile = [(0.6 * belly, 0), (belly, 0.35 * low), (0.7 * belly, 0.7 * low), (0.02, low), (0.015, low + 0.4 * tall)]
        return [*parts, lathe(profile, "trim")]
    foot = draw.uniform(0.6, 0.85) * r
    parts.append(lathe([(foot, 0), (foot, 0.012), (0.03, 0.035)], pole))
    return [*parts, tube([(0, 0, 0.02), (0, 0, low + 0.4 * tall)], 0.012 if kind == "floor" else 0.02, pole)]


def plant(draw: Random) -> list[Part]:
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
            reach = (0.2 if kind == "sword" else 0.48) * across * draw.uniform(0.75, 1)
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


def stool(draw: Random) -> list[Part]:
    height, across = sizes(draw, draw.choice((0.45, 0.5, 0.7)), 0.35)
    r, thick = across / 2, draw.uniform(0.03, 0.07)
    under = height - thick
    legs = draw.choice(("trim", "metal", "wood", "dark_metal"))
    if draw.random() < 0.65:
        parts = [lathe([(0.95 * r, under), (r, under + 0.3 * thick), (r, height)], "body", sides=16)]
    else:
        parts = [block((-r, r), (-0.9 * r, 0.9 * r), (under, height), "body")]
    if draw.random() < 0.25:
        foot = [(0.9 * r, 0), (0.9 * r, 0.015), (0.025, 0.04), (0.025, under)]
        return [*parts, lathe(foot, "metal"), tube(circle((0, 0, 0.35 * height), 0.6 * r, 2), 0.01, "metal", 4, closed=True)]
    splay = draw.uniform(0, 0.25) * r
    spread = 1.35 * r
    parts += _legs(spread, spread, under, 0.017, legs, splay)
    level, reach = 0.35 * under, spread / 2 - 0.017 + 0.65 * splay
    ends = [(sx * reach, sy * reach, level) for sx, sy in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    return parts + [tube([ends[i], ends[i - 1]], 0.009, legs, 4) for i in range(4)]


def television(draw: Random) -> list[Part]:
    height, width = sizes(draw, 0.6, 1.0, common=0.22)
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
    kind = draw.choice(("pail", "pedal", "swing", "wheels"))
    if kind == "wheels":  # rubbish bin with a lid, hinged at the back
        depth, height, width = sizes(draw, 0.55, 0.95, 0.5, common=0.17)
        half, wide = depth / 2, width / 2
        tank = block((-half, half), (-wide, wide), (0.05, 0.9 * height), "body")
        shrink = np.where(tank.vertices[:, 2:] < 0.1, 0.82, 1.0) * [1.0, 1, 0] + [0, 0, 1]
        parts = [Part(tank.vertices * shrink, tank.faces, "body")]
        parts.append(block((-half - 0.02, half + 0.03), (-wide - 0.02, wide + 0.02), (0.9 * height, height), "trim", top=(0.85, 0.8)))
        parts.append(tube([(-half - 0.07, -0.7 * wide, 0.92 * height), (-half - 0.07, 0.7 * wide, 0.92 * height)], 0.018, "trim"))
        for y in (-0.8 * wide, 0.8 * wide):
            parts.append(block((-half - 0.07, 0.02 - half), (y - 0.02, y + 0.02), (0.88 * height, 0.93 * height), "trim"))
            parts.append(tube([(-0.8 * half, y - 0.03, 0.1), (-0.8 * half, y + 0.03, 0.1)], 0.1, "rubber", 10))
        parts.append(block((0.3 * half, 0.75 * half), (-0.6 * wide, 0.6 * wide), (0, 0.06), "trim"))
        return parts
    height, across = sizes(draw, {"pail": 0.36, "pedal": 0.5, "swing": 0.65}[kind], 0.3, common=0.18)
    r = across / 2
    if kind == "pail":
        low = draw.uniform(0.65, 0.9) * r
        return [lathe([(low, 0), (r, 0.93 * height), (r + 0.008, 0.93 * height), (r + 0.008, height), (r - 0.01, height), (low - 0.01, 0.02), (0, 0.02)], "body", sides=14)]
    if kind == "pedal":
        parts = [lathe([(r, 0.03), (r, 0.86 * height)], "body", sides=14)]
        parts.append(lathe([(r + 0.006, 0.86 * height), (r + 0.006, 0.9 * height), (0.5 * r, height)], "trim", sides=14))
        parts.append(lathe([(1.02 * r, 0), (1.02 * r, 0.04)], "dark_metal", sides=14))
        parts.append(block((0.9 * r, 1.35 * r), (-0.3 * r, 0.3 * r), (0.012, 0.03), "metal"))
        parts.append(block((-1.15 * r, -0.8 * r), (-0.35 * r, 0.35 * r), (0.8 * height, 0.9 * height), "dark_metal"))
        return parts
    low = 0.8
    parts = [block((-r, r), (-0.8 * r, 0.8 * r), (0, 0.75 * height), "body")]
    shrink = np.where(parts[0].vertices[:, 2:] < 0.1, low, 1.0) * [1.0, 1, 0] + [0, 0, 1]
    parts = [Part(parts[0].vertices * shrink, parts[0].faces, "body")]
    return [*parts, block((-r - 0.01, r + 0.01), (-0.8 * r - 0.01, 0.8 * r + 0.01), (0.75 * height, height), "trim", top=(0.35, 0.7))]


def bench(draw: Random) -> list[Part]:
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
    for low, top in zip(levels[:-1], levels[1:], strict=True):
        parts.append(panel([(x + 0.03, y, z) for x, y, z in (back(*p) for p in _quad(low + 0.015, top, wide))], 0.015, "body"))
    if draw.random() < 0.6:
        rest = seat + 0.2
        parts += both_sides(
            [
                tube([(half - 0.05, 0.92 * wide, seat - 0.05), (half - 0.05, 0.92 * wide, rest)], 0.022, frame, 4),
                block((-half - 0.05, half), (0.92 * wide - 0.03, 0.92 * wide + 0.03), (rest, rest + 0.03), frame),
            ]
        )
    return parts


def suitcase(draw: Random) -> list[Part]:
    depth, height, width = sizes(draw, 0.25, 0.58, 0.4, common=0.18)
    half, wide, foot = depth / 2, width / 2, 0.05
    top = foot + height
    parts = [block((-half, half), (-wide, wide), (foot, top), "body", bevel=0.05)]
    for y in (-0.85 * wide, 0.85 * wide):
        for x in (-0.7 * half, 0.7 * half):
            parts.append(tube([(x, y - 0.012, 0.028), (x, y + 0.012, 0.028)], 0.028, "rubber", 8))
            parts.append(block((x - 0.02, x + 0.02), (y - 0.02, y + 0.02), (0.03, foot + 0.02), "dark_metal"))
    if draw.random() < 0.5:  # a pocket, or ribs
        parts.append(block((half - 0.01, half + 0.03), (-0.75 * wide, 0.75 * wide), (foot + 0.08, foot + 0.52 * height), "trim", bevel=0.015))
        parts.append(block((half - 0.01, half + 0.02), (-0.75 * wide, 0.75 * wide), (foot + 0.6 * height, foot + 0.85 * height), "trim", bevel=0.01))
    else:
        for y in np.linspace(-0.62, 0.62, 4) * wide:
            parts.append(block((half - 0.01, half + 0.014), (y - 0.022, y + 0.022), (foot + 0.06, top - 0.06), "trim"))
    parts.append(tube([(0.02, -0.06, top - 0.01), (0.02, -0.06, top + 0.03), (0.02, 0.06, top + 0.03), (0.02, 0.06, top - 0.01)], 0.01, "dark_metal", 4))
    if draw.random() < 0.55:
        pull, y = top + draw.uniform(0.15, 0.4), 0.45 * wide
        path = [(0.03 - half, y, top - 0.02), (0.03 - half, y, pull), (0.03 - half, -y, pull), (0.03 - half, -y, top - 0.02)]
        parts.append(tube(path, 0.011, "metal", 4))
    return parts
