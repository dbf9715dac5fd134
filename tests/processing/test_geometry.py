# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes and projection against scipy and plain numpy. Shapes: n boxes, 8 corners."""

import doctest

import numpy as np
import pytest
import torch
from random_geometry import (
    CX,
    CY,
    FX,
    FY,
    IMAGE_SIZE,
    VIRTUAL_FOCAL,
    K,
    decode,
    random_boxes,
    random_cameras,
)
from scipy.spatial.transform import Rotation

from llmi3d.processing import geometry_llmi3d as geometry
from llmi3d.processing.geometry_llmi3d import (
    EDGES,
    NEAR,
    Camera,
    allocentric_to_egocentric,
    back_project,
    box_corners,
    corners_to_box,
    decode_boxes,
    egocentric_to_allocentric,
    encode_boxes,
    geodesic_angle,
    intrinsics_from_focal,
    matrix_to_quaternion,
    matrix_to_rotation_6d,
    matrix_to_yaw,
    metric_to_virtual_depth,
    network_to_image,
    project,
    project_box_2d,
    quaternion_to_matrix,
    ray_rotation,
    rotation_6d_to_matrix,
    transform_intrinsics,
    virtual_to_metric_depth,
    yaw_to_matrix,
)

# ------------------------------------------------------------------------------------------------ encode and decode


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_decoding_what_was_encoded_gives_the_box_back(dtype, tolerance):
    boxes, cameras = random_boxes(200, dtype=dtype), random_cameras(200, dtype=dtype)
    for got, want in zip(decode(encode_boxes(*boxes, cameras, VIRTUAL_FOCAL), cameras), boxes, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def test_encoding_is_what_the_pinhole_camera_says():
    center, size, rotation = random_boxes()
    encoded = encode_boxes(center, size, rotation, K, VIRTUAL_FOCAL)
    for i in range(len(center)):
        x, y, z = center[i].numpy()
        np.testing.assert_allclose(encoded.center_2d_px[i], (FX * x / z + CX, FY * y / z + CY))
        np.testing.assert_allclose(encoded.depth_virtual[i], z * VIRTUAL_FOCAL / FY)
        # The projected vertical extent in virtual pixels follows from virtual depth alone.
        half = size[i, 1].item() / 2
        upright = project(torch.tensor([[x, y - half, z], [x, y + half, z]]), K)
        height_px = (upright[1, 1] - upright[0, 1]).item()
        assert height_px == pytest.approx(VIRTUAL_FOCAL * 2 * half / encoded.depth_virtual[i].item())


# A letterbox, an anisotropic resize, a crop (negative offset) and a flip-free chain of all three.
PIXEL_OPERATIONS = {
    "letterbox": ((1.2, 1.2), (0.0, 96.0)),
    "anisotropic resize": ((1.2, 1.6), (0.0, 0.0)),
    "crop": ((1.0, 1.0), (-123.0, -77.0)),
    "shrink, crop and pad": ((0.37, 0.41), (-51.3, 210.0)),
}


@pytest.mark.parametrize("name", PIXEL_OPERATIONS)
def test_a_pixel_operation_does_not_change_the_metric_box(name):
    scale, offset = PIXEL_OPERATIONS[name]
    boxes = random_boxes(dtype=torch.float32)
    camera = Camera(tuple(map(tuple, K.tolist())), IMAGE_SIZE, "given", scale, offset)
    moved = camera.network_intrinsics()
    assert not torch.equal(moved, K)
    encoded = encode_boxes(*boxes, moved.float(), VIRTUAL_FOCAL)
    for got, want in zip(decode(encoded, moved.float()), boxes, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    # The moved camera sees each centre where the moved pixels show it.
    torch.testing.assert_close(
        encoded.center_2d_px, camera.to_network(project(boxes[0], K.float())), atol=1e-2, rtol=1e-5
    )


def test_transform_intrinsics_moves_the_projection_of_points():
    points = random_boxes()[0]
    before, after = project(points, K), project(points, transform_intrinsics(K, (1.3, 0.7), (11.0, -5.0)))
    expected = before.numpy() * (1.3, 0.7) + (11.0, -5.0)
    np.testing.assert_allclose(after, expected, atol=1e-9)


def test_many_cameras_move_as_each_of_them():
    scale, offset = torch.rand(5, 2, dtype=torch.float64) + 0.5, torch.randn(5, 2, dtype=torch.float64)
    together = transform_intrinsics(K.expand(5, 3, 3), scale, offset)
    points = torch.randn(5, 4, dtype=torch.float64)
    back = network_to_image(points, scale, offset)
    for index in range(5):
        pair = tuple(scale[index].tolist()), tuple(offset[index].tolist())
        torch.testing.assert_close(together[index], transform_intrinsics(K, *pair), rtol=0, atol=0)
        camera = Camera(tuple(map(tuple, K.tolist())), IMAGE_SIZE, "given", *pair)
        torch.testing.assert_close(back[index], camera.to_image(points[index]), rtol=0, atol=0)


def test_camera_moves_points_and_boxes_there_and_back():
    camera = Camera(tuple(map(tuple, K.tolist())), IMAGE_SIZE, scale=(0.5, 2.0), offset=(3.0, -7.0))
    box = torch.tensor([10.0, 20.0, 110.0, 220.0])
    torch.testing.assert_close(camera.to_network(box), torch.tensor([8.0, 33.0, 58.0, 433.0]))
    torch.testing.assert_close(camera.to_image(camera.to_network(box)), box)
    torch.testing.assert_close(camera.to_network(box[:2]), torch.tensor([8.0, 33.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_camera_moves_pixels_of_any_type_in_float32(dtype):
    camera = Camera(tuple(map(tuple, K.tolist())), IMAGE_SIZE, scale=(0.3, 0.3), offset=(0.25, 0.25))
    points = torch.tensor([101, 203]).to(dtype)
    torch.testing.assert_close(camera.to_network(points), points.float() * 0.3 + 0.25)
    torch.testing.assert_close(camera.to_image(points), (points.float() - 0.25) / 0.3)


def test_half_the_focal_length_halves_the_depth_of_the_same_answer():
    encoded = encode_boxes(*random_boxes(), K, VIRTUAL_FOCAL)
    halved = intrinsics_from_focal(FX / 2, FY / 2, CX, CY)
    center, size, _ = decode(encoded, K)
    center_halved, size_halved, _ = decode(encoded, halved)
    torch.testing.assert_close(center_halved[..., 2], center[..., 2] / 2)
    torch.testing.assert_close(size_halved, size)
    # Both centres project to the same pixel: depth alone has changed along with the ray.
    torch.testing.assert_close(project(center_halved, halved), project(center, K))


def test_rescaling_image_and_camera_together_changes_no_encoding():
    boxes = random_boxes()
    network_side = 768.0
    small = Camera(tuple(map(tuple, K.tolist())), IMAGE_SIZE, scale=(network_side / 640,) * 2, offset=(0.0, 96.0))
    large_k = transform_intrinsics(K, (2.5, 2.5), (0.0, 0.0))
    large = Camera(
        tuple(map(tuple, large_k.tolist())), (1600, 1200), scale=(network_side / 1600,) * 2, offset=(0, 96.0)
    )
    a, b = (encode_boxes(*boxes, camera.network_intrinsics(), VIRTUAL_FOCAL) for camera in (small, large))
    for name in vars(a):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), msg=name)


def test_virtual_depth_is_inverted():
    depth, cameras = random_boxes(9)[0][:, 2], random_cameras(9)
    virtual = metric_to_virtual_depth(depth, cameras, VIRTUAL_FOCAL)
    assert not torch.allclose(virtual, depth)
    torch.testing.assert_close(virtual_to_metric_depth(virtual, cameras, VIRTUAL_FOCAL), depth)


def test_back_project_inverts_project():
    points, cameras = random_boxes(9)[0], random_cameras(9)
    torch.testing.assert_close(back_project(project(points, cameras), points[:, 2], cameras), points)


def test_encode_refuses_a_centre_behind_the_camera():
    center, size, rotation = random_boxes(3)
    center[1, 2] = -2.5
    with pytest.raises(ValueError, match=r"got a depth of -2\.5 m, want every centre at z > 0"):
        encode_boxes(center, size, rotation, K, VIRTUAL_FOCAL)


# ------------------------------------------------------------------------------------------------------------ boxes


def test_corners_are_in_omni3ds_order():
    length, height, width = 2.0, 4.0, 6.0
    corners = box_corners(torch.zeros(3), torch.tensor([length, height, width]), torch.eye(3))
    want = [
        [-1, -2, -3],  # near face, first the top ones (y points down)
        [1, -2, -3],
        [1, 2, -3],
        [-1, 2, -3],
        [-1, -2, 3],
        [1, -2, 3],
        [1, 2, 3],
        [-1, 2, 3],
    ]
    assert corners.tolist() == want


def test_edges_join_corners_that_differ_along_one_axis():
    corners = box_corners(torch.zeros(3), torch.ones(3), torch.eye(3))
    moved = [(corners[a] != corners[b]).sum().item() for a, b in EDGES]
    assert moved == [1] * 12
    assert len({frozenset(edge) for edge in EDGES}) == 12


def test_corners_against_a_loop():
    center, size, rotation = (x.numpy() for x in random_boxes(20))
    got = box_corners(*random_boxes(20)).numpy()
    signs = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    for i in range(20):
        for k in range(8):
            (sx, sy), sz = signs[k % 4], -1 if k < 4 else 1
            local = np.array([sx, sy, sz]) * size[i] / 2
            np.testing.assert_allclose(got[i, k], rotation[i] @ local + center[i], atol=1e-12)


def test_corners_to_box_inverts_box_corners():
    boxes = random_boxes(50)
    for got, want in zip(corners_to_box(box_corners(*boxes)), boxes, strict=True):
        torch.testing.assert_close(got, want)


def surface_points(center, size, rotation, steps: int = 220) -> np.ndarray:
    """Points [m, 3] on the six faces of one box, camera frame."""
    line = np.linspace(-0.5, 0.5, steps)
    u, v = (x.ravel() for x in np.meshgrid(line, line))
    faces = []
    for axis in range(3):
        for side in (-0.5, 0.5):
            face = np.insert(np.stack((u, v), -1), axis, side, axis=-1)
            faces.append(face)
    return np.concatenate(faces) * np.asarray(size) @ np.asarray(rotation).T + np.asarray(center)


@pytest.mark.parametrize(
    ("center", "near"),
    [
        ((0.4, -0.2, 6.0), NEAR),
        ((0.4, -0.2, 0.7), 0.2),
        ((-0.5, 0.3, 0.1), 0.2),
        ((2.0, 0.5, -0.6), 0.2),
        ((0.1, 0.1, 1.9), 1.0),
    ],
    ids=["in front", "around the near plane", "centre before the plane", "mostly behind the camera", "distant plane"],
)
def test_project_box_2d_is_the_extent_of_the_visible_surface(center, near):
    size, rotation = (2.0, 1.2, 3.0), Rotation.from_euler("yxz", (0.6, 0.25, -0.1)).as_matrix()
    points = surface_points(center, size, rotation)
    visible = points[points[:, 2] >= near]
    assert len(visible) > 0 and (len(visible) == len(points)) == (center[2] == 6.0)
    pixels = np.stack((FX * visible[:, 0] / visible[:, 2] + CX, FY * visible[:, 1] / visible[:, 2] + CY), -1)
    want = np.concatenate((pixels.min(0), pixels.max(0)))
    corners = box_corners(*(torch.tensor(np.asarray(x), dtype=torch.float64) for x in (center, size, rotation)))
    got = project_box_2d(corners, K, near).numpy()
    extent = np.tile(want[2:] - want[:2], 2)
    # The samples lie on the box, so never outside; the gap is what falls between two of them at the plane.
    assert (got[:2] <= want[:2] + 1e-6).all() and (got[2:] >= want[2:] - 1e-6).all()
    np.testing.assert_array_less(np.abs(got - want), 0.05 * extent + 1e-6)
    if center[2] == 6.0:
        np.testing.assert_allclose(got, want, atol=1e-9)


def test_project_box_2d_is_not_clipped_to_the_image():
    corners = box_corners(torch.tensor([30.0, 0.0, 5.0]), torch.ones(3), torch.eye(3))
    assert project_box_2d(corners, K.float())[0] > IMAGE_SIZE[0]


def test_project_box_2d_behind_the_camera_is_nan_and_leaves_its_neighbours_alone():
    boxes = random_boxes(3, dtype=torch.float32)
    boxes[0][1, 2] *= -1
    got = project_box_2d(box_corners(*boxes), K.float())
    assert got[1].isnan().all()
    assert torch.isfinite(got[[0, 2]]).all()


# ---------------------------------------------------------------------------------------------- properties of it all

HARD_BOXES = {
    "seen edge-on": ((0.0, 0.0, 3.0), (2.0, 1.0, 1e-6), np.eye(3)),
    "flat": ((0.1, 0.2, 3.0), (2.0, 0.0, 1.0), np.eye(3)),
    "centre outside the image": ((40.0, -3.0, 5.0), (1.0, 1.0, 1.0), Rotation.from_euler("y", 1.0).as_matrix()),
    "on the optical axis": ((0.0, 0.0, 8.0), (1.0, 2.0, 3.0), Rotation.from_euler("y", 1.0).as_matrix()),
    "identity": ((0.5, 0.3, 8.0), (1.0, 2.0, 3.0), np.eye(3)),
    "half turn": ((0.5, 0.3, 8.0), (1.0, 2.0, 3.0), np.diag([-1.0, 1.0, -1.0])),
    "straddles the near plane": ((0.2, 0.1, 0.6), (2.0, 2.0, 2.0), Rotation.from_euler("y", 0.3).as_matrix()),
    "a face in the camera plane": ((0.2, 0.1, 0.5), (1.0, 1.0, 1.0), np.eye(3)),
    "a face on the near plane": ((0.2, 0.1, 0.5 + NEAR), (1.0, 1.0, 1.0), np.eye(3)),
    "almost in the camera": ((1e-4, 0.0, 2e-3), (1e-3, 1e-3, 1e-3), np.eye(3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", HARD_BOXES)
def test_gradients_are_finite(name, dtype):
    leaves = [torch.tensor(np.asarray(x), dtype=dtype, requires_grad=True) for x in HARD_BOXES[name]]
    center, size, rotation = leaves
    intrinsics = K.to(dtype)
    encoded = encode_boxes(center, size, rotation, intrinsics, VIRTUAL_FOCAL)
    decoded = decode(encoded, intrinsics)
    outputs = [*vars(encoded).values(), *decoded]
    outputs += [box_corners(*decoded), matrix_to_quaternion(rotation), matrix_to_yaw(rotation)]
    outputs += [geodesic_angle(rotation, torch.eye(3, dtype=dtype)), geodesic_angle(rotation, rotation)]
    outputs += [rotation_6d_to_matrix(matrix_to_rotation_6d(rotation))]
    for output in outputs:
        weights = torch.linspace(0.5, 1.5, output.numel(), dtype=dtype).view_as(output)
        for gradient in torch.autograd.grad((output * weights).sum(), leaves, retain_graph=True, allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


def test_gradients_are_right():
    """Against finite differences, at a tilted box (no two corners project alike) that straddles the near plane."""
    center = torch.tensor([0.2, 0.1, 0.6], dtype=torch.float64, requires_grad=True)
    size = torch.tensor([2.0, 1.5, 2.5], dtype=torch.float64, requires_grad=True)
    tilted = torch.from_numpy(Rotation.from_euler("yxz", (0.3, 0.2, -0.4)).as_matrix())
    six = matrix_to_rotation_6d(tilted).requires_grad_()
    assert (box_corners(center, size, tilted)[:, 2] < 0.1).any()

    def through(center, size, six):
        rotation = rotation_6d_to_matrix(six)
        encoded = encode_boxes(center, size, rotation, K, VIRTUAL_FOCAL)
        return project_box_2d(box_corners(center, size, rotation), K, near=0.1), *decode(encoded, K)

    assert torch.autograd.gradcheck(through, (center, size, six))


def test_the_depth_gets_no_gradient_from_the_rotation():
    encoded = encode_boxes(*random_boxes(4), K, VIRTUAL_FOCAL)
    depth = encoded.depth_virtual.clone().requires_grad_()
    center_2d = encoded.center_2d_px.clone().requires_grad_()
    rotation = decode_boxes(center_2d, depth, encoded.size, encoded.rotation_allocentric, K, VIRTUAL_FOCAL)[2]
    to_depth, to_center = torch.autograd.grad(rotation[:, 0].sum(), (depth, center_2d), allow_unused=True)
    assert to_depth is None or not to_depth.any()
    assert to_center.any()


def everything(center, size, rotation, intrinsics) -> list[torch.Tensor]:
    """The output of every function of the module on boxes [n, ...]."""
    encoded = encode_boxes(center, size, rotation, intrinsics, VIRTUAL_FOCAL)
    corners = box_corners(center, size, rotation)
    return [
        *vars(encoded).values(),
        *decode(encoded, intrinsics),
        corners,
        *corners_to_box(corners),
        project_box_2d(corners, intrinsics),
        project(center, intrinsics),
        back_project(encoded.center_2d_px, center[..., 2], intrinsics),
        metric_to_virtual_depth(center[..., 2], intrinsics, VIRTUAL_FOCAL),
        virtual_to_metric_depth(center[..., 2], intrinsics, VIRTUAL_FOCAL),
        transform_intrinsics(intrinsics, (0.3, 0.4), (5.0, 6.0)),
        ray_rotation(center),
        egocentric_to_allocentric(rotation, center),
        allocentric_to_egocentric(rotation, center),
        matrix_to_quaternion(rotation),
        quaternion_to_matrix(matrix_to_quaternion(rotation)),
        matrix_to_rotation_6d(rotation),
        rotation_6d_to_matrix(matrix_to_rotation_6d(rotation)),
        yaw_to_matrix(matrix_to_yaw(rotation)),
        geodesic_angle(rotation, ray_rotation(center)),
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    inputs = [x.to(dtype) for x in (*random_boxes(8), random_cameras(8))]
    for got, want in zip(everything(*inputs), everything(*(x.float() for x in inputs)), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, equal_nan=True)


def test_autocast_does_not_reach_the_geometry():
    inputs = [*random_boxes(8, dtype=torch.float32), random_cameras(8, dtype=torch.float32)]
    want = everything(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = everything(*inputs)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b)


def test_batched_is_one_by_one():
    inputs = [*random_boxes(12), random_cameras(12)]
    batched = everything(*inputs)
    two_dimensional = everything(*(x.unflatten(0, (3, 4)) for x in inputs))
    for i in range(12):
        for single, many, grid in zip(everything(*(x[i] for x in inputs)), batched, two_dimensional, strict=True):
            torch.testing.assert_close(single, many[i])
            torch.testing.assert_close(single, grid.flatten(0, 1)[i])


def test_one_camera_serves_a_batch_of_boxes():
    boxes = random_boxes(5)
    one, many = (encode_boxes(*boxes, k, VIRTUAL_FOCAL) for k in (K, K.expand(5, 3, 3)))
    for name in vars(one):
        torch.testing.assert_close(getattr(one, name), getattr(many, name))


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_empty_batches_pass_through(shape):
    boxes = torch.zeros(*shape, 3), torch.zeros(*shape, 3), torch.zeros(*shape, 3, 3)
    for output in everything(*boxes, torch.zeros(*shape, 3, 3)):
        assert output.shape[: len(shape)] == shape and output.numel() == 0


def test_the_modules_own_example_runs():
    results = doctest.testmod(geometry)
    assert results.attempted > 0 and results.failed == 0
