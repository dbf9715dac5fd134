# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Questions under changed cameras and images: what moves, what stays, and that truth and image agree."""

import numpy as np
import pytest
import torch
from PIL import Image

from llmi3d.evaluation.corruptions import FAMILIES, SEVERITIES, corrupt
from llmi3d.evaluation.records import make_record
from llmi3d.evaluation.robustness import DEFAULT_CONDITIONS, NONE, Condition
from llmi3d.processing.geometry_llmi3d import decode_boxes, encode_boxes, project

K = [[500.0, 0.0, 410.0], [0.0, 510.0, 290.0], [0.0, 0.0, 1.0]]
TURN = [[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]]


@pytest.fixture
def record():
    box = {"center": [2.0, 0.5, 8.0], "size": [4.0, 1.5, 1.8], "rotation": TURN, "category": "car"}
    return make_record("a#0", "grounding", [box], K, image_size=(800, 600), image_id="a", phrase="the car")


@pytest.fixture
def image():
    image = Image.new("RGB", (800, 600))
    image.putpixel((535, 321), (255, 255, 255))  # where the car's centre is seen: 410 + 500 / 4, 290 + 510 / 16
    return image


def test_none_changes_nothing(record, image):
    changed, shown, told = NONE.apply(record, image)
    assert changed is record and shown is image and told is record.intrinsics


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_focal_truth_is_what_a_virtual_camera_decodes(record, image, scale):
    """A network that sees the same pixels gives the same raw answer; the new K must turn it into the moved truth."""
    changed, shown, told = Condition("focal", scale).apply(record, image)
    true = record.true
    raw = encode_boxes(true.center, true.size, true.rotation, record.intrinsics, 600.0)
    seen = (raw.center_2d_px, raw.depth_virtual, raw.size, raw.rotation_allocentric)
    center, size, rotation = decode_boxes(*seen, told, 600.0)
    assert shown is image
    torch.testing.assert_close(changed.true.center, center)
    torch.testing.assert_close(changed.true.size, size)
    torch.testing.assert_close(changed.true.rotation, rotation)
    assert changed.true.center[0].tolist() == pytest.approx([2.0, 0.5, 8.0 * scale])
    torch.testing.assert_close(changed.intrinsics, told)


def test_resize_scales_image_and_camera_together(record, image):
    changed, shown, told = Condition("resize", 0.5).apply(record, image)
    assert shown.size == changed.image_size == (400, 300)
    before, after = project(record.true.corners(), record.intrinsics), project(changed.true.corners(), told)
    torch.testing.assert_close(after, before / 2)


def test_crop_keeps_what_is_meant_and_moves_the_camera(record, image):
    changed, shown, told = Condition("crop", 0.6).apply(record, image)
    assert shown.size == changed.image_size == (480, 360)
    x, y = project(changed.true.center, told)[0].floor().int().tolist()
    assert shown.getpixel((x, y)) == (255, 255, 255)
    left, top, right, bottom = changed.true.projected_2d(told)[0].tolist()
    assert 0 <= left < right <= 480 and 0 <= top < bottom <= 360


def test_crop_of_a_box_larger_than_the_window_is_centred_on_it(image):
    near = {"center": [0.0, 0.0, 2.0], "size": [3.0, 1.5, 0.2], "rotation": torch.eye(3).tolist()}
    record = make_record("b", "grounding", [near], K, image_size=(800, 600), phrase="it")
    changed, _, told = Condition("crop", 0.6).apply(record, image)
    box = changed.true.projected_2d(told)[0]
    visible = box.clamp(min=0).minimum(torch.tensor([480.0, 360.0, 480.0, 360.0], dtype=torch.float64))
    assert visible.tolist() == pytest.approx([0, 0, 480, 360])


def test_noise_is_told_but_not_judged(record, image):
    changed, shown, told = Condition("noise", 0.1).apply(record, image)
    assert changed is record and shown is image
    ratio = told / record.intrinsics
    assert ratio[0, 0] == pytest.approx(ratio[1, 1].item())
    assert 0 < (ratio[[0, 0, 1], [0, 2, 2]] - 1).abs().max() <= 0.2
    torch.testing.assert_close(Condition("noise", 0.1).apply(record, image)[2], told)
    torch.testing.assert_close(Condition("noise", 0.0).apply(record, image)[2], record.intrinsics)


def test_conditions_are_written_and_read():
    assert all(Condition.parse(str(one)) == one for one in (NONE, *DEFAULT_CONDITIONS))
    assert len({str(one) for one in DEFAULT_CONDITIONS}) == len(DEFAULT_CONDITIONS)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("blur-2", "got 'blur', want one of"),
        ("focal", "got 'focal'"),
        ("crop-0.1", "from 0.55 to 1"),
        ("noise-9", "from 0"),
        ("fog-6", "want a severity of 1, 2, 3, 4 or 5"),
    ],
)
def test_unknown_conditions_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        Condition.parse(text)


@pytest.fixture
def scene():
    """Detail, edges, smooth parts and colours: every corruption finds something to spoil."""
    y, x = np.mgrid[0:120, 0:200]
    detail = np.random.default_rng(0).integers(0, 80, (120, 200))
    edges = ((x // 25 + y // 25) % 2) * 90
    return Image.fromarray(np.stack([x // 2 + 30, edges + 60, 90 - y // 2 + detail], -1).astype(np.uint8))


@pytest.mark.parametrize("family", FAMILIES)
def test_corruptions_grow_with_severity_and_touch_the_image_alone(family, scene, record):
    original = np.asarray(scene, np.float64)
    off = []
    for severity in SEVERITIES:
        changed, shown, told = Condition(family, severity).apply(record, scene)
        assert changed is record and told is record.intrinsics and shown.size == scene.size and shown.mode == "RGB"
        again = corrupt(scene, family, severity, record.image_id)
        assert shown.tobytes() == again.tobytes()
        off.append(np.abs(np.asarray(shown, np.float64) - original).mean())
    assert off[4] > off[0] > 0.5, off
    assert Condition.parse(f"{family}-3") == Condition(family, 3)


def test_noise_is_another_for_each_image(scene):
    first, second = (corrupt(scene, "gaussian_noise", 1, seed).tobytes() for seed in "ab")
    assert first != second


def test_unknown_corruptions_are_refused(scene):
    with pytest.raises(ValueError, match="got 'rain', want one of gaussian_noise"):
        corrupt(scene, "rain", 1)
    with pytest.raises(ValueError, match="got 0, want a whole number from 1 to 5"):
        corrupt(scene, "fog", 0)
