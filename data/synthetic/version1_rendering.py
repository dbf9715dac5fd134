# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rendering of version 1, kept so that its images can be made again: one hard light, flat faces, a simple sensor."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from llmi3d.data.synthetic.render import EPSILON, SCENERY, Light, Rendered, Tracer, linear, pixel_rays


@dataclass(frozen=True)
class Sensor:
    """A camera's effects on light.

    Attributes:
        exposure: factor.
        white_balance: factors of R, G, B.
        vignette: loss of light in the corners, 0 to 1.
        blur_px: standard deviation of the blur, pixels.
        noise: standard deviation in the middle tones, of 1.
        quality: of the JPEG file.
    """

    exposure: float = 1.0
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    vignette: float = 0.0
    blur_px: float = 0.0
    noise: float = 0.0
    quality: int = 92


def render(
    tracer: Tracer, intrinsics: np.ndarray, image_size: tuple[int, int], light: Light, oversample: int = 1
) -> Rendered:
    """Render a scene.

    Args:
        tracer: the scene.
        intrinsics: [3, 3] K, pixels.
        image_size: (width, height), pixels.
        light: of the scene.
        oversample: rays along each side of a pixel for its colour; depth and owner are those of its centre.
    """
    width, height = image_size
    v, u = np.mgrid[0:height, 0:width].astype(np.float64) + 0.5
    rays = pixel_rays(u, v, intrinsics).reshape(-1, 3)
    faces, depth, weights = tracer.hit(rays)
    if oversample == 1:
        color = shade(tracer, rays, faces, depth, weights, light)
    else:
        color = np.zeros((height * width, 3), np.float32)
        steps = (np.arange(oversample) + 0.5) / oversample - 0.5
        for dv in steps:
            for du in steps:
                moved = pixel_rays(u + du, v + dv, intrinsics).reshape(-1, 3)
                color += shade(tracer, moved, *tracer.hit(moved), light)
        color /= oversample**2
    owners = np.where(faces < 0, SCENERY, tracer.owner_of_face[faces])
    return Rendered(
        color.reshape(height, width, 3), depth.reshape(height, width), owners.reshape(height, width).astype(np.int32)
    )


def shade(
    tracer: Tracer, rays: np.ndarray, faces: np.ndarray, distance: np.ndarray, weights: np.ndarray, light: Light
) -> np.ndarray:
    """Return linear RGB [R, 3] of hits, by Lambert's law with shadows, a highlight and haze, and of the sky."""
    up = -tracer.to_camera[:, 1].astype(np.float32)  # against gravity, camera frame
    steep = np.clip((rays @ up) / np.linalg.norm(rays, axis=1) * 2, 0, 1)[:, None]
    horizon, zenith = (linear(np.array(color, np.float32)) for color in light.sky)
    color = horizon * (1 - steep) + zenith * steep
    hit = np.flatnonzero(faces >= 0)
    if not len(hit):
        return color.astype(np.float32)
    face, ray = faces[hit], rays[hit]
    points = ray * distance[hit, None]
    triangles = tracer.triangles[face]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    normals *= -np.sign((normals * ray).sum(1, keepdims=True))  # towards the camera

    albedo, gloss, glow = _surfaces(tracer, face, weights[hit])
    source = (tracer.to_camera @ np.array(light.position)).astype(np.float32)
    to_light = source - points
    to_light /= np.linalg.norm(to_light, axis=1, keepdims=True)
    facing = np.maximum((normals * to_light).sum(1), 0)
    lit = np.flatnonzero(facing > 0)
    away = EPSILON * np.maximum(1, distance[hit])[:, None]
    facing[lit] *= ~tracer.shadowed((points + normals * away)[lit], source)
    view = -ray / np.linalg.norm(ray, axis=1, keepdims=True)
    halfway = to_light + view
    halfway /= np.maximum(np.linalg.norm(halfway, axis=1, keepdims=True), 1e-6)
    highlight = gloss * np.maximum((normals * halfway).sum(1), 0) ** 40 * (facing > 0)
    above = 0.7 + 0.3 * (normals @ up)
    shine = np.array(light.color, np.float32)
    seen = albedo * (np.array(light.ambient, np.float32) * above[:, None] + shine * facing[:, None])
    seen = seen + highlight[:, None] * shine + albedo * glow[:, None]
    clear = np.exp(-light.haze * distance[hit] / 100)[:, None]
    color[hit] = seen * clear + horizon * (1 - clear)
    return color.astype(np.float32)


