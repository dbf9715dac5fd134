# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Exact IoU of oriented boxes against two independent references: scipy's convex hulls and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection

from llmi3d.evaluation import box3d_iou, intersection_volume, iou3d, volume
from llmi3d.processing.geometry_llmi3d import box_corners, quaternion_to_matrix, yaw_to_matrix

ERROR = 1e-6


# ------------------------------------------------------------------------------------------------------- references


def scipy_intersection_volume(box_a, box_b) -> float:
    """Volume shared by two boxes, each (center [3], size [3], rotation [3, 3]) in numpy.

    The twelve half-spaces are written in B's own axes and units, where no length is extreme; a linear program finds
    the middle of their intersection, qhull its vertices and its volume.
    """
    (center_a, size_a, rotation_a), (center_b, size_b, rotation_b) = box_a, box_b
    normals_a = rotation_a.T @ rotation_b * (size_b / 2)  # rows: A's axes, measured along B's half edges
    reach_a, middle_a = size_a / 2, rotation_a.T @ (center_a - center_b)
    normals = np.concatenate((np.eye(3), -np.eye(3), normals_a, -normals_a))
    bounds = np.concatenate((np.ones(6), reach_a + middle_a, reach_a - middle_a))
    length = np.linalg.norm(normals, axis=1)
    normals, bounds = normals / length[:, None], bounds / length
    solution = linprog(
        [0, 0, 0, -1],
        A_ub=np.column_stack((normals, np.ones(12))),
        b_ub=bounds,
        bounds=[(None, None)] * 3 + [(None, 2)],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0 or solution.x[3] <= 1e-9:  # empty, or of no thickness
        return 0.0
    vertices = HalfspaceIntersection(np.column_stack((normals, -bounds)), solution.x[:3]).intersections
    # qhull's own tolerances are absolute: it sees the body at its full size along every axis.
    low, extent = vertices.min(0), np.ptp(vertices, axis=0)
    return ConvexHull((vertices - low) / extent).volume * extent.prod() * size_b.prod() / 8


def scipy_iou(boxes_a, boxes_b) -> torch.Tensor:
    """[N] from two tuples of (center [N, 3], size [N, 3], rotation [N, 3, 3])."""
    boxes_a, boxes_b = ([tensor.double().numpy() for tensor in boxes] for boxes in (boxes_a, boxes_b))
    ious = []
    for box_a, box_b in zip(zip(*boxes_a, strict=True), zip(*boxes_b, strict=True), strict=True):
        shared = scipy_intersection_volume(box_a, box_b)
        ious.append(shared / (box_a[1].prod() + box_b[1].prod() - shared))
    return torch.tensor(ious, dtype=torch.float64)


def random_rotations(count: int, generator: torch.Generator) -> torch.Tensor:
    return quaternion_to_matrix(torch.randn(count, 4, generator=generator, dtype=torch.float64))


def random_boxes(count: int, seed: int, spread: float = 0.6, upright: bool = False):
    """(center, size, rotation) of boxes with edges of 0.3 to 2.3 m around the origin."""
    generator = torch.Generator().manual_seed(seed)
    center = spread * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    size = 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) + 0.3
    if upright:
        yaw = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        return center, size, yaw_to_matrix(yaw)
    return center, size, random_rotations(count, generator)


