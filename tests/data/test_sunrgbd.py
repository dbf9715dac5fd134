# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""SUN RGB-D: real frames of VoteNet's layout, misreadings, and the other layouts giving the same boxes."""

import json

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sunrgbd_scenes import CENTER, HALF, HEADING, INTRINSICS, PICTURE, TILT, write_votenet

from llmi3d.data.sources.sunrgbd import DEPTH_TO_CAMERA, SunRgbdVoteNet
from llmi3d.data.sources.sunrgbd_raw import SunRgbdMat, SunRgbdRaw
from llmi3d.processing.geometry_llmi3d import box_2d_iou, box_corners, project_box_2d

BAR = 0.7  # mean 2D overlap; SUN RGB-D's labels are loose


@pytest.fixture(scope="module")
def labelled(samples):
    """(entry, label words, K, Rtilt) of each object of the real frames, with the first release's labels: the second's
    2D boxes of hidden objects are those of their visible part (mean overlap 0.63, median 0.68)."""
    source = SunRgbdVoteNet(samples / "sunrgbd", labels="label_v1")
    found = []
    for image_id in source.ids():
        scene = source.read(image_id)
        name = image_id.rsplit("/", 1)[1]
        lines = (source.folder / "label_v1" / f"{name}.txt").read_text().splitlines()
        calib = (source.folder / "calib" / f"{name}.txt").read_text().splitlines()
        tilt = torch.tensor([float(x) for x in calib[0].split()], dtype=torch.float64).reshape(3, 3).mT
        K = torch.tensor(scene["intrinsics"], dtype=torch.float64)
        found += [(entry, line.split(), K, tilt) for entry, line in zip(scene["objects"], lines, strict=True)]
    return found


