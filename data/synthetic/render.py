# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Ray tracing of triangles, with exact depth and instance maps.

Rays are cast from K through pixel centres at vertices in camera coordinates (x right, y down, z forward, metres), so
that mask, depth and box share one camera. Embree finds intersections; light and textures are NumPy.

Shapes: V vertices, F faces, R rays, H x W pixels.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmi3d.data.synthetic.shapes import cross

SCENERY = -1  # owner of what carries no label
EPSILON = 1e-3  # metres, or share of the distance: how far from its surface a shadow ray starts


@dataclass(frozen=True)
class Surface:
    """How a surface looks.

    Attributes:
        albedo: RGB, 0 to 1, as a screen shows it.
        texture: name of a texture (`textures.TEXTURES`), which mixes in `second`.
        second: RGB; a darker shade of `albedo` by default.
        scale: period of the texture, metres.
        gloss: strength of the highlight, 0 to 1.
        glow: strength of the light that it emits.
    """

    albedo: tuple[float, float, float]
    texture: str = "plain"
    second: tuple[float, float, float] | None = None
    scale: float = 0.2
    gloss: float = 0.0
    glow: float = 0.0


@dataclass(frozen=True)
class Piece:
    """Triangles with one surface.

    Attributes:
        vertices: [V, 3], metres, world frame.
        faces: int [F, 3].
        surface: how they look.
        owner: index of the object that they belong to, or SCENERY.
        local: [V, 3], where textures are evaluated, metres; `vertices` by default. Given in an object's own frame, its
            texture moves with it.
    """

    vertices: np.ndarray
    faces: np.ndarray
    surface: Surface
    owner: int = SCENERY
    local: np.ndarray | None = None


@dataclass(frozen=True)
class Light:
    """A light that casts shadows, and ambient light.

    Attributes:
        position: metres, world frame; a sun is far away.
        color, ambient: RGB strength of the light and of the ambient light.
        sky: RGB at the horizon and overhead, where a ray hits nothing.
        haze: share of the horizon's colour mixed in per 100 m.
        size: radius of the light, metres: how soft shadows are (version 2, like all below).
        bounce: RGB strength of what comes from below.
        clouds: share of the sky that they cover, 0 to 1.
        reach: how near a thing must be to take away light that comes from all sides, metres.
    """

    position: tuple[float, float, float]
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ambient: tuple[float, float, float] = (0.4, 0.4, 0.4)
    sky: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.8, 0.85, 0.9), (0.4, 0.6, 0.9))
    haze: float = 0.0
    size: float = 0.0
    bounce: tuple[float, float, float] = (0.2, 0.2, 0.2)
    clouds: float = 0.0
    reach: float = 1.0


@dataclass(frozen=True)
class Rendered:
    """A rendered image.

    Attributes:
        color: float32 [H, W, 3], linear light.
        depth: float32 [H, W], z of the surface through the pixel's centre, metres; inf where there is none.
        owners: int32 [H, W], owner of that surface; SCENERY where there is none.
    """

    color: np.ndarray
    depth: np.ndarray
    owners: np.ndarray