def nasty_boxes(count: int, seed: int = 0) -> dict:
    """Two tuples (center, size, rotation) of `count` boxes each, by family: where a naive intersection goes wrong."""
    generator = torch.Generator().manual_seed(seed)
    center, size, rotation = random_boxes(count, seed)
    axis = torch.arange(count) % 3
    unit = torch.eye(3, dtype=torch.float64)[axis]
    part = torch.rand(count, 1, generator=generator, dtype=torch.float64)

    def moved(local_shift):  # along the box's own axes
        return center + (rotation @ local_shift[:, :, None]).squeeze(2)

    def turned(angle, axes=None):  # about one of the box's own axes
        half = torch.as_tensor(angle, dtype=torch.float64).expand(count)[:, None] / 2
        return rotation @ quaternion_to_matrix(
            torch.cat((half.cos(), half.sin() * (unit if axes is None else axes)), 1)
        )

    same = (center, size, rotation)
    needle = torch.where(unit > 0, 2.0, 2e-3).to(size)
    plate = torch.where(unit > 0, 2e-3, 2.0).to(size)
    cube, edge = torch.ones_like(size), 0.5 * (1 - unit)
    tiny = 1e-6 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    far = torch.tensor([1234.5, -2345.6, 3456.7], dtype=torch.float64)
    other = random_boxes(count, seed + 1)
    return {
        "identical": (same, same),
        "identical, axes renamed": (same, (center, size.roll(1, 1), rotation.roll(1, 2))),
        "nested": (same, (moved(0.1 * size * (part - 0.5)), 0.5 * size, turned(0.0))),
        "nested on a face": (same, (moved(0.25 * size * unit), 0.5 * size, rotation)),
        "nested in a corner": (same, (moved(0.25 * size), 0.5 * size, rotation)),
        "touching faces": (same, (moved(size * unit), size, rotation)),
        "touching edges": (same, (moved(size * (1 - unit)), size, rotation)),
        "touching corners": (same, (moved(size), size, rotation)),
        "coplanar faces, shifted": (same, (moved(part * size * unit), size, rotation)),
        "coplanar faces, turned": (same, (moved(0 * size), size, turned(6 * part[:, 0]))),
        "shared edge, turned": (
            (center, cube, rotation),
            (moved(edge) - (turned(part[:, 0]) @ edge[:, :, None]).squeeze(2), cube, turned(part[:, 0])),
        ),
        "45 degrees": ((center, cube, rotation), (center, cube, turned(math.pi / 4))),
        "45 degrees, edge on face": (
            (center, cube, rotation),
            (moved(math.sqrt(0.5) * unit.roll(1, 1)), cube, turned(math.pi / 4)),
        ),
        "90 degrees": ((center, cube, rotation), (center, cube, turned(math.pi / 2))),
        "crossed needles": ((center, needle, rotation), (center + 1e-4 * tiny, needle.roll(1, 1), rotation)),
        "needles at an angle": (
            (center, needle, rotation),
            (center, needle, turned(2e-3 * part[:, 0], unit.roll(1, 1))),
        ),
        "needle through a box": ((center, needle, rotation), other),
        "needles and plates": ((center, needle, rotation), (center + tiny, plate, other[2])),
        "plates": (
            (center, plate, rotation),
            (center + 1e3 * tiny, plate, turned(1e-3 * part[:, 0], unit.roll(1, 1))),
        ),
        "kilometres away": ((center + far, size, rotation), (other[0] + far, *other[1:])),
        "kilometres away, identical": ((center + far, size, rotation), (center + far, size, rotation)),
        "shifted by 1e-6": (same, (center + tiny, size, rotation)),
        "shifted by 1e-12": (same, (center + 1e-6 * tiny, size, rotation)),
        "turned by 1e-6": (same, (center, size, turned(1e-6))),
        "turned by 1e-10": (same, (center, size, turned(1e-10, unit.roll(1, 1)))),
        "turned by 1e-15": (same, (center, size, turned(1e-15))),
        "apart by 1e-6": (same, (moved(size * unit * (1 + 1e-6)), size, rotation)),
    }


FAMILIES = tuple(nasty_boxes(1))


def largest_error(boxes_a, boxes_b) -> float:
    ious = box3d_iou(box_corners(*boxes_a), box_corners(*boxes_b), paired=True)
    assert ((ious >= 0) & (ious <= 1)).all()
    return (ious - scipy_iou(boxes_a, boxes_b)).abs().max().item()


# ---------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("upright", [False, True])
def test_random_pairs_match_scipy(upright):
    count = 500
    boxes_a, boxes_b = random_boxes(count, 0, upright=upright), random_boxes(count, 1, upright=upright)
    ious = box3d_iou(box_corners(*boxes_a), box_corners(*boxes_b), paired=True)
    assert (ious > 0).float().mean() > 0.5 and (ious == 0).any()
    assert largest_error(boxes_a, boxes_b) < ERROR


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("upright_route", [True, False])
def test_nasty_pairs_match_scipy(family, upright_route, monkeypatch):
    if not upright_route:
        monkeypatch.setattr(iou3d, "UPRIGHT_TOLERANCE", -1.0)
    assert largest_error(*nasty_boxes(12)[family]) < ERROR


