# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What surrounds the objects of version 2: streets, rooms and table tops, with things that no category names.

Nothing here is labelled, so nothing here may look like one of the categories.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np

from llmi3d.data.synthetic.render import Light, Piece, Surface
from llmi3d.data.synthetic.scene import block, ground, pale, quad, turn
from llmi3d.data.synthetic.shapes import Part, ellipsoid, lathe, tube
from llmi3d.data.synthetic.shapes import block as solid

Color = tuple[float, float, float]


def stained(draw: Random, colors, spread: float = 0.06) -> Color:
    """Return one of some colours, a little changed."""
    level = draw.uniform(-spread, spread)
    return tuple(min(1.0, max(0.02, c + level + draw.uniform(-0.02, 0.02))) for c in draw.choice(colors))


def stand(parts: list[Part], at: tuple[float, float, float], yaw: float, surfaces: dict[str, Surface]) -> list[Piece]:
    """Return parts in the frame of `shapes` as pieces of scenery that stand at a point of the world."""
    rotation = turn(yaw)
    pieces = []
    for part in parts:
        local = part.vertices[:, [0, 2, 1]] * [1.0, -1.0, 1.0]
        pieces.append(Piece(local @ rotation.T + np.array(at), part.faces, surfaces[part.paint], local=local))
    return pieces


# ------------------------------------------------------------ streets

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
STEEL = Surface((0.5, 0.51, 0.53), "plaster", gloss=0.3)


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
    """Draw how leaves look."""
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
    """Draw a hedge: leaves about a dark core."""
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
        seen: whether the image may show what stands at (x, z), or its shadow; nothing else is drawn.
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
    """What stands along one side, from the near to the far."""
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
    """Woods, hills and distant houses all around."""
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


# ------------------------------------------------------------ rooms

PAINT = (
    (0.9, 0.88, 0.84),
    (0.86, 0.86, 0.86),
    (0.82, 0.8, 0.74),
    (0.78, 0.82, 0.84),
    (0.72, 0.74, 0.68),
    (0.85, 0.78, 0.7),
)
TIMBER = ((0.55, 0.38, 0.22), (0.68, 0.52, 0.34), (0.4, 0.26, 0.16), (0.78, 0.66, 0.48), (0.5, 0.42, 0.34))


def flooring(draw: Random) -> Surface:
    """Draw a floor: boards, tiles, carpet, stone or concrete."""
    kind = draw.choice(("planks", "planks", "tiles", "carpet", "carpet", "stone", "plaster"))
    color = stained(draw, TIMBER) if kind == "planks" else pale(draw, 0.35, 0.8)
    second = {"tiles": 0.75, "carpet": 0.75}.get(kind, 0.65)
    scale = {"planks": draw.uniform(0.07, 0.18), "tiles": draw.uniform(0.25, 0.6)}.get(kind, 0.3)
    gloss = draw.choice((0.0, draw.uniform(0.1, 0.4))) if kind in ("planks", "tiles", "stone") else 0.0
    return Surface(color, kind, tuple(second * c for c in color), scale, gloss)


