# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Random boxes and cameras. Cameras are realistic: fx != fy and a principal point off the centre."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from llmi3d.processing.geometry_llmi3d import (
    decode_boxes,
    intrinsics_from_focal,
)

IMAGE_SIZE = (640, 480)
FX, FY, CX, CY = 531.0, 517.0, 331.5, 227.25
K = intrinsics_from_focal(FX, FY, CX, CY)
VIRTUAL_FOCAL = 768.0


def random_boxes(n: int = 32, seed: int = 0, dtype=torch.float64):
    """Return (center, size, rotation) of boxes at 1-40 m, wholly in front of the camera, some outside the image."""
    rng = np.random.default_rng(seed)
    z = np.exp(rng.uniform(np.log(1.5), np.log(40), n))
    center = np.stack((rng.uniform(-0.9, 0.9, n) * z, rng.uniform(-0.7, 0.7, n) * z, z), -1)
    size = np.exp(rng.uniform(np.log(0.05), np.log(1.5), (n, 3)))
    rotation = Rotation.random(n, rng=rng).as_matrix()
    return tuple(torch.from_numpy(x).to(dtype) for x in (center, size, rotation))


def random_cameras(n: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.uniform((200, 200, 100, 90), (2000, 2000, 900, 700), (n, 4))
    return torch.stack([intrinsics_from_focal(*row) for row in rows]).to(dtype)


def decode(encoded, intrinsics):
    return decode_boxes(
        encoded.center_2d_px,
        encoded.depth_virtual,
        encoded.size,
        encoded.rotation_allocentric,
        intrinsics,
        VIRTUAL_FOCAL,
    )


def assert_rotations(matrices: torch.Tensor, tolerance: float):
    eye = torch.eye(3, dtype=matrices.dtype).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, eye, atol=tolerance, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(matrices.shape[:-2], dtype=matrices.dtype))
