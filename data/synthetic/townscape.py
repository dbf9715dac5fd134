# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Streets and daylight of version 2.

Nothing here is labelled, so nothing here may look like one of the categories.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np

from llmi3d.data.synthetic.render import Light, Piece, Surface
from llmi3d.data.synthetic.scene import STEEL, block, ground, pale, quad, stained, stand
from llmi3d.data.synthetic.shapes import Part, ellipsoid, lathe, tube
from llmi3d.data.synthetic.shapes import block as solid

WALLS = (
    (0.8, 0.76, 0.68),
    (0.72, 0.7, 0.68),
    (0.85, 0.82, 0.76),
    (0.78, 0.66, 0.5),
    (0.66, 0.5, 0.42),
    (0.6, 0.6, 0.6),
)
WALLS += ((0.82, 0.74, 0.55), (0.5, 0.42, 0.38), (0.7, 0.74, 0.76))
ROOFS = ((0.45, 0.24, 0.18), (0.35, 0.2, 0.16), (0.28, 0.28, 0.3), (0.4, 0.36, 0.33))
LEAVES = ((0.3, 0.42, 0.16), (0.38, 0.48, 0.2), (0.24, 0.34, 0.16), (0.46, 0.48, 0.2), (0.62, 0.47, 0.18))


def leaves(draw: Random, center, radii, count: int, size: float, surface: Surface) -> Piece:
    """Return a crown or a hedge: small triangles about points in an ellipsoid, mostly near its surface."""
    vertices = _crown(draw.randrange(8), count) * (np.array(radii) * [draw.choice((-1, 1)), 1, draw.choice((-1, 1))])
    vertices = vertices[:, :1] + _cards(draw.randrange(4), count) * size
    return Piece(vertices.reshape(-1, 3) + np.asarray(center), _leaf_faces(count), surface)


