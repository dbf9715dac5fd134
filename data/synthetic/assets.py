# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models of everyday objects, drawn at random, each with its exact oriented box.

Object frame, the box's own axes: x = length, towards the front; y = height, pointing down; z = width, to the object's
left. Metres; the origin is the middle of the extents. In a camera's frame (x right, y down, z
forward) an upright object is turned by a yaw about y alone, and stands on its largest y.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np

from llmi3d.data.synthetic import cars, cycles, furniture, household, people, roadside, seats, things, vehicles
from llmi3d.data.synthetic.shapes import Part

# Paints of parts, with their sRGB. "body" takes the object's own colour and material, "trim" a shade of it. "lamp",
# "light" and "red_light" shine; "glass" and "screen" reflect.
PAINTS: dict[str, tuple[float, float, float] | None] = {
    "body": None,
    "trim": None,
    "glass": (0.13, 0.16, 0.19),
    "rubber": (0.07, 0.07, 0.08),
    "metal": (0.68, 0.69, 0.71),
    "dark_metal": (0.17, 0.17, 0.19),
    "wood": (0.52, 0.35, 0.2),
    "screen": (0.05, 0.06, 0.1),
    "paper": (0.92, 0.91, 0.87),
    "linen": (0.86, 0.85, 0.83),
    "dark_fabric": (0.15, 0.15, 0.2),
    "denim": (0.2, 0.26, 0.42),
    "skin": (0.8, 0.6, 0.48),
    "hair": (0.2, 0.13, 0.08),
    "leaves": (0.2, 0.42, 0.14),
    "soil": (0.25, 0.17, 0.11),
    "coffee": (0.2, 0.1, 0.05),
    "light": (0.95, 0.95, 0.9),
    "lamp": (1.0, 0.93, 0.75),
    "red_light": (0.75, 0.06, 0.05),
    "cover_red": (0.65, 0.15, 0.13),
    "cover_blue": (0.15, 0.27, 0.55),
    "cover_green": (0.18, 0.42, 0.25),
    "cover_yellow": (0.88, 0.7, 0.18),
}


@dataclass(frozen=True)
class Asset:
    """A model in its object frame.

    Attributes:
        size: (length, height, width), metres: the exact extents of all vertices along x, y and z.
        symmetric: whether half a turn about y leaves it unchanged, so that no image can tell its yaw.
    """

    category: str
    parts: tuple[Part, ...]
    size: tuple[float, float, float]
    symmetric: bool


@dataclass(frozen=True)
class Category:
    """A kind of object.

    Attributes:
        domains: the scenes that it belongs in, of "indoor", "tabletop", "driving" and "objects".
        materials: those that a phrase may name; empty if its material does not vary.
        build: draws its parts, in the frame of `shapes`.
        colors: whether its body, or a person's clothes, take one of the colours.
    """

    name: str
    domains: tuple[str, ...]
    materials: tuple[str, ...]
    build: Callable[[Random], list[Part]]
    colors: bool = True


CATEGORIES: dict[str, Category] = {
    name: Category(name, tuple(domains.split()), tuple(materials.split()), build)
    for name, domains, materials, build in (
        ("chair", "indoor objects", "wooden metal plastic fabric leather", seats.chair),
        ("armchair", "indoor", "fabric leather", seats.armchair),
        ("sofa", "indoor", "fabric leather", seats.sofa),
        ("table", "indoor", "wooden metal plastic glass", furniture.table),
        ("desk", "indoor", "wooden metal", furniture.desk),
        ("bed", "indoor", "", furniture.bed),
        ("wardrobe", "indoor", "wooden metal", furniture.wardrobe),
        ("bookshelf", "indoor", "wooden metal", furniture.bookshelf),
        ("night_stand", "indoor", "wooden metal plastic", furniture.night_stand),
        ("cabinet", "indoor", "wooden metal", furniture.cabinet),
        ("lamp", "indoor", "", household.lamp),
        ("plant", "indoor objects", "", household.plant),
        ("stool", "indoor", "wooden metal plastic leather", seats.stool),
        ("television", "indoor", "", household.television),
        ("bin", "indoor driving", "metal plastic", household.waste_bin),
        ("bench", "indoor driving", "wooden metal", seats.bench),
        ("suitcase", "indoor objects", "plastic metal fabric leather", household.suitcase),
        ("mug", "tabletop objects", "ceramic metal plastic", things.mug),
        ("bottle", "tabletop objects", "glass plastic metal", things.bottle),
        ("bowl", "tabletop objects", "ceramic wooden metal plastic glass", things.bowl),
        ("book", "tabletop objects", "", things.book),
        ("laptop", "tabletop objects", "metal plastic", things.laptop),
        ("vase", "tabletop objects", "ceramic glass metal", things.vase),
        ("monitor", "tabletop", "", things.monitor),
        ("cereal_box", "tabletop objects", "", things.cereal_box),
        ("ball", "tabletop objects", "plastic leather", things.ball),
        ("camera", "tabletop objects", "", things.camera),
        ("kettle", "tabletop objects", "metal plastic ceramic", things.kettle),
        ("shoe", "objects", "leather fabric", things.shoe),
        ("car", "driving", "", vehicles.car),
        ("van", "driving", "", vehicles.van),
        ("truck", "driving", "", vehicles.truck),
        ("bus", "driving", "", vehicles.bus),
        ("pedestrian", "driving", "", people.pedestrian),
        ("cyclist", "driving", "", people.cyclist),
        ("motorcycle", "driving", "", cycles.motorcycle),
        ("bicycle", "driving objects", "", cycles.bicycle),
        ("traffic_cone", "driving", "", roadside.traffic_cone),
        ("barrier", "driving", "", roadside.barrier),
    )
}

