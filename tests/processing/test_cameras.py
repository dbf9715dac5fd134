# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Where K comes from, and what happens to it on the way."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from llmi3d.processing.cameras_llmi3d import DEFAULT_FOV_DEG, exif_focal_length, resolve_camera

FOCAL_LENGTH, FOCAL_LENGTH_35MM = 0x920A, 0xA405
X_RESOLUTION, RESOLUTION_UNIT, PIXEL_X_DIMENSION, ORIENTATION = 0xA20E, 0xA210, 0xA002, 0x0112


def with_exif(size=(400, 300), orientation=None, **tags) -> Image.Image:
    """Return a JPEG image decoded from bytes, like a camera's file."""
    image = Image.new("RGB", size)
    exif = image.getexif()
    if orientation:
        exif[ORIENTATION] = orientation
    exif.get_ifd(0x8769).update({globals()[name.upper()]: value for name, value in tags.items()})
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return Image.open(buffer)


def test_given_camera_as_matrix_and_as_four_numbers_are_the_same():
    matrix = resolve_camera((400, 300), intrinsics=[[500, 0, 210], [0, 510, 140], [0, 0, 1]])
    four = resolve_camera((400, 300), intrinsics=(500, 510, 210, 140))
    assert matrix == four
    assert matrix.source == "given"
    assert matrix.intrinsics[1] == (0.0, 510.0, 140.0)


def test_field_of_view_is_horizontal():
    camera = resolve_camera((400, 300), fov_deg=90)
    assert camera.source == "fov"
    np.testing.assert_allclose(camera.intrinsics, [[200, 0, 200], [0, 200, 150], [0, 0, 1]], rtol=1e-12)


def test_default_says_so(caplog):
    camera = resolve_camera((300, 400))
    assert camera.source == "default"
    # The stated angle spans the longer side.
    assert 2 * math.degrees(math.atan(200 / camera.intrinsics[0][0])) == pytest.approx(DEFAULT_FOV_DEG)
    assert "60 degrees" in caplog.text and "300x400" in caplog.text


def test_equivalent_focal_length_compares_diagonals():
    # 43.27 mm is the diagonal of 35 mm film: at that focal length the focal length in pixels is the image's
    # diagonal.
    assert exif_focal_length(with_exif(focal_length_35mm=43)) == pytest.approx(500 * 43 / 43.2666, rel=1e-4)


def test_sensor_based_focal_length():
    # 1000 pixels per centimetre on the sensor, 5 mm: 500 pixels, at half the size 250.
    tags = {"focal_length": 5.0, "x_resolution": 1000.0, "resolution_unit": 3}
    assert exif_focal_length(with_exif(**tags)) == pytest.approx(500)
    assert exif_focal_length(with_exif(**tags, pixel_x_dimension=800)) == pytest.approx(250)


@pytest.mark.parametrize("tags", [{}, {"focal_length": 5.0}, {"focal_length_35mm": 0}])
def test_useless_exif_is_no_focal_length(tags):
    assert exif_focal_length(with_exif(**tags)) is None


def test_order_of_sources():
    assert resolve_camera((400, 300), intrinsics=(500, 500, 200, 150), focal_length=300.0).source == "given"
    assert resolve_camera((400, 300), fov_deg=60, focal_length=300.0).source == "fov"
    exif = resolve_camera((400, 300), focal_length=300.0)
    assert exif.source == "exif"
    assert exif.intrinsics[0] == (300.0, 0.0, 200.0)


def test_orientation_turns_given_camera_and_image():
    camera = resolve_camera((400, 300), orientation=6, intrinsics=(500, 510, 210, 140))
    assert camera.image_size == (300, 400)
    # Turned by 90 degrees clockwise: old y runs from right to left, old x from top to bottom.
    np.testing.assert_allclose(camera.intrinsics, [[510, 0, 300 - 140], [0, 500, 210], [0, 0, 1]])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"intrinsics": [1, 2, 3]}, r"intrinsics: got shape \(3,\), want \(3, 3\) or \(fx, fy, cx, cy\)"),
        ({"intrinsics": "phone"}, "intrinsics: got 'phone', want 3x3 numbers"),
        ({"intrinsics": (500, float("nan"), 200, 150)}, "non-finite"),
        ({"intrinsics": (0, 500, 200, 150)}, "fx=0, fy=500, want both above 0"),
        ({"intrinsics": (500, 500, 900, 150)}, r"principal point \(900, 150\) lies outside the 400x300 image"),
        ({"intrinsics": (500, 500, 200, 150), "fov_deg": 60}, "intrinsics and fov_deg: got both"),
        ({"fov_deg": 180}, "fov_deg: got 180.0, want a horizontal field of view in degrees above 0 and below 180"),
    ],
)
def test_bad_cameras_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        resolve_camera((400, 300), **kwargs)
