# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Rotations against scipy."""

import math

import numpy as np
import pytest
import torch
from random_geometry import VIRTUAL_FOCAL, K, assert_rotations, decode, random_boxes
from scipy.spatial.transform import Rotation

from llmi3d.processing.geometry_llmi3d import (
    allocentric_to_egocentric,
    egocentric_to_allocentric,
    encode_boxes,
    geodesic_angle,
    matrix_to_quaternion,
    matrix_to_rotation_6d,
    matrix_to_yaw,
    quaternion_to_matrix,
    ray_rotation,
    rotation_6d_to_matrix,
    yaw_to_matrix,
)


def test_quaternion_is_scipys():
    rotations = Rotation.random(100, rng=1)
    # Half turns about the axes and diagonals are where a naive formula divides by zero.
    half_turns = Rotation.from_rotvec(
        math.pi * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, 0.6, -0.8], [-0.8, 0, 0.6]])
    )
    for rotation in (rotations, half_turns, Rotation.identity(1)):
        xyzw = rotation.as_quat(canonical=False)
        wxyz = torch.from_numpy(xyzw[:, [3, 0, 1, 2]])
        matrices = torch.from_numpy(rotation.as_matrix())
        torch.testing.assert_close(quaternion_to_matrix(wxyz), matrices)
        torch.testing.assert_close(quaternion_to_matrix(-3.7 * wxyz), matrices)
        got = matrix_to_quaternion(matrices)
        assert (got[:, 0] >= 0).all()
        torch.testing.assert_close(got.norm(dim=-1), torch.ones(len(got), dtype=torch.float64))
        # q and -q are one rotation: compare up to sign.
        torch.testing.assert_close((got * wxyz).sum(-1).abs(), torch.ones(len(got), dtype=torch.float64))
        torch.testing.assert_close(quaternion_to_matrix(got), matrices)


def test_yaw_turns_about_the_cameras_y_axis():
    yaw = np.linspace(-3.1, 3.1, 23)
    want = torch.from_numpy(Rotation.from_euler("y", yaw[:, None]).as_matrix())
    matrices = yaw_to_matrix(torch.from_numpy(yaw))
    torch.testing.assert_close(matrices, want)
    torch.testing.assert_close(matrix_to_yaw(matrices), torch.from_numpy(yaw))


def test_yaw_of_a_tilted_box_is_the_heading_of_its_length_axis():
    rotation = Rotation.from_euler("y", 0.7) * Rotation.from_euler("xz", (0.3, 0.2))
    x, _, z = rotation.apply([1, 0, 0])
    got = matrix_to_yaw(torch.from_numpy(rotation.as_matrix()))
    assert got.item() == pytest.approx(math.atan2(-z, x))


def test_6d_is_the_first_two_columns_and_back():
    matrices = torch.from_numpy(Rotation.random(50, rng=2).as_matrix())
    six = matrix_to_rotation_6d(matrices)
    np.testing.assert_array_equal(six[:, :3], matrices[:, :, 0])
    np.testing.assert_array_equal(six[:, 3:], matrices[:, :, 1])
    torch.testing.assert_close(rotation_6d_to_matrix(six), matrices)


def test_6d_of_any_vectors_is_gram_schmidt():
    six = np.random.default_rng(3).normal(size=(50, 6))
    for vectors, got in zip(six, rotation_6d_to_matrix(torch.from_numpy(six)).numpy(), strict=True):
        q, r = np.linalg.qr(np.stack((vectors[:3], vectors[3:]), -1))
        q = q * np.sign(np.diag(r))  # QR leaves the signs open; Gram-Schmidt has a positive diagonal
        np.testing.assert_allclose(got, np.column_stack((q, np.cross(q[:, 0], q[:, 1]))), atol=1e-12)