# Builders of version 2, where they differ.
MODERN: dict[str, Callable[[Random], list[Part]]] = {"car": cars.modern_car}

POOL = 500  # models of each category in a data set of version 2

# Furniture on whose flat top small things can stand.
SURFACES: tuple[str, ...] = ("table", "desk", "night_stand", "cabinet", "stool")


def make_asset(category: str, draw: Random, version: int = 2) -> Asset:
    """Draw an object of a category; the same state of `draw` gives the same object.

    Raises:
        ValueError: an unknown category.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category: got {category!r}, want one of {', '.join(CATEGORIES)}.")
    build = MODERN.get(category) if version > 1 else None
    parts = upright((build or CATEGORIES[category].build)(draw))
    points = np.concatenate([part.vertices for part in parts])
    middle = (points.min(0) + points.max(0)) / 2
    parts = tuple(Part(part.vertices - middle, part.faces, part.paint) for part in parts)
    size = np.ptp(np.concatenate([part.vertices for part in parts]), axis=0)
    return Asset(category, parts, tuple(size.tolist()), same_after(parts, (-1.0, 1.0, -1.0)))


def pooled_asset(category: str, draw: Random, pool: str) -> Asset:
    """Draw one of POOL models of a category, a little larger or smaller; each is made once and kept.

    Args:
        category: of CATEGORIES.
        draw: decides which, and its size.
        pool: names the pool; another pool has other models.
    """
    asset = _pool_member(category, f"{pool}/{draw.randrange(POOL)}")
    common = draw.uniform(-0.08, 0.08)
    scale = np.exp([common + draw.uniform(-0.03, 0.03) for _ in range(3)])
    parts = tuple(Part(part.vertices * scale, part.faces, part.paint) for part in asset.parts)
    return Asset(category, parts, tuple((scale * asset.size).tolist()), asset.symmetric)


@lru_cache(maxsize=6000)
def _pool_member(category: str, name: str) -> Asset:
    return make_asset(category, Random(f"{category}/{name}"))


def upright(parts: Iterable[Part]) -> list[Part]:
    """Return parts of the frame of `shapes` (forward, left, up) in the frame of objects (forward, down, left)."""
    return [Part(part.vertices[:, [0, 2, 1]] * [1.0, -1.0, 1.0], part.faces, part.paint) for part in parts]


def same_after(parts: Iterable[Part], signs: tuple[float, float, float], tolerance: float = 1e-6) -> bool:
    """Return whether a change of signs maps the vertices of every paint onto themselves; (-1, 1, -1) is half a turn
    about y."""
    by_paint: dict[str, list[np.ndarray]] = {}
    for part in parts:
        by_paint.setdefault(part.paint, []).append(part.vertices)
    clouds = [np.concatenate(vertices) for vertices in by_paint.values()]
    if any(np.abs(cloud.mean(0) * (np.array(signs) - 1)).max() > tolerance for cloud in clouds):
        return False
    for cloud in clouds:
        gaps = np.abs(cloud[:, None] * signs - cloud[None]).max(-1).min(1)
        if gaps.max() > tolerance:
            return False
    return True


def support(asset: Asset) -> tuple[float, float, float] | None:
    """Return where small things can stand on an asset: y, half length and half width of a level rectangle about
    x = z = 0, metres, object frame; None if its category is not in SURFACES."""
    if asset.category not in SURFACES:
        return None
    top = -asset.size[1] / 2
    points = np.concatenate([part.vertices for part in asset.parts])
    rim = points[points[:, 1] < top + 1e-6][:, [0, 2]]
    reach = np.abs(rim).max(0)
    rim = rim[np.argsort(np.arctan2(rim[:, 1], rim[:, 0]))]
    edges = np.roll(rim, -1, 0) - rim
    out = np.stack([edges[:, 1], -edges[:, 0]], 1)  # normals of the convex outline, away from the middle
    room = np.einsum("ij,ij->i", out, rim)
    scale = min(1.0, float((room / np.maximum(np.abs(out) @ reach, 1e-12)).min()))
    return top, scale * float(reach[0]), scale * float(reach[1])
