# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of what stands beside a road. Each function draws one and returns its parts, in the frame of `shapes`."""

from random import Random

import numpy as np

from llmi3d.data.synthetic.shapes import Part, block, lathe, panel, prism, sizes, tube


def traffic_cone(draw: Random) -> list[Part]:
    """A traffic cone with one band or two, on a square plate."""
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
    """A barrier, long along y: of concrete or plastic, of striped boards, or a fence."""
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
                corners = [
                    (0, y - step - skew, bottom),
                    (0, y + step - skew, bottom),
                    (0, y + step + skew, top),
                    (0, y - step + skew, top),
                ]
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
