# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Objectron: a video made in its format, projected by its own tutorial's formula (projection and view matrix)."""

from functools import partial

import numpy as np
import pytest
from objectron_videos import SCALE, UNIT, key_points, tutorial_points, write_video

from llmi3d.data.sources.objectron import Objectron


@pytest.fixture
def video(tmp_path):
    return partial(write_video, tmp_path)


def test_box_projects_to_the_annotated_points(video):
    source = Objectron(video())
    assert source.ids() == [f"objectron/full/chair/batch-0/3/{number:06d}" for number in (0, 5)]
    scene = source.read(source.ids()[1])
    [entry] = scene["objects"]
    K = np.array(scene["intrinsics"])
    length, height, width = entry["size"]
    assert [width, height, length] == pytest.approx(SCALE.tolist(), abs=1e-6)
    center, turn = np.array(entry["center"]), np.array(entry["rotation"])
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-5)
    # Objectron's box in our axes: the front (+z there) is our x, up is our -y, its x is our z.
    local = np.array([[z * length, -y * height, x * width] for x, y, z in UNIT])
    pixels = (local @ turn.T + center) @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    assert np.abs(pixels - tutorial_points(key_points()) * [360, 480]).max() < 0.01
    assert entry["category"] == "chair" and entry["visibility"] == pytest.approx(0.8)


def test_up_in_the_world_is_up_in_the_portrait_picture(video):
    """The camera was turned by some 90 degrees about its axis, as a phone held upright."""
    source = Objectron(video())
    [entry] = source.read(source.ids()[0])["objects"]
    assert np.array(entry["rotation"])[1, 1] > 0.8


def test_wrong_axes_are_refused(video):
    source = Objectron(video(shift=0.1))
    with pytest.raises(ValueError, match="px away from its annotated key points"):
        source.read(source.ids()[0])


def test_landscape_frame_is_refused(video):
    source = Objectron(video(size=(480, 360)))
    with pytest.raises(ValueError, match="got a frame of 480x360"):
        source.read(source.ids()[0])


@pytest.mark.parametrize(
    "changes, problem",
    [({"scale": [0.5, -1.0, 0.4]}, "got scale"), ({"translation": [float("nan"), 0, 0]}, "translation: got")],
)
def test_damaged_boxes_are_refused(video, changes, problem):
    source = Objectron(video(**changes))
    with pytest.raises(ValueError, match=problem):
        source.read(source.ids()[0])


def test_truncated_annotation_is_refused(video):
    root = video()
    path = root / "annotations/chair/batch-0/3.pbdata"
    path.write_bytes(path.read_bytes()[:-7])
    source = Objectron(root)
    with pytest.raises(ValueError, match=r"3.pbdata: .* want Objectron's annotation data"):
        source.read(source.ids()[0])


def test_published_index_gives_the_split(video):
    root = video()
    (root / "index").mkdir()
    (root / "index" / "chair_annotations_test").write_text("chair/batch-0/3\n")
    assert {name.split("/")[1] for name in Objectron(root).ids()} == {"test"}
    assert len(Objectron(root, every=2).ids()) == 1
