# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Light of version 2: soft shadows, ambient light that is weaker in corners, reflections, clouds, smooth edges.

A pixel costs few rays. The pixels of a 4 x 4 block look in different directions for what hides the light or the sky,
and the mean over those of the block that show the same surface counts. At edges two more rays choose among the colours
of neighbouring pixels ("subpixel reconstruction antialiasing", Chajdas et al. 2011).

Shapes: R rays, H x W pixels. All vectors are in the camera frame unless a name says otherwise.
"""

import numpy as np

from llmi3d.data.synthetic.render import EPSILON, SCENERY, Light, Rendered, Tracer, linear, pixel_rays
from llmi3d.data.synthetic.shapes import cross
from llmi3d.data.synthetic.textures import TEXTURES, noise

BLOCK = 4
# Faces that meet at less than this angle are shaded as one curved surface.
CREASE = np.float32(np.cos(np.radians(40)))
# Where the additional rays of a pixel at an edge pass, pixels from its centre.
SUBPIXELS = ((-0.33, -0.17), (0.33, 0.17))


def photograph(
    tracer: Tracer, intrinsics: np.ndarray, image_size: tuple[int, int], light: Light, oversample: int = 1
) -> Rendered:
    """Render a scene.

    Args:
        tracer: the scene.
        intrinsics: [3, 3] K, pixels.
        image_size: (width, height), pixels.
        light: of the scene.
        oversample: pixels along each side of one pixel that its colour is the mean of; depth and owner are those of
            its centre.
    """
    if oversample > 1:
        fine = photograph(
            tracer, np.diag((oversample, oversample, 1)) @ intrinsics, tuple(oversample * n for n in image_size), light
        )
        width, height = image_size
        color = fine.color.reshape(height, oversample, width, oversample, 3).mean((1, 3))
        v, u = np.mgrid[0:height, 0:width] + 0.5
        faces, depth, _ = tracer.hit(pixel_rays(u, v, intrinsics).reshape(-1, 3))
        owners = np.where(faces < 0, SCENERY, tracer.owner_of_face[faces]).astype(np.int32)
        return Rendered(color, depth.reshape(height, width), owners.reshape(height, width))
    width, height = image_size
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    rays = pixel_rays(u + np.float32(0.5), v + np.float32(0.5), intrinsics.astype(np.float32)).reshape(-1, 3)
    faces, depth, weights = tracer.hit(rays)
    color = _shade(tracer, rays, faces, depth, weights, light, (height, width), np.float32(1 / intrinsics[0, 0]))
    _smooth_edges(tracer, color, faces, depth, rays, intrinsics, width)
    owners = np.where(faces < 0, SCENERY, tracer.owner_of_face[faces])
    color = np.ascontiguousarray(color.T).reshape(height, width, 3)
    return Rendered(color, depth.reshape(height, width), owners.reshape(height, width).astype(np.int32))


def _shade(tracer, rays, faces, depth, weights, light, shape, pixel_angle):
    """Return linear RGB [3, R]."""
    up = -tracer.to_camera[:, 1].astype(np.float32)
    source = (tracer.to_camera @ np.array(light.position)).astype(np.float32)
    hit = np.flatnonzero(faces >= 0)
    face, far = faces[hit], depth[hit]
    ray = rays[hit].T.copy()
    length = np.sqrt(_dot(ray, ray))
    view = ray / -length
    points = ray * far
    u, v = weights[hit].T
    mesh, index = _hit_mesh(tracer, face)
    flat = mesh["normals"][:, index]
    flip = np.where(_dot(flat, view) < 0, np.float32(-1), np.float32(1))
    flat *= flip
    normal, across, along = 0, 0, 0
    for corner, weight in enumerate((1 - u - v, u, v)):
        normal = normal + mesh["corner_normals"][corner][:, index] * (weight * flip)
        across = across + mesh["across"][corner][index] * weight
        along = along + mesh["along"][corner][index] * weight
    normal /= np.maximum(np.sqrt(_dot(normal, normal)), 1e-6)
    facing = np.maximum(_dot(normal, view), 0.02)
    albedo, gloss, glow = _surfaces(tracer, face, across, along, far * length * pixel_angle / np.sqrt(facing))

    # What reaches a point: each pixel of a block asks for the light or for the sky, in a direction of its own.
    row, column = np.divmod(hit, shape[1])
    asked = _DIRECTIONS[:, (row % BLOCK) * BLOCK + column % BLOCK]
    start = points + flat * (EPSILON * np.maximum(1, far))
    to_light = source[:, None] - points
    to_light /= np.sqrt(_dot(to_light, to_light))
    lambert = np.maximum(_dot(normal, to_light), 0)
    path = flat - np.float32(0.97) * asked
    path *= np.float32(light.reach) / np.sqrt(_dot(path, path))
    for_light = (row + column) % 2 == 0
    chosen = np.flatnonzero(for_light)
    path[:, chosen] = source[:, None] + np.float32(light.size) * asked[:, chosen] - start[:, chosen]
    free = _free(tracer, start, path)
    free[for_light & (_dot(flat, to_light) <= 0)] = 0
    sun_seen, open_sky = _block_means(free, for_light, hit, tracer.sides[face], far, shape)

    sun, ambient, bounce = (_column(color) for color in (light.color, light.ambient, light.bounce))
    above = 0.5 + 0.5 * _dot(normal, up[:, None])
    lambert *= sun_seen
    shown = bounce + (ambient - bounce) * above
    shown *= 0.12 + 0.88 * open_sky
    shown += sun * lambert
    shown += glow
    shown *= albedo
    glossy = np.flatnonzero(gloss > 0)
    if len(glossy):
        _add_gloss(tracer, shown, glossy, gloss, normal, view, facing, to_light, start, sun * sun_seen[glossy], light)
    clear = np.exp(-light.haze * far * length / 100)
    horizon = linear(_column(light.sky[0]))
    color = np.empty((3, len(rays)), np.float32)
    color[:, hit] = horizon + (shown - horizon) * clear
    empty = np.flatnonzero(faces < 0)
    color[:, empty] = sky(rays[empty].T, light, tracer.to_camera)
    return color


def _add_gloss(tracer, shown, glossy, gloss, normal, view, facing, to_light, start, sun, light) -> None:
    """Add highlights and reflections to the light `shown` [3, R] of some points, in place."""
    gloss, normal, view, cosine = gloss[glossy], normal[:, glossy], view[:, glossy], facing[glossy]
    halfway = to_light[:, glossy] + view
    halfway /= np.maximum(np.sqrt(_dot(halfway, halfway)), 1e-6)
    sharp = 12 + 300 * gloss**2
    color = shown[:, glossy] + np.maximum(_dot(normal, halfway), 0) ** sharp * gloss * (sharp + 8) / 60 * sun
    mirror = np.flatnonzero(gloss >= 0.1)
    if len(mirror):
        gloss, cosine, normal = gloss[mirror], cosine[mirror], normal[:, mirror]
        strength = 0.04 + 0.3 * np.maximum(gloss - 0.55, 0)
        strength = np.minimum(gloss * 2, 1) * (strength + (1 - strength) * (1 - cosine) ** 5)
        back = _environment(tracer, start[:, glossy[mirror]], 2 * cosine * normal - view[:, mirror], light)
        color[:, mirror] += strength * (back - color[:, mirror])
    shown[:, glossy] = color


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _column(color) -> np.ndarray:
    return np.array(color, np.float32)[:, None]


def _directions(count: int) -> np.ndarray:
    """Return directions [count, 3] spread evenly over a sphere, neighbours far from one another in the list."""
    k = (np.arange(count) * 7) % count + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    return np.stack((r * np.cos(turn), r * np.sin(turn), z)).astype(np.float32)


_DIRECTIONS = _directions(BLOCK * BLOCK)


def _free(tracer: Tracer, start: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return 1 where nothing stands on a path [3, R] from a start, else 0: float32 [R]."""
    start, path = np.ascontiguousarray(start.T), np.ascontiguousarray(path.T, np.float32)
    found = tracer.scene.run(start, path, dists=np.ones(len(start), np.float32), query="OCCLUDED")
    return (found < 0).astype(np.float32)


