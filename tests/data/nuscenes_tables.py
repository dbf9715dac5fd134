# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""nuScenes' v1.0 tables of one car before the front camera in each of some scenes, with black pictures."""

import json
from pathlib import Path

from PIL import Image

# The world's axes are the car's and, but for FORWARD, the camera's.
NO_TURN = [1.0, 0.0, 0.0, 0.0]
FORWARD = [0.5, -0.5, 0.5, -0.5]  # camera (x right, y down, z forward) -> ego (x forward, y left, z up)
K = [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]
SIZE = [1.9, 4.5, 1.6]  # (w, l, h)
DISTANCE, ABOVE = 20.0, 1.5  # of the car before the camera, and of the camera above its centre, in metres


def write_tables(folder: Path, *scenes: str) -> Path:
    """Writes v1.0-mini/ and samples/ under a folder, one key frame a scene; gives the folder."""
    tables = {
        "category": [{"token": "category", "name": "vehicle.car"}],
        "attribute": [{"token": "attribute", "name": "vehicle.moving"}],
        "visibility": [{"token": "4", "level": "v80-100"}],
        "sensor": [{"token": "sensor", "channel": "CAM_FRONT", "modality": "camera"}],
        "calibrated_sensor": [
            {"token": "calibrated", "sensor_token": "sensor", "translation": [0.0, 0.0, ABOVE], "rotation": FORWARD}
            | {"camera_intrinsic": K}
        ],
        **{name: [] for name in ("scene", "sample", "sample_data", "sample_annotation", "instance", "ego_pose")},
    }
    (folder / "samples" / "CAM_FRONT").mkdir(parents=True)
    for i, scene in enumerate(scenes):
        token, picture = f"{scene}-sample", f"samples/CAM_FRONT/{scene}.jpg"
        place = [100.0 * i, 5.0, 0.0]
        tables["scene"].append({"token": scene, "name": scene})
        tables["sample"].append({"token": token, "scene_token": scene})
        tables["ego_pose"].append({"token": f"{scene}-pose", "translation": place, "rotation": NO_TURN})
        tables["instance"].append({"token": f"{scene}-car", "category_token": "category"})
        tables["sample_data"].append(
            {"token": f"{scene}-data", "sample_token": token, "ego_pose_token": f"{scene}-pose"}
            | {"calibrated_sensor_token": "calibrated", "filename": picture, "is_key_frame": True}
            | {"width": 1600, "height": 900}
        )
        tables["sample_annotation"].append(
            {"token": f"{scene}-box", "sample_token": token, "instance_token": f"{scene}-car"}
            | {"translation": [place[0] + DISTANCE, place[1], 0.0], "size": SIZE, "rotation": NO_TURN}
            | {"attribute_tokens": ["attribute"], "visibility_token": "4", "num_lidar_pts": 9, "num_radar_pts": 1}
        )
        Image.new("RGB", (1600, 900)).save(folder / picture)
    (folder / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (folder / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    return folder