DEGENERATE_6D = {
    "zeros": [0.0] * 6,
    "first zero": [0, 0, 0, 0.3, -2, 1],
    "first zero, second the x axis": [0, 0, 0, 1, 0, 0],
    "second zero": [1, 2, 3, 0, 0, 0],
    "second zero, first the y axis": [0, 1, 0, 0, 0, 0],
    "parallel": [1, 2, 3, 2, 4, 6],
    "opposite": [1, 2, 3, -1, -2, -3],
    "almost parallel": [1, 2, 3, 1, 2, 3 + 1e-5],
    "tiny": [1e-7, 2e-7, 0, 0, 1e-7, 3e-7],
    "vanishing": [1e-30, 0, 0, 0, 1e-30, 0],
    "large": [1e9, 2e9, 0, -1e9, 5e8, 1e9],
    "long and short": [1e6, 0, 1e6, 0, 1e-4, 0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DEGENERATE_6D)
def test_6d_always_gives_a_rotation_with_finite_gradients(name, dtype):
    six = torch.tensor(DEGENERATE_6D[name], dtype=dtype, requires_grad=True)
    matrix = rotation_6d_to_matrix(six)
    assert_rotations(matrix, 1e-5)
    (matrix * torch.arange(9.0).view(3, 3)).sum().backward()
    assert torch.isfinite(six.grad).all()


def test_every_rotation_function_stays_in_so3():
    boxes = random_boxes(64, dtype=torch.float32)
    encoded = encode_boxes(*boxes, K.float(), VIRTUAL_FOCAL)
    assert_rotations(encoded.rotation_allocentric, 1e-5)
    assert_rotations(decode(encoded, K.float())[2], 1e-5)
    assert_rotations(ray_rotation(boxes[0]), 1e-5)
    assert_rotations(rotation_6d_to_matrix(torch.randn(64, 6, generator=torch.Generator().manual_seed(0))), 1e-5)
    assert_rotations(quaternion_to_matrix(torch.randn(64, 4, generator=torch.Generator().manual_seed(0))), 1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, math.pi / 2, 3.0, math.pi - 1e-4, math.pi])
def test_geodesic_angle_is_the_angle_between(angle):
    rng = np.random.default_rng(4)
    axes = rng.normal(size=(50, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    a = Rotation.random(50, rng=rng)
    b = a * Rotation.from_rotvec(angle * axes)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        matrix_a = torch.from_numpy(a.as_matrix()).to(dtype).requires_grad_()
        got = geodesic_angle(matrix_a, torch.from_numpy(b.as_matrix()).to(dtype))
        torch.testing.assert_close(got, torch.full_like(got, angle), atol=tolerance, rtol=0)
        got.sum().backward()
        # Rotating one of them changes the angle at most as fast as it is rotated.
        assert (matrix_a.grad.abs() <= 1).all()


def test_ray_rotation_is_the_smallest_turn_of_the_optical_axis_onto_the_ray():
    points = random_boxes(50)[0].numpy()
    rays = points / np.linalg.norm(points, axis=-1, keepdims=True)
    z = np.array([0.0, 0.0, 1.0])
    axes = np.cross(z, rays)
    angles = np.arccos(rays[:, 2])
    want = Rotation.from_rotvec(axes / np.linalg.norm(axes, axis=-1, keepdims=True) * angles[:, None]).as_matrix()
    got = ray_rotation(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(got @ z, rays, atol=1e-12)
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_ray_rotation_on_the_optical_axis_is_the_identity_and_smooth():
    point = torch.tensor([0.0, 0.0, 3.0], requires_grad=True)
    matrix = ray_rotation(point)
    assert torch.equal(matrix, torch.eye(3))
    jacobian = torch.autograd.functional.jacobian(ray_rotation, point.detach())
    # x moves the ray's x and -z's; 1/depth is the angle a unit of length spans.
    assert jacobian[0, 2, 0].item() == pytest.approx(1 / 3)
    assert jacobian[2, 0, 0].item() == pytest.approx(-1 / 3)
    assert torch.isfinite(jacobian).all()


def test_allocentric_and_egocentric_are_inverse_and_relative_to_the_ray():
    center, _, rotation = random_boxes(50)
    allocentric = egocentric_to_allocentric(rotation, center)
    assert not torch.allclose(allocentric, rotation)
    torch.testing.assert_close(allocentric_to_egocentric(allocentric, center), rotation)
    # A box that turns along with the ray to it keeps its allocentric rotation.
    want = allocentric[0].expand_as(rotation)
    turned = ray_rotation(center) @ want
    torch.testing.assert_close(egocentric_to_allocentric(turned, center), want)
    on_axis = torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64).expand_as(center)
    torch.testing.assert_close(egocentric_to_allocentric(rotation, on_axis), rotation)