@pytest.mark.slow
def test_many_random_pairs_match_scipy():
    assert largest_error(random_boxes(10_000, 2), random_boxes(10_000, 3)) < ERROR
    assert largest_error(random_boxes(2_000, 4, upright=True), random_boxes(2_000, 5, upright=True)) < ERROR


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_nasty_pairs_match_scipy(family, monkeypatch):
    boxes = nasty_boxes(300, seed=7)[family]
    assert largest_error(*boxes) < ERROR
    monkeypatch.setattr(iou3d, "UPRIGHT_TOLERANCE", -1.0)
    assert largest_error(*boxes) < ERROR


@pytest.mark.parametrize("upright", [False, True])
def test_random_pairs_match_monte_carlo(upright):
    samples = 100_000
    boxes_a, boxes_b = random_boxes(50, 8, 0.3, upright), random_boxes(50, 9, 0.3, upright)
    shared = intersection_volume(box_corners(*boxes_a), box_corners(*boxes_b), paired=True)
    generator = torch.Generator().manual_seed(10)
    for (center_a, size_a, rotation_a), (center_b, size_b, rotation_b), got in zip(
        zip(*boxes_a, strict=True), zip(*boxes_b, strict=True), shared, strict=True
    ):
        local = (torch.rand(samples, 3, generator=generator, dtype=torch.float64) - 0.5) * size_a
        local = (local @ rotation_a.T + center_a - center_b) @ rotation_b
        part = (local.abs() <= size_b / 2).all(1).double().mean()
        error = 5 * math.sqrt((part * (1 - part) + 10 / samples) / samples)
        assert abs(got / size_a.prod() - part) < error


def test_known_values():
    cube = box_corners(torch.zeros(1, 3), torch.ones(1, 3), torch.eye(3)[None])
    eighth_turn = box_corners(torch.zeros(1, 3), torch.ones(1, 3), yaw_to_matrix(torch.tensor([math.pi / 4])))
    octagon = 2 * math.sqrt(2) - 2
    assert box3d_iou(cube, cube).item() == pytest.approx(1)
    assert box3d_iou(cube, 0.5 * cube).item() == pytest.approx(1 / 8)
    assert box3d_iou(cube, cube + torch.tensor([0.0, 0.25, 0.0])).item() == pytest.approx(0.75 / 1.25)
    assert box3d_iou(cube, eighth_turn).item() == pytest.approx(octagon / (2 - octagon), abs=1e-6)  # float32 corners
    assert intersection_volume(cube, eighth_turn).item() == pytest.approx(octagon, abs=1e-6)
    assert volume(torch.cat((cube, 2 * cube))).tolist() == pytest.approx([1, 8])


@pytest.mark.parametrize(
    "shift", [(1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0001, 0.0, 0.0), (0.0, 5.0, 0.0), (50.0, 9.0, 7.0)]
)
def test_separated_boxes_give_exactly_zero(shift):
    cube = box_corners(torch.zeros(1, 3), torch.ones(1, 3), torch.eye(3)[None])
    assert box3d_iou(cube, cube + torch.tensor(shift)).item() == 0


def test_boxes_separated_only_by_an_edge_to_edge_axis_give_exactly_zero():
    # Two plates stand on edge, turned about different axes: no face plane of either separates them.
    half_turn = math.pi / 4
    about_x = quaternion_to_matrix(torch.tensor([math.cos(half_turn / 2), math.sin(half_turn / 2), 0.0, 0.0]))
    about_y = quaternion_to_matrix(torch.tensor([math.cos(half_turn / 2), 0.0, math.sin(half_turn / 2), 0.0]))
    a = box_corners(torch.zeros(1, 3), torch.ones(1, 3), about_x[None])
    for gap in (1e-5, 1e-2):
        center = torch.tensor([[0.0, 0.0, math.sqrt(2) + gap]])
        b = box_corners(center, torch.ones(1, 3), about_y[None])
        assert box3d_iou(a, b).item() == 0
    assert box3d_iou(a, box_corners(center - torch.tensor([0, 0, 0.1]), torch.ones(1, 3), about_y[None])).item() > 0


# ------------------------------------------------------------------------------------------------------ properties


