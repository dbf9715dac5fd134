# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Objectron: a video made here in its format, projected by its own tutorial's formula (projection and view matrix)."""

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from llmi3d.training.ig3d.objectron import Objectron, sequence_type

SENSOR = (1920, 1440)  # landscape width and height
FX, FY, CX, CY = 1500.0, 1510.0, 950.0, 730.0
TURN = Rotation.from_euler("xyz", [0.2, 0.5, 0.1]).as_matrix()
PLACE, SCALE = np.array([0.1, -0.2, -1.5]), np.array([0.5, 0.9, 0.4])  # x, y up, z front
VIEW = np.eye(4)
VIEW[:3, :3] = Rotation.from_euler("xyz", [0.1, -0.1, 1.5]).as_matrix()
VIEW[:3, 3] = [0.05, 0.02, -0.3]


def key_points():
    unit = [[0, 0, 0], *([x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5))]
    return (np.array(unit) * SCALE) @ TURN.T + PLACE


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


@pytest.fixture
def video(tmp_path):
    def write(shift=0.0, size=(360, 480), **changes):
        sequence = sequence_type()()
        thing = sequence.objects.add(id=1, category="Chair")
        values = {"rotation": TURN.ravel(), "translation": PLACE, "scale": SCALE, **changes}
        for name, numbers in values.items():
            getattr(thing, name).extend(numbers)
        for number in (0, 5):
            frame = sequence.frame_annotations.add(frame_id=number)
            frame.camera.image_resolution_width, frame.camera.image_resolution_height = SENSOR
            frame.camera.intrinsics.extend([FX, 0, CX, 0, FY, CY, 0, 0, 1])
            frame.camera.view_matrix.extend(VIEW.ravel())
            annotation = frame.annotations.add(object_id=1, visibility=0.8)
            for i, (x, y) in enumerate(tutorial_points(key_points())):
                point = annotation.keypoints.add(id=i)
                point.point_2d.x, point.point_2d.y = x + shift, y
            (tmp_path / "frames/chair/batch-0/3").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(tmp_path / f"frames/chair/batch-0/3/{number:06d}.jpg")
        path = tmp_path / "annotations/chair/batch-0/3.pbdata"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sequence.SerializeToString())
        return tmp_path

    return write


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
    unit = [[0, 0, 0], *([x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5))]
    local = np.array([[z * length, -y * height, x * width] for x, y, z in unit])
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
    with pytest.raises(ValueError, match="px beside its annotated key points"):
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