def room(draw: Random, walls, height: float) -> tuple[list[Piece], Light]:
    """Draw a room and its light.

    Args:
        walls: x of the left and the right wall, z of the back wall, metres.
        height: of the camera above the floor, metres.
    """
    left, right, depth = walls
    top, behind = height - draw.uniform(2.4, 3.0), -1.5
    color = stained(draw, PAINT)
    wall = Surface(
        color,
        draw.choice(("plaster", "plaster", "plaster", "plain", "bricks")),
        scale=0.3,
        second=tuple(0.85 * c for c in color),
    )
    accent = (
        replace(wall, albedo=stained(draw, (*PAINT, (0.35, 0.42, 0.5), (0.5, 0.3, 0.25), (0.4, 0.45, 0.35))))
        if draw.random() < 0.3
        else wall
    )
    white = Surface(pale(draw, 0.82, 0.95), "plaster")
    pieces = [
        ground((left, right), (behind, depth), height, flooring(draw)),
        ground((left, right), (behind, depth), top, white),
        quad([(left, height, depth), (right, height, depth), (right, top, depth), (left, top, depth)], accent),
        quad([(left, height, behind), (left, height, depth), (left, top, depth), (left, top, behind)], wall),
        quad([(right, height, behind), (right, height, depth), (right, top, depth), (right, top, behind)], wall),
        quad([(left, height, behind), (right, height, behind), (right, top, behind), (left, top, behind)], wall),
    ]
    skirting = Surface(stained(draw, ((0.9, 0.9, 0.88), *TIMBER)), "plain")
    for center, size in (
        (((left + right) / 2, depth), (right - left, 0.03)),
        ((left, (depth + behind) / 2), (0.03, depth - behind)),
        ((right, (depth + behind) / 2), (0.03, depth - behind)),
    ):
        pieces.append(block((center[0], height - 0.05, center[1]), (size[0], 0.1, size[1]), skirting))
    bright = draw.uniform(0.5, 2.5)
    window = None
    for side in draw.sample(("back", "left", "right"), draw.randint(0, 2)):
        pieces += _window(draw, side, walls, height, top, bright)
        window = side
    if draw.random() < 0.35:
        pieces += _door(draw, walls, height)
    for _ in range(draw.randint(0, 3)):
        pieces += _framed(draw, walls, height, top)
    if draw.random() < 0.4:
        pieces += _rug(draw, walls, height)
    pieces += _litter(draw, walls, height)
    if draw.random() < 0.25:  # a pillar, or the edge of a partition
        x = draw.choice((left, right))
        wide, z = draw.uniform(0.2, 0.9), draw.uniform(0.45, 0.9) * depth
        pieces.append(block((x, (height + top) / 2, z), (2 * wide, height - top, 0.3), wall))
    for _ in range(draw.choice((0, 1, 2, 4))):  # lights in the ceiling
        x, z = draw.uniform(left + 0.4, right - 0.4), draw.uniform(0.5, depth - 0.4)
        pieces.append(
            block(
                (x, top, z), (draw.uniform(0.2, 1.2), 0.06, draw.uniform(0.2, 0.6)), Surface((1, 0.98, 0.92), glow=3.0)
            )
        )
    return pieces, _lamplight(draw, walls, height, window)


def _on_wall(side: str, walls, along: float, y: float, size, deep: float, surface: Surface) -> Piece:
    """Return a block on a wall; `along` is its x on the back wall, its z on the others; size (m) along and upright."""
    left, right, depth = walls
    if side == "back":
        return block((along, y, depth), (size[0], size[1], 2 * deep), surface)
    return block((left if side == "left" else right, y, along), (2 * deep, size[1], size[0]), surface)


def _span(draw: Random, side: str, walls, margin: float) -> float:
    left, right, depth = walls
    low, high = (left, right) if side == "back" else (0.3 * depth, depth)
    return draw.uniform(low + margin, max(low + margin, high - margin))