def _block_means(free, for_light, hit, side, depth, shape):
    """Return shares of free rays to the light and to the sky, [R] each, over the 4 x 4 pixels around each pixel that
    show the same side."""
    planes = []
    for value, kind in (
        (side, np.int32),
        (depth, np.float32),
        (free * for_light, np.float32),
        (for_light, np.float32),
        (free * ~for_light, np.float32),
        (~for_light, np.float32),
    ):
        plane = np.full(shape[0] * shape[1], -1, kind)
        plane[hit] = value
        planes.append(plane.reshape(shape))
    sides, far, *planes = planes
    for axis in (0, 1):
        totals = [plane.copy() for plane in planes]
        for shift in (-2, -1, 1):
            first = (slice(None),) * axis
            here, there = (*first, slice(-shift, None)), (*first, slice(None, shift))
            if shift > 0:
                here, there = (*first, slice(None, -shift)), (*first, slice(shift, None))
            same = (sides[here] == sides[there]) & (np.abs(far[here] - far[there]) < 0.04 * far[here])
            for total, plane in zip(totals, planes, strict=True):
                total[here] += plane[there] * same
        planes = totals
    lit, asked_light, clear, asked_sky = (plane.reshape(-1)[hit] for plane in planes)
    # A speck that asked for one of them alone takes it for the other too.
    shares = lit / np.maximum(asked_light, 1), clear / np.maximum(asked_sky, 1)
    return np.where(asked_light > 0, *shares), np.where(asked_sky > 0, *shares[::-1])


