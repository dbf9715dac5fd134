# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Exact intersection over union of oriented 3D boxes, in pure torch.

Boxes are corners [N, 8, 3] in the order of `llmi3d.processing.geometry_llmi3d.box_corners`, in metres, all in one
frame. Computation is in float64, on the device of the corners, and differentiable.

>>> cube = 0.5 * torch.tensor(CORNER_SIGNS)[None]
>>> box3d_iou(cube, cube + torch.tensor([0.5, 0.0, 0.0])).tolist()  # half of each is shared: 0.5 / 1.5
[[0.3333333333333333]]

Method. An affine map takes box B onto the cube [-1, 1]^3 and box A onto a parallelepiped around `offset` with half
axes `axes`. It keeps ratios of volumes, and no coordinate far from the boxes enters. The shared volume lies between z
= -1 and z = 1, within B's footprint, under the upper faces of A and above its lower ones:

    volume = sum over the faces of A of the integral of clamp(z, -1, 1) + 1 over (face within |x| <= 1, |y| <= 1) dx dy

with dx dy negative for faces that look down (the divergence theorem for the field (0, 0, clamp(z) + 1)). Each face is
clipped by four planes (Sutherland-Hodgman) and cut into triangles, which are integrated in closed form. No face of B
is visited, so coplanar faces cannot be counted twice or missed. Every term is a continuous function of the corners:
rounding errors stay rounding errors.

Shapes: N, M boxes, P pairs, Q polygons, K slots of a polygon (repeated vertices fill the unused ones). Internally the
long dimension comes last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llmi3d.processing.geometry_llmi3d import CORNER_SIGNS, at_least_float32

# The corners of each face, counter-clockwise as seen from outside.
FACES = ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (3, 7, 6, 2), (0, 4, 7, 3), (1, 2, 6, 5))

# Largest distance of corners from those of a true box, in units of its shortest edge, and cosine between its edges.
BOX_TOLERANCE = 1e-3

# Two boxes share an upright axis when their axes differ by less than this, in units of the other box's half edges.
UPRIGHT_TOLERANCE = 1e-9

# A vertex this close to a clipping plane (in half edges of B) lies on it. This bounds the gradients of cut points.
ON_PLANE = 1e-11

# Pairs processed at a time: few enough for a CPU's cache, many enough to fill an accelerator.
PAIRS_PER_CHUNK = {"cpu": 4096, "other": 65536}


def box3d_iou(
    corners_a: Tensor, corners_b: Tensor, *, paired: bool = False, pairs_per_chunk: int | None = None
) -> Tensor:
    """Compute the intersection over union of oriented boxes.

    Args:
        corners_a: [N, 8, 3] in the order of `box_corners`, metres.
        corners_b: [M, 8, 3], same frame and device.
        paired: compare box i with box i (M = N) instead of every box with every other.
        pairs_per_chunk: pairs processed at a time (default `PAIRS_PER_CHUNK`). It bounds the memory and changes no
            result.

    Returns:
        float64 [N, M], or [N] if `paired`; within [0, 1], exactly 0 for boxes that a face plane separates.

    Raises:
        ValueError: corners that are not boxes (not finite, flat, mirrored, not at right angles), or wrong shapes.
    """
    boxes_a, boxes_b = _to_boxes(corners_a, "corners_a"), _to_boxes(corners_b, "corners_b")
    shared = _intersection(boxes_a, boxes_b, paired, pairs_per_chunk)
    volume_a = boxes_a.volume if paired else boxes_a.volume[:, None]
    # Rounding must not lift the ratio above 1.
    shared = torch.minimum(shared, torch.minimum(volume_a, boxes_b.volume))
    return shared / (volume_a + boxes_b.volume - shared)


def intersection_volume(
    corners_a: Tensor, corners_b: Tensor, *, paired: bool = False, pairs_per_chunk: int | None = None
) -> Tensor:
    """Return the shared volume in cubic metres, float64 [N, M] or [N] if `paired`. Otherwise as `box3d_iou`."""
    boxes_a, boxes_b = _to_boxes(corners_a, "corners_a"), _to_boxes(corners_b, "corners_b")
    return _intersection(boxes_a, boxes_b, paired, pairs_per_chunk)