def _window(draw: Random, side: str, walls, height: float, top: float, bright: float) -> list[Piece]:
    wide, tall = draw.uniform(0.8, 2.2), draw.uniform(0.9, 1.5)
    along, y = _span(draw, side, walls, wide / 2 + 0.1), top + 0.3 + tall / 2
    view = Surface(
        (0.75, 0.85, 0.95),
        "outside",
        second=draw.choice(((0.4, 0.5, 0.35), (0.95, 0.97, 1.0), (0.6, 0.58, 0.55))),
        glow=bright,
    )
    frame = Surface(stained(draw, ((0.92, 0.92, 0.9), (0.3, 0.3, 0.3), *TIMBER)), "plain", gloss=0.1)
    pieces = [_on_wall(side, walls, along, y, (wide, tall), 0.01, view)]
    bars = [(along - wide / 2, y, (0.07, tall)), (along + wide / 2, y, (0.07, tall)), (along, y, (0.05, tall))]
    bars += [(along, y - tall / 2, (wide, 0.07)), (along, y + tall / 2, (wide + 0.15, 0.06))]
    pieces += [_on_wall(side, walls, at, level, size, 0.04, frame) for at, level, size in bars]
    if draw.random() < 0.5:
        cloth = Surface(stained(draw, (*PAINT, (0.45, 0.3, 0.25), (0.35, 0.4, 0.5), (0.5, 0.5, 0.48))), "cloth")
        hang = draw.uniform(1.1, 1.5) * tall
        for sign in (-1, 1):
            for k in range(3):  # folds
                at = along + sign * (wide / 2 + 0.06 + 0.1 * k)
                pieces.append(
                    _on_wall(side, walls, at, y - tall / 2 - 0.1 + hang / 2, (0.1, hang), 0.09 + 0.03 * (k % 2), cloth)
                )
    elif draw.random() < 0.4:
        drop = draw.uniform(0.2, 0.7) * tall
        slats = Surface((0.88, 0.87, 0.84), "bricks", second=(0.6, 0.6, 0.6), scale=0.12)
        pieces.append(_on_wall(side, walls, along, y - tall / 2 + drop / 2, (wide, drop), 0.05, slats))
    if draw.random() < 0.4:  # a radiator below
        ribs = Surface((0.9, 0.9, 0.88), "planks", second=(0.65, 0.65, 0.65), scale=0.06, gloss=0.1)
        pieces.append(_on_wall(side, walls, along, height - 0.4, (min(wide, 1.2), 0.55), 0.09, ribs))
    return pieces


def _door(draw: Random, walls, height: float) -> list[Piece]:
    side = draw.choice(("back", "left", "right"))
    along, wide = _span(draw, side, walls, 0.6), draw.uniform(0.8, 0.95)
    color = stained(draw, ((0.9, 0.9, 0.88), *TIMBER))
    leaf, frame = Surface(color, "wood", gloss=0.1), Surface(tuple(0.85 * c for c in color), "plain")
    pieces = [
        _on_wall(side, walls, along, height - 1.05, (wide + 0.16, 2.12), 0.02, frame),
        _on_wall(side, walls, along, height - 1.02, (wide, 2.04), 0.03, leaf),
        _on_wall(side, walls, along + 0.42 * wide, height - 1.03, (0.12, 0.03), 0.07, STEEL),
    ]
    for y in (0.62, 1.5):
        pieces.append(_on_wall(side, walls, along, height - y, (0.65 * wide, 0.6), 0.035, frame))
    return pieces


def _framed(draw: Random, walls, height: float, top: float) -> list[Piece]:
    """A poster, a board, a shelf, a switch or a clock's square cousin on a wall."""
    side = draw.choice(("back", "back", "left", "right"))
    wide, tall = draw.uniform(0.25, 1.3), draw.uniform(0.25, 0.9)
    along, y = _span(draw, side, walls, wide / 2 + 0.05), draw.uniform(top + 0.35, height - 1.1)
    edge = Surface(stained(draw, ((0.1, 0.1, 0.1), (0.9, 0.9, 0.88), *TIMBER)), "plain", gloss=0.1)
    sheet = Surface(
        stained(draw, (*PAINT, (0.3, 0.4, 0.5), (0.6, 0.4, 0.3), (0.2, 0.3, 0.2))),
        draw.choice(("printed", "printed", "outside", "plain")),
        second=pale(draw, 0.2, 0.9),
        scale=draw.uniform(0.15, 0.8),
    )
    return [
        _on_wall(side, walls, along, y, (wide + 0.05, tall + 0.05), 0.015, edge),
        _on_wall(side, walls, along, y, (wide, tall), 0.02, sheet),
    ]


