# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of things that stand on a floor. Each function draws one and returns its parts, in the frame of `shapes`."""

import math
from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, both_sides, lathe, mirrored, placed, sizes, tube, turn


def four_legs(length: float, width: float, height: float, thick: float, paint: str, splay=0.0, sides=4) -> list[Part]:
    """Four legs under a rectangle about the middle; `splay` is how far each foot stands out along x and y."""
    tops = [(sx * (length / 2 - thick), sy * (width / 2 - thick), height) for sx in (1, -1) for sy in (1, -1)]
    feet = [(x + math.copysign(splay, x), y + math.copysign(splay, y), 0) for x, y, _ in tops]
    return [tube([foot, top], [0.8 * thick, thick], paint, sides) for foot, top in zip(feet, tops, strict=True)]


def table(draw: Random) -> list[Part]:
    """A dining, coffee or side table: round on a foot or legs, or with corners on legs or trestles."""
    kind = draw.choice(("dining", "dining", "coffee", "side"))
    typical = {"dining": (1.35, 0.74, 0.82), "coffee": (0.95, 0.43, 0.56), "side": (0.52, 0.54, 0.44)}[kind]
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
        return parts + four_legs(0.72 * length, 0.72 * length, under, 0.03, legs, draw.uniform(0, 0.06), 6)
    parts = [block((-length / 2, length / 2), (-width / 2, width / 2), (under, height), "body")]
    if draw.random() < 0.2:  # on two trestles
        at = 0.33 * length
        for x in (-at, at):
            parts.append(block((x - 0.03, x + 0.03), (-0.36 * width, 0.36 * width), (0, 0.05), legs))
            parts.append(block((x - 0.04, x + 0.04), (-0.12 * width, 0.12 * width), (0.05, under), legs))
        return [*parts, block((-at, at), (-0.02, 0.02), (0.25 * height, 0.25 * height + 0.07), legs)]
    thick_leg = draw.uniform(0.022, 0.045)
    parts += four_legs(0.96 * length, 0.94 * width, under, thick_leg, legs, draw.choice((0, 0, 0.02)))
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
        parts.append(
            block((x + 0.01, x + 0.04), (hand - 0.012, hand + 0.012), (middle - long, middle + long), "metal")
        )
    return parts


def desk(draw: Random) -> list[Part]:
    """A desk with a chest of drawers at one end or both, otherwise on a board or legs."""
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
    """A single or double bed with headboard, blanket and pillows; with or without legs and a footboard."""
    single = draw.random() < 0.45
    length, height, width = sizes(draw, 2.02, 0.95, 0.98 if single else 1.55, common=0.11)
    half, wide = length / 2, width / 2
    base, top = draw.uniform(0.24, 0.34), draw.uniform(0.46, 0.58)
    frame = draw.choice(("wood", "trim", "dark_fabric"))
    low = draw.choice((0.0, 0.12))
    parts = [block((-half, half), (-wide, wide), (low, base), frame)]
    parts.append(block((-half - 0.05, -half), (-wide, wide), (0 if low == 0 else low, height), frame, bevel=0.015))
    parts.append(block((-half, half - 0.02), (0.02 - wide, wide - 0.02), (base, top - 0.03), "linen", bevel=0.03))
    fold = -half + draw.uniform(0.28, 0.4) * length
    hem = draw.uniform(base - 0.08, base + 0.1)
    parts.append(block((fold, half - 0.005), (-wide - 0.01, wide + 0.01), (hem, top), "body", bevel=0.03))
    if low:
        parts += four_legs(length, width, low, 0.04, frame)
    if draw.random() < 0.4:
        parts.append(block((half, half + 0.04), (-wide, wide), (low, draw.uniform(top - 0.1, top + 0.12)), frame))
    for y in (0,) if single else (-0.25 * width, 0.25 * width):
        span = 0.3 if single else 0.23 * width
        pillow = block(
            (-half + 0.06, -half + 0.46), (y - span, y + span), (top - 0.04, top + 0.09), "linen", bevel=0.05
        )
        parts += placed([pillow], matrix=turn(1, 8), about=(-half + 0.46, 0, top))
    return parts


def wardrobe(draw: Random) -> list[Part]:
    """A wardrobe of one to three doors; with or without a drawer below and a cornice."""
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
    """A cabinet, high or low, of doors, drawers or both."""
    typical = draw.choice(((0.42, 1.25, 0.75), (0.42, 0.78, 1.05), (0.42, 0.78, 1.05), (0.4, 0.66, 0.62)))
    depth, height, width = sizes(draw, *typical, common=0.16)
    half, wide = depth / 2, width / 2
    foot = draw.choice((0.05, 0.12))
    parts = [block((-half, half), (-wide, wide), (foot, height - 0.03), "body")]
    parts.append(block((-half, half + 0.02), (-wide - 0.015, wide + 0.015), (height - 0.03, height), "body"))
    if foot > 0.1:
        parts += four_legs(depth, width, foot, 0.022, draw.choice(("wood", "metal")))
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
        parts += _drawers(half, (-wide, 0), (split, height - 0.03), 1) + _drawers(
            half, (0, wide), (split, height - 0.03), 1
        )
        parts += _doors(half, (-wide, wide), (foot, split), 2)
    else:
        parts += _drawers(half, (-wide, 0), (foot, height - 0.03), 3)
        parts += _doors(half, (0, wide), (foot, height - 0.03), 1)
    return parts


def night_stand(draw: Random) -> list[Part]:
    """A night stand of two drawers, or of one over an open shelf."""
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
        parts.append(block((-half, 0.015 - half), (0.01 - wide, wide - 0.01), (foot, low), "trim"))
    parts.append(block((-half, half), (-wide, wide), (low, height - 0.025), "body"))
    parts += _drawers(half, (-wide, wide), (low, height - 0.025), rows)
    return parts + four_legs(depth - 0.02, width - 0.02, foot, 0.02, legs)


def bookshelf(draw: Random) -> list[Part]:
    """An open shelf of three rows of books or more, none of them full."""
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
            parts.append(
                block((0.03 - half, front), (y, y + step - 0.004), (low, low + draw.uniform(0.55, 0.9) * room), paint)
            )
            y += step
    return parts