def _hit_mesh(tracer: Tracer, face: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return properties of the faces that were hit, each once, and where each ray's face is among them.

    `normals` [3, U]; for each of the three corners, `corner_normals` [3, U], of the curved surface, and `across` and
    `along` [U], the texture's coordinates.
    """
    used = np.zeros(len(tracer.triangles), bool)
    used[face] = True
    chosen = np.flatnonzero(used)
    index = np.empty(len(used), np.int32)
    index[chosen] = np.arange(len(chosen))
    areas, normals = tracer.areas
    # All faces at each corner of these.
    corner_of, first_of, corners = tracer.topology
    wanted = corners[chosen].reshape(-1)  # vertices
    count = first_of[wanted + 1] - first_of[wanted]
    begins = np.cumsum(count) - count
    others = corner_of[np.arange(count.sum()) - np.repeat(begins - first_of[wanted], count)] // 3
    own = np.repeat(np.repeat(chosen, 3), count)
    close = np.einsum("ij,ij->i", normals[others], normals[own]) > CREASE
    smooth = np.add.reduceat(areas[others] * close[:, None], begins).reshape(-1, 3, 3)
    smooth /= np.maximum(np.sqrt(np.einsum("ikj,ikj->ik", smooth, smooth)), 1e-12)[..., None]
    local = tracer.local[chosen]
    axis = np.abs(cross(local[:, 1] - local[:, 0], local[:, 2] - local[:, 0])).argmax(1)
    return {
        "normals": normals[chosen].T.copy(),
        "corner_normals": smooth.transpose(1, 2, 0).copy(),
        "across": np.where(axis == 0, local[..., 2].T, local[..., 0].T),
        "along": np.where(axis == 1, local[..., 2].T, local[..., 1].T),
    }, index[face]


def _surfaces(tracer, face, across, along, pixel):
    """Return linear albedo [3, R], gloss [R] and glow [R] of hits."""
    surfaces, of_piece, look, _ = tracer.looks
    kind = of_piece[tracer.piece_of_face[face]]
    color = np.empty((3, len(face)), np.float32)
    order = np.argsort(kind, kind="stable")
    starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        surface = surfaces[kind[rows[0]]]
        color[:, rows] = TEXTURES[surface.texture](surface, across[rows], along[rows], pixel[rows])
    color = np.clip(color, 0, 1)
    color *= color * (0.32 * color + 0.68)  # close to a power of 2.2, and far cheaper
    return color, look[kind, 0], look[kind, 1]


def sky(rays: np.ndarray, light: Light, to_camera: np.ndarray) -> np.ndarray:
    """Return linear RGB [3, R] of the sky: paler at the horizon, with clouds, bright about the sun."""
    x, y, z = to_camera.T.astype(np.float32) @ rays / np.sqrt(_dot(rays, rays))
    rise = np.maximum(-y, 0)
    horizon, zenith = (linear(_column(color)) for color in light.sky)
    color = horizon + (zenith - horizon) * np.minimum(rise * 2, 1) ** np.float32(0.6)
    if light.clouds:
        far = 0.24 / (rise + 0.12)
        a, b = x * far + light.position[0], z * far + light.position[2]
        thick = 0.75 * noise("clouds", a / 4, b / 4) + 0.25 * noise("clouds", a * 1.1, b * 1.1)
        cover = np.clip((thick - 1 + light.clouds) * 3.5, 0, 1)
        color += cover * (horizon * (1.35 - 0.5 * np.clip(thick - 0.6, 0, 1)) - color)
    sun = np.array(light.position, np.float32)
    near = np.maximum((x * sun[0] + y * sun[1] + z * sun[2]) / np.linalg.norm(sun), 0)
    near *= near
    broad = near * near * near
    return color + _column(light.color) * (0.5 * broad**7 + 0.25 * broad) * (1 - 0.6 * light.clouds)


def _environment(tracer: Tracer, start: np.ndarray, rays: np.ndarray, light: Light) -> np.ndarray:
    """Return roughly what mirrors show: linear RGB [3, R] of the sky, or of what is hit under the mean light."""
    faces = tracer.scene.run(np.ascontiguousarray(start.T), np.ascontiguousarray(rays.T))
    _, of_piece, _, mean = tracer.looks
    level = np.array(light.ambient, np.float32) * 0.8 + np.array(light.color, np.float32) * 0.25
    color = ((mean * level)[of_piece[tracer.piece_of_face[faces]]]).T.copy()
    empty = np.flatnonzero(faces < 0)
    color[:, empty] = sky(rays[:, empty], light, tracer.to_camera)
    return color


def _smooth_edges(tracer, color, faces, depth, rays, intrinsics, width) -> None:
    """Replace colours [3, R] at edges by means over more rays, in place; each takes the colour of the pixel nearby
    that shows what it hits."""
    sides, near = _sides(tracer, faces), (1 / depth).astype(np.float32)
    grid, far = sides.reshape(-1, width), near.reshape(-1, width)
    edge = np.zeros(grid.shape, bool)
    whole, later, sooner = slice(None), slice(1, None), slice(0, -1)
    for here, there in (((later,), (sooner,)), ((whole, later), (whole, sooner))):
        broken = (grid[here] != grid[there]) | (np.abs(far[here] - far[there]) > 0.15 * far[here])
        edge[here] |= broken
        edge[there] |= broken
    edge[0] = edge[-1] = edge[:, 0] = edge[:, -1] = False
    middle = np.flatnonzero(edge)
    if not len(middle):
        return
    total = np.minimum(color[:, middle], 4)
    inverse = np.array((1 / intrinsics[0, 0], 1 / intrinsics[1, 1], 0), np.float32)
    around = [middle + step for step in (0, 1, -1, width, -width)]
    shown = [(sides[at], near[at]) for at in around]
    own = rays[middle]
    for du, dv in SUBPIXELS:
        found, distance, _ = tracer.hit(own + np.array((du, dv, 0), np.float32) * inverse)
        side, closeness = _sides(tracer, found), (1 / distance).astype(np.float32)
        chosen, most = middle, np.full(len(middle), 0.4, np.float32)
        for at, (other, nearness), (x, y) in zip(around, shown, _STEPS, strict=True):
            gap = np.abs(nearness - closeness) / np.maximum(closeness, 1e-6)
            fit = (side == other) * (1.5 - np.minimum(gap, 1)) + np.float32(0.3 * (x * du + y * dv))
            better = fit > most
            chosen, most = np.where(better, at, chosen), np.where(better, fit, most)
        total += np.minimum(color[:, chosen], 4)
    color[:, middle] = total / (1 + len(SUBPIXELS))


_STEPS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def _sides(tracer: Tracer, faces: np.ndarray) -> np.ndarray:
    """Return which side of which piece each ray hits: int32 [R]; -1 in the sky."""
    return np.where(faces < 0, -1, tracer.sides[faces])
