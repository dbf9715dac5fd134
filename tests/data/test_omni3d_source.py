# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Omni3D's files as scenes: real annotations' own corners, misreadings, names, damage."""

import json

import pytest
import torch
from PIL import Image

from llmi3d.data.sources.omni3d import Omni3D, omni3d_object
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
