# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Omni3D's files as scenes: real annotations' own corners, misreadings, names, damage."""

import json

import pytest
import torch
from PIL import Image

from llmi3d.data.sources.omni3d import Omni3D, Omni3DFilter, omni3d_object
from llmi3d.processing.geometry_llmi3d import box_corners


@pytest.fixture(scope="module")
def real(samples):
    return json.loads((samples / "omni3d" / "arkitscenes_two_annotations.json").read_text())


def deviation(annotation, K, **changes):
    entry = omni3d_object({**annotation, **changes}, torch.tensor(K, dtype=torch.float64), 1920)
    parts = (torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation"))
    stored = torch.tensor(annotation["bbox3D_cam"], dtype=torch.float64)
    return (box_corners(*parts) - stored).abs().max().item()


def test_corners_are_the_stored_ones(real):
    for annotation in real["annotations"]:
        assert deviation(annotation, real["images"][0]["K"]) < 1e-3


def test_misread_dimensions_are_seen(real):
    for annotation in real["annotations"]:
        width, height, length = annotation["dimensions"]
        assert deviation(annotation, real["images"][0]["K"], dimensions=[length, height, width]) > 1e-2
        turned = torch.tensor(annotation["R_cam"]).T.tolist()
        assert deviation(annotation, real["images"][0]["K"], R_cam=turned) > 1e-2


@pytest.fixture
def built(real, tmp_path):
    (tmp_path / "datasets" / "Omni3D").mkdir(parents=True)
    Image.new("RGB", (1440, 1920)).save(tmp_path / "datasets" / "a.jpg")

    def write(image=(), annotation=(), name="ARKitScenes_val.json"):
        images = [{**real["images"][0], "file_path": "a.jpg", **dict(image)}]
        annotations = [{**one, **dict(annotation)} for one in real["annotations"]]
        path = tmp_path / "datasets" / "Omni3D" / name
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
        return path

    return write


def test_names_come_from_the_file(built, real):
    source = Omni3D(built())
    assert source.ids() == [f"arkitscenes/val/{real['images'][0]['id']}"]
    scene = source.read(source.ids()[0])
    assert (scene["source"], scene["split"]) == ("arkitscenes", "val")
    assert [entry["category"] for entry in scene["objects"]] == [a["category_name"] for a in real["annotations"]]
    assert [entry["visibility"] for entry in scene["objects"]] == [None, None]  # -1 means unknown


def test_a_folder_of_files_is_one_source(built):
    built()
    folder = built(name="KITTI_train.json").parent
    assert {name.rsplit("/", 1)[0] for name in Omni3D(folder).ids()} == {"arkitscenes/val", "kitti/train"}


def test_inaccurate_boxes_are_to_be_ignored(built):
    source = Omni3D(built(annotation={"depth_error": 0.9}))
    assert all(entry["ignore"] for entry in source.read(source.ids()[0])["objects"])
    source = Omni3D(built(annotation={"depth_error": 0.1}))
    assert not all(entry["ignore"] for entry in source.read(source.ids()[0])["objects"])


NOT_GIVEN = [-1, -1, -1, -1]
K = [[1000.0, 0.0, 500.0], [0.0, 1000.0, 400.0], [0.0, 0.0, 1.0]]


def car(**changes) -> dict:
    """A 4 m long, 1.5 m high, 2 m wide car 10 m ahead, in Omni3D's form, in an image 800 pixels high."""
    return {
        "id": 1,
        "category_name": "car",
        "valid3D": True,
        "behind_camera": False,
        "truncation": 0.0,
        "visibility": -1,
        "lidar_pts": -1,
        "segmentation_pts": -1,
        "depth_error": -1,
        "bbox2D_tight": NOT_GIVEN,
        "bbox2D_proj": [278, 317, 722, 483],
        "bbox2D_trunc": [278, 317, 722, 483],
        "center_cam": [0.0, 0.0, 10.0],
        "dimensions": [2.0, 1.5, 4.0],
        "R_cam": torch.eye(3).tolist(),
        **changes,
    }


@pytest.mark.parametrize(
    "changes, ignored",
    [
        ({}, False),
        ({"behind_camera": True}, True),
        ({"truncation": 0.4}, True),
        ({"truncation": 0.3}, False),
        ({"visibility": 0.3}, True),
        ({"visibility": 0.4}, False),
        ({"lidar_pts": 0}, True),
        ({"segmentation_pts": 0}, True),
        ({"depth_error": 0.6}, True),
        ({"bbox2D_trunc": [0, 0, 10, 49]}, True),  # of 800 px: below 1/16
        ({"bbox2D_trunc": [0, 0, 10, 51]}, False),
        ({"bbox2D_proj": [0, -700, 10, 501], "bbox2D_trunc": NOT_GIVEN}, True),  # one and a half images high
    ],
)
def test_rules_of_what_to_ignore(changes, ignored):
    entry = omni3d_object(car(**changes), torch.tensor(K, dtype=torch.float64), 800)
    assert entry["ignore"] is ignored and entry["size"] == pytest.approx([4.0, 1.5, 2.0])


def test_rules_can_be_changed():
    K_64 = torch.tensor(K, dtype=torch.float64)
    assert not omni3d_object(car(depth_error=0.68), K_64, 800, Omni3DFilter(max_depth_error=1.0))["ignore"]


def test_annotations_without_a_box_are_left_out(built):
    source = Omni3D(built(annotation={"valid3D": False}))
    assert source.read(source.ids()[0])["objects"] == []


@pytest.mark.parametrize(
    "image, annotation, problem",
    [
        ({"file_path": "../../secret.jpg"}, {}, "stays inside"),
        ({"K": [[0, 0, 1], [0, 0, 1], [0, 0, 1]]}, {}, "focal"),
        ({}, {"R_cam": [[1, 0]]}, "annotation"),
        ({}, {"dimensions": None}, "annotation"),
    ],
)
def test_damaged_records_are_refused(built, image, annotation, problem):
    source = Omni3D(built(image, annotation))
    with pytest.raises(ValueError, match=problem):
        source.read(source.ids()[0])


def test_truncated_file_is_named(built):
    path = built()
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match=r"ARKitScenes_val.json: .* want JSON with images"):
        Omni3D(path)