@pytest.mark.parametrize("upright", [False, True])
def test_symmetric_and_invariant_under_a_common_rigid_motion(upright):
    a, b = (box_corners(*random_boxes(200, seed, upright=upright)) for seed in (11, 12))
    ious = box3d_iou(a, b, paired=True)
    torch.testing.assert_close(box3d_iou(b, a, paired=True), ious, rtol=0, atol=1e-10)
    generator = torch.Generator().manual_seed(13)
    rotation = random_rotations(1, generator)[0]
    moved = [corners @ rotation.T + torch.tensor([10.0, -200.0, 3000.0]) for corners in (a, b)]
    torch.testing.assert_close(box3d_iou(*moved, paired=True), ious, rtol=0, atol=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_upright_route_matches_general_route(paired, monkeypatch):
    a, b = (box_corners(*random_boxes(60, seed, upright=True)) for seed in (14, 15))
    quick = box3d_iou(a, b, paired=paired)
    # The common upright axis may point anywhere, and be another one for each box.
    rotation = random_rotations(1, torch.Generator().manual_seed(16))[0]
    center, size, turn = random_boxes(60, 15, upright=True)
    renamed = box_corners(center, size.roll(1, 1), turn.roll(1, 2))
    turned = box3d_iou(a @ rotation.T, renamed @ rotation.T, paired=paired)
    calls = []
    monkeypatch.setattr(iou3d, "UPRIGHT_TOLERANCE", -1.0)
    monkeypatch.setattr(iou3d, "_upright_volume", lambda *args: calls.append(args))
    general = box3d_iou(a, b, paired=paired)
    assert not calls and (general > 0).any()
    torch.testing.assert_close(quick, general, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned, general, rtol=0, atol=1e-9)


def test_upright_pairs_take_the_quick_route(monkeypatch):
    monkeypatch.setattr(iou3d, "_general_volume", lambda offset, axes: offset[0] * math.nan)
    a, b = (box_corners(*random_boxes(60, seed, upright=True)) for seed in (14, 15))
    assert not box3d_iou(a, b).isnan().any()
    assert not box3d_iou(a.float(), b.float()).isnan().any()


def test_paired_is_the_diagonal_and_chunks_change_nothing():
    tilted, upright = (box_corners(*random_boxes(20, 17 + upright, upright=upright)) for upright in (False, True))
    a, b = torch.cat((tilted, upright)), torch.cat((upright, upright.flip(0)))
    for function in (box3d_iou, intersection_volume):
        whole = function(a, b, pairs_per_chunk=10**6)
        assert whole.shape == (40, 40)
        torch.testing.assert_close(function(a, b, paired=True), whole.diagonal(), rtol=0, atol=1e-14)
        for pairs_per_chunk in (1, 7, 41):
            chunked = function(a[:9], b[:11], pairs_per_chunk=pairs_per_chunk)
            torch.testing.assert_close(chunked, whole[:9, :11], rtol=0, atol=1e-14)


@pytest.mark.parametrize("count_a, count_b", [(0, 0), (0, 3), (3, 0)])
def test_no_boxes(count_a, count_b):
    corners = box_corners(*random_boxes(3, 19)).requires_grad_()
    ious = box3d_iou(corners[:count_a], corners[:count_b])
    assert ious.shape == (count_a, count_b) and ious.dtype == torch.float64
    assert box3d_iou(corners[:0], corners[:0], paired=True).shape == (0,)
    assert volume(corners[:0]).shape == (0,)
    ious.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_float64_and_close_to_that_of_double_corners(dtype):
    a, b = (box_corners(*random_boxes(100, seed)) for seed in (20, 21))
    ious = box3d_iou(a.to(dtype), b.to(dtype), paired=True)
    assert ious.dtype == torch.float64
    torch.testing.assert_close(ious, box3d_iou(a, b, paired=True), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("upright", [False, True])
def test_gradients_of_generic_pairs(upright):
    a, b = ([tensor[:6] for tensor in random_boxes(6, seed, 0.2, upright)] for seed in (22, 23))
    # Through center and size and, by a free matrix near the rotation, through tilt too.
    tilt = 1e-3 * torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(24), dtype=torch.float64)
    inputs = [tensor.clone().requires_grad_() for tensor in (*a[:2], *b[:2], 0 * tilt)]

    def ious(center_a, size_a, center_b, size_b, tilts):
        corners_a = box_corners(center_a, size_a, a[2] @ (torch.eye(3) + tilts[0]))
        return box3d_iou(corners_a, box_corners(center_b, size_b, b[2] @ (torch.eye(3) + tilts[1])), paired=True)

    assert (ious(*inputs) > 0).any()
    assert torch.autograd.gradcheck(ious, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_finite_and_bounded(family):
    a, b = nasty_boxes(12)[family]
    a, b = ([tensor.clone().requires_grad_() for tensor in boxes] for boxes in (a, b))
    box3d_iou(box_corners(*a), box_corners(*b), paired=True).sum().backward()
    thinnest = min(a[1].min().item(), b[1].min().item())
    for center, size, rotation in (a, b):
        for gradient in (center.grad, size.grad, rotation.grad):
            # A shift by the thinnest edge changes the ratio from nothing to all, a turn by thinnest over longest too.
            assert gradient.isfinite().all() and gradient.abs().max() < 20 / thinnest


def test_gradient_descent_pulls_one_box_onto_another():
    center, size, rotation = (tensor[:1] for tensor in random_boxes(1, 25))
    target = box_corners(center, size, rotation)
    shift = torch.full((1, 3), 0.1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.01)
    ious = []
    for _ in range(60):
        iou = box3d_iou(box_corners(center + shift, size, rotation), target, paired=True).sum()
        ious.append(iou.item())
        optimizer.zero_grad()
        (1 - iou).backward()
        optimizer.step()
    assert ious[0] < 0.75 and ious[-1] > 0.95


def test_chunked_gradients_match():
    a, b = (box_corners(*random_boxes(12, seed)).requires_grad_() for seed in (26, 27))
    whole = torch.autograd.grad(box3d_iou(a, b).sum(), (a, b))
    chunked = torch.autograd.grad(box3d_iou(a, b, pairs_per_chunk=5).sum(), (a, b))
    torch.testing.assert_close(whole, chunked, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- errors


def broken(index: int, change):
    corners = box_corners(*random_boxes(4, 28))
    corners[index] = change(corners[index])
    return corners


def with_value(corners, value):
    corners = corners.clone()
    corners[5, 1] = value
    return corners


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda corners: with_value(corners, math.nan), r"box 2 has corners \[\[.*nan.*want finite"),
        (lambda corners: with_value(corners, math.inf), r"box 2 has corners \[\[.*inf.*want finite"),
        (
            lambda corners: with_value(corners, 9.0),
            r"box 2 has a corner .* m away .* parallel edges, want at most 0.001",
        ),
        (lambda corners: corners[[0, 1, 2, 3, 5, 4, 6, 7]], "box 2 has a corner .* in the order of box_corners"),
        (lambda corners: corners[[4, 5, 6, 7, 0, 1, 2, 3]], r"box 2 has a volume of -.* want one above 0.*mirrored"),
        (
            lambda corners: corners[:1].expand(8, 3),
            r"box 2 has edges of 0 x 0 x 0 m \(no volume\), want every edge above",
        ),
        (lambda corners: corners[[0, 1, 2, 3, 0, 1, 2, 3]], r"box 2 has edges of .* m \(no volume\)"),
        (lambda corners: corners + 0.3 * corners[:, [1, 0, 2]], r"box 2 has edges .* cosine of .*, want right angles"),
    ],
)
@pytest.mark.parametrize("name", ["corners_a", "corners_b"])
def test_corners_that_are_no_boxes_are_refused(change, message, name):
    corners = {"corners_a": broken(0, torch.clone), "corners_b": broken(0, torch.clone), name: broken(2, change)}
    for function in (box3d_iou, intersection_volume):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            function(**corners)
    with pytest.raises(ValueError, match=f"corners: {message}"):
        volume(corners[name])


def test_wrong_shapes_are_refused():
    corners = box_corners(*random_boxes(3, 29))
    with pytest.raises(ValueError, match=r"corners_b: got shape \(8, 3\), want \(number of boxes, 8, 3\)"):
        box3d_iou(corners, corners[0])
    with pytest.raises(ValueError, match="3 boxes in corners_a, 2 in corners_b: want as many"):
        box3d_iou(corners, corners[:2], paired=True)
    with pytest.raises(ValueError, match="pairs_per_chunk: got 0, want at least 1"):
        box3d_iou(corners, corners, pairs_per_chunk=0)


def test_float32_boxes_far_away_are_accepted():
    center, size, rotation = random_boxes(50, 30)
    corners = box_corners(center + 2000.0, size, rotation).float()
    ious = box3d_iou(corners, corners, paired=True)
    torch.testing.assert_close(ious, torch.ones_like(ious), rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_a_gpu():
    a, b = (box_corners(*random_boxes(100, seed)) for seed in (31, 32))
    torch.testing.assert_close(box3d_iou(a.cuda(), b.cuda()).cpu(), box3d_iou(a, b), rtol=0, atol=1e-12)
