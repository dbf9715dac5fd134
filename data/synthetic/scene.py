# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Pieces of every domain's scenes: placed objects, free floor, colours and cameras.

World frame: origin at the camera, x right, y along gravity, z ahead and level; metres. Objects look along their own x.
"""

import math
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from llmi3d.data.synthetic.assets import CATEGORIES, PAINTS, Asset, make_asset, pooled_asset
from llmi3d.data.synthetic.camera_effects import Camera
from llmi3d.data.synthetic.render import Light, Piece, Surface
from llmi3d.data.synthetic.shapes import Part
from llmi3d.data.synthetic.version1_rendering import Sensor

# sRGB of ten colours that people call by these names under any light.
COLORS = {
    "red": (0.78, 0.09, 0.09),
    "orange": (0.95, 0.47, 0.06),
    "yellow": (0.93, 0.83, 0.13),
    "green": (0.13, 0.55, 0.18),
    "blue": (0.10, 0.24, 0.74),
    "purple": (0.44, 0.13, 0.60),
    "pink": (0.95, 0.52, 0.70),
    "brown": (0.38, 0.21, 0.11),
    "white": (0.93, 0.93, 0.91),
    "black": (0.06, 0.06, 0.07),
}
GREY = {"gray": (0.5, 0.51, 0.52)}  # of version 2 alone
# How often things have their colours in version 2, by what they are.
PALETTES = {
    "vehicle": {
        "gray": 27,
        "black": 22,
        "white": 20,
        "blue": 11,
        "red": 9,
        "brown": 4,
        "green": 4,
        "yellow": 2,
        "orange": 2,
    }
    | {"purple": 1, "pink": 1},
    "furniture": {"brown": 24, "white": 18, "gray": 18, "black": 14, "blue": 6, "red": 5, "green": 6, "orange": 3}
    | {"yellow": 3, "pink": 2, "purple": 2},
    "clothes": {"black": 22, "blue": 18, "gray": 14, "white": 13, "red": 9, "green": 6, "brown": 6, "orange": 3}
    | {"yellow": 3, "pink": 3, "purple": 3},
    "other": dict.fromkeys(COLORS, 9) | {"white": 14, "black": 13, "gray": 10},
}
PALETTE_OF = (
    dict.fromkeys(("car", "van", "truck", "bus", "motorcycle"), "vehicle")
    | dict.fromkeys(("pedestrian", "cyclist"), "clothes")
    | dict.fromkeys(
        [
            "chair",
            "armchair",
            "sofa",
            "table",
            "desk",
            "bed",
            "wardrobe",
            "bookshelf",
            "night_stand",
            "cabinet",
            "stool",
            "bench",
        ],
        "furniture",
    )
)
# Held out of everything but the split `novel`.
NOVEL_CATEGORIES = frozenset(("bench", "vase", "suitcase", "motorcycle", "kettle"))
NOVEL_PAIRS = frozenset(
    (
        ("orange", "car"),
        ("purple", "chair"),
        ("green", "mug"),
        ("pink", "sofa"),
        ("white", "bottle"),
        ("black", "ball"),
        ("yellow", "pedestrian"),
        ("blue", "table"),
    )
)
# Texture, its period in metres, and gloss of each material.
MATERIALS = {
    None: ("plain", 1.0, 0.05),
    "wooden": ("wood", 0.25, 0.03),
    "metal": ("plain", 1.0, 0.6),
    "plastic": ("plain", 1.0, 0.25),
    "fabric": ("weave", 0.08, 0.0),
    "leather": ("cloud", 0.06, 0.15),
    "ceramic": ("plain", 1.0, 0.35),
    "glass": ("plain", 1.0, 0.7),
    "lacquer": ("plain", 1.0, 0.38),
}
# Finish of paints other than "body" and "trim" that are not plain and dull; their colours stand in `assets.PAINTS`.
FINISH = {
    "glass": {"gloss": 0.7},
    "metal": {"gloss": 0.5},
    "dark_metal": {"gloss": 0.3},
    "screen": {"gloss": 0.5},
    "coffee": {"gloss": 0.4},
    "wood": {"texture": "wood", "scale": 0.25},
    "leaves": {"texture": "cloud", "scale": 0.1},
    "dark_fabric": {"texture": "weave", "scale": 0.05},
    "light": {"glow": 0.3},
    "lamp": {"glow": 0.6},
    "red_light": {"glow": 0.2},
}


@dataclass(frozen=True)
class Traits:
    """Requirements of a split.

    Attributes:
        novel: whether held-out categories and colours appear; they are then preferred.
        focal: whether focal lengths lie outside the usual range.
        dense: whether there are many objects, close together.
        far: whether objects are small and distant.
        version: of the data set.
        pool: name of the pool of models that version 2 draws from.
    """

    novel: bool = False
    focal: bool = False
    dense: bool = False
    far: bool = False
    version: int = 2
    pool: str = ""


SPLITS = {
    "train": Traits(),
    "validation": Traits(),
    "test": Traits(),
    "novel": Traits(novel=True),
    "camera": Traits(focal=True),
    "dense": Traits(dense=True),
    "far": Traits(far=True),
}


@dataclass(frozen=True)
class Placed:
    """An object at its place.

    Attributes:
        position: [3], middle of its box, metres, world frame.
        rotation: [3, 3], box to world.
        color, material: their names in phrases; None if it has none.
        shade: added to the colour, RGB.
        finish: key of MATERIALS, if it differs from `material`.
    """

    asset: Asset
    position: np.ndarray
    rotation: np.ndarray
    color: str | None
    material: str | None
    shade: tuple[float, float, float] = (0.0, 0.0, 0.0)
    finish: str | None = None

    def pieces(self, owner: int) -> list[Piece]:
        """Return its parts in the world frame."""
        surfaces = {paint: self._surface(paint) for paint in {part.paint for part in self.asset.parts}}
        return [
            Piece(
                part.vertices @ self.rotation.T + self.position, part.faces, surfaces[part.paint], owner, part.vertices
            )
            for part in self.asset.parts
        ]

    def _surface(self, paint: str) -> Surface:
        if paint not in ("body", "trim"):
            return Surface(PAINTS[paint], **FINISH.get(paint, {}))
        color = np.clip(np.array((COLORS | GREY).get(self.color, (0.5, 0.5, 0.5))) + self.shade, 0.02, 0.98)
        if paint == "trim":
            color = color * 0.55 if color.mean() > 0.2 else color + 0.2
        texture, scale, gloss = MATERIALS[self.finish or self.material]
        return Surface(tuple(color.tolist()), texture, scale=scale, gloss=gloss)


@dataclass(frozen=True)
class Scene:
    """Everything that is rendered, and the camera.

    Attributes:
        image_size: (width, height), pixels.
        intrinsics: [3, 3] K, pixels.
        to_camera: [3, 3], rotation, world to camera.
    """

    image_size: tuple[int, int]
    intrinsics: np.ndarray
    to_camera: np.ndarray
    placed: list[Placed]
    scenery: list[Piece]
    light: Light
    sensor: Sensor | Camera

    def pieces(self) -> list[Piece]:
        """Return scenery and objects; an object's owner is its index in `placed`."""
        return self.scenery + [piece for i, item in enumerate(self.placed) for piece in item.pieces(i)]

    def scaled(self, long_side: int) -> "Scene":
        """Return the scene at a lower resolution, with K to match; it never grows."""
        width, height = self.image_size
        if long_side >= max(width, height):
            return self
        factor = long_side / max(width, height)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        scale = np.diag((size[0] / width, size[1] / height, 1.0))
        return replace(self, image_size=size, intrinsics=scale @ self.intrinsics)


