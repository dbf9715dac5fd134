# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The KITTI reader: against real frames, against misreadings of the format, and on small frames made here."""

import math
from functools import partial

import pytest
import torch
from datasets import Dataset
from kitti_frames import label_line, write_frames
from PIL import Image

from llmi3d.data.schema import IG3D_FEATURES, grounding_pairs, validate_row
from llmi3d.data.sources.kitti import read_kitti_frames, read_kitti_labels, read_kitti_projection
from llmi3d.processing.geometry_llmi3d import box_corners, matrix_to_yaw, project, project_box_2d, yaw_to_matrix


@pytest.fixture
def make_frames(tmp_path):
    """Writes frames of label lines under tmp_path/training; returns tmp_path."""
    return partial(write_frames, tmp_path)


# -------------------------------------------------------------------------------------------------------- real frames


@pytest.fixture(scope="module")
def real(samples):
    """(row, labels, P2, image size) of each real frame; labels are those of the row's objects, in order."""
    root = samples / "kitti" / "training"
    frames = []
    for row in read_kitti_frames(samples / "kitti"):
        frame_id = row["image_id"].rsplit("/", 1)[1]
        labels = read_kitti_labels(root / "label_2" / f"{frame_id}.txt")
        kept = [label for label in labels if label.category != "DontCare"]
        with Image.open(row["image"]) as image:
            frames.append((row, kept, read_kitti_projection(root / "calib" / f"{frame_id}.txt"), image.size))
    assert len(frames) == 8
    return frames


def camera_offset(projection):
    return torch.linalg.solve(projection[:, :3], projection[:, 3])


