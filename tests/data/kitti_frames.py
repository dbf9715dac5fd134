# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Frames in KITTI's own layout, with black pictures."""

import math
from pathlib import Path

from PIL import Image

CALIBRATION = "P2: 700 0 600 45 0 710 180 -0.3 0 0 1 0.005\n"


def label_line(category="Car", x=1.0, z=20.0, yaw=0.3, truncation=0.0, occlusion=0):
    alpha = yaw - math.atan2(x, z)
    return f"{category} {truncation} {occlusion} {alpha} 500 150 600 250 1.5 1.8 4.2 {x} 1.7 {z} {yaw}"


def write_frames(folder: Path, **frames: list[str]) -> Path:
    """Writes frames of label lines under folder/training, named by f and their digits; gives the folder."""
    for name in ("image_2", "calib", "label_2"):
        (folder / "training" / name).mkdir(parents=True, exist_ok=True)
    for frame_id, lines in frames.items():
        Image.new("RGB", (1200, 360)).save(folder / "training" / "image_2" / f"{frame_id[1:]}.png")
        (folder / "training" / "calib" / f"{frame_id[1:]}.txt").write_text(CALIBRATION)
        (folder / "training" / "label_2" / f"{frame_id[1:]}.txt").write_text("\n".join(lines) + "\n")
    return folder
