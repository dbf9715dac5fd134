# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Light of version 2: soft shadows, light from all sides that corners get less of, reflections, clouds, smooth edges.

Rays per pixel stay few. Each pixel of a block of 4 x 4 looks in a direction of its own for what hides the light and the
sky, and the block's mean on one surface is what counts. At edges four more rays choose among the colours of
neighbouring pixels ("subpixel reconstruction antialiasing", Chajdas et al. 2011).

Shapes: R rays, H x W pixels. All vectors are in the camera frame unless a name says otherwise.
"""

import numpy as np

from llmi3d.data.synthetic.render import EPSILON, SCENERY, Light, Rendered, Tracer, linear, pixel_rays
from llmi3d.data.synthetic.shapes import cross
from llmi3d.data.synthetic.textures import TEXTURES, noise

BLOCK = 4
# Faces that meet at less than this angle are shaded as one curved surface.
CREASE = np.float32(np.cos(np.radians(40)))
# Where the four additional rays of a pixel at an edge pass, pixels from its centre.
SUBPIXELS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))


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
    place = ((v.astype(int) % BLOCK) * BLOCK + u.astype(int) % BLOCK).reshape(-1)
    color = _shade(tracer, rays, faces, depth, weights, light, place, (height, width), 1 / intrinsics[0, 0])
    color = color.reshape(height, width, 3)
    _smooth_edges(tracer, color, faces, depth, rays, intrinsics)
    owners = np.where(faces < 0, SCENERY, tracer.owner_of_face[faces])
    return Rendered(color, depth.reshape(height, width), owners.reshape(height, width).astype(np.int32))


def _shade(tracer, rays, faces, depth, weights, light, place, shape, pixel_angle):
    """Return linear RGB [R, 3]."""
    to_camera = tracer.to_camera.astype(np.float32)
    up = -to_camera[:, 1]
    source = to_camera @ np.array(light.position, np.float32)
    hit = np.flatnonzero(faces >= 0)
    face, ray, far = faces[hit], rays[hit], depth[hit]
    length = np.sqrt(np.einsum("ij,ij->i", ray, ray))
    view = ray / -length[:, None]
    points = ray * far[:, None]
    mesh, index = _hit_mesh(tracer, face)
    flat = mesh["normals"][index]
    flip = np.where(np.einsum("ij,ij->i", flat, view) < 0, np.float32(-1), np.float32(1))[:, None]
    flat *= flip
    u, v = weights[hit, :1], weights[hit, 1:]
    shape_weights = np.concatenate((1 - u - v, u, v), 1)
    normal = np.einsum("ik,ikj->ij", shape_weights, mesh["corner_normals"][index]) * flip
    normal /= np.maximum(np.sqrt(np.einsum("ij,ij->i", normal, normal)), 1e-6)[:, None]
    facing = np.maximum(np.einsum("ij,ij->i", normal, view), 0.02)

    where = np.einsum("ik,ikj->ij", shape_weights, tracer.local[face])
    pixel = far * length * np.float32(pixel_angle) / np.sqrt(facing)
    albedo, gloss, glow = _surfaces(tracer, face, where, mesh["axis"][index], pixel)

    # What reaches the eye: each pixel of a block asks in its own direction.
    asked = place[hit]
    start = points + flat * (EPSILON * np.maximum(1, far))[:, None]
    to_light = source - points
    to_light /= np.sqrt(np.einsum("ij,ij->i", to_light, to_light))[:, None]
    lambert = np.maximum(np.einsum("ij,ij->i", normal, to_light), 0)
    lit = np.flatnonzero((lambert > 0) & (np.einsum("ij,ij->i", flat, to_light) > 0))
    seen = np.zeros((len(hit), 2), np.float32)
    seen[lit, 0] = _free(tracer, start[lit], source + np.float32(light.size) * _DIRECTIONS[asked[lit]] - start[lit])
    around = flat + np.float32(0.97) * _DIRECTIONS[15 - asked]
    around *= np.float32(light.reach) / np.sqrt(np.einsum("ij,ij->i", around, around))[:, None]
    seen[:, 1] = _free(tracer, start, around)
    seen = _block_means(seen, hit, tracer.sides[face], far, shape)

    sun = np.array(light.color, np.float32)
    ambient, bounce = np.array(light.ambient, np.float32), np.array(light.bounce, np.float32)
    above = (0.5 + 0.5 * np.einsum("ij,j->i", normal, up))[:, None]
    all_sides = (ambient * above + bounce * (1 - above)) * (0.12 + 0.88 * seen[:, 1:])
    direct = sun * (lambert * seen[:, 0])[:, None]
    shown = albedo * (all_sides + direct + glow[:, None])
    halfway = to_light + view
    halfway /= np.maximum(np.sqrt(np.einsum("ij,ij->i", halfway, halfway)), 1e-6)[:, None]
    sharp = 12 + 300 * gloss**2
    shine = np.maximum(np.einsum("ij,ij->i", normal, halfway), 0) ** sharp * gloss * (sharp + 8) / 60
    shown += (shine * seen[:, 0])[:, None] * sun

    glossy = np.flatnonzero(gloss >= 0.1)
    if len(glossy):
        cosine = facing[glossy]
        strength = 0.04 + 0.3 * np.maximum(gloss[glossy] - 0.55, 0)
        strength = np.minimum(gloss[glossy] * 2, 1) * (strength + (1 - strength) * (1 - cosine) ** 5)
        mirrored = 2 * cosine[:, None] * normal[glossy] - view[glossy]
        back = _environment(tracer, start[glossy], mirrored, light, up)
        shown[glossy] += strength[:, None] * (back - shown[glossy])
    clear = np.exp(-light.haze * far * length / 100)[:, None]
    horizon = linear(np.array(light.sky[0], np.float32))
    color = np.empty((len(rays), 3), np.float32)
    color[hit] = shown * clear + horizon * (1 - clear)
    empty = np.flatnonzero(faces < 0)
    color[empty] = sky(rays[empty], light, to_camera)
    return color


def _directions(count: int) -> np.ndarray:
    """Return directions [count, 3] spread evenly over a sphere, neighbours far from one another in the list."""
    k = (np.arange(count) * 7) % count + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    return np.stack((r * np.cos(turn), r * np.sin(turn), z), 1).astype(np.float32)


_DIRECTIONS = _directions(BLOCK * BLOCK)


def _free(tracer: Tracer, start: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return 1 where nothing stands on a path [R, 3] from a start, else 0: float32 [R]."""
    found = tracer.scene.run(start, path, dists=np.ones(len(start), np.float32), query="OCCLUDED")
    return (found < 0).astype(np.float32)