@cache
def _crown(kind: int, count: int) -> np.ndarray:
    """Return where leaves are in a ball of radius 1: [count, 1, 3]."""
    rng = np.random.default_rng(kind)
    out = rng.standard_normal((count, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    middle = out * rng.uniform(0.3, 1, (count, 1)) ** 0.4
    return (middle * (1 + 0.25 * np.sin(5 * out + rng.uniform(0, 6, 3))))[:, None]


@cache
def _cards(kind: int, count: int) -> np.ndarray:
    """Return corners of triangles, each turned its own way: [count, 3, 3]."""
    rng = np.random.default_rng(100 + kind)
    first = rng.standard_normal((count, 3))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(first, rng.standard_normal((count, 3)))
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    corners = np.stack((first, 0.87 * second - 0.5 * first, -0.87 * second - 0.5 * first), 1)
    return corners * rng.uniform(0.45, 1.1, (count, 1, 1))


@cache
def _leaf_faces(count: int) -> np.ndarray:
    return np.arange(3 * count).reshape(-1, 3)


def greenery(draw: Random) -> Surface:
    """Draw the surface of leaves."""
    color = stained(draw, LEAVES, 0.04)
    return Surface(color, "foliage", second=tuple(0.6 * c for c in color))


def tree(draw: Random, x: float, z: float, height: float, look: Surface) -> list[Piece]:
    """Draw a tree: a trunk and a crown of leaves in a few lumps."""
    tall = draw.uniform(4, 12)
    wide = tall * draw.uniform(0.18, 0.34)
    bark = Surface(stained(draw, ((0.25, 0.2, 0.16), (0.34, 0.31, 0.28))), "leather", scale=0.2)
    bend = [
        (0, 0, -0.1),
        (draw.gauss(0, 0.1), draw.gauss(0, 0.1), 0.3 * tall),
        (draw.gauss(0, 0.3), draw.gauss(0, 0.3), 0.7 * tall),
    ]
    pieces = stand(
        [tube(bend, [0.035 * tall, 0.025 * tall, 0.01 * tall], "bark", 7)], (x, height, z), 0.0, {"bark": bark}
    )
    near = math.hypot(x, z) < 35
    lumps = draw.randint(2, 4)
    for _ in range(lumps):
        at = (x + draw.gauss(0, 0.35) * wide, height - tall * draw.uniform(0.5, 0.85), z + draw.gauss(0, 0.35) * wide)
        radii = (wide * draw.uniform(0.6, 1), 0.22 * tall * draw.uniform(0.7, 1.2), wide * draw.uniform(0.6, 1))
        pieces.append(leaves(draw, at, radii, 380 if near else 80, (0.12 if near else 0.27) * wide, look))
    return pieces


def hedge(
    draw: Random, x: tuple[float, float], z: tuple[float, float], height: float, tall: float, look: Surface
) -> list[Piece]:
    """Draw a hedge: leaves around a solid core."""
    core = block(
        ((x[0] + x[1]) / 2, height - 0.47 * tall, (z[0] + z[1]) / 2),
        (0.8 * (x[1] - x[0]), 0.92 * tall, z[1] - z[0]),
        look,
    )
    rng = np.random.default_rng(draw.getrandbits(32))
    count = int(min(300, 12 * (z[1] - z[0]) * tall + 30))
    cloud = leaves(draw, (0, 0, 0), (0.02, 0.02, 0.02), count, 0.35, look)
    low, high = np.array([x[0], height - tall, z[0]]), np.array([x[1], height, z[1]])
    spots = rng.uniform(low, high, (count, 3))
    spots[:, 0] = np.where(rng.random(count) < 0.75, np.where(rng.random(count) < 0.5, x[0], x[1]), spots[:, 0])
    return [core, replace(cloud, vertices=cloud.vertices + np.repeat(spots, 3, 0))]


def building(draw: Random, side: int, edge: float, z: float, deep: float, height: float) -> list[Piece]:
    """Draw a house: a front with windows, often shops below, a ledge, and a flat or a pitched roof."""
    wide, away = draw.uniform(6, 14), draw.choice((0.2, draw.uniform(0.3, 7)))
    storeys = draw.randint(1, 5)
    scale = draw.uniform(2.1, 3.1)
    tall = scale * 1.15 * storeys + draw.uniform(0.3, 1.2)
    wall = Surface(
        stained(draw, WALLS),
        draw.choice(("facade_", "facade_", "facade_", "bricks")).replace("facade_", "windows"),
        second=(0.13, 0.15, 0.18),
        scale=scale,
    )
    if wall.texture == "bricks":
        wall = replace(wall, second=tuple(min(1, 1.2 * c) for c in wall.albedo), scale=draw.uniform(0.25, 0.6))
    x, middle = edge + side * (away + wide / 2), z + deep / 2
    pieces = [block((x, height - tall / 2, middle), (wide, tall, deep), wall)]
    front = edge + side * away
    if draw.random() < 0.4:
        look = Surface(
            stained(draw, (*WALLS, (0.2, 0.2, 0.22), (0.5, 0.12, 0.1), (0.1, 0.25, 0.4))),
            "shop",
            second=(0.5, 0.5, 0.5),
            scale=draw.uniform(2, 4),
            gloss=0.15,
        )
        pieces.append(block((front, height - 1.45, middle), (0.12, 2.9, deep - 0.3), look))
        if draw.random() < 0.5:
            sign = Surface(
                stained(draw, ((0.6, 0.1, 0.1), (0.1, 0.2, 0.5), (0.9, 0.85, 0.7), (0.15, 0.4, 0.2))),
                "printed",
                scale=1.2,
            )
            pieces.append(block((front - side * 0.1, height - 3.1, middle), (0.25, 0.7, 0.6 * deep), sign))
        if draw.random() < 0.4:
            cover = Surface(stained(draw, ((0.6, 0.15, 0.12), (0.2, 0.4, 0.25), (0.85, 0.8, 0.7))), "cloth", scale=0.3)
            a, b = front - side * 1.4, front
            pieces.append(
                quad(
                    [
                        (a, height - 2.3, z + 1),
                        (a, height - 2.3, z + deep - 1),
                        (b, height - 2.9, z + deep - 1),
                        (b, height - 2.9, z + 1),
                    ],
                    cover,
                )
            )
    else:
        pieces.append(
            block(
                (front, height - 0.4, middle),
                (0.1, 0.8, deep),
                Surface(stained(draw, ((0.45, 0.44, 0.43), (0.6, 0.57, 0.5))), "plaster"),
            )
        )
    if draw.random() < 0.5:
        roof = Surface(stained(draw, ROOFS), "bricks", scale=0.5)
        rise = draw.uniform(0.25, 0.5) * wide
        a, b, y = x - wide / 2 - 0.3, x + wide / 2 + 0.3, height - tall
        z0, z1 = z - 0.2, z + deep + 0.2
        pieces.append(quad([(a, y, z0), (a, y, z1), (x, y - rise, z1), (x, y - rise, z0)], roof))
        pieces.append(quad([(b, y, z0), (b, y, z1), (x, y - rise, z1), (x, y - rise, z0)], roof))
        for end in (z, z + deep):
            gable = np.array([(x - wide / 2, y, end), (x + wide / 2, y, end), (x, y - rise, end)])
            pieces.append(Piece(gable, np.array([[0, 1, 2]]), replace(wall, texture="plaster")))
    else:
        pieces.append(
            block((x, height - tall, middle), (wide + 0.5, 0.35, deep + 0.2), Surface(pale(draw, 0.4, 0.8), "plaster"))
        )
    return pieces


def pole(draw: Random, x: float, z: float, height: float, side: int) -> list[Piece]:
    """Draw a lamp post, a signpost, a mast or a bollard."""
    kind = draw.choice(("lamp", "sign", "sign", "mast", "bollard"))
    paint = {"pole": STEEL if draw.random() < 0.6 else Surface((0.12, 0.14, 0.13), "plain", gloss=0.2)}
    if kind == "bollard":
        return stand([lathe([(0.06, 0), (0.06, 0.95), (0.02, 1.0)], "pole", sides=8)], (x, height, z), 0.0, paint)
    tall = {"lamp": draw.uniform(5, 9), "sign": draw.uniform(2.2, 3.2), "mast": draw.uniform(6, 11)}[kind]
    thick = 0.03 if kind == "sign" else draw.uniform(0.06, 0.13)
    parts = [tube([(0, 0, 0), (0, 0, tall)], [thick, 0.7 * thick], "pole", 7)]
    if kind == "lamp":
        reach = -side * draw.uniform(0.8, 2)  # over the road
        parts.append(tube([(0, 0, tall - 0.1), (reach, 0, tall + 0.3)], 0.7 * thick, "pole", 6))
        parts.append(solid(tuple(sorted((reach, reach * 1.4))), (-0.12, 0.12), (tall + 0.25, tall + 0.38), "pole"))
    elif kind == "sign":
        colors = ((0.75, 0.1, 0.1), (0.1, 0.2, 0.6), (0.92, 0.92, 0.9), (0.9, 0.75, 0.1))
        paint["plate"] = Surface(
            stained(draw, colors, 0.03), "printed", second=stained(draw, colors), scale=draw.uniform(0.5, 1.2)
        )
        half = draw.uniform(0.25, 0.4)
        sides = draw.choice((4, 8, 14))
        angles = (np.arange(sides) + 0.5) * 2 * math.pi / sides
        ring = [(half * math.cos(a), -0.05, tall - half + half * math.sin(a)) for a in angles]
        parts.append(Part(np.array(ring), np.array([(0, k + 1, k) for k in range(1, sides - 1)]), "plate"))
    return stand(parts, (x, height, z), 0.0, paint)


def street(
    draw: Random, edges, lane: float, lanes: int, height: float, seen: Callable[[float, float], bool]
) -> list[Piece]:
    """Draw a street along z, with the camera in its own lane at x = 0.

    Args:
        edges: x of the left and the right edge of the road (m), widths of parking and of the pavement (m).
        lane: width of a lane, metres.
        lanes: how many.
        height: of the camera, metres; the ground's y.
        seen: returns whether the image may show an object at (x, z), or its shadow; others are not drawn.
    """
    left, right, parking, pavement = edges
    far = 220.0
    rural = draw.random() < 0.3
    look = greenery(draw)
    dry = stained(draw, ((0.3, 0.34, 0.16), (0.36, 0.36, 0.2), (0.26, 0.3, 0.14)))
    earth = Surface(dry, "grass", second=stained(draw, ((0.42, 0.36, 0.24), (0.3, 0.27, 0.18))))
    if not rural and draw.random() < 0.5:
        earth = Surface(stained(draw, ((0.4, 0.39, 0.37), (0.5, 0.47, 0.42))), "asphalt")
    grey = draw.uniform(0.26, 0.5)
    road = Surface((grey, grey * draw.uniform(0.97, 1.0), grey * draw.uniform(0.93, 1.02)), "asphalt")
    outer_left, outer_right = left - parking, right + parking
    pieces = [
        ground((-far, far), (-far, far), height + 0.02, earth),
        ground((outer_left, outer_right), (-far, far), height, road),
    ]
    slabs = draw.choice(("tiles", "bricks", "asphalt"))
    paving = Surface(
        stained(draw, ((0.55, 0.53, 0.5), (0.48, 0.47, 0.46), (0.6, 0.52, 0.46))), slabs, scale=draw.uniform(0.2, 0.6)
    )
    kerb = Surface(stained(draw, ((0.62, 0.61, 0.59), (0.5, 0.5, 0.5))), "bricks", scale=1.0)
    for side, a, b in ((-1, outer_left - pavement, outer_left), (1, outer_right, outer_right + pavement)):
        pieces.append(ground((a, b), (-far, far), height - 0.003, earth if rural else paving))
        inner = b if side < 0 else a
        if not rural:
            pieces.append(ground((inner - 0.08, inner + 0.08), (-far, far), height - 0.005, kerb))
    pieces += _markings(draw, left, lane, lanes, height)
    for side, edge in ((-1, outer_left - pavement), (1, outer_right + pavement)):
        pieces += _roadside(draw, side, edge, pavement, height, rural, look, seen)
    pieces += _horizon(draw, height, look, seen)
    for _ in range(draw.choice((0, 0, 1, 3))):  # wires across
        z, y = draw.uniform(8, 70), height - draw.uniform(5.5, 8)
        ends = [(-14, y + draw.gauss(0, 0.5), z), (0, y + 0.4, z + draw.gauss(0, 3)), (14, y, z + draw.gauss(0, 6))]
        wire = tube(np.array(ends), 0.015, "wire", 3)
        pieces.append(Piece(wire.vertices, wire.faces, Surface((0.08, 0.08, 0.08))))
    return pieces


def _markings(draw: Random, left: float, lane: float, lanes: int, height: float) -> list[Piece]:
    paint = Surface((0.82, 0.82, 0.8), "marking", second=(0.4, 0.4, 0.4))
    lines, edged = draw.random() < 0.85, draw.random() < 0.7
    long, gap = draw.choice(((3, 6), (4, 8), (6, 12), (3, 3)))
    pieces = []
    for number in range(lanes + 1):
        x = left + number * lane
        half = draw.uniform(0.05, 0.09)
        if number in (0, lanes) or (lanes >= 3 and draw.random() < 0.2):
            if edged:
                pieces.append(ground((x - half, x + half), (-60, 220), height - 0.004, paint))
        elif lines:
            for z in np.arange(-40 + draw.uniform(0, 9), 110, long + gap):
                pieces.append(ground((x - half, x + half), (z, z + long), height - 0.004, paint))
    if draw.random() < 0.2:  # a crossing
        z = draw.uniform(9, 40)
        for x in np.arange(left + 0.3, left + lanes * lane - 0.5, 1.0):
            pieces.append(ground((x, x + 0.5), (z, z + 3), height - 0.005, paint))
    for _ in range(draw.randint(0, 3)):
        x, z, half = left + draw.random() * lanes * lane, draw.uniform(4, 30), 0.32
        cover = lathe([(half, 0.0), (half, 0.005)], "cover", sides=12)
        pieces += stand([cover], (x, height, z), 0.0, {"cover": Surface((0.2, 0.19, 0.18), "printed", scale=0.2)})
    return pieces


def _roadside(
    draw: Random, side: int, edge: float, pavement: float, height: float, rural: bool, look: Surface, seen
) -> list[Piece]:
    """Draw buildings, trees, hedges, fences and poles along one side."""
    pieces, z = [], -115.0
    built = 0.0 if rural else draw.choice((0.15, 0.6, 0.85, 0.95))
    planted = draw.choice((0.0, 0.3, 0.8))
    kept = edge - side * pavement * 0.85  # on the pavement, at the kerb
    while z < 120:
        deep = draw.uniform(7, 20)
        if not seen(edge, z + deep / 2):
            z += deep
            continue
        if draw.random() < built:
            pieces += building(draw, side, edge, z, deep, height)
        else:
            kind = draw.random()
            if kind < 0.35:
                a = edge + side * draw.uniform(0.1, 1.5)
                pieces += hedge(
                    draw, tuple(sorted((a, a + side * 0.9))), (z, z + deep), height, draw.uniform(0.8, 2.4), look
                )
            elif kind < 0.5:
                a = edge + side * 0.15
                fence = Surface(
                    stained(draw, ((0.45, 0.36, 0.26), (0.55, 0.53, 0.5), (0.3, 0.3, 0.3))),
                    draw.choice(("planks", "bricks", "plaster")),
                    scale=0.14,
                )
                pieces.append(block((a, height - 0.7, z + deep / 2), (0.15, draw.uniform(0.9, 1.9), deep), fence))
            for _ in range(draw.randint(1, 3)):
                pieces += tree(draw, edge + side * draw.uniform(1.5, 9), z + deep * draw.random(), height, look)
        if draw.random() < planted:
            pieces += tree(draw, kept, z + deep / 2, height, look)
        if draw.random() < 0.4:
            pieces += pole(draw, kept, z + draw.uniform(0, deep), height, side)
        z += deep + draw.choice((0.0, 0.0, draw.uniform(1, 6)))
    if rural and draw.random() < 0.6:  # a guard rail
        x = edge - side * 0.4 * pavement
        pieces.append(block((x, height - 0.6, 45), (0.06, 0.3, 150), STEEL))
        pieces += [block((x + side * 0.08, height - 0.35, z), (0.08, 0.7, 0.12), STEEL) for z in np.arange(1, 60, 4)]
    return pieces


def _horizon(draw: Random, height: float, look: Surface, seen) -> list[Piece]:
    """Draw woods, hills and distant houses all around."""
    pieces = []
    for bearing in np.arange(0, 2 * math.pi, 0.2) + draw.uniform(0, 0.2):
        away = draw.uniform(125, 200)
        x, z = away * math.sin(bearing), away * math.cos(bearing)
        if not seen(x, z) or draw.random() < 0.3:
            continue
        if draw.random() < 0.25:
            wide, tall = draw.uniform(10, 25), draw.uniform(6, 20)
            wall = Surface(stained(draw, WALLS), "windows", second=(0.15, 0.17, 0.2), scale=draw.uniform(2.2, 3.2))
            pieces.append(block((x, height - tall / 2, z), (wide, tall, wide), wall))
            continue
        pieces.append(
            leaves(
                draw,
                (x, height - 2, z),
                (draw.uniform(12, 30), draw.uniform(5, 12), draw.uniform(8, 20)),
                160,
                3.2,
                look,
            )
        )
    if draw.random() < 0.4:
        hill = ellipsoid(
            (0, 0, 0), (draw.uniform(150, 400), draw.uniform(150, 300), draw.uniform(20, 60)), "hill", 16, 9
        )
        far = tuple(0.7 * c + 0.2 for c in look.albedo)
        pieces += stand(
            [hill], (draw.uniform(-250, 250), height, 520), 0.0, {"hill": Surface(far, "foliage", second=look.albedo)}
        )
    return pieces


def daylight(draw: Random) -> Light:
    """Draw sun, sky and haze."""
    azimuth, rise = draw.uniform(-math.pi, math.pi), math.radians(draw.uniform(12, 70))
    direction = math.cos(rise) * math.sin(azimuth), -math.sin(rise), math.cos(rise) * math.cos(azimuth)
    kind = draw.choice(("sunny", "sunny", "sunny", "overcast", "overcast", "mixed"))
    sun = {"sunny": draw.uniform(0.9, 1.5), "overcast": draw.uniform(0.0, 0.15), "mixed": draw.uniform(0.4, 0.8)}[kind]
    level = {"sunny": draw.uniform(0.18, 0.36), "overcast": draw.uniform(0.55, 0.8), "mixed": draw.uniform(0.3, 0.5)}[
        kind
    ]
    warm = 0.25 * max(0.0, 1 - rise / 0.6)
    white = draw.random() < 0.5  # a sky far brighter than the street, as cameras on cars show it
    horizon = tuple(c * (1.25 if white else 1.0) for c in pale(draw, 0.8, 0.98))
    blue = draw.uniform(0.2, 0.45), draw.uniform(0.42, 0.62), draw.uniform(0.75, 0.95)
    zenith = pale(draw, 0.7, 0.95) if kind == "overcast" else blue
    return Light(
        position=tuple(600 * c for c in direction),
        color=(sun, sun * (0.96 - 0.3 * warm), sun * (0.88 - warm)),
        ambient=(level * 0.93, level, level * (1.1 if kind == "sunny" else 1.03)),
        sky=(horizon, tuple(c * (1.2 if white else 1.0) for c in zenith)),
        haze=draw.choice((0.02, draw.uniform(0.02, 0.2), draw.uniform(0.1, 0.7))),
        size=12.0 if kind == "sunny" else 60.0,
        bounce=tuple(0.22 * (sun + level) * c for c in (1.0, 0.97, 0.9)),
        clouds={"sunny": draw.uniform(0, 0.4), "overcast": draw.uniform(0.8, 1.2), "mixed": draw.uniform(0.3, 0.8)}[
            kind
        ],
        reach=4.0,
    )