def _rug(draw: Random, walls, height: float) -> list[Piece]:
    left, right, depth = walls
    x, z = draw.uniform(left + 1, right - 1), draw.uniform(2, max(2.1, depth - 1))
    wide, deep = draw.uniform(0.5, 1.2), draw.uniform(0.4, 0.9)
    color = stained(draw, ((0.5, 0.2, 0.18), (0.3, 0.34, 0.42), (0.62, 0.57, 0.5), (0.35, 0.35, 0.35)))
    look = Surface(color, draw.choice(("cloth", "carpet", "printed")), second=pale(draw, 0.3, 0.7), scale=0.4)
    edge = replace(look, albedo=tuple(0.6 * c for c in color), texture="carpet")
    return [
        ground((x - wide - 0.07, x + wide + 0.07), (z - deep - 0.07, z + deep + 0.07), height - 0.004, edge),
        ground((x - wide, x + wide), (z - deep, z + deep), height - 0.008, look),
    ]


def _litter(draw: Random, walls, height: float) -> list[Piece]:
    """Cartons, papers, cables and clothes on the floor, along the walls."""
    left, right, depth = walls
    pieces = []
    for _ in range(draw.randint(0, 4)):
        kind = draw.choice(("carton", "paper", "cable", "clothes", "board"))
        x = draw.choice((left, right)) if draw.random() < 0.6 else draw.uniform(left + 0.3, right - 0.3)
        x = min(max(x, left + 0.25), right - 0.25)
        z = draw.uniform(0.35 * depth, depth - 0.3)
        at, yaw = (x, height, z), draw.uniform(-math.pi, math.pi)
        if kind == "carton":
            a, b, c = (draw.uniform(0.1, 0.24) for _ in range(3))
            look = Surface(
                stained(draw, ((0.62, 0.48, 0.33), (0.7, 0.58, 0.42), (0.8, 0.8, 0.78))),
                "printed" if draw.random() < 0.3 else "leather",
                second=(0.5, 0.4, 0.3),
                scale=0.5,
            )
            pieces += stand([solid((-a, a), (-b, b), (0, 2 * c), "box")], at, yaw, {"box": look})
        elif kind == "paper":
            look = Surface((0.93, 0.93, 0.9), "printed", second=(0.85, 0.85, 0.85), scale=0.25)
            pieces += stand([solid((-0.15, 0.15), (-0.105, 0.105), (0.001, 0.003), "paper")], at, yaw, {"paper": look})
        elif kind == "cable":
            path = np.cumsum([[draw.gauss(0.12, 0.1), draw.gauss(0, 0.15), 0] for _ in range(7)], 0) + [0, 0, 0.006]
            dark = Surface(draw.choice(((0.06, 0.06, 0.06), (0.85, 0.85, 0.83))))
            pieces += stand([tube(path, 0.005, "cable", 5)], at, yaw, {"cable": dark})
        elif kind == "clothes":
            look = Surface(
                stained(draw, ((0.3, 0.34, 0.45), (0.6, 0.58, 0.55), (0.5, 0.25, 0.25), (0.2, 0.2, 0.2))), "cloth"
            )
            lumps = [
                ellipsoid(
                    (draw.gauss(0, 0.1), draw.gauss(0, 0.1), 0.04),
                    (draw.uniform(0.1, 0.22), draw.uniform(0.08, 0.2), draw.uniform(0.04, 0.09)),
                    "cloth",
                    9,
                    6,
                )
                for _ in range(4)
            ]
            pieces += stand(lumps, at, yaw, {"cloth": look})
        else:
            look = Surface(stained(draw, TIMBER), "wood", scale=0.2)
            lean = draw.uniform(0.8, 1.6)
            pieces.append(
                _on_wall(
                    draw.choice(("left", "right")),
                    walls,
                    z,
                    height - lean / 2,
                    (draw.uniform(0.1, 0.5), lean),
                    0.04,
                    look,
                )
            )
    return pieces