def _block_means(values, hit, key, depth, shape):
    """Return means [R, C] over the 4 x 4 pixels around each that show the same side of the same piece."""
    height, width = shape
    grid = np.zeros((height * width, values.shape[1]), np.float32)
    keys, far = np.full(height * width, -1, np.int64), np.ones(height * width, np.float32)
    grid[hit], keys[hit], far[hit] = values, key, depth
    grid, keys, far = grid.reshape(height, width, -1), keys.reshape(shape), far.reshape(shape)
    for axis in (0, 1):
        total, count = grid.copy(), np.ones(shape, np.float32)
        for shift in (-2, -1, 1):
            here, there = [slice(None)] * 2, [slice(None)] * 2
            if shift < 0:
                here[axis], there[axis] = slice(-shift, None), slice(0, shift)
            else:
                here[axis], there[axis] = slice(0, -shift), slice(shift, None)
            here, there = tuple(here), tuple(there)
            same = (keys[here] == keys[there]) & (np.abs(far[here] - far[there]) < 0.04 * far[here])
            total[here] += grid[there] * same[..., None]
            count[here] += same
        grid = total / count[..., None]
    return grid.reshape(-1, values.shape[1])[hit]


def _hit_mesh(tracer: Tracer, face: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return properties of the faces that were hit, each once, and where each ray's face is among them.

    `normals` [U, 3]; `corner_normals` [U, 3, 3], of the curved surface; `axis` [U], along which its texture is flat.
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
    return {"normals": normals[chosen], "corner_normals": smooth, "axis": axis}, index[face]


def _surfaces(tracer, face, where, axis, pixel):
    """Return linear albedo [R, 3], gloss [R] and glow [R] of hits."""
    surfaces, of_piece, look, _ = tracer.looks
    kind = of_piece[tracer.piece_of_face[face]]
    across = np.where(axis == 0, where[:, 2], where[:, 0])
    along = np.where(axis == 1, where[:, 2], where[:, 1])
    color = np.empty((len(face), 3), np.float32)
    order = np.argsort(kind, kind="stable")
    starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        surface = surfaces[kind[rows[0]]]
        color[rows] = TEXTURES[surface.texture](surface, across[rows], along[rows], pixel[rows])
    return linear(np.minimum(color, 1)), look[kind, 0], look[kind, 1]


def sky(rays: np.ndarray, light: Light, to_camera: np.ndarray) -> np.ndarray:
    """Return linear RGB [R, 3] of the sky: paler at the horizon, with clouds, bright about the sun."""
    if not len(rays):
        return np.zeros((0, 3), np.float32)
    world = rays @ to_camera
    world /= np.sqrt(np.einsum("ij,ij->i", world, world))[:, None]
    rise = np.maximum(-world[:, 1], 0)
    horizon, zenith = (linear(np.array(color, np.float32)) for color in light.sky)
    color = horizon + (zenith - horizon) * np.minimum(rise * 2, 1)[:, None] ** 0.6
    if light.clouds:
        far = 0.12 / (rise + 0.12)
        x, z = world[:, 0] * far * 2 + light.position[0], world[:, 2] * far * 2 + light.position[2]
        thick = 0.75 * noise("clouds", x / 4, z / 4) + 0.25 * noise("clouds", x * 1.1, z * 1.1)
        cover = np.clip((thick - 1 + light.clouds) * 3.5, 0, 1)[:, None]
        tone = horizon * (1.35 - 0.5 * np.clip(thick - 0.6, 0, 1))[:, None]
        color += cover * (tone - color)
    sun = np.array(light.position, np.float32)
    near = np.maximum(world @ (sun / np.linalg.norm(sun)), 0)[:, None]
    strength = np.array(light.color, np.float32)
    return color + strength * (0.5 * near**40 + 0.25 * near**6) * (1 - 0.6 * light.clouds)


def _environment(tracer: Tracer, start: np.ndarray, rays: np.ndarray, light: Light, up: np.ndarray) -> np.ndarray:
    """Return roughly what mirrors show: linear RGB [R, 3] of the sky, or of what is hit under the mean light."""
    faces = tracer.scene.run(start, rays)
    _, of_piece, _, mean = tracer.looks
    to_camera = tracer.to_camera.astype(np.float32)
    color = sky(rays, light, to_camera)
    hit = np.flatnonzero(faces >= 0)
    level = np.array(light.ambient, np.float32) * 0.8 + np.array(light.color, np.float32) * 0.25
    color[hit] = mean[of_piece[tracer.piece_of_face[faces[hit]]]] * level
    return color


def _smooth_edges(tracer, color, faces, depth, rays, intrinsics) -> None:
    """Replace colours at edges by means over four more rays, in place; each takes the colour of the pixel nearby
    that shows what it hits."""
    height, width = color.shape[:2]
    sides, near = _sides(tracer, faces), (1 / depth).astype(np.float32)
    grid, far = sides.reshape(height, width), near.reshape(height, width)
    edge = np.zeros((height, width), bool)
    whole, later, sooner = slice(None), slice(1, None), slice(0, -1)
    for here, there in (((later,), (sooner,)), ((whole, later), (whole, sooner))):
        broken = (grid[here] != grid[there]) | (np.abs(far[here] - far[there]) > 0.15 * far[here])
        edge[here] |= broken
        edge[there] |= broken
    edge[0] = edge[-1] = edge[:, 0] = edge[:, -1] = False
    middle = np.flatnonzero(edge)
    if not len(middle):
        return
    colors = np.minimum(color.reshape(-1, 3), 4)
    total = colors[middle].copy()
    inverse = np.array((1 / intrinsics[0, 0], 1 / intrinsics[1, 1], 0), np.float32)
    around = [middle + step for step in (0, 1, -1, width, -width)]
    shown = [(sides[at], near[at]) for at in around]
    for du, dv in SUBPIXELS:
        found, distance, _ = tracer.hit(rays[middle] + np.array((du, dv, 0), np.float32) * inverse)
        side, closeness = _sides(tracer, found), 1 / distance
        chosen, most = middle, np.zeros(len(middle), np.float32)
        for at, (other, nearness), (x, y) in zip(around, shown, _STEPS, strict=True):
            gap = np.abs(nearness - closeness)
            fit = (side == other) * (1.5 - np.minimum(gap / np.maximum(closeness, 1e-6), 1)) + 0.3 * (x * du + y * dv)
            better = fit > most
            chosen, most = np.where(better, at, chosen), np.where(better, fit, most)
        total += colors[np.where(most > 0.4, chosen, middle)]
    color.reshape(-1, 3)[middle] = total / (1 + len(SUBPIXELS))


_STEPS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def _sides(tracer: Tracer, faces: np.ndarray) -> np.ndarray:
    """Return which side of which piece each ray hits: int32 [R]; -1 in the sky."""
    return np.where(faces < 0, -1, tracer.sides[faces])