def _surfaces(tracer: Tracer, face: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return linear albedo [R, 3], gloss [R] and glow [R] of hits."""
    corners = tracer.local[face]
    u, v = weights[:, :1], weights[:, 1:]
    where = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
    flat = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).argmax(1)
    piece = tracer.piece_of_face[face]
    albedo = np.empty((len(face), 3), np.float32)
    gloss, glow = np.empty(len(face), np.float32), np.empty(len(face), np.float32)
    order = np.argsort(piece, kind="stable")
    kinds, starts = np.unique(piece[order], return_index=True)
    for kind, rows in zip(kinds, np.split(order, starts[1:]), strict=True):
        surface = tracer.pieces[kind].surface
        first = np.array(surface.albedo, np.float32)
        second = first * 0.6 if surface.second is None else np.array(surface.second, np.float32)
        if surface.texture == "plain":
            albedo[rows] = linear(first)
        else:
            share = TEXTURES[surface.texture](where[rows], flat[rows], surface.scale)[:, None]
            albedo[rows] = linear(first * (1 - share) + second * share)
        gloss[rows], glow[rows] = surface.gloss, surface.glow
    return albedo, gloss, glow


def noise(points: np.ndarray) -> np.ndarray:
    """Return smooth noise [R] between 0 and 1 at points [R, 3], with a period of about one."""
    base = np.floor(points)
    t = (points - base).astype(np.float32)
    t = t * t * (3 - 2 * t)
    cell = base.astype(np.int64).astype(np.uint32)
    total = np.zeros(len(points), np.float32)
    for corner in range(8):
        offset = np.array([corner & 1, corner >> 1 & 1, corner >> 2], np.uint32)
        key = (cell + offset) * np.array([73856093, 19349663, 83492791], np.uint32)
        mixed = key[:, 0] ^ key[:, 1] ^ key[:, 2]
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(2246822519)
        value = (mixed >> np.uint32(8)).astype(np.float32) / 2**24
        total += value * np.where(offset, t, 1 - t).prod(1)
    return total


def _plane(points: np.ndarray, flat: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates within a surface, in periods: across (level where there is a choice) and along gravity."""
    across = np.where(flat == 0, points[:, 2], points[:, 0])
    along = np.where(flat == 1, points[:, 2], points[:, 1])
    return across / scale, along / scale


def _grid(points, flat, scale, line: float) -> np.ndarray:
    a, b = _plane(points, flat, scale)
    return ((a % 1 < line) | (b % 1 < line)).astype(np.float32)


def _bricks(points, flat, scale) -> np.ndarray:
    a, b = _plane(points, flat, scale)
    row = np.floor(b * 3)
    return (((a + 0.5 * (row % 2)) % 1 < 0.06) | ((b * 3) % 1 < 0.15)).astype(np.float32)


def _windows(points, flat, scale) -> np.ndarray:
    a, b = _plane(points, flat, scale)
    inside = (a % 1 > 0.3) & (a % 1 < 0.75) & (b % 1 > 0.25) & (b % 1 < 0.75)
    return (inside & (flat != 1)).astype(np.float32)


def _wood(points, flat, scale) -> np.ndarray:
    stretched = points / scale * np.array([0.3, 1.0, 1.0], np.float32)
    return 0.5 + 0.5 * np.sin(9 * (stretched[:, 1] + stretched[:, 2]) + 5 * noise(stretched * 1.7))


# Each gives at points [R, 3], on surfaces flat along axis `flat` [R], with a period in metres, the share of the second
# colour: [R], 0 to 1.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "plain": lambda points, flat, scale: np.zeros(len(points), np.float32),
    "speckle": lambda points, flat, scale: noise(points / scale * 7),
    "cloud": lambda points, flat, scale: 0.6 * noise(points / scale) + 0.4 * noise(points / scale * 3.1),
    "wood": _wood,
    "weave": lambda points, flat, scale: (_grid(points, flat, scale, 0.5) + noise(points / scale * 3)) / 2,
    "checks": lambda points, flat, scale: (sum(np.floor(axis) for axis in _plane(points, flat, scale)) % 2).astype(
        np.float32
    ),
    "stripes": lambda points, flat, scale: (_plane(points, flat, scale)[0] % 1 < 0.5).astype(np.float32),
    "planks": lambda points, flat, scale: np.maximum(
        (_plane(points, flat, scale)[0] % 1 < 0.05).astype(np.float32), 0.5 * _wood(points, flat, scale * 2)
    ),
    "tiles": lambda points, flat, scale: _grid(points, flat, scale, 0.05),
    "bricks": _bricks,
    "windows": _windows,
}


def develop(color: np.ndarray, sensor: Sensor, seed: int) -> bytes:
    """Return a JPEG file of linear light [H, W, 3]; `seed` decides the noise."""
    height, width = color.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    light = color * (sensor.exposure * np.array(sensor.white_balance, np.float32))
    light *= (1 - sensor.vignette * (x * x + y * y) / 2)[..., None]
    light = 1 - np.exp(-1.35 * light)  # highlights saturate softly
    shown = light ** np.float32(1 / 2.2)
    if sensor.noise:
        draws = np.random.default_rng(seed).standard_normal(color.shape, dtype=np.float32)
        shown = shown + draws * (sensor.noise * (0.6 + 0.8 * (1 - shown)))
    image = Image.fromarray((np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8))
    if sensor.blur_px:
        image = image.filter(ImageFilter.GaussianBlur(sensor.blur_px))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=sensor.quality)
    return file.getvalue()


def sensor(draw: Random, quality: tuple[int, int] = (70, 95)) -> Sensor:
    """Draw exposure, colour cast, blur and noise."""
    return Sensor(
        exposure=math.exp(draw.uniform(-0.35, 0.4)),
        white_balance=tuple(draw.uniform(0.93, 1.07) for _ in range(3)),
        vignette=draw.uniform(0, 0.3),
        blur_px=draw.choice((0.0, draw.uniform(0.2, 0.7))),
        noise=draw.uniform(0.0, 0.03),
        quality=draw.randint(*quality),
    )