def volume(corners: Tensor) -> Tensor:
    """Return the volume of boxes with corners [N, 8, 3] in metres, float64 [N]. Raises as `box3d_iou`."""
    return _to_boxes(corners, "corners").volume


# ------------------------------------------------------------------------------------------------------------ boxes


@dataclass(frozen=True)
class _Boxes:
    """Boxes as affine maps of the cube [-1, 1]^3: point = center + half_axes @ point of the cube."""

    center: Tensor  # [3, N]
    half_axes: Tensor  # [3, 3, N], columns
    inverse: Tensor  # [3, 3, N], of half_axes
    radius: Tensor  # [N], of the sphere around the box
    volume: Tensor  # [N]


def _to_boxes(corners: Tensor, name: str) -> _Boxes:
    if corners.ndim != 3 or corners.shape[1:] != (8, 3):
        raise ValueError(f"{name}: got shape {tuple(corners.shape)}, want (number of boxes, 8, 3).")
    part = 8192 if corners.device.type == "cpu" else 131072
    parts = [_boxes_of_part(some, name, part * index) for index, some in enumerate(corners.split(part))]
    return _Boxes(*(torch.cat(tensors, -1) for tensors in zip(*parts, strict=True)))


def _boxes_of_part(corners: Tensor, name: str, first: int) -> tuple[Tensor, ...]:
    precision = torch.finfo(at_least_float32(corners[:0]).dtype).eps
    corners = corners.double().movedim(0, -1).contiguous()  # [8, 3, N]
    signs = corners.new_tensor(CORNER_SIGNS)
    relative = corners - corners[:1]  # far from the origin of the frame, differences keep more digits than corners
    middle = relative.mean(0)
    half_axes = (signs.t() @ relative.flatten(1) / 8).unflatten(1, (3, -1)).transpose(0, 1)
    cofactors = _cofactors(half_axes)
    determinant = (cofactors[:, 0] * half_axes[:, 0]).sum(0)
    with torch.no_grad():
        distance = (relative - middle - (signs[:, None, :, None] * half_axes).sum(2)).square().sum(1).amax(0).sqrt()
        noise = 4 * precision * corners.abs().amax((0, 1))  # what rounding in the caller's precision may have done
        _check_boxes(corners, half_axes, determinant, distance, noise, name, first)
    inverse = cofactors.transpose(0, 1) / determinant
    return middle + corners[0], half_axes, inverse, half_axes.detach().square().sum((0, 1)).sqrt(), 8 * determinant


def _cofactors(matrix: Tensor) -> Tensor:
    """Return the cofactors of matrices [3, 3, N]: column j is the cross product of the other two columns."""
    upper, lower = matrix.roll(-1, 0), matrix.roll(-2, 0)
    return upper.roll(-1, 1) * lower.roll(-2, 1) - upper.roll(-2, 1) * lower.roll(-1, 1)


def _check_boxes(
    corners: Tensor, half_axes: Tensor, determinant: Tensor, distance: Tensor, noise: Tensor, name: str, first: int
) -> None:
    """Raise a ValueError that names the first invalid box of [8, 3, N]; the part starts at box `first`.

    `distance` [N] is that of the farthest corner from the nearest parallelepiped, `noise` [N] the rounding error in
    it.
    """
    length = half_axes.square().sum(0).sqrt()  # [3, N]
    shortest = 2 * length.amin(0)
    cosine = (half_axes * half_axes.roll(-1, 1)).sum(0).abs() / (length * length.roll(-1, 0))
    cosine = cosine.amax(0)
    not_finite = ~corners.isfinite().flatten(0, 1).all(0)
    not_parallel = distance > BOX_TOLERANCE * shortest + noise
    flat = ~((shortest > noise) & determinant.isfinite() & (determinant != 0))
    not_square = cosine > BOX_TOLERANCE + 2 * noise / shortest
    bad = not_finite | not_parallel | flat | not_square | (determinant < 0)
    if not bad.any():
        return
    index = int(bad.int().argmax())
    box = f"{name}: box {first + index}"
    if not_finite[index]:
        raise ValueError(f"{box} has corners {corners[..., index].tolist()}, want finite coordinates.")
    if not_parallel[index]:
        raise ValueError(
            f"{box} has a corner {distance[index]:.3g} m away from the nearest box with parallel edges, want at most "
            f"{BOX_TOLERANCE:g} of its shortest edge; corners come in the order of box_corners."
        )
    if flat[index]:
        edges = " x ".join(f"{2 * half:.6g}" for half in length[:, index].tolist())
        raise ValueError(f"{box} has edges of {edges} m (no volume), want every edge above {noise[index]:.3g} m.")
    if not_square[index]:
        raise ValueError(
            f"{box} has edges whose directions have a cosine of {cosine[index]:.3g}, want right angles (at most "
            f"{BOX_TOLERANCE:g})."
        )
    raise ValueError(
        f"{box} has a volume of {8 * determinant[index]:.6g} m^3, want one above 0: its corners are mirrored against "
        "the order of box_corners."
    )


