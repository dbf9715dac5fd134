# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Own data as JSON Lines, and Qwen3-VL's answers: what is read, and what is refused with its place."""

import json
import math

import pytest
import torch
from PIL import Image

from llmi3d.data.sources.jsonl import JsonLines
from llmi3d.data.sources.qwen3vl import Qwen3VL

BOX = {"category": "pallet", "center": [0.4, 0.2, 3.1], "size": [1.2, 0.15, 0.8], "yaw": 0.3}
LINE = {"image": "photos/a.jpg", "intrinsics": [300.0, 310.0, 160.0, 100.0], "boxes": [BOX]}


@pytest.fixture
def make(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (320, 200)).save(tmp_path / "photos" / "a.jpg")

    def write(*lines):
        path = tmp_path / "own.jsonl"
        path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
        return JsonLines(path)

    return write


def read(source, index=0):
    return source.read(source.ids()[index])


def test_a_picture_becomes_a_scene(make):
    source = make(LINE)
    assert source.ids() == ["own/train/000001"]
    scene = read(source)
    assert scene["intrinsics"] == [[300, 0, 160], [0, 310, 100], [0, 0, 1]]
    [entry] = scene["objects"]
    assert entry["id"] == "0" and entry["size"] == [1.2, 0.15, 0.8] and not scene["phrases"]
    assert entry["rotation"][0] == pytest.approx([math.cos(0.3), 0, math.sin(0.3)])


def test_three_ways_to_give_a_rotation(make):
    pose = {name: value for name, value in BOX.items() if name != "yaw"}
    turn = [[math.cos(0.3), 0, math.sin(0.3)], [0, 1, 0], [-math.sin(0.3), 0, math.cos(0.3)]]
    quaternion = [math.cos(0.15), 0, math.sin(0.15), 0]
    scene = read(make({**LINE, "boxes": [BOX, {**pose, "rotation": turn}, {**pose, "quaternion": quaternion}]}))
    first, *others = (torch.tensor(entry["rotation"]) for entry in scene["objects"])
    for other in others:
        torch.testing.assert_close(other, first)


def test_phrases_mean_boxes_by_place_or_id(make):
    boxes = [BOX, {**BOX, "id": "left one", "center": [-0.4, 0.2, 3.1]}]
    phrases = [{"phrase": "both pallets", "boxes": [0, "left one"]}]
    scene = read(make({**LINE, "boxes": boxes, "phrases": phrases}))
    assert scene["phrases"] == [{"phrase": "both pallets", "objects": ["0", "left one"]}]


def test_own_ids_and_splits(make):
    source = make({**LINE, "id": "warehouse-1", "split": "val"}, LINE)
    assert source.ids() == ["own/train/000002", "own/val/warehouse-1"]


def broken(**changes):
    return {**LINE, "boxes": [{**BOX, **changes}]}


@pytest.mark.parametrize(
    "line, problem",
    [
        ({**LINE, "intrinsic": 1}, r"own.jsonl:1: image: has no field 'intrinsic'; did you mean 'intrinsics'"),
        ({"image": "photos/a.jpg", "boxes": []}, "misses intrinsics"),
        ({**LINE, "intrinsics": [0, 310, 160, 100]}, "focal lengths"),
        ({**LINE, "intrinsics": [300, 310, 900, 100]}, "lies outside the 320x200 image"),
        ({**LINE, "image": "../../etc/passwd"}, "stays inside"),
        ({**LINE, "image": "photos/none.jpg"}, "want a file in"),
        (broken(size=[1, -1, 1]), "above 0 m"),
        (broken(center=[0, 0, float("nan")]), "want finite numbers"),
        (broken(quaternion=[1, 0, 0, 0]), "want one of rotation, quaternion, yaw"),
        (broken(colour="red"), "has no field 'colour'"),
        ({**LINE, "phrases": [{"phrase": "it", "boxes": [4]}]}, "want a place below 1"),
        (json.dumps(LINE)[:60], "own.jsonl:1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(make, line, problem):
    source = make(line)
    with pytest.raises(ValueError, match=problem):
        read(source)


def test_ids_are_unique(make):
    with pytest.raises(ValueError, match=r"own.jsonl:2: id: got .* a second time"):
        make({**LINE, "id": "a"}, {**LINE, "id": "a"})


def test_real_answers_of_qwen3vl(samples):
    source = Qwen3VL(samples / "qwen3vl")
    found = {name: source.read(name) for name in source.ids() if "manipulation" not in name}
    assert [len(one["objects"]) for one in found.values()] == [2, 4, 1]
    assert all(entry["attributes"]["origin"] for one in found.values() for entry in one["objects"])
    car = found["qwen3vl/examples/autonomous_driving_jpg"]["objects"][0]
    assert car["center"] == [2.88, 0.56, 6.28] and car["size"] == [4.45, 1.7, 1.84]


def test_camera_of_another_picture_size_is_caught(samples):
    source = Qwen3VL(samples / "qwen3vl")
    with pytest.raises(ValueError, match="K belongs to an image of another size"):
        source.read("qwen3vl/examples/manipulation_jpg")
