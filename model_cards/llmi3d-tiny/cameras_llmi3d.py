# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Cameras from what is known: K or field of view as given, else EXIF, else a stated default."""

import logging
import math
from typing import Any

import torch
from PIL import Image

from .geometry_llmi3d import Camera, check_intrinsics, intrinsics_from_focal, intrinsics_from_fov, orient_intrinsics

logger = logging.getLogger(__name__)

# Across the longer side: between a phone's main camera (65-70 degrees) and a webcam or dash camera (50-60).
DEFAULT_FOV_DEG = 60.0

EXIF_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_FOCAL_LENGTH, _FOCAL_LENGTH_35MM = 0x920A, 0xA405
_FOCAL_PLANE_X_RESOLUTION, _FOCAL_PLANE_RESOLUTION_UNIT, _PIXEL_X_DIMENSION = 0xA20E, 0xA210, 0xA002
_MILLIMETRES_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_DIAGONAL_35MM = math.hypot(36.0, 24.0)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 where it is missing or out of range."""
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def exif_focal_length(image: Image.Image) -> float | None:
    """Return the focal length of the stored image in pixels from its EXIF data, None without usable entries.

    The 35 mm equivalent focal length comes first (equal diagonals, as CIPA defines it), then the focal length with the
    sensor's resolution.
    """
    exif = image.getexif().get_ifd(_EXIF_IFD)
    width, height = image.size

    def number(tag):
        try:
            value = float(exif[tag])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        return value if math.isfinite(value) and value > 0 else None

    if equivalent := number(_FOCAL_LENGTH_35MM):
        return equivalent / _DIAGONAL_35MM * math.hypot(width, height)
    millimetres, resolution = number(_FOCAL_LENGTH), number(_FOCAL_PLANE_X_RESOLUTION)
    unit = _MILLIMETRES_PER_UNIT.get(exif.get(_FOCAL_PLANE_RESOLUTION_UNIT, 2))
    if millimetres and resolution and unit:
        # The resolution belongs to the image as taken; it may have been resized since.
        resized = width / (number(_PIXEL_X_DIMENSION) or width)
        return millimetres * resolution / unit * resized
    return None


def parse_intrinsics(intrinsics: Any, image_size: tuple[int, int]) -> torch.Tensor:
    """Check a K given as 3x3 or as (fx, fy, cx, cy) and return it as float64 [3, 3].

    Args:
        intrinsics: nested sequence, array or tensor, pixels of the image as stored.
        image_size: (width, height) as stored, pixels.

    Raises:
        ValueError: see `geometry_llmi3d.check_intrinsics`.
    """
    try:
        intrinsics = torch.as_tensor(intrinsics, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"intrinsics: got {intrinsics!r}, want 3x3 numbers or (fx, fy, cx, cy).") from error
    if intrinsics.shape == (4,):
        intrinsics = intrinsics_from_focal(*intrinsics.tolist())
    elif intrinsics.shape != (3, 3):
        raise ValueError(f"intrinsics: got shape {tuple(intrinsics.shape)}, want (3, 3) or (fx, fy, cx, cy).")
    return check_intrinsics(intrinsics, image_size)


def resolve_camera(
    image_size: tuple[int, int],
    orientation: int = 1,
    intrinsics: Any = None,
    fov_deg: float | None = None,
    focal_length: float | None = None,
) -> Camera:
    """Return the camera of an image, with the source of its K.

    Args:
        image_size: (width, height) as stored, pixels.
        orientation: EXIF orientation; image, K and camera frame are turned upright.
        intrinsics: K of the image *as stored*, 3x3 or (fx, fy, cx, cy), pixels.
        fov_deg: horizontal field of view of the *upright* image, degrees.
        focal_length: from EXIF, pixels.

    Raises:
        ValueError: invalid intrinsics or field of view, or both given.
    """
    if intrinsics is not None and fov_deg is not None:
        raise ValueError(f"intrinsics and fov_deg: got both ({intrinsics} and {fov_deg}), want at most one of them.")
    upright = image_size[::-1] if orientation >= 5 else image_size
    if fov_deg is not None:
        k, source = intrinsics_from_fov(float(fov_deg), upright), "fov"
    else:
        width, height = image_size
        if intrinsics is not None:
            k, source = parse_intrinsics(intrinsics, image_size), "given"
        elif focal_length is not None:
            k, source = intrinsics_from_focal(focal_length, focal_length, width / 2, height / 2), "exif"
        else:
            focal = 0.5 * max(image_size) / math.tan(math.radians(DEFAULT_FOV_DEG) / 2)
            k, source = intrinsics_from_focal(focal, focal, width / 2, height / 2), "default"
            logger.warning(
                "No intrinsics, no fov_deg and no focal length in the EXIF data of a %dx%d image: a field of view "
                "of %g degrees across its longer side is assumed. Every distance scales with this guess.",
                *image_size,
                DEFAULT_FOV_DEG,
            )
        k = orient_intrinsics(k, image_size, orientation)
    return Camera(tuple(tuple(row) for row in k.tolist()), tuple(upright), source)