# ------------------------------------------------------------------------------------------------------------ pairs


def _intersection(a: _Boxes, b: _Boxes, paired: bool, pairs_per_chunk: int | None) -> Tensor:
    count_a, count_b, device = len(a.volume), len(b.volume), a.volume.device
    if paired and count_a != count_b:
        raise ValueError(f"{count_a} boxes in corners_a, {count_b} in corners_b: want as many in both if paired.")
    if pairs_per_chunk is None:
        pairs_per_chunk = PAIRS_PER_CHUNK["cpu" if device.type == "cpu" else "other"]
    if pairs_per_chunk < 1:
        raise ValueError(f"pairs_per_chunk: got {pairs_per_chunk}, want at least 1.")

    pairs, block = count_a if paired else count_a * count_b, 16 * pairs_per_chunk
    differentiable = torch.is_grad_enabled() and (a.volume.requires_grad or b.volume.requires_grad)
    shared = []
    for first in range(0, max(pairs, 1), block):
        pair = torch.arange(first, min(first + block, pairs), device=device)
        index_a, index_b = (pair, pair) if paired else (pair // max(count_b, 1), pair % max(count_b, 1))
        near = _near(a, b, index_a, index_b).nonzero().squeeze(1)
        index_a, index_b = index_a[near], index_b[near]
        offset = a.center[:, index_a] - b.center[:, index_b]
        inputs = (offset, a.half_axes[:, :, index_a], b.inverse[:, :, index_b])
        volumes = []
        for chunk in zip(*(tensor.split(pairs_per_chunk, -1) for tensor in inputs), strict=True):
            if differentiable and pairs > pairs_per_chunk:
                # Recomputed in the backward pass; otherwise the steps of all chunks would be kept in memory.
                volumes.append(checkpoint(_pair_volumes, *chunk, True, use_reentrant=False, preserve_rng_state=False))
            else:
                volumes.append(_pair_volumes(*chunk, differentiable))
        shared.append(offset.new_zeros(len(pair)).index_put((near,), torch.cat(volumes)))
    shared = torch.cat(shared)
    return (shared if paired else shared.view(count_a, count_b)) * (b.volume / 8)


def _near(a: _Boxes, b: _Boxes, index_a: Tensor, index_b: Tensor) -> Tensor:
    """Return whether the spheres around boxes `index_a` [P] of `a` and `index_b` [P] of `b` meet, [P]."""
    with torch.no_grad():
        offset = a.center.index_select(1, index_a) - b.center.index_select(1, index_b)
        return offset.square().sum(0) < (a.radius[index_a] + b.radius[index_b]).square()


def _pair_volumes(offset: Tensor, half_axes_a: Tensor, inverse_b: Tensor, differentiable: bool) -> Tensor:
    """Return the shared volumes [P] if B's volume is 8, with A at `offset` [3, P] from B's centre."""
    offset = (inverse_b * offset).sum(1)
    axes = (inverse_b[:, :, None] * half_axes_a).sum(1)
    meet = ~_separated(offset.detach(), axes.detach())
    row, column, upright = _upright_axis(axes.detach())
    # The quick route treats the upright axes as equal and has no derivative with respect to tilt.
    quick = meet & upright & (not differentiable)
    general, quick = (meet & ~quick).nonzero().squeeze(1), quick.nonzero().squeeze(1)
    shared = offset.new_zeros(offset.shape[1])
    if len(general) or differentiable:  # without pairs too, so that there is something to differentiate
        shared = shared.index_put((general,), _general_volume(offset[:, general], axes[:, :, general]))
    if len(quick):
        volumes = _upright_volume(offset[:, quick], axes[:, :, quick], row[quick], column[quick])
        shared = shared.index_put((quick,), volumes)
    return shared.clamp(min=0)


def _separated(offset: Tensor, axes: Tensor) -> Tensor:
    """Return whether a separating axis exists, [P], for `offset` [3, P] and `axes` [3, 3, P] (columns).

    The 15 candidates are the face normals of the cube and of the parallelepiped and the cross products of their edges.
    """
    size = axes.abs()
    next_row, last_row = axes.roll(-1, 0), axes.roll(-2, 0)
    normals = _cofactors(axes)  # of the parallelepiped's faces
    normals_size = normals.abs()
    by_cube = (offset.abs() >= 1 + size.sum(1)).any(0)
    determinant = (normals[:, 0] * axes[:, 0]).sum(0).abs()
    by_faces = ((normals * offset[:, None]).sum(0).abs() >= determinant + normals_size.sum(0)).any(0)
    # Unit axis i times axis j. For parallel edges this is a vector of rounding errors, which must not separate.
    distance = (next_row * offset.roll(-2, 0)[:, None] - last_row * offset.roll(-1, 0)[:, None]).abs()
    extent = next_row.abs() + last_row.abs() + normals_size.roll(-1, 1) + normals_size.roll(-2, 1)
    margin = 1e-12 * size.sum(0) * (1 + size.sum((0, 1)) + offset.abs().sum(0))
    return by_cube | by_faces | (distance > extent + margin).flatten(0, 1).any(0)


def _upright_axis(axes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the axes of B (row [P]) and A (column [P]) closest to parallel, and whether they are parallel [P]."""
    # Parallel: every other entry in the row and in the column vanishes.
    cell = torch.arange(9, device=axes.device)
    same_row, same_column = cell[:, None] // 3 == cell // 3, cell[:, None] % 3 == cell % 3
    others = (same_row ^ same_column).to(axes)
    worst, best = (others @ axes.abs().flatten(0, 1)).min(0)
    return best // 3, best % 3, worst <= UPRIGHT_TOLERANCE


def _upright_volume(offset: Tensor, axes: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the volumes [P] shared with the cube if its axis `row` [P] is parallel to axis `column` [P]."""
    turn = torch.tensor([1, 2, 0], device=row.device)[:, None]
    row, column = (row + turn) % 3, (column + turn) % 3  # now the upright axes come last
    offset = offset.gather(0, row)
    axes = axes.flatten(0, 1).gather(0, (3 * row[:, None] + column).flatten(0, 1)).unflatten(0, (3, 3))
    half_height = axes[2, 2].abs()
    height = (offset[2] + half_height).clamp(max=1) - (offset[2] - half_height).clamp(min=-1)
    signs = axes.new_tensor(CORNER_SIGNS)[:4, :2]
    polygon = offset[:2] + (signs[:, None, :, None] * axes[:2, :2]).sum(2)
    x, y = _clip_to_footprint(polygon.unbind(1))
    x, y = x[1:] - x[:1], y[1:] - y[:1]
    return 0.5 * (x[:-1] * y[1:] - y[:-1] * x[1:]).sum(0).abs() * height.clamp(min=0)


def _general_volume(offset: Tensor, axes: Tensor) -> Tensor:
    """Return the volumes [P] shared by the cube and parallelepipeds at `offset` [3, P] with `axes` [3, 3, P]."""
    signs = axes.new_tensor(CORNER_SIGNS)
    corners = offset + (signs[:, None, :, None] * axes).sum(2)
    polygons = corners[torch.tensor(FACES, device=axes.device).t()]  # [4, 6, 3, P]
    # Most faces miss the footprint or lie below the cube.
    low, high = polygons.detach().amin(0), polygons.detach().amax(0)
    counts = ((low[:, :2] < 1) & (high[:, :2] > -1)).all(1) & (high[:, 2] > -1)
    counts = counts.flatten().nonzero().squeeze(1)
    polygons = [polygons[:, :, coordinate].flatten(1)[:, counts] for coordinate in range(3)]
    volumes = _volume_below(*_clip_to_footprint(polygons))
    return volumes.new_zeros(len(FACES) * offset.shape[1]).index_put((counts,), volumes).view(len(FACES), -1).sum(0)


def _volume_below(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Integrate clamp(z, -1, 1) + 1 over dx dy on convex polygons (x, y, z [K, Q]): [Q], signed by orientation."""
    x, y = x[1:] - x[:1], y[1:] - y[:1]
    double_area = x[:-1] * y[1:] - y[:-1] * x[1:]
    heights = z[:1].expand_as(z[2:]), z[1:-1], z[2:]
    mean = _mean_positive(*(height + 1 for height in heights)) - _mean_positive(*(height - 1 for height in heights))
    return 0.5 * (double_area * mean).sum(0)


def _mean_positive(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the mean over a triangle of max(f, 0), with f linear and a, b, c its values at the vertices."""
    low, middle, high = torch.minimum(a, b), torch.maximum(a, b), c
    low, middle, high = torch.minimum(low, high), middle, torch.maximum(low, high)
    middle, high = torch.minimum(middle, high), torch.maximum(middle, high)
    # One vertex is alone on its side of zero and cuts off a small triangle. If it is the low one, that triangle
    # corrects the mean of f.
    low_alone = (middle > 0).to(middle)
    alone = torch.lerp(high.clamp(min=0), (-low).clamp(min=0), low_alone)
    gap = torch.lerp(high - middle, middle - low, low_alone).clamp(min=1e-30)
    corner = alone * (alone / (high - low).clamp(min=1e-30)) * (alone / gap)
    return (low_alone * (low + middle + high) + corner) / 3


def _clip_to_footprint(polygons: Sequence[Tensor]) -> Sequence[Tensor]:
    """Clip convex polygons to |x| <= 1 and |y| <= 1. Coordinates (x, y, ...), each [K, Q], become [K + 4, Q]."""
    for coordinate, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        polygons = _clip(polygons, sign * polygons[coordinate] - 1)
    return polygons


def _clip(polygons: Sequence[Tensor], excess: Tensor) -> Sequence[Tensor]:
    """Clip convex polygons to where `excess` [K, Q] is not positive. Coordinates, each [K, Q], become [K + 1, Q].

    Counted from the vertex farthest outside, the vertices from the first to the last one inside are kept. So rounding
    along an edge that lies in the plane neither drops a corner nor breaks the outline.
    """
    count, width = excess.shape
    column = torch.arange(width, device=excess.device)
    # Slots stay bytes, chosen by arithmetic, until they index: several times faster than int64 and `where`.
    slot = torch.arange(count + 1, device=excess.device, dtype=torch.uint8)[:, None]
    value = excess.detach()
    farthest = ((value == value.amax(0)) * slot[:count]).amax(0)
    order = farthest + slot
    order = order - count * (order >= count).byte()
    inside = _take(value, order.long() * width + column) <= ON_PLANE
    first, last = count - ((count - slot) * inside).amax(0), (slot * inside).amax(0)

    # The edges that cross: from the slot before the first one kept, and to the slot after the last one kept.
    ends = torch.stack((first - (first > 0).byte(), last + (last < count).byte(), first, last)) + farthest
    outer, inner = ((ends - count * (ends >= count).byte()).long() * width + column).unflatten(0, (2, 2))
    depth = -_take(excess, inner).clamp(max=0)
    part = depth / (_take(excess, outer) + depth).clamp(min=ON_PLANE)

    before, after, empty = slot < first, slot > last, first == count
    source = (order * ~(before | after) + count * before.byte() + (count + 1) * after.byte()) * ~empty
    source = source.long() * width + column
    clipped = []
    for coordinate in polygons:
        start = _take(coordinate, inner)
        crossings = start + part * (_take(coordinate, outer) - start)
        clipped.append(_take(torch.cat((coordinate, crossings)), source))
    return clipped


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.flatten().index_select(0, index.flatten()).view(index.shape)