def _lamplight(draw: Random, walls, height: float, window: str | None) -> Light:
    left, right, depth = walls
    level = draw.uniform(0.22, 0.55)
    if window and draw.random() < 0.6:  # daylight through it
        strength, warm = draw.uniform(0.5, 1.1), draw.uniform(-0.12, 0.06)
        along = {
            "back": ((left + right) / 2, depth - 0.4),
            "left": (left + 0.3, 0.6 * depth),
            "right": (right - 0.3, 0.6 * depth),
        }
        x, z = along[window]
        position, size = (x, height - draw.uniform(1.4, 1.9), z), draw.uniform(0.3, 0.6)
    else:
        strength, warm = draw.uniform(0.45, 0.95), draw.uniform(-0.03, 0.22)
        position = draw.uniform(left + 0.5, right - 0.5), height - 2.2, draw.uniform(0.0, depth - 0.5)
        size = draw.uniform(0.1, 0.6)
    return Light(
        position=position,
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(level * (1 + warm / 2), level, level * (1 - warm / 2)),
        sky=(pale(draw, 0.6, 0.9), pale(draw, 0.6, 0.9)),
        size=size,
        bounce=(level * 0.75, level * 0.7, level * 0.62),
        reach=1.2,
    )


# ------------------------------------------------------------ table tops


def tabletop(
    draw: Random, middle: float, last: float, side: float, spots, height: float, small: bool
) -> tuple[list[Piece], Light]:
    """Draw a table, or a floor, with what lies on it and stands behind it, and its light.

    Args:
        middle, last: z of the middle of the objects and of where the last one ends, metres.
        side: |x| of where they end, metres.
        spots: (x, z, radius) that objects take, metres.
        height: of the camera above what they stand on, metres.
        small: whether that is a table.
    """
    kind = draw.choice(("wood", "wood", "planks", "stone", "cloth", "plain", "plaster"))
    unit = 0.3 if small else 1.0
    color = (
        stained(draw, TIMBER)
        if kind in ("wood", "planks")
        else stained(draw, (*PAINT, (0.3, 0.3, 0.32), (0.55, 0.5, 0.45)))
    )
    top = Surface(
        color,
        kind,
        tuple(draw.uniform(0.55, 0.85) * c for c in color),
        draw.uniform(0.3, 0.8) * unit,
        draw.choice((0.0, 0.05, 0.2, 0.35)),
    )
    if not small:
        top = flooring(draw)
    back = last + draw.uniform(0.5, 2.5) * (1 if small else 1.6)
    wall = Surface(
        stained(draw, PAINT),
        draw.choice(("plaster", "plaster", "bricks", "windows")),
        second=(0.5, 0.5, 0.5),
        scale=draw.uniform(0.2, 2),
    )
    low = height + (0.75 if small else 0.0)
    pieces = [block((0, height - 3, back), (30, 8, 0.1), wall)]
    pieces.append(ground((-15, 15), (-4, back), low, flooring(draw) if small else top))
    if small:
        edge = min(back - 0.2, last + draw.uniform(0.02, 0.5))
        half = side + draw.uniform(0.05, 0.7)
        pieces.append(block((0, height + 0.02, (edge - 0.6) / 2), (2 * half, 0.04, edge + 0.6), top))
        pieces += _strewn(draw, spots, half, (max(0.15, middle - 0.5), edge), height)
    for _ in range(draw.randint(1, 6)):  # furniture out of reach, curtains, boxes, posters: blocks before the wall
        wide, tall, z = draw.uniform(0.2, 1.3), draw.uniform(0.3, 2), back - draw.uniform(0.05, 0.35)
        look = Surface(
            stained(draw, (*PAINT, *TIMBER, (0.2, 0.22, 0.25), (0.3, 0.35, 0.45))),
            draw.choice(("printed", "wood", "cloth", "plaster", "outside", "planks")),
            second=pale(draw, 0.2, 0.8),
            scale=draw.uniform(0.1, 0.6),
        )
        pieces.append(
            block((draw.uniform(-2.5, 2.5), low - tall / 2 * draw.choice((1, 1, 2)), z), (wide, tall, 0.1), look)
        )
    strength, warm, level = draw.uniform(0.4, 1.0), draw.uniform(-0.1, 0.2), draw.uniform(0.22, 0.55)
    light = Light(
        position=(draw.uniform(-2, 2), -draw.uniform(0.8, 2.5), draw.uniform(-1.5, 2.0)),
        color=(strength * (1 + warm), strength, strength * (1 - warm)),
        ambient=(level * (1 + warm / 2), level, level * (1 - warm / 2)),
        sky=(pale(draw, 0.6, 0.95), pale(draw, 0.6, 0.95)),
        size=draw.uniform(0.05, 0.6),
        bounce=(level * 0.7, level * 0.66, level * 0.6),
        reach=0.25 if small else 0.8,
    )
    return pieces, light


