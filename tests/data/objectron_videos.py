# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A video of a chair in Objectron's format, projected by its own tutorial's formula (projection and view matrix)."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from llmi3d.data.sources.objectron import sequence_type

SENSOR = (1920, 1440)  # landscape width and height
FX, FY, CX, CY = 1500.0, 1510.0, 950.0, 730.0
TURN = Rotation.from_euler("xyz", [0.2, 0.5, 0.1]).as_matrix()
PLACE, SCALE = np.array([0.1, -0.2, -1.5]), np.array([0.5, 0.9, 0.4])  # x, y up, z front
VIEW = np.eye(4)
VIEW[:3, :3] = Rotation.from_euler("xyz", [0.1, -0.1, 1.5]).as_matrix()
VIEW[:3, 3] = [0.05, 0.02, -0.3]
VIDEO = "chair/batch-0/3"
# The centre and the corners of the unit cube, x slowest.
UNIT = [[0, 0, 0], *([x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5))]


def key_points():
    return (np.array(UNIT) * SCALE) @ TURN.T + PLACE


def tutorial_points(points):
    """Normalised portrait points [9, 2]: OpenGL's projection, then x and y exchanged as the tutorial does."""
    width, height = SENSOR
    near, far = 0.001, 1000.0
    projection = np.array(
        [
            [2 * FX / width, 0, 1 - 2 * CX / width, 0],
            [0, 2 * FY / height, 2 * CY / height - 1, 0],
            [0, 0, (far + near) / (near - far), 2 * far * near / (near - far)],
            [0, 0, -1, 0],
        ]
    )
    camera = VIEW @ np.vstack([points.T, np.ones(len(points))])
    clip = projection @ camera
    x, y = clip[:2] / clip[3]
    return np.stack([(1 + y) / 2, (1 + x) / 2], 1)


def write_video(folder: Path, shift: float = 0.0, size: tuple[int, int] = (360, 480), **changes) -> Path:
    """Writes frames 0 and 5 and their annotations under a folder; gives the folder.

    Args:
        shift: of the annotated points, in normalised units.
        changes: other values for the object's rotation, translation or scale.
    """
    sequence = sequence_type()()
    thing = sequence.objects.add(id=1, category="Chair")
    values = {"rotation": TURN.ravel(), "translation": PLACE, "scale": SCALE, **changes}
    for name, numbers in values.items():
        getattr(thing, name).extend(numbers)
    frames = folder / "frames" / VIDEO
    frames.mkdir(parents=True)
    for number in (0, 5):
        frame = sequence.frame_annotations.add(frame_id=number)
        frame.camera.image_resolution_width, frame.camera.image_resolution_height = SENSOR
        frame.camera.intrinsics.extend([FX, 0, CX, 0, FY, CY, 0, 0, 1])
        frame.camera.view_matrix.extend(VIEW.ravel())
        annotation = frame.annotations.add(object_id=1, visibility=0.8)
        for i, (x, y) in enumerate(tutorial_points(key_points())):
            point = annotation.keypoints.add(id=i)
            point.point_2d.x, point.point_2d.y = x + shift, y
        Image.new("RGB", size).save(frames / f"{number:06d}.jpg")
    path = folder / "annotations" / f"{VIDEO}.pbdata"
    path.parent.mkdir(parents=True)
    path.write_bytes(sequence.SerializeToString())
    return folder
