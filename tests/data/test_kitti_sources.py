# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""KITTI's object and tracking folders and Mono3DRefer's expressions as sources, on small folders made here."""

import json

import pytest
import torch
from PIL import Image

from llmi3d.data.sources.kitti import Kitti
from llmi3d.data.sources.kitti_tracking import KittiTracking
from llmi3d.data.sources.mono3drefer import Mono3DRefer

P2 = "P2: 700 0 600 45 0 710 180 -0.3 0 0 1 0.005\n"
CAR = "0.0 0 -1.5 500 150 600 250 1.5 1.8 4.2 1.0 1.7 20.0 0.3"


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGB", (1200, 360)).save(path)
    else:
        path.write_text(text)


@pytest.fixture
def objects(tmp_path):
    for frame in ("000000", "000001"):
        write(tmp_path / "training" / "image_2" / f"{frame}.png")
        write(tmp_path / "training" / "calib" / f"{frame}.txt", P2)
        write(tmp_path / "training" / "label_2" / f"{frame}.txt", f"Car {CAR}\n")
    return tmp_path


@pytest.fixture
def tracking(tmp_path):
    for frame in ("000000", "000001", "000002"):
        write(tmp_path / "training" / "image_02" / "0007" / f"{frame}.png")
    write(tmp_path / "training" / "calib" / "0007.txt", P2)
    lines = [f"0 3 Car {CAR}", "0 -1 DontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10", f"2 3 Van {CAR}"]
    write(tmp_path / "training" / "label_02" / "0007.txt", "\n".join(lines))
    return tmp_path


@pytest.fixture
def expressions(tmp_path):
    write(tmp_path / "images" / "000012.png")
    write(tmp_path / "calib" / "000012.txt", P2)
    words = ["Car", *(float(word) for word in CAR.split())]
    entry = {"im_name": "000012", "instanceID": 7, "ann_id": 1, "objectName": "car", "label_2": str(words)}
    said = ["The white car on the right.", "A car that is 20 meters away"]
    entries = [{**entry, "ann_id": i, "description": one} for i, one in enumerate(said)]
    write(tmp_path / "Mono3DRefer.json", json.dumps(entries))
    write(tmp_path / "Mono3DRefer_test_image.txt", "000012\n000013\n")
    write(tmp_path / "test_instanceID_split.json", json.dumps({"Unique": [7], "Near": [], "Medium": [7], "Hard": [8]}))
    return tmp_path


def test_split_file_names_the_split(objects):
    (objects / "val.txt").write_text("000001\n")
    source = Kitti(objects, split_file=objects / "val.txt")
    assert source.ids() == ["kitti/val/000001"]
    assert source.read("kitti/val/000001")["split"] == "val"


def test_a_frame_with_regions_without_boxes_is_not_complete(objects):
    path = objects / "training" / "label_2" / "000001.txt"
    path.write_text(path.read_text() + "DontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10\n")
    source = Kitti(objects)
    assert [source.read(name)["complete"] for name in source.ids()] == [True, False]
    assert len(source.read("kitti/training/000001")["objects"]) == 1


@pytest.mark.parametrize(
    "file, text, problem",
    [
        ("calib", None, "calib/000001.txt"),
        ("label_2", "Car 0.0 0 -1.5 500 150 600 250 1.5 1.8 -4.2 1.0 1.7 20.0 0.3", "label_2/000001.txt:1: got"),
        ("label_2", "Car 0.0 0 -1.5 500 150 600 250 1.5 1.8 4.2 nan 1.7 20.0 0.3", "label_2/000001.txt:1: got"),
        ("label_2", "Car 0.0", "want a category and 14 numbers"),
    ],
)
def test_damaged_frames_are_problems_of_their_own(objects, file, text, problem):
    path = objects / "training" / file / "000001.txt"
    path.unlink() if text is None else path.write_text(text)
    source = Kitti(objects)
    with pytest.raises(ValueError, match=problem):
        source.read("kitti/training/000001")
    assert source.read("kitti/training/000000")["objects"]


def test_tracking_frames(tracking):
    source = KittiTracking(tracking)
    assert source.ids() == [f"kitti_tracking/training/0007_{frame:06d}" for frame in range(3)]
    first, none, last = (source.read(name) for name in source.ids())
    assert not first["complete"] and none["complete"] and none["objects"] == []
    assert first["objects"][0]["attributes"] == {"track": "3"} and last["objects"][0]["category"] == "van"
    # K^-1 p4 = (45 - 600 * 0.005) / 700, (-0.3 - 180 * 0.005) / 710, 0.005
    want = [1.0 + 42 / 700, 1.7 - 1.5 / 2 - 1.2 / 710, 20.005]
    torch.testing.assert_close(torch.tensor(first["objects"][0]["center"]), torch.tensor(want))
    assert len(KittiTracking(tracking, every=2).ids()) == 2


def test_tracking_without_its_calibration(tracking):
    (tracking / "training" / "calib" / "0007.txt").unlink()
    source = KittiTracking(tracking)
    with pytest.raises(ValueError, match=r"calib/0007.txt"):
        source.read(source.ids()[0])


def test_expressions_of_mono3drefer(expressions):
    source = Mono3DRefer(expressions)
    assert source.ids() == ["mono3drefer/test/000012"]
    scene = source.read("mono3drefer/test/000012")
    assert [one["phrase"] for one in scene["phrases"]] == [
        "the white car on the right",
        "a car that is 20 meters away",
    ]
    assert [one["objects"] for one in scene["phrases"]] == [["7"], ["7"]]
    [entry] = scene["objects"]
    assert entry["size"] == [4.2, 1.5, 1.8]
    assert entry["attributes"] == {"name": "car", "uniqueness": "Unique", "distance_band": "Medium"}


def test_real_groups_of_mono3drefer(expressions, samples):
    (expressions / "test_instanceID_split.json").write_text(
        (samples / "mono3drefer" / "test_instanceID_split.json").read_text()
    )
    entries = json.loads((expressions / "Mono3DRefer.json").read_text())
    (expressions / "Mono3DRefer.json").write_text(json.dumps([{**one, "instanceID": 24605} for one in entries]))
    [entry] = Mono3DRefer(expressions).read("mono3drefer/test/000012")["objects"]
    groups = {name: entry["attributes"][name] for name in ("uniqueness", "distance_band", "difficulty")}
    assert groups == {"uniqueness": "Unique", "distance_band": "Far", "difficulty": "Easy"}


@pytest.mark.parametrize(
    "change, problem",
    [({"label_2": "__import__('os')"}, "annotation 0"), ({"label_2": "['Car', 1]"}, "want a category and 14 numbers")],
)
def test_damaged_expressions_are_refused(expressions, change, problem):
    entries = json.loads((expressions / "Mono3DRefer.json").read_text())
    (expressions / "Mono3DRefer.json").write_text(json.dumps([{**entries[0], **change}]))
    with pytest.raises(ValueError, match=problem):
        Mono3DRefer(expressions).read("mono3drefer/test/000012")
