# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Closed low-poly meshes, from which objects are composed.

Modelling frame of every function here and of every model built from them: x forward, y to the object's left, z up, in
metres, the floor at z = 0. `assets.make_asset` turns it into the frame of the boxes (y down) at the end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import numpy as np

Range = tuple[float, float]
Point = Sequence[float]


@dataclass(frozen=True)
class Part:
    """A closed mesh of one surface: vertices float64 [V, 3] in metres; faces int [F, 3], counter-clockwise seen from
    outside; paint is one of `assets.PAINTS`."""

    vertices: np.ndarray
    faces: np.ndarray
    paint: str


def sizes(draw: Random, *typical: float, common: float = 0.13, own: float = 0.07) -> list[float]:
    """Draw lengths in metres about typical ones, by a common scale and a smaller one of each."""
    shared = math.exp(draw.uniform(-common, common))
    return [length * shared * math.exp(draw.uniform(-own, own)) for length in typical]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return cross products of vectors [N, 3], as `numpy.cross` does but several times as fast."""
    (x, y, z), (u, v, w) = a.T, b.T
    return np.stack((y * w - z * v, z * u - x * w, x * v - y * u), 1)


def part(vertices, faces, paint: str) -> Part:
    """Return a part whose faces look outwards, without faces of zero area."""
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = cross(b - a, c - a)
    volume = np.einsum("ij,ij->", a - vertices.mean(0), normals)
    faces = faces[np.einsum("ij,ij->i", normals, normals) > 1e-20]
    return Part(vertices, faces if volume > 0 else faces[:, ::-1], paint)


def loft(rings, paint: str, closed: bool = False) -> Part:
    """Return a skin over cross-sections [R, M, 3]; the first and last are convex caps, or are joined if `closed`."""
    rings = np.asarray(rings, np.float64)
    count, sides = rings.shape[:2]
    return part(rings.reshape(-1, 3), _skin(count, sides, closed), paint)


@cache
def _skin(count: int, sides: int, closed: bool) -> np.ndarray:
    """Return the faces of `loft`."""
    faces = []
    for r in range(count if closed else count - 1):
        here, there = r * sides, (r + 1) % count * sides
        for i in range(sides):
            j = (i + 1) % sides
            faces += [(here + i, here + j, there + j), (here + i, there + j, there + i)]
    if not closed:
        last = (count - 1) * sides
        faces += [(0, i + 1, i) for i in range(1, sides - 1)]
        faces += [(last, last + i, last + i + 1) for i in range(1, sides - 1)]
    return np.array(faces)


def block(x: Range, y: Range, z: Range, paint: str, bevel: float = 0.0, top: tuple[float, float] = (1.0, 1.0)) -> Part:
    """Return a box over three ranges; `bevel` cuts its edges (metres), `top` scales its upper end along x and y."""
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])

    def ring(height, inset):
        a, b = x1 - inset - middle[0], y1 - inset - middle[1]
        scale = 1 + (np.array(top) - 1) * (height - z0) / (z1 - z0)
        if bevel:
            cut = bevel - 0.4 * inset
            flat = [(a, b - cut), (a - cut, b), (cut - a, b), (-a, b - cut)]
            flat += [(-a, cut - b), (cut - a, -b), (a - cut, -b), (a, cut - b)]
        else:
            flat = [(a, b), (-a, b), (-a, -b), (a, -b)]
        return [(*(middle + np.array(p) * scale), height) for p in flat]

    if not bevel:
        return loft([ring(z0, 0), ring(z1, 0)], paint)
    bevel = min(bevel, 0.45 * min(x1 - x0, y1 - y0, z1 - z0))
    return loft([ring(z0, bevel), ring(z0 + bevel, 0), ring(z1 - bevel, 0), ring(z1, bevel)], paint)


def lathe(profile: Iterable[tuple[float, float]], paint: str, at: Point = (0, 0), sides: int = 12) -> Part:
    """Return a solid of revolution about the upright line through `at` (x, y), from its profile of (radius, z); half a
    turn leaves it unchanged if `sides` is even."""
    angles = (np.arange(sides) + 0.5) * 2 * math.pi / sides
    around = np.stack([np.cos(angles), np.sin(angles)], 1)
    return loft([np.c_[radius * around + np.asarray(at), np.full(sides, z)] for radius, z in profile], paint)


def hoop(profile, paint: str, sides: int = 12) -> Part:
    """Return a convex closed profile of (radius, z) revolved about the upright axis, which it keeps clear of."""
    angles = (np.arange(sides) + 0.5) * 2 * math.pi / sides
    return loft([[(r * math.cos(a), r * math.sin(a), z) for r, z in profile] for a in angles], paint, closed=True)


def tube(points, radius, paint: str, sides: int = 6, closed: bool = False, side: Point | None = None) -> Part:
    """Return a pipe along points [N, 3]. `radius` is a number, [N], or [N, 2] for along and across `side`, a direction
    that the path never takes, by default the axis farthest from it."""
    points = np.asarray(points, np.float64)
    radius = np.asarray(radius, np.float64)
    radius = np.broadcast_to(radius[..., None] if radius.ndim < 2 else radius, (len(points), 2))
    if closed:
        along = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    else:
        steps = np.diff(points, axis=0)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        along = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    if side is None:
        side = np.eye(3)[[1, 0, 2]][np.argmin(np.abs(along).max(0)[[1, 0, 2]].round(6))]
    first = np.asarray(side, np.float64) - (along @ side)[:, None] * along
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = cross(along, first)
    angles = (np.arange(sides) + 0.5) * 2 * math.pi / sides
    rings = (
        points[:, None]
        + radius[:, None, :1] * np.cos(angles)[None, :, None] * first[:, None]
        + radius[:, None, 1:] * np.sin(angles)[None, :, None] * second[:, None]
    )
    return loft(rings, paint, closed)


def circle(center: Point, radius: float, axis: int, count: int = 12, start: float = 0.0, turn: float = 360.0):
    """Return points [count, 3] on a circle about coordinate axis 0, 1 or 2, from angle `start` over `turn` degrees."""
    angles = np.radians(start + turn * np.arange(count) / (count if turn == 360 else count - 1))
    points = np.zeros((count, 3))
    points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = radius * np.cos(angles), radius * np.sin(angles)
    return points + np.asarray(center)


def ellipsoid(center: Point, radii: Point, paint: str, sides: int = 8, rings: int = 5) -> Part:
    """Return an ellipsoid with half axes `radii` and upright poles."""
    polar = np.linspace(0, math.pi, rings)
    ball = lathe([(math.sin(a), -math.cos(a)) for a in polar], paint, sides=sides)
    return part(ball.vertices * np.asarray(radii) + np.asarray(center), ball.faces, paint)


def prism(outline, y: Range, paint: str) -> Part:
    """Return a simple polygon of (x, z) extruded over a range of y."""
    outline = [(float(u), float(v)) for u, v in outline]
    if sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(outline, outline[1:] + outline[:1], strict=True)) < 0:
        outline.reverse()
    count = len(outline)
    cap = _ears(outline)
    faces = [(a, b, c) for a, b, c in cap] + [(a + count, c + count, b + count) for a, b, c in cap]
    for i in range(count):
        j = (i + 1) % count
        faces += [(j, i, i + count), (j, i + count, j + count)]
    return part([(u, level, v) for level in y for u, v in outline], faces, paint)


def panel(corners, thickness: float, paint: str) -> Part:
    """Return a flat convex polygon [N, 3] thickened by `thickness` metres to both sides: a pane, a door, a leaf."""
    corners = np.asarray(corners, np.float64)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal *= thickness / np.linalg.norm(normal)
    return loft([corners - normal, corners + normal], paint)


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return the rotation matrix [3, 3] about coordinate axis 0, 1 or 2."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def placed(parts: Iterable[Part], at: Point = (0, 0, 0), matrix=None, about: Point = (0, 0, 0)) -> list[Part]:
    """Return parts rotated or scaled by `matrix` [3, 3] (no reflection) about `about`, then shifted by `at`."""
    matrix = np.eye(3) if matrix is None else np.asarray(matrix, np.float64)
    about = np.asarray(about, np.float64)
    return [replace(p, vertices=(p.vertices - about) @ matrix.T + about + np.asarray(at)) for p in parts]


def mirrored(parts: Iterable[Part]) -> list[Part]:
    """Return parts with left and right swapped."""
    return [Part(p.vertices * [1, -1, 1], p.faces[:, ::-1], p.paint) for p in parts]


def both_sides(parts: Sequence[Part]) -> list[Part]:
    """Return parts and their mirror images on the other side."""
    return [*parts, *mirrored(parts)]


def _ears(outline: list[tuple[float, float]]) -> list[tuple[int, int, int]]:
    """Return triangles that fill a simple counter-clockwise polygon."""

    def cross(a, b, c):
        (ax, ay), (bx, by), (cx, cy) = outline[a], outline[b], outline[c]
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    left, triangles = list(range(len(outline))), []
    while len(left) > 3:
        for k in range(len(left)):
            a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
            others = (p for p in left if p not in (a, b, c))
            if cross(a, b, c) > 0 and not any(
                min(cross(a, b, p), cross(b, c, p), cross(c, a, p)) >= 0 for p in others
            ):
                break
        triangles.append((a, b, c))
        left.pop(k)
    return [*triangles, tuple(left)]