def box(entry):
    return tuple(torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation"))


def iou_2d(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def unchanged(center, size, rotation, offset):
    return center, size, rotation


def mean_iou(real, change=unchanged, pedestrians=True):
    """Mean 2D IoU of projected and given boxes over the objects that are not truncated."""
    overlaps = []
    for row, labels, projection, (width, height) in real:
        for entry, label in zip(row["objects"], labels, strict=True):
            if label.truncation > 0 or (label.category == "Pedestrian" and not pedestrians):
                continue
            corners = box_corners(*change(*box(entry), camera_offset(projection)))
            projected = project_box_2d(corners, torch.tensor(row["intrinsics"], dtype=torch.float64))
            limit = torch.tensor([width - 1, height - 1] * 2)  # KITTI's own boxes end at the last pixel's middle
            overlaps.append(iou_2d(projected.clamp(min=0).minimum(limit).tolist(), label.box_2d))
    return sum(overlaps) / len(overlaps)


def alpha_errors(real, negate_yaw=False):
    errors = []
    for row, labels, projection, _ in real:
        for entry, label in zip(row["objects"], labels, strict=True):
            center, _, rotation = box(entry)
            x, _, z = (center - camera_offset(projection)).tolist()
            yaw = matrix_to_yaw(rotation).item() * (-1 if negate_yaw else 1)
            difference = yaw - math.atan2(x, z) - label.alpha
            errors.append(abs(math.remainder(difference, 2 * math.pi)))
    return errors


def test_real_boxes_project_onto_the_given_2d_boxes(real):
    assert mean_iou(real, pedestrians=False) >= 0.96
    # The 2D box of a person hugs what is seen, the 3D box spans a whole stride: half of the frames' objects, IoU 0.68.
    assert mean_iou(real) >= 0.84


@pytest.mark.parametrize(
    "change, at_most",
    [
        pytest.param(
            lambda c, s, r, t: (c + torch.tensor([0, s[1] / 2, 0]), s, r), 0.45, id="bottom centre as centre"
        ),
        pytest.param(lambda c, s, r, t: (c, s.flip(-1), r), 0.60, id="width and length swapped"),
        pytest.param(lambda c, s, r, t: (c, s, r.T), 0.93, id="yaw negated"),
        pytest.param(lambda c, s, r, t: (c - t, s, r), 0.945, id="fourth column of P2 ignored"),
    ],
)
def test_a_misreading_of_the_format_shows(real, change, at_most):
    assert mean_iou(real, change, pedestrians=False) < at_most
    assert mean_iou(real, change) < mean_iou(real) - 0.02


def test_real_yaw_agrees_with_alpha(real):
    assert max(alpha_errors(real)) < 0.04
    assert max(alpha_errors(real, negate_yaw=True)) > 1.0


def test_intrinsics_alone_project_like_the_whole_p2(real):
    for row, labels, projection, _ in real:
        for entry, label in zip(row["objects"], labels, strict=True):
            yaw = yaw_to_matrix(torch.tensor(label.yaw, dtype=torch.float64))
            x, y, z = label.location
            size = torch.tensor([label.length, label.height, label.width], dtype=torch.float64)
            corners = box_corners(torch.tensor([x, y - label.height / 2, z], dtype=torch.float64), size, yaw)
            homogeneous = torch.cat((corners, torch.ones(8, 1)), -1) @ projection.T
            wanted = homogeneous[:, :2] / homogeneous[:, 2:]
            got = project(box_corners(*box(entry)), torch.tensor(row["intrinsics"], dtype=torch.float64))
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_real_rows_are_valid_and_survive_arrow(real, tmp_path):
    rows = [row for row, *_ in real]
    for row in rows:
        validate_row(row)
    stored = Dataset.from_list(rows, features=IG3D_FEATURES)
    stored.to_parquet(tmp_path / "rows.parquet")
    loaded = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    for before, after, (_, _, _, size) in zip(rows, loaded, real, strict=True):
        validate_row(after)
        assert after.pop("image").size == size
        assert after == {name: value for name, value in before.items() if name != "image"}


def test_every_object_to_be_found_is_asked_for_once(real):
    for row, *_ in real:
        wanted = [entry["id"] for entry in row["objects"] if not entry["ignore"]]
        pairs = grounding_pairs(row)
        assert [entry["id"] for _, entry in pairs] == wanted
        phrases = [phrase for phrase, _ in pairs]
        assert len(set(phrases)) == len(phrases)


def test_misc_is_kept_but_not_asked_for(real):
    (row,) = (row for row, *_ in real if row["image_id"] == "kitti/training/000002")
    assert [(entry["category"], entry["ignore"]) for entry in row["objects"]] == [("misc", True), ("car", False)]
    assert [phrase for phrase, _ in grounding_pairs(row)] == ["the car"]


# ------------------------------------------------------------------------------------------------- frames made here


def test_phrases_follow_the_distance(make_frames):
    depths = (30.0, 10.0, 50.0, 20.0)
    lines = [label_line(z=z) for z in depths] + [label_line("Person_sitting")]
    (row,) = read_kitti_frames(make_frames(f000007=lines))
    assert [phrase for phrase, _ in grounding_pairs(row)] == [
        "the third nearest car",
        "the nearest car",
        "the farthest car",
        "the second nearest car",
        "the person sitting",
    ]
    assert row["messages"][0] == {"role": "user", "content": "<image>\nLocate the third nearest car in 3D."}
    assert row["messages"][2] == {"role": "user", "content": "Locate the nearest car in 3D."}
    assert row["messages"][1] == row["messages"][3] == {"role": "assistant", "content": "<box_3d>"}


def test_many_alike_get_numbers(make_frames):
    (row,) = read_kitti_frames(make_frames(f0=[label_line(z=10.0 + i) for i in range(24)]))
    phrases = [phrase for phrase, _ in grounding_pairs(row)]
    assert phrases[9:13] == [f"the {word} nearest car" for word in ("tenth", "11th", "12th", "13th")]
    assert phrases[20:] == ["the 21st nearest car", "the 22nd nearest car", "the 23rd nearest car", "the farthest car"]


def test_one_line_becomes_one_object(make_frames):
    root = make_frames(f000001=[label_line("Van", truncation=0.25, occlusion=2), label_line("DontCare")])
    (row,) = read_kitti_frames(root)
    (entry,) = row["objects"]
    assert (entry["category"], entry["truncation"], entry["occlusion"]) == ("van", 0.25, 2)
    assert entry["visibility"] is None and not entry["ignore"]
    assert entry["size"] == [4.2, 1.5, 1.8]
    offset = ((45 - 600 * 0.005) / 700, (-0.3 - 180 * 0.005) / 710, 0.005)
    assert entry["center"] == pytest.approx([1.0 + offset[0], 1.7 - 0.75 + offset[1], 20 + offset[2]])
    assert row["image_id"] == "kitti/training/000001"


def test_a_box_behind_the_camera_is_ignored(make_frames):
    (row,) = read_kitti_frames(make_frames(f1=[label_line(z=-2.0), label_line(z=-9.0), label_line()]))
    assert [entry["ignore"] for entry in row["objects"]] == [True, True, False]
    assert row["objects"][1]["box_2d"] is None
    assert [phrase for phrase, _ in grounding_pairs(row)] == ["the car"]
    validate_row(row)


def test_frames_come_in_order_and_those_without_a_question_do_not(make_frames):
    root = make_frames(f000010=[label_line()], f000002=[label_line()], f000005=[label_line("Misc")])
    for folder in (root, root / "training"):
        assert [row["image_id"][-6:] for row in read_kitti_frames(folder)] == ["000002", "000010"]


@pytest.mark.parametrize("missing", ["image_2/000003.png", "calib/000003.txt", "label_2/000003.txt"])
def test_a_missing_file_is_named_before_the_first_row(make_frames, missing):
    root = make_frames(f000001=[label_line()], f000003=[label_line()])
    (root / "training" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing}: frame 000003 lacks this file"):
        read_kitti_frames(root)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="image_2: no such folder"):
        read_kitti_frames(tmp_path)


@pytest.mark.parametrize("name", ["00a", "0001 (1)", "٣"])
def test_a_frame_id_is_digits_alone(make_frames, name):
    root = make_frames(f000001=[label_line()])
    (root / "training" / "label_2" / f"{name}.txt").write_text("")
    with pytest.raises(ValueError, match="want only digits"):
        read_kitti_frames(root)


@pytest.mark.parametrize("line", ["Car 0.0 0 1.0", "Car " + "x " * 14, label_line() + " 0.9 1"])
def test_a_bad_label_line_is_named(make_frames, line):
    root = make_frames(f000001=[label_line(), line])
    with pytest.raises(ValueError, match=r"000001\.txt:2: got 'Car .*want a category and 14 numbers"):
        list(read_kitti_frames(root))


@pytest.mark.parametrize(
    "text, message",
    [
        ("P0: 1 2 3\n", "no line starts with P2"),
        ("P2: 700 0 600\n", "12 numbers"),
        ("P2: 700 0 600 45 0 -710 180 0 0 0 1 0\n", "focal lengths"),
    ],
)
def test_a_bad_calibration_is_named(make_frames, text, message):
    root = make_frames(f000001=[label_line()])
    (root / "training" / "calib" / "000001.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"000001\.txt.*{message}"):
        list(read_kitti_frames(root))
