# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The nuScenes converter: the pose chain on real frames against scipy, misreadings, and damaged tables."""

import json
import shutil

import numpy as np
import pytest
import torch
from nuscenes_tables import ABOVE, DISTANCE, SIZE, write_tables
from scipy.spatial.transform import Rotation

from llmi3d.data.schema import image_size
from llmi3d.data.sources.nuscenes import NuScenes, category_name
from llmi3d.processing.geometry_llmi3d import box_corners, project_box_2d


@pytest.fixture(scope="module")
def source(samples):
    return NuScenes(samples / "nuscenes")


@pytest.fixture(scope="module")
def tables(samples):
    folder = samples / "nuscenes" / "v1.0-mini"
    names = ("sample_data", "sample_annotation", "ego_pose", "calibrated_sensor", "sample")
    return {name: {row["token"]: row for row in json.loads((folder / f"{name}.json").read_text())} for name in names}


def reference_corners(annotation, ego, sensor, order="wxyz", swap=False):
    """All 8 corners [8, 3] in the camera, by scipy and the text of nuScenes' own documentation."""

    def turn(values):
        w, x, y, z = values if order == "wxyz" else (values[3], values[0], values[1], values[2])
        return Rotation.from_quat([x, y, z, w])

    width, length, height = annotation["size"]
    if swap:
        width, length = length, width
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    points = turn(annotation["rotation"]).apply(signs * [length, width, height]) + annotation["translation"]
    for frame in (ego, sensor):
        points = turn(frame["rotation"]).inv().apply(points - np.array(frame["translation"]))
    return points


def all_objects(source):
    for image_id in source.ids():
        for entry in source.read(image_id)["objects"]:
            yield source._records[image_id], entry


def farthest(entry, points):
    """Largest distance of a corner of an entry's box to the nearest of some points."""
    parts = (torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation"))
    return torch.cdist(box_corners(*parts), torch.from_numpy(points)).min(1).values.max().item()


def test_real_frames_through_the_whole_chain(source, tables):
    count = 0
    for record, entry in all_objects(source):
        sensor = tables["calibrated_sensor"][record["calibrated_sensor_token"]]
        want = reference_corners(
            tables["sample_annotation"][entry["id"]], tables["ego_pose"][record["ego_pose_token"]], sensor
        )
        assert farthest(entry, want) < 1e-6
        count += 1
    assert count > 100


@pytest.mark.parametrize("misreading", ["quaternion order", "width for length", "ego pose of another camera"])
def test_misreadings_are_seen(source, tables, misreading):
    """What the test above would say of a converter that reads the format wrongly."""
    off = []
    for record, entry in all_objects(source):
        ego = tables["ego_pose"][record["ego_pose_token"]]
        if misreading == "ego pose of another camera":
            ego = next(
                tables["ego_pose"][other["ego_pose_token"]]
                for other in tables["sample_data"].values()
                if other["sample_token"] == record["sample_token"] and other["ego_pose_token"] != ego["token"]
            )
        want = reference_corners(
            tables["sample_annotation"][entry["id"]],
            ego,
            tables["calibrated_sensor"][record["calibrated_sensor_token"]],
            order="xyzw" if misreading == "quaternion order" else "wxyz",
            swap=misreading == "width for length",
        )
        off.append(farthest(entry, want))
    assert np.median(off) > 1e-3


def test_front_of_a_car_is_along_its_length(source):
    for _, entry in all_objects(source):
        if entry["category"] == "car":
            length, height, width = entry["size"]
            assert length > width > 1 and 1 < height < 2.5
            down = torch.tensor(entry["rotation"])[:, 1]
            assert down[1] > 0.9  # the box's y points down in the picture


def test_objects_are_in_view(source):
    for record, entry in all_objects(source):
        left, top, right, bottom = entry["box_2d"]
        assert right > 0 and bottom > 0 and left < record["width"] and top < record["height"]
        assert 0 <= entry["truncation"] <= 0.98 and entry["center"][2] > 0


def test_picture_and_camera_belong_together(source):
    for image_id in source.ids():
        scene = source.read(image_id)
        assert image_size(scene["image"]) == (1600, 900)
        assert scene["intrinsics"][0][0] > 750


def test_object_without_a_point_is_to_be_ignored(source, tables):
    ignored = {entry["id"] for _, entry in all_objects(source) if entry["ignore"]}
    rows = tables["sample_annotation"]
    assert ignored and all(rows[one]["num_lidar_pts"] + rows[one]["num_radar_pts"] == 0 for one in ignored)


def test_box_2d_is_the_projection(source):
    scene = source.read(source.ids()[0])
    K = torch.tensor(scene["intrinsics"], dtype=torch.float64)
    for entry in scene["objects"]:
        parts = (torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation"))
        torch.testing.assert_close(project_box_2d(box_corners(*parts), K).tolist(), entry["box_2d"])


def test_categories():
    assert category_name("vehicle.bus.rigid") == "bus" and category_name("human.pedestrian.adult") == "pedestrian"
    assert category_name("movable_object.debris") == "debris" and category_name("vehicle.car") == "car"


def test_splits_by_scene(samples):
    named = NuScenes(samples / "nuscenes", splits={"val": ["scene-0061"]})
    assert {name.split("/")[1] for name in named.ids()} == {"val"} and len(named.ids()) == 6


def test_a_car_ahead_is_where_it_was_put(tmp_path):
    source = NuScenes(write_tables(tmp_path, "a", "b"), splits={"train": ["a"], "val": ["b"]})
    assert source.ids() == ["nuscenes/train/a-data", "nuscenes/val/b-data"]
    for image_id in source.ids():
        [entry] = source.read(image_id)["objects"]
        width, length, height = SIZE
        assert entry["category"] == "car" and entry["size"] == pytest.approx([length, height, width])
        assert entry["center"] == pytest.approx([0.0, ABOVE, DISTANCE])
        # Its front is away from the camera, and its side is across.
        torch.testing.assert_close(torch.tensor(entry["rotation"]), torch.tensor([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]]))


# ------------------------------------------------------------------------------------------------------------ damage


@pytest.fixture
def copy(samples, tmp_path):
    shutil.copytree(samples / "nuscenes" / "v1.0-mini", tmp_path / "v1.0-mini")
    return tmp_path


def change(folder, table, **values):
    path = folder / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row.update(values)
    path.write_text(json.dumps(rows))


def test_missing_table_is_named(copy):
    (copy / "v1.0-mini" / "ego_pose.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"ego_pose.json: no such table"):
        NuScenes(copy)


def test_truncated_table_is_named(copy):
    path = copy / "v1.0-mini" / "sample_annotation.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(ValueError, match=r"sample_annotation.json: .* want a JSON list"):
        NuScenes(copy)


@pytest.mark.parametrize(
    "table, values, problem",
    [
        ("sample_annotation", {"translation": [float("nan"), 0, 0]}, "translation: got"),
        ("sample_annotation", {"size": [1.0, -4.0, 1.5]}, "size: got"),
        ("calibrated_sensor", {"camera_intrinsic": []}, "intrinsics: got shape"),
        ("sample_data", {"filename": "samples/../../CAM_FRONT/x.jpg"}, "stays inside"),
        ("instance", {"category_token": "nobody"}, "category: got the token 'nobody'"),
    ],
)
def test_damaged_records_are_refused(copy, table, values, problem):
    change(copy, table, **values)
    source = NuScenes(copy)
    problems = []
    for image_id in source.ids():
        try:
            source.read(image_id)
        except ValueError as error:
            problems.append(str(error))
    assert any(problem in one for one in problems)