def mean_iou_2d(labelled, change=lambda words: words, axes=DEPTH_TO_CAMERA):
    """Of boxes made here from label words, by the text of the format, against the labels' own 2D boxes."""
    ious = []
    for _, words, K, tilt in labelled:
        x, y, w, h, *numbers = change([float(word) for word in words[1:]])
        center, (width, length, height), (ox, oy) = torch.tensor(numbers[:3]), numbers[3:6], numbers[6:8]
        along = torch.tensor([ox, oy, 0.0]).double()
        across, up = torch.tensor([-oy, ox, 0.0]).double(), torch.tensor([0.0, 0.0, 1.0]).double()
        signs = [(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
        points = torch.stack([center + a * length * along + b * width * across + c * height * up for a, b, c in signs])
        points = points @ tilt @ axes.mT
        pixels = points @ K.mT
        pixels = pixels[:, :2] / pixels[:, 2:].clamp(min=0.1)
        box = torch.cat((pixels.min(0).values, pixels.max(0).values))
        limit = torch.tensor([730.0, 530.0, 730.0, 530.0]).double()
        given = torch.tensor([x, y, x + w, y + h]).double()
        ious.append(box_2d_iou(box.clamp(min=0).minimum(limit)[None], given[None]).item())
    return sum(ious) / len(ious)


def test_real_frames_lie_on_their_labels(labelled):
    ious = []
    for entry, words, K, _ in labelled:
        parts = (torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation"))
        box = project_box_2d(box_corners(*parts), K)
        x, y, w, h = (float(word) for word in words[1:5])
        limit = torch.tensor([730.0, 530.0, 730.0, 530.0]).double()
        given = torch.tensor([x, y, x + w, y + h]).double()
        ious.append(box_2d_iou(box.clamp(min=0).minimum(limit)[None], given[None]).item())
    assert len(ious) == 7 and sum(ious) / len(ious) >= BAR
    assert sum(ious) / len(ious) == pytest.approx(mean_iou_2d(labelled), abs=0.02)


@pytest.mark.parametrize(
    "change",
    [
        lambda n: [*n[:7], *(value / 2 for value in n[7:10]), *n[10:]],  # half sizes taken for full ones
        lambda n: [*n[:7], *(2 * value for value in n[7:10]), *n[10:]],
        lambda n: [*n[:7], n[8], n[7], *n[9:]],  # width for length
        lambda n: [*n[:4], n[4], n[6], n[5], *n[7:]],  # axes swapped
    ],
    ids=["halved", "doubled", "width for length", "y for z"],
)
def test_misreadings_lie_worse(labelled, change):
    assert mean_iou_2d(labelled, change) < BAR < mean_iou_2d(labelled)


def test_wrong_axes_lie_worse(labelled):
    assert mean_iou_2d(labelled, axes=torch.eye(3, dtype=torch.float64)) < 0.3


def test_front_of_the_bed_faces_along_its_orientation(labelled):
    for entry, words, _, tilt in labelled:
        ox, oy = float(words[-2]), float(words[-1])
        want = DEPTH_TO_CAMERA @ tilt.mT @ torch.tensor([ox, oy, 0.0]).double()
        got = torch.tensor(entry["rotation"], dtype=torch.float64)[:, 0]
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
        # A 2D overlap hardly sees a negated angle; this does.
        negated = DEPTH_TO_CAMERA @ tilt.mT @ torch.tensor([-ox, oy, 0.0]).double()
        assert (got - negated).norm() > 0.05
        assert torch.linalg.det(torch.tensor(entry["rotation"])) == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------------------------------------- the three layouts

AXES = DEPTH_TO_CAMERA.numpy()


@pytest.fixture
def layouts(tmp_path):
    """One scene in all three layouts; {layout: source}."""
    text = write_votenet(tmp_path / "votenet")
    name = "SUNRGBD/kv2/kinect2data/000001"
    for root in ("raw", "mat"):
        (tmp_path / root / name / "image").mkdir(parents=True)
        PICTURE.save(tmp_path / root / name / "image" / "0000001.jpg")
    folder = tmp_path / "raw" / name
    (folder / "extrinsics").mkdir()
    (folder / "annotation3Dfinal").mkdir()
    (folder / "intrinsics.txt").write_text(" ".join(map(str, INTRINSICS.ravel())))
    # Rtilt = A^T E A with the camera's turn E.
    turn = np.hstack([AXES @ TILT @ AXES.T, np.zeros((3, 1))])
    (folder / "extrinsics" / "20150101000000.txt").write_text("\n".join(" ".join(map(str, r)) for r in turn))
    across = np.array([-HEADING[1], HEADING[0]])
    ahead = HALF[1] * HEADING
    corners = [ahead + HALF[0] * across, ahead - HALF[0] * across]
    corners += [-corner for corner in corners]
    rectangle = np.array(corners) + CENTER[:2]
    polygon = {"X": rectangle[:, 0].tolist(), "Z": rectangle[:, 1].tolist()}
    polygon |= {"Ymin": -(CENTER[2] + HALF[2]), "Ymax": -(CENTER[2] - HALF[2])}
    objects = [{"name": "wall", "polygon": [polygon]}, None, {"name": "chair:black", "polygon": [polygon]}]
    (folder / "annotation3Dfinal" / "index.json").write_text(json.dumps({"objects": objects}))

    box = {"classname": "chair", "centroid": CENTER, "coeffs": HALF, "orientation": np.array([*HEADING, 0.0])}
    record = {"sequenceName": name, "rgbname": "0000001.jpg", "K": INTRINSICS, "Rtilt": TILT, "groundtruth3DBB": [box]}
    savemat(tmp_path / "mat" / "SUNRGBDMeta3DBB_v2.mat", {"SUNRGBDMeta": [record]})
    savemat(
        tmp_path / "allsplit.mat",
        {"alltrain": np.array([], dtype=object), "alltest": np.array([f"/n/fs/sun3d/data/{name}"], dtype=object)},
    )
    return {"votenet": SunRgbdVoteNet(text), "raw": SunRgbdRaw(tmp_path / "raw"), "mat": SunRgbdMat(tmp_path / "mat")}


@pytest.mark.parametrize("layout", ["raw", "mat"])
def test_every_layout_gives_the_same_box(layouts, layout):
    want = layouts["votenet"].read(layouts["votenet"].ids()[0])
    got = layouts[layout].read(layouts[layout].ids()[0])
    assert len(got["objects"]) == 1 and got["objects"][0]["category"] == "chair"
    for name in ("center", "size", "rotation", "box_2d"):
        given = torch.tensor(got["objects"][0][name])
        torch.testing.assert_close(given, torch.tensor(want["objects"][0][name]), atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.tensor(got["intrinsics"]), torch.tensor(want["intrinsics"]))


def test_official_split(layouts, tmp_path):
    source = SunRgbdRaw(tmp_path / "raw", split_file=tmp_path / "allsplit.mat")
    assert source.ids() == ["sunrgbd/test/SUNRGBD/kv2/kinect2data/000001"]
    assert layouts["raw"].ids()[0].startswith("sunrgbd/trainval/")


@pytest.mark.parametrize(
    "file, text, problem",
    [
        ("calib/000001.txt", "1 0 0 0 1 0 0 0 1", "want Rtilt and K"),
        ("calib/000001.txt", "2 0 0 0 1 0 0 0 1\n529 0 0 0 529 0 365 265 1", "want a rotation"),
        ("label/000001.txt", "chair 1 2 3", "000001.txt:1: got"),
        ("label/000001.txt", "chair 0 0 1 1 0 3 0 nan 1 1 0 1", "want finite ones"),
        ("label/000001.txt", "chair 0 0 1 1 0 3 0 1 -1 1 0 1", "half sizes above 0"),
    ],
)
def test_damaged_text_is_refused(layouts, tmp_path, file, text, problem):
    (tmp_path / "votenet" / file).write_text(text)
    with pytest.raises(ValueError, match=problem):
        layouts["votenet"].read("sunrgbd/trainval/000001")


def test_missing_calibration_is_a_record_problem(layouts, tmp_path):
    (tmp_path / "votenet" / "calib" / "000001.txt").unlink()
    with pytest.raises(ValueError, match=r"calib/000001.txt"):
        layouts["votenet"].read("sunrgbd/trainval/000001")


def test_truncated_json_is_refused(layouts, tmp_path):
    path = next((tmp_path / "raw").rglob("index.json"))
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="no JSON with objects"):
        layouts["raw"].read(layouts["raw"].ids()[0])