def _strewn(draw: Random, spots, half: float, z: tuple[float, float], height: float) -> list[Piece]:
    """Sheets, pens, cables, plates and cards between the objects."""
    pieces = []
    for _ in range(draw.randint(0, 7)):
        kind = draw.choice(("sheet", "sheet", "pen", "cable", "plate", "card", "cutlery"))
        x, at, reach = (
            draw.uniform(-half + 0.1, half - 0.1),
            draw.uniform(*z),
            {"plate": 0.12, "sheet": 0.0, "card": 0.0}.get(kind, 0.06),
        )
        if reach and any(math.hypot(x - a, at - b) < r + reach for a, b, r in spots):
            continue
        where, yaw = (x, height - 0.0005, at), draw.uniform(-math.pi, math.pi)
        if kind in ("sheet", "card"):
            a, b = (0.149, 0.105) if kind == "sheet" else (0.043, 0.027)
            look = Surface(
                stained(draw, ((0.93, 0.93, 0.9), (0.85, 0.85, 0.8), (0.6, 0.7, 0.8))),
                "printed",
                second=pale(draw, 0.5, 0.9),
                scale=draw.uniform(0.08, 0.3),
            )
            parts, surfaces = [solid((-a, a), (-b, b), (0, 0.0008), "sheet")], {"sheet": look}
        elif kind == "pen":
            look = Surface(
                stained(draw, ((0.1, 0.1, 0.1), (0.1, 0.2, 0.6), (0.7, 0.1, 0.1), (0.85, 0.75, 0.3))), gloss=0.3
            )
            parts, surfaces = (
                [tube([(-0.07, 0, 0.004), (0.06, 0, 0.004), (0.072, 0, 0.004)], [0.004, 0.004, 0.001], "pen", 7)],
                {"pen": look},
            )
        elif kind == "cutlery":
            parts = [
                tube(
                    [(-0.1, 0, 0.004), (0.02, 0, 0.004), (0.06, 0, 0.006), (0.1, 0, 0.004)],
                    [(0.005, 0.002), (0.003, 0.002), (0.011, 0.003), (0.003, 0.002)],
                    "steel",
                    8,
                    side=(0, 1, 0),
                )
            ]
            surfaces = {"steel": Surface((0.7, 0.7, 0.72), gloss=0.9)}
        elif kind == "plate":
            parts, surfaces = (
                [
                    lathe(
                        [(0.06, 0), (0.07, 0.004), (0.11, 0.014), (0.115, 0.016), (0.08, 0.006), (0, 0.005)],
                        "plate",
                        sides=20,
                    )
                ],
                {"plate": Surface(stained(draw, PAINT), gloss=0.35)},
            )
        else:
            path = np.cumsum([[draw.gauss(0.06, 0.03), draw.gauss(0, 0.06), 0] for _ in range(7)], 0) + [
                -0.2,
                0,
                0.003,
            ]
            parts, surfaces = (
                [tube(path, 0.0028, "cable", 5)],
                {"cable": Surface(draw.choice(((0.06, 0.06, 0.06), (0.88, 0.88, 0.86))))},
            )
        pieces += stand(parts, where, yaw, surfaces)
    return pieces