# ------------------------------------------------------------ camera


def camera(
    draw: Random, image_size: tuple[int, int], focal_range: tuple[float, float], traits: Traits
) -> tuple[np.ndarray, float]:
    """Draw K [3, 3] and the factor by which its focal length lies outside the usual range (1 within it).

    Args:
        focal_range: range of fx, in widths of the image.
    """
    width, height = image_size
    low, high = focal_range
    focal, factor = draw.uniform(low, high), 1.0
    if traits.focal:
        factor = draw.uniform(0.55, 0.85) if draw.random() < 0.5 else draw.uniform(1.18, 1.5)
        focal = (low if factor < 1 else high) * factor
    fx = focal * width
    fy = fx * draw.uniform(0.99, 1.01)
    cx, cy = width * draw.uniform(0.47, 0.53), height * draw.uniform(0.46, 0.54)
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]), factor


def tilt(pitch: float, roll: float) -> np.ndarray:
    """Return the rotation [3, 3], world to camera, of a camera pitched down and rolled (radians)."""
    cos, sin = math.cos(pitch), math.sin(pitch)
    down = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    cos, sin = math.cos(roll), math.sin(roll)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ down


def turn(yaw: float) -> np.ndarray:
    """Return the rotation about gravity, [3, 3]; an object turned by -pi/2 faces ahead, by pi/2 towards the camera."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


# ------------------------------------------------------------ objects


def dressed(category: str, draw: Random, traits: Traits) -> dict:
    """Draw a model with colour and material: the arguments of `Placed` besides position and rotation."""
    kind = CATEGORIES[category]
    color, palette = None, PALETTES[PALETTE_OF.get(category, "other")]
    if kind.colors:
        held = [color for color, name in sorted(NOVEL_PAIRS) if name == category]
        free = [color for color in (COLORS if traits.version == 1 else palette) if color not in held]
        if traits.novel and held and draw.random() < 0.5:
            color = draw.choice(held)
        elif traits.version == 1:
            color = draw.choice(free)
        else:
            color = draw.choices(free, [palette[name] for name in free])[0]
    shade = draw.uniform(-0.06, 0.06)
    make = make_asset if traits.version == 1 else pooled_asset
    clothes = {
        "asset": make(category, draw, 1 if traits.version == 1 else traits.pool),
        "color": color,
        "material": draw.choice(kind.materials) if kind.materials else None,
        "shade": tuple(shade + draw.uniform(-0.03, 0.03) for _ in range(3)),
    }
    if traits.version > 1:
        clothes["shade"] = _muted(color, draw)
        clothes["finish"] = "lacquer" if PALETTE_OF.get(category) == "vehicle" else None
    return clothes


def _muted(color: str | None, draw: Random) -> tuple[float, float, float]:
    """Draw what, added to a colour, makes it less saturated, lighter or darker."""
    full = np.array((COLORS | GREY).get(color, (0.5, 0.5, 0.5)))
    grey = full.mean()
    level = draw.uniform(0.28, 0.68) if color == "gray" else grey * math.exp(draw.gauss(0, 0.12))
    muted = level + (full - grey) * draw.uniform(0.5, 1.0)
    if color in ("white", "black", "gray"):
        muted = muted + np.array([draw.gauss(0, 0.012) for _ in range(3)])
    if color == "black":
        muted = muted * draw.uniform(0.4, 1.8)
    return tuple((muted - full).tolist())


def choose(pool: dict[str, float], draw: Random, traits: Traits) -> str:
    """Draw a category by weight; held-out ones only if the split has them, then half of the time."""
    novel = [name for name in pool if name in NOVEL_CATEGORIES]
    if traits.novel and novel and draw.random() < 0.5:
        return draw.choice(novel)
    names = [name for name in pool if name not in NOVEL_CATEGORIES]
    return draw.choices(names, [pool[name] for name in names])[0]


@dataclass
class Floor:
    """Occupied ground: rectangles (x, z, half length, half width, yaw) that may not overlap."""

    taken: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    gap: float = 0.05

    def covers(self, x: float, z: float) -> bool:
        """Return whether a point is occupied; a quick test before anything is modelled for that place."""
        point = (x, z, 0.0, 0.0, 0.0)
        return any(_overlap(point, other) for other in self.taken)

    def take(self, x: float, z: float, size, yaw: float) -> bool:
        """Occupy the ground below an object of a size (length, height, width) and return whether it was free."""
        rectangle = (x, z, size[0] / 2 + self.gap, size[2] / 2 + self.gap, yaw)
        if any(_overlap(rectangle, other) for other in self.taken):
            return False
        self.taken.append(rectangle)
        return True


def _overlap(a: tuple, b: tuple) -> bool:
    """Return whether two rectangles overlap, by the separating axis theorem."""
    if math.hypot(a[0] - b[0], a[1] - b[1]) > math.hypot(a[2], a[3]) + math.hypot(b[2], b[3]):
        return False
    for yaw in (a[4], a[4] + math.pi / 2, b[4], b[4] + math.pi / 2):
        axis = math.cos(yaw), -math.sin(yaw)
        reach = sum(
            half * abs(math.cos(rectangle[4] + extra - yaw))
            for rectangle in (a, b)
            for half, extra in ((rectangle[2], 0), (rectangle[3], math.pi / 2))
        )
        if abs((a[0] - b[0]) * axis[0] + (a[1] - b[1]) * axis[1]) > reach:
            return False
    return True


def upright(x: float, z: float, ground: float, yaw: float, clothes: dict) -> Placed:
    """Return an object of `dressed` that stands on the ground at y = `ground`."""
    position = np.array((x, ground - clothes["asset"].size[1] / 2, z))
    return Placed(position=position, rotation=turn(yaw), **clothes)


# ------------------------------------------------------------ scenery

STEEL = Surface((0.5, 0.51, 0.53), "plaster", gloss=0.3)
_QUAD = np.array([[0, 1, 2], [0, 2, 3]])
_CUBE = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_CUBE_FACES = np.array(
    [
        *([0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]),
        *([2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]),
    ]
)


def quad(corners, surface: Surface) -> Piece:
    """Return a flat piece with four corners [4, 3] in order."""
    return Piece(np.array(corners, dtype=np.float64), _QUAD, surface)


def ground(x: tuple[float, float], z: tuple[float, float], y: float, surface: Surface) -> Piece:
    """Return a level rectangle."""
    return quad([(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])], surface)


def block(center, size, surface: Surface) -> Piece:
    """Return a box along the world's axes."""
    return Piece(_CUBE * np.array(size) + np.array(center), _CUBE_FACES, surface)


def turned(piece: Piece, rotation: np.ndarray) -> Piece:
    """Return a piece of scenery rotated about the camera; its texture rotates with it."""
    local = piece.vertices if piece.local is None else piece.local
    return replace(piece, vertices=piece.vertices @ rotation.T, local=local)


def pale(draw: Random, low: float = 0.55, high: float = 0.95) -> tuple[float, float, float]:
    """Draw a pale colour, for walls and floors."""
    level = draw.uniform(low, high)
    return tuple(min(1.0, max(0.0, level + draw.uniform(-0.08, 0.08))) for _ in range(3))


def stained(draw: Random, colors, spread: float = 0.06) -> tuple[float, float, float]:
    """Draw one of some colours, slightly changed."""
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