class Tracer:
    """The geometry of a scene, ready for rays.

    Args:
        pieces: all triangles.
        to_camera: [3, 3], rotation from the world frame to the camera frame; both have the camera as origin.
        facing: only faces that look at the camera can be hit; of closed meshes rays from the camera hit no others.
    """

    def __init__(self, pieces: list[Piece], to_camera: np.ndarray, facing: bool = False):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.pieces = pieces
        self.to_camera = np.asarray(to_camera, dtype=np.float64)
        faces = [piece.faces for piece in pieces]
        self.piece_of_face = np.repeat(np.arange(len(pieces)), [len(triangles) for triangles in faces])
        corners = [piece.vertices[piece.faces] for piece in pieces]
        local = [(piece.vertices if piece.local is None else piece.local)[piece.faces] for piece in pieces]
        self.triangles = (np.concatenate(corners) @ self.to_camera.T).astype(np.float32)  # [F, 3, 3], camera frame
        self.local = np.concatenate(local).astype(np.float32)
        self.owner_of_face = np.array([piece.owner for piece in pieces])[self.piece_of_face]
        self.scene = EmbreeScene()
        mesh = self.triangles
        if facing:
            mesh = mesh[np.einsum("ij,ij->i", self.areas[0], mesh[:, 0]) < 0]
        TriangleMesh(self.scene, mesh)

    @cached_property
    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """Return normals of the faces, as long as twice their area, and of length 1: float32 [F, 3] each."""
        a, b, c = (self.triangles[:, i] for i in range(3))
        areas = cross(b - a, c - a)
        return areas, areas / np.maximum(np.sqrt(np.einsum("ij,ij->i", areas, areas)), 1e-12)[:, None]

    @cached_property
    def sides(self) -> np.ndarray:
        """Return a number for each piece and each of the six ways that its faces look, one for all leaves of a piece:
        int32 [F]."""
        _, normals = self.areas
        way = np.abs(normals).argmax(1)
        positive = np.take_along_axis(normals, way[:, None], 1)[:, 0] > 0
        leaf = np.array([piece.surface.texture == "foliage" for piece in self.pieces])[self.piece_of_face]
        return (self.piece_of_face * 6 + np.where(leaf, 0, way * 2 + positive)).astype(np.int32)

    @cached_property
    def topology(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (corners in the order of their vertices [3 F], first corner of each vertex [V + 1], vertices of each
        face [F, 3])."""
        shifts = np.cumsum([0, *(len(piece.vertices) for piece in self.pieces)])
        shifted = [piece.faces + shift for piece, shift in zip(self.pieces, shifts[:-1], strict=True)]
        corners = np.concatenate(shifted).astype(np.int32)
        order = np.argsort(corners.reshape(-1), kind="stable")
        return order, np.cumsum(np.bincount(corners.reshape(-1) + 1, minlength=shifts[-1] + 1)), corners

    @cached_property
    def looks(self) -> tuple[list[Surface], np.ndarray, np.ndarray, np.ndarray]:
        """Return (surfaces, each once; which each piece has; their gloss and glow [S, 2]; their mean linear RGB)."""
        places = {}
        of_piece = np.array([places.setdefault(piece.surface, len(places)) for piece in self.pieces])
        finish = np.array([(surface.gloss, surface.glow) for surface in places], np.float32)
        mean = [0.75 * np.array(look.albedo) + 0.25 * np.array(look.second or look.albedo) for look in places]
        return list(places), of_piece, finish, linear(np.array(mean, np.float32))

    def hit(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the first hits of rays from the camera.

        Args:
            rays: float32 [R, 3], camera frame; with z = 1 the distances are depths.

        Returns:
            faces int [R] (-1: none), distances float32 [R] in lengths of the ray (inf: none), barycentric u, v [R, 2].
        """
        hits = self.scene.run(np.zeros_like(rays), rays, output=True)
        faces = hits["primID"]
        distance = np.where(faces < 0, np.float32(np.inf), hits["tfar"])
        return faces, distance, np.stack((hits["u"], hits["v"]), -1)

    def owners(self, rays: np.ndarray) -> np.ndarray:
        """Return the owner of each ray's first hit, int [R]; SCENERY where there is none."""
        faces = self.scene.run(np.zeros_like(rays), rays)
        return np.where(faces < 0, SCENERY, self.owner_of_face[faces])

    def shadowed(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Return whether something hides the light [3] from points [R, 3], camera frame: bool [R]."""
        hits = self.scene.run(
            points, (light - points).astype(np.float32), dists=np.ones(len(points), np.float32), query="OCCLUDED"
        )
        return hits >= 0


def pixel_rays(u: np.ndarray, v: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Return rays through image points (u, v), pixels, with z = 1: float32 [..., 3], camera frame."""
    (fx, _, cx), (_, fy, cy), _ = intrinsics
    return np.stack(((u - cx) / fx, (v - cy) / fy, np.ones_like(u)), -1).astype(np.float32)


# ------------------------------------------------------------ textures


# ------------------------------------------------------------ sensor


def linear(srgb: np.ndarray) -> np.ndarray:
    """Return the linear light of a colour on a screen, by a power of 2.2."""
    return np.maximum(srgb, 0) ** np.float32(2.2)
