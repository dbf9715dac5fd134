# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""K of every kind, against PIL's pixels; what is no K is refused."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from random_geometry import CX, CY, FX, FY, IMAGE_SIZE, K

from llmi3d.processing.geometry_llmi3d import (
    Camera,
    back_project,
    check_intrinsics,
    intrinsics_from_focal,
    intrinsics_from_fov,
    orient_intrinsics,
    project,
)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orient_intrinsics_follows_the_pixels(orientation):
    width, height = 40, 30
    stored_k = intrinsics_from_focal(35.0, 28.0, 17.0, 16.5)
    column, row = 31, 4  # the marked pixel, as stored
    pixels = np.zeros((height, width), np.uint8)
    pixels[row, column] = 255
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    (new_row,), (new_column,) = np.nonzero(upright)

    moved_k = orient_intrinsics(stored_k, (width, height), orientation)
    check_intrinsics(moved_k, upright.shape[::-1])
    # The camera frame turns with the image: the ray of the marked pixel has the same coordinates along the image's
    # columns and rows, up to the swap and the signs of this orientation.
    pixel_middle = torch.tensor([[column + 0.5, row + 0.5]], dtype=torch.float64)
    x, y, z = back_project(pixel_middle, torch.ones(1, dtype=torch.float64), stored_k)[0].tolist()
    turned = {
        1: (x, y),
        2: (-x, y),
        3: (-x, -y),
        4: (x, -y),
        5: (y, x),
        6: (-y, x),
        7: (-y, -x),
        8: (y, -x),
    }[orientation]
    got = project(torch.tensor([*turned, z], dtype=torch.float64), moved_k)
    np.testing.assert_allclose(got, (new_column + 0.5, new_row + 0.5), atol=1e-9)


@pytest.mark.parametrize("orientation", [0, 9, "6"])
def test_orient_intrinsics_refuses_other_orientations(orientation):
    with pytest.raises(ValueError, match=f"got {orientation}, want an EXIF orientation from 1 to 8"):
        orient_intrinsics(K, IMAGE_SIZE, orientation)


@pytest.mark.parametrize("fov_deg", [10, 53.13, 90, 150])
def test_intrinsics_from_fov_spans_the_image(fov_deg):
    k = intrinsics_from_fov(fov_deg, IMAGE_SIZE)
    left, right = back_project(torch.tensor([[0.0, 240.0], [640.0, 240.0]]), torch.ones(2), k)
    span = math.atan(right[0].item()) - math.atan(left[0].item())
    assert math.degrees(span) == pytest.approx(fov_deg)
    assert k[0, 0] == k[1, 1] and k[:2, 2].tolist() == [320, 240]


@pytest.mark.parametrize("fov_deg", [0, -5, 180, 400, math.nan])
def test_intrinsics_from_fov_refuses_angles_out_of_range(fov_deg):
    with pytest.raises(ValueError, match=f"got {fov_deg}, want a horizontal field of view in degrees"):
        intrinsics_from_fov(fov_deg, IMAGE_SIZE)


def k_with(row: int, column: int, value: float) -> torch.Tensor:
    changed = K.clone()
    changed[row, column] = value
    return changed


BAD_INTRINSICS = {
    "shape": (torch.eye(4), r"got shape \(4, 4\), want \(3, 3\)"),
    "batch of one": (K[None], r"got shape \(1, 3, 3\), want \(3, 3\)"),
    "nan": (k_with(0, 2, math.nan), "got non-finite values .*nan.*, want finite numbers"),
    "infinite": (k_with(1, 1, math.inf), "got non-finite values .*inf"),
    "zero focal length": (k_with(0, 0, 0), r"got focal lengths fx=0, fy=517, want both above 0"),
    "negative focal length": (k_with(1, 1, -517), r"got focal lengths fx=531, fy=-517, want both above 0"),
    "skew": (k_with(0, 1, 2.0), r"want \[\[fx, 0, cx\], \[0, fy, cy\], \[0, 0, 1\]\] \(no skew"),
    "second row": (k_with(1, 0, 0.5), r"want \[\[fx, 0, cx\]"),
    "last row": (k_with(2, 2, 2.0), r"want \[\[fx, 0, cx\]"),
    "transposed": (K.T, r"want \[\[fx, 0, cx\]"),
    "x outside": (k_with(0, 2, 640.0), r"principal point \(640, 227\.25\) lies outside the 640x480 image"),
    "y outside": (k_with(1, 2, 500.0), r"principal point \(331\.5, 500\) lies outside the 640x480 image"),
    "negative centre": (k_with(0, 2, -1.0), r"principal point \(-1, 227\.25\) lies outside the 640x480 image"),
}


@pytest.mark.parametrize("name", BAD_INTRINSICS)
def test_check_intrinsics_says_what_is_wrong(name):
    intrinsics, message = BAD_INTRINSICS[name]
    with pytest.raises(ValueError, match="^intrinsics: .*" + message):
        check_intrinsics(intrinsics, IMAGE_SIZE)


def test_check_intrinsics_takes_lists_and_returns_float64():
    got = check_intrinsics(K.tolist(), IMAGE_SIZE)
    assert got.dtype == torch.float64 and torch.equal(got, K)
    check_intrinsics(k_with(0, 2, 700.0))  # without an image size the principal point may lie anywhere


def test_camera_holds_plain_numbers():
    camera = Camera(tuple(map(tuple, K.tolist())), IMAGE_SIZE, scale=(0.5, 0.5), offset=(1.0, 2.0))
    assert torch.equal(camera.intrinsics_tensor(), K)
    want = [[FX / 2, 0, CX / 2 + 1], [0, FY / 2, CY / 2 + 2], [0, 0, 1]]
    np.testing.assert_allclose(camera.network_intrinsics(), want)
    assert camera.network_intrinsics().dtype == torch.float64
