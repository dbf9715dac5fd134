# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""One scene of a chair as SUN RGB-D has it, in VoteNet's layout, with a black picture."""

from pathlib import Path

import numpy as np
from PIL import Image

INTRINSICS = np.array([[529.5, 0, 365], [0, 529.5, 265], [0, 0, 1.0]])
ANGLE = 0.2
# Turns the depth frame (x, forward, up) about x: a camera that looks down.
TILT = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])
CENTER, HALF = np.array([0.3, 3.0, -0.4]), np.array([0.5, 0.9, 0.35])  # half sizes (w, l, h)
HEADING = np.array([np.sin(0.4), -np.cos(0.4)])
PICTURE = Image.new("RGB", (730, 530))


def write_votenet(folder: Path) -> Path:
    """Writes the scene as 000001 under a folder; gives the folder."""
    for name in ("image", "calib", "label"):
        (folder / name).mkdir(parents=True)
    PICTURE.save(folder / "image" / "000001.jpg")
    lines = [" ".join(map(str, matrix.T.ravel())) for matrix in (TILT, INTRINSICS)]
    (folder / "calib" / "000001.txt").write_text("\n".join(lines))
    numbers = [0, 0, 10, 10, *CENTER, *HALF, *HEADING]
    (folder / "label" / "000001.txt").write_text("chair " + " ".join(map(str, numbers)))
    return folder
