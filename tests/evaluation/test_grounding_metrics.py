# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Grounding metrics against numbers worked out by hand, and their properties."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from llmi3d.data.schema import make_object
from llmi3d.evaluation import (
    align_axes,
    box3d_iou,
    box_2d_iou,
    detection_record,
    grounding_metrics,
    make_record,
    mono3dvg_iou,
    question_values,
    records_from_row,
    rotation_error,
    with_predictions,
)
from llmi3d.evaluation import evaluate_module as module_by_class
from llmi3d.evaluation.overlaps import group_ious
from llmi3d.evaluation.symmetry import SYMMETRIES, symmetry_group
from llmi3d.processing.geometry_llmi3d import box_corners, quaternion_to_matrix, yaw_to_matrix

K = [[1000.0, 0.0, 500.0], [0.0, 1000.0, 400.0], [0.0, 0.0, 1.0]]


def box(x=0.0, z=10.0, size=(2.0, 2.0, 2.0), yaw_deg=0.0, **more) -> dict:
    """A box 10 m ahead, 2 m along each axis, unless said otherwise; size is (length, height, width)."""
    rotation = yaw_to_matrix(torch.tensor(math.radians(yaw_deg), dtype=torch.float64)).tolist()
    return {"center": [x, 0.0, z], "size": list(size), "rotation": rotation, **more}


# What is meant, and what is answered (None: no answer). The 2-cube at z = 10 projects from its near face at z = 9 onto
# 1000 / 9 = 111.1 px on either side of (500, 400).
PX = 1000 / 9
SINGLE = {
    "q01": ([box()], [box(score=0.9, box_2d=[500 - PX, 400 - PX, 500 + PX, 400 + PX])]),
    "q02": ([box()], [box(x=1, score=0.8, box_2d=[500 - PX, 400 - PX, 500, 400 + PX])]),
    "q03": ([box()], [box(z=11, score=0.7)]),
    "q04": ([box()], [box(size=(4, 2, 2), score=0.6)]),
    "q05": ([box()], [box(size=(2, 3, 2), score=0.5)]),
    "q06": ([box()], [box(size=(2, 2, 5), score=0.4)]),
    "q07": ([box(size=(4, 2, 2))], [box(size=(4, 2, 2), yaw_deg=90, score=0.9)]),
    "q08": ([box()], [box(yaw_deg=45, score=0.9)]),
    "q09": ([box()], [box(yaw_deg=180, score=0.9)]),
    "q10": ([box(size=(4, 2, 2))], [box(size=(2, 2, 4), yaw_deg=90, score=0.9)]),
    "q11": ([box()], None),
    "q12": ([box()], []),
    "q13": ([box()], [box(z=30, score=0.1)]),
    "q14": ([box()], [box(score=0.3), box(x=4, score=0.5)]),
}
MULTI = {
    "m1": ([box(), box(x=5)], [box(x=6), box(), box(z=50)]),
    "m2": ([box(), box(x=5), box(x=9)], None),
    "m3": ([box(), box(x=1)], [box(x=0.5), box(x=-1)]),
}
ABSENT = {"n1": ([], []), "n2": ([], [box()]), "n3": ([], None)}


def example():
    tasks = {"grounding": SINGLE, "multi": MULTI, "absent": ABSENT}
    records = [make_record(i, task, true, K) for task, some in tasks.items() for i, (true, _) in some.items()]
    answers = {i: given for some in tasks.values() for i, (_, given) in some.items()}
    return with_predictions(records, [{"id": i, "boxes": given} for i, given in answers.items() if given is not None])


def test_hand_computed_ious():
    values = question_values(example())
    expected = {
        "q01": (1, 1),
        # Cubes of 8 m^3 that share 1 x 2 x 2 = 4: 4 / (8 + 8 - 4).
        "q02": (1 / 3, 1 / 3),
        "q03": (1 / 3, 1 / 3),
        # The truth lies within: 8 / 16, 8 / 12, 8 / 20. The length lies along z for Mono3DVG, with the same shares.
        "q04": (1 / 2, 1 / 2),
        "q05": (2 / 3, 2 / 3),
        "q06": (2 / 5, 2 / 5),
        # 4 x 2 crossed with 2 x 4 shares 2 x 2, height 2: 8 / (16 + 16 - 8). Without yaw they are the same box.
        "q07": (1 / 3, 1),
        # Two squares of half edge 1, crossed at 45 degrees, share an octagon of 8 tan(22.5 deg) = 8 (sqrt(2) - 1):
        # 2 * 8 (sqrt(2) - 1) / (16 - 2 * 8 (sqrt(2) - 1)) = (sqrt(2) - 1) / (2 - sqrt(2)) = 1 / sqrt(2).
        "q08": (1 / math.sqrt(2), 1),
        "q09": (1, 1),
        # One set of points. Mono3DVG lays (h, w, l) = (2, 2, 4) and (2, 4, 2) on x, y, z: 8 / (16 + 16 - 8).
        "q10": (1, 1 / 3),
        "q11": (0, 0),  # no answer
        "q12": (0, 0),  # an abstention
        "q13": (0, 0),
        "q14": (0, 0),  # the right box has the lower score
    }
    for i, name in enumerate(SINGLE):
        assert values["iou"][i].item() == pytest.approx(expected[name][0], abs=1e-12), name
        assert values["iou_mono3dvg"][i].item() == pytest.approx(expected[name][1], abs=1e-12), name
    assert values["iou"][len(SINGLE) :].isnan().all()


def test_hand_computed_metrics():
    metrics = grounding_metrics(example(), iou="mono3dvg")
    half_root = 1 / math.sqrt(2)
    expected = {
        # 14 questions. Above 1/4: all but q11 to q14. Above 1/2, strictly: q01, q05, q08, q09, q10, and not q04.
        "acc@0.25": 10 / 14,
        "acc@0.5": 5 / 14,
        # q01 + q09 + q10, q02 + q03 + q07, q04, q05, q06, q08.
        "mean_iou": (3 + 3 / 3 + 1 / 2 + 2 / 3 + 2 / 5 + half_root) / 14,
        # q01, q05, q07, q08, q09 are above 1/2 for Mono3DVG's.
        "mono3dvg/acc@0.25": 10 / 14,
        "mono3dvg/acc@0.5": 5 / 14,
        # q01 + q07 + q08 + q09, q02 + q03 + q10, q04, q05, q06.
        "mono3dvg/mean_iou": (4 + 3 / 3 + 1 / 2 + 2 / 3 + 2 / 5) / 14,
        # Errors over the 12 questions with a box (all but q11 and q12).
        "depth_error": (1 + 20) / 12,  # q03, q13
        "depth_error_median": 0,
        "length_error": (2 + 2) / 12,  # q04, q10
        "length_error_median": 0,
        "width_error": (3 + 2) / 12,  # q06, q10
        "width_error_median": 0,
        "height_error": 1 / 12,  # q05
        "height_error_median": 0,
        "center_distance": (1 + 1 + 20 + 4) / 12,  # q02, q03, q13, q14
        "center_distance_median": 0,
        "rotation_error": (90 + 45 + 180 + 90) / 12,  # q07, q08, q09, q10
        "rotation_error_median": 0,
        # All turns but the one by 45 degrees lead to parallel axes.
        "rotation_error_any_axes": 45 / 12,
        "rotation_error_any_axes_median": 0,
        "center_2d_error": (1000 * 1 / 10 + 1000 * 4 / 10) / 12,  # q02, q14; q03 and q13 move along the axis
        "center_2d_error_median": 0,
        # Half widths and heights of the projections, over 1000 px:
        "iou_2d": (
            1  # q01
            # q02: the pred spans 0 to 2/9 in x; of three ninths together one is shared.
            + 1 / 3
            + (9 / 10) ** 2  # q03: the near face moves from 9 to 10
            + 1 / 2  # q04: 2/9 instead of 1/9 in x
            + 2 / 3  # q05: 1.5/9 instead of 1/9 in y
            + (7.5 / 9) ** 2  # q06: the near face moves from 9 to 7.5
            # q07: 2/9 x 1/9 and, with the near face at 8, 1/8 x 1/8 share 1/8 x 1/9.
            + (1 / 72) / (2 / 81 + 1 / 64 - 1 / 72)
            # q08: widest at z = 10, sqrt(2)/10, highest at z = 10 - sqrt(2); the truth lies within.
            + (1 / 81) / (math.sqrt(2) / 10 / (10 - math.sqrt(2)))
            + 1  # q09
            + 1  # q10
            + (9 / 29) ** 2  # q13: the near face at 29
            + 0  # q14: 3/11 lies beyond 1/9
        )
        / 12,
        "box_2d_iou": (1 + 1 / 2) / 2,  # given by q01, and as its left half by q02
        # m1 pairs both true boxes, IoU 1 and 1/3, and has one box too many: 2 * 2 / (3 + 2), and 2 * 1 / (3 + 2).
        # m3: shifts of d share (2 - d) / (2 + d). The best pairing is 0.5 -> 1 (3/5) and -1 -> 0 (1/3), so 1 and 1/2.
        "f1@0.25": (4 / 5 + 0 + 1) / 3,
        "f1@0.5": (2 / 5 + 0 + 1 / 2) / 3,
        "precision@0.25": (2 + 2) / (3 + 0 + 2),
        "recall@0.25": (2 + 2) / (2 + 3 + 2),
        "precision@0.5": (1 + 1) / (3 + 0 + 2),
        "recall@0.5": (1 + 1) / (2 + 3 + 2),
        # Abstained on q12, wrongly, and on n1; of n1, n2, n3 only n1 was recognised: n3 has no answer.
        "abstention_precision": 1 / 2,
        "abstention_recall": 1 / 3,
        "abstention_f1": 2 * 1 / (2 + 3),
        "questions": 20,
        "grounding": 14,
        "multi": 3,
        "absent": 3,
        "answered": 12 + 2 + 1,
        "abstained": 2,  # q12, n1
        "unanswered": 3,  # q11, m2, n3
        "missing": 3,  # q11, q12, m2
    }
    assert metrics == pytest.approx(expected, abs=1e-9)


def test_exact_metrics_do_not_depend_on_the_other_iou():
    with_both, exact = grounding_metrics(example(), iou="mono3dvg"), grounding_metrics(example())
    assert {name for name in with_both if name not in exact} == {
        "mono3dvg/acc@0.25",
        "mono3dvg/acc@0.5",
        "mono3dvg/mean_iou",
    }
    assert exact == {name: with_both[name] for name in exact}


def test_threshold_is_strict():
    record = make_record("a", "grounding", [box()], K)
    (half,) = with_predictions([record], [{"id": "a", "boxes": [box(size=(4, 2, 2))]}])
    assert grounding_metrics([half], thresholds=(0.5,))["acc@0.5"] == 0
    assert grounding_metrics([half], thresholds=(0.4999999,))["acc@0.5"] == 1


# -------------------------------------------------------------------------------------------------------- properties


def random_boxes(count: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 6 + torch.tensor([-3.0, -3.0, 8.0])
    size = torch.rand(count, 3, generator=generator, dtype=torch.float64) + 0.5
    rotation = quaternion_to_matrix(torch.randn(count, 4, generator=generator, dtype=torch.float64))
    score = torch.rand(count, generator=generator, dtype=torch.float64)
    return [
        {"center": c, "size": s, "rotation": r, "score": float(p)}
        for c, s, r, p in zip(center.tolist(), size.tolist(), rotation.tolist(), score, strict=True)
    ]


def test_perfect_predictor():
    boxes = random_boxes(30, seed=0)
    records = [make_record(f"{i}", "grounding", [b], K) for i, b in enumerate(boxes)]
    records += [make_record("m", "multi", boxes[:5], K), make_record("n", "absent", [], K)]
    predictions = [{"id": f"{i}", "boxes": [b]} for i, b in enumerate(boxes)]
    predictions += [{"id": "m", "boxes": boxes[:5][::-1]}, {"id": "n", "boxes": []}]
    metrics = grounding_metrics(with_predictions(records, predictions), iou="mono3dvg")
    for name, value in metrics.items():
        if "error" in name or "distance" in name:
            assert value == pytest.approx(0, abs=1e-5), name
        elif "@" in name or "iou" in name or "abstention" in name:
            assert value is None if name == "box_2d_iou" else value == pytest.approx(1, abs=1e-9), name
    assert metrics["missing"] == metrics["unanswered"] == 0


def test_shifted_predictor():
    boxes = random_boxes(30, seed=1)
    shifted = [{**b, "center": [b["center"][0] + 0.03, b["center"][1] - 0.04, b["center"][2] + 0.12]} for b in boxes]
    records = [make_record(f"{i}", "grounding", [b], K) for i, b in enumerate(boxes)]
    metrics = grounding_metrics(
        with_predictions(records, [{"id": f"{i}", "boxes": [b]} for i, b in enumerate(shifted)])
    )
    assert metrics["depth_error"] == pytest.approx(0.12)
    assert metrics["center_distance_median"] == pytest.approx(0.13)  # 3, 4, 12 and 13 hundredths
    assert metrics["length_error"] == metrics["rotation_error_median"] == pytest.approx(0, abs=1e-6)
    assert 0.3 < metrics["mean_iou"] < 0.9


def test_absent_predictor():
    records = [dataclasses.replace(record, predicted=None) for record in example()]
    metrics = grounding_metrics(records)
    assert metrics["acc@0.25"] == metrics["mean_iou"] == metrics["f1@0.25"] == metrics["recall@0.25"] == 0
    assert metrics["abstention_recall"] == 0 and metrics["abstention_precision"] is None
    assert metrics["depth_error"] is None and metrics["precision@0.25"] is None
    assert metrics["missing"] == 17 and metrics["unanswered"] == 20


def test_box_behind_the_camera():
    record = make_record("a", "grounding", [box()], K)
    (record,) = with_predictions([record], [{"id": "a", "boxes": [box(z=-10)]}])
    metrics = grounding_metrics([record])
    assert metrics["acc@0.25"] == metrics["iou_2d"] == 0
    assert metrics["center_2d_error"] is None and metrics["depth_error"] == 20


def test_without_intrinsics_there_are_no_pixels():
    (record,) = with_predictions([make_record("a", "grounding", [box()])], [{"id": "a", "boxes": [box()]}])
    metrics = grounding_metrics([record])
    assert metrics["acc@0.5"] == 1 and metrics["iou_2d"] is None and metrics["center_2d_error"] is None


def test_group_ious_equal_one_by_one():
    corners = box_corners(
        *(torch.tensor([b[name] for b in random_boxes(12, 2)]) for name in ("center", "size", "rotation"))
    )
    groups = [(corners[:3], corners[3:8]), (corners[:0], corners[:2]), (corners[5:9], corners[8:])]
    for (a, b), iou in zip(groups, group_ious(groups), strict=True):
        assert iou.shape == (len(a), len(b))
        torch.testing.assert_close(iou, box3d_iou(a, b))


def test_box_2d_iou():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [math.nan] * 4])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    assert box_2d_iou(a, b)[:3].tolist() == pytest.approx([1 / 7, 0, 0]) and box_2d_iou(a, b)[3].isnan()


def test_mono3dvg_iou_ignores_rotation_and_swaps_axes():
    center, size = torch.tensor([0.0, 0.0, 10.0]), torch.tensor([4.0, 1.5, 2.0])
    # A shift of 1.5 m along x leaves nothing of the height of 1.5 m that lies there.
    assert mono3dvg_iou(center, size, center + torch.tensor([1.5, 0.0, 0.0]), size) == 0
    # Along z, where the length lies, a shift of 1 m leaves 3 of 4 m: 3 / 5.
    assert mono3dvg_iou(center, size, center + torch.tensor([0.0, 0.0, 1.0]), size).item() == pytest.approx(3 / 5)


# -------------------------------------------------------------------------------------------------------- symmetries


def turned(symmetry: str, element: int, size: torch.Tensor, rotation: torch.Tensor):
    """The same box with its axes called differently."""
    group = symmetry_group(symmetry)[element]
    return group.abs().t() @ size, rotation @ group


@pytest.mark.parametrize(
    "symmetry, count", [("none", 1), ("half_turn", 2), ("quarter_turn", 4), ("cuboid", 4), ("any_axes", 24)]
)
def test_every_element_describes_the_same_box(symmetry, count):
    group = symmetry_group(symmetry)
    assert len(group) == count and len({tuple(element.flatten().tolist()) for element in group}) == count
    assert torch.linalg.det(group).tolist() == pytest.approx([1.0] * count)
    size, rotation = torch.tensor([4.0, 1.5, 2.0], dtype=torch.float64), yaw_to_matrix(torch.tensor(0.3)).double()
    center = torch.tensor([[1.0, 2.0, 10.0]], dtype=torch.float64)
    corners = box_corners(center, size[None], rotation[None])
    for element in range(count):
        other_size, other_rotation = turned(symmetry, element, size, rotation)
        assert box3d_iou(corners, box_corners(center, other_size[None], other_rotation[None])).item() > 1 - 1e-9
        aligned = align_axes(other_size[None], other_rotation[None], size[None], rotation[None], symmetry)
        torch.testing.assert_close(aligned[0][0], size)
        torch.testing.assert_close(aligned[1][0], rotation)


def test_lengths_go_along_with_the_rotation():
    true_size, size = torch.tensor([[4.0, 1.5, 2.0]]), torch.tensor([[2.1, 1.4, 3.8]])
    true_rotation, rotation = torch.eye(3)[None], yaw_to_matrix(torch.tensor([math.radians(80)]))
    error = {
        name: rotation_error(size, rotation, true_size, true_rotation, name).rad2deg().item() for name in SYMMETRIES
    }
    # At 80 degrees: a half turn leads to 100, quarter turns to 10 with length and width exchanged.
    assert error == pytest.approx(
        {"none": 80, "half_turn": 80, "quarter_turn": 10, "continuous": 0, "cuboid": 80, "any_axes": 10}, abs=1e-3
    )
    for name, expected in {
        "none": [2.1, 1.4, 3.8],
        "quarter_turn": [3.8, 1.4, 2.1],
        "continuous": [3.8, 1.4, 2.1],
    }.items():
        assert align_axes(size, rotation, true_size, true_rotation, name)[0][0].tolist() == pytest.approx(expected)
    twice = [tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in (size, rotation, true_size, true_rotation)]
    both = align_axes(*twice, ["none", "quarter_turn"])
    assert both[0][:, 0].tolist() == pytest.approx([2.1, 3.8])


def test_equal_angles_are_decided_by_the_sizes():
    size, true_size = torch.tensor([[2.0, 1.0, 4.0]]).double(), torch.tensor([[4.0, 1.0, 2.0]]).double()
    rotation = yaw_to_matrix(torch.tensor([math.pi / 4], dtype=torch.float64))  # 45 degrees from either
    aligned, _ = align_axes(size, rotation, true_size, torch.eye(3).double()[None], "quarter_turn")
    assert aligned[0].tolist() == [4.0, 1.0, 2.0]


def test_continuous_symmetry_leaves_the_tilt():
    tilt = torch.tensor([[1.0, 0.0, 0.0], [0.0, math.cos(0.2), -math.sin(0.2)], [0.0, math.sin(0.2), math.cos(0.2)]])
    rotation = (tilt @ yaw_to_matrix(torch.tensor(2.1)))[None]
    size = torch.ones(1, 3)
    assert rotation_error(size, rotation, size, torch.eye(3)[None], "continuous").item() == pytest.approx(
        0.2, abs=1e-5
    )


def test_symmetry_by_category():
    boxes = {"cup": box(category="cup"), "car": box(category="car"), "none": box()}
    records = [make_record(name, "grounding", [b], K) for name, b in boxes.items()]
    records = with_predictions(records, [{"id": name, "boxes": [box(yaw_deg=170)]} for name in boxes])
    values = question_values(records, {"cup": "continuous", "": "half_turn"})
    assert values["rotation_error"].tolist() == pytest.approx([0, 10, 10], abs=1e-4)


# ------------------------------------------------------------------------------------------------------- rows, errors


def example_row() -> dict:
    objects = [
        make_object(str(i), name, [x, 0.0, 10.0], [2.0, 2.0, 2.0], torch.eye(3), K, truncation=t, ignore=i == 3)
        for i, (name, x, t) in enumerate([("car", 0.0, 0.0), ("car", 3.0, 0.5), ("van", -3.0, 0.0), ("car", 9.0, 0.0)])
    ]
    turns = [
        ("<image>\nLocate the near car in 3D.", "<box_3d>", "grounding"),
        ("Locate all cars in 3D.", "<box_3d><box_3d>", "multi"),
        ("What colour is it?", "Red.", "vqa"),
        ("Locate the bus in 3D.", "It is not there.", "absent"),
        ("Where is the van?", "<box_3d>", "grounding"),
    ]
    messages = [{"role": "system", "content": "You see."}]
    for question, answer, _ in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {
        "image": "picture.png",
        "image_id": "kitti/0",
        "source": "kitti",
        "split": "training",
        "intrinsics": K,
        "objects": objects,
        "messages": messages,
        "targets": ["0", "0", "1", "2"],
        "task": [task for _, _, task in turns],
    }


def test_records_from_row():
    meanings = [{"kind": kind} for kind in ("category", "all", "colour", "category", "category")]
    records = records_from_row({**example_row(), "meanings": meanings}, image_size=(1000, 800))
    assert [(r.id, r.task, r.phrase, r.phrase_kind) for r in records] == [
        ("kitti/0#0", "grounding", "the near car", "category"),
        ("kitti/0#1", "multi", "all cars", "all"),
        ("kitti/0#3", "absent", "the bus", "category"),
        ("kitti/0#4", "grounding", "Where is the van?", "category"),
    ]
    assert [len(r.true) for r in records] == [1, 2, 0, 1]
    first = records[0].metadata
    assert first["category"] == "car" and first["distance"] == 10 and first["truncation"] == 0
    assert first["diagonal"] == pytest.approx(math.sqrt(12)) and first["occlusion"] is None
    assert first["distractors"] == 1  # the second car; the third is to be ignored
    # 2/9 x 2/9 of 1000 px each, in an image of 1000 x 800.
    assert first["image_area"] == pytest.approx((2 / 9 * 1000) ** 2 / (1000 * 800))
    assert records[1].metadata["truncation"] == 0.25 and records[1].metadata["distractors"] == 0
    found = detection_record(example_row())
    assert found.task == "detection" and found.true.ignore.tolist() == [False, False, False, True]
    assert found.true.category == ("car", "car", "van", "car")


@pytest.mark.parametrize(
    "predictions, message",
    [
        ([{"id": "a", "boxes": []}, {"id": "a", "boxes": []}], r"predictions\[1\]: got the id 'a' a second time"),
        ([{"id": "b", "boxes": []}], r"got the id 'b', which none of the 1 questions has"),
        ([{"boxes": []}], r"want a dict with id and boxes"),
        ([{"id": "a", "frame": "lidar", "boxes": []}], r"prediction 'a'.frame: got 'lidar', want 'camera'"),
        ([{"id": "a", "boxes": [box(frame="world")]}], r"boxes\[0\].frame: got 'world'.*cannot be compared"),
        ([{"id": "a", "boxes": [box(), box(z=math.nan)]}], r"boxes\[1\].center: got .*nan.*want finite numbers"),
        ([{"id": "a", "boxes": [box(score=math.nan)]}], r"boxes\[0\].score: got nan, want a finite number"),
        ([{"id": "a", "boxes": [box(score="high")]}], r"boxes\[0\].score: got 'high', want a finite number"),
        ([{"id": "a", "boxes": [box(size=(1, 0, 1))]}], r"boxes\[0\].size: got \[1.0, 0.0, 1.0\].*above 0 m"),
        ([{"id": "a", "boxes": [box(size=(1, 1))]}], r"boxes\[0\].size: got \[1, 1\].*shape \(3,\)"),
        ([{"id": "a", "boxes": [{"center": [0, 0, 1]}]}], r"boxes\[0\]: misses size, rotation"),
        (
            [{"id": "a", "boxes": [{**box(), "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, -1]]}]}],
            r"boxes\[0\].rotation: got .*want orthonormal columns and determinant \+1",
        ),
    ],
)
def test_bad_predictions_are_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        with_predictions([make_record("a", "grounding", [box()], K)], predictions)


def test_bad_records_are_refused():
    record = make_record("a", "grounding", [box()], K)
    with pytest.raises(ValueError, match="got the id 'a' a second time, want unique ids"):
        grounding_metrics([record, record])
    with pytest.raises(ValueError, match="got 2 true boxes for the task 'grounding', want exactly 1"):
        make_record("b", "grounding", [box(), box()])
    with pytest.raises(ValueError, match="got 1 true boxes for the task 'absent', want none"):
        make_record("b", "absent", [box()])
    with pytest.raises(ValueError, match="got 0 true boxes for the task 'multi', want 1 or more"):
        make_record("b", "multi", [])
    with pytest.raises(ValueError, match="got 'caption', want one of grounding, multi, absent, detection"):
        make_record("b", "caption", [])
    with pytest.raises(ValueError, match=r"b: true\[0\].frame: got 'global'"):
        make_record("b", "grounding", [box(frame="global")])
    with pytest.raises(ValueError, match="got the task 'detection'"):
        grounding_metrics([make_record("b", "detection", [box(category="car")])])
    with pytest.raises(ValueError, match="iou: got 'bev', want one of exact, mono3dvg"):
        grounding_metrics([record], iou="bev")
    with pytest.raises(ValueError, match="symmetry: got 'round', want one of none, half_turn"):
        grounding_metrics(with_predictions([record], [{"id": "a", "boxes": [box()]}]), symmetry="round")
    with pytest.raises(ValueError, match="symmetry: got 1 for 2 boxes"):
        align_axes(
            torch.ones(2, 3), torch.eye(3).repeat(2, 1, 1), torch.ones(2, 3), torch.eye(3).repeat(2, 1, 1), ["none"]
        )


# ---------------------------------------------------------------------------------------------------- evaluate module


def evaluate_inputs() -> dict:
    tasks = {"grounding": SINGLE, "multi": MULTI, "absent": ABSENT}
    some = [(i, task, *entry) for task, entries in tasks.items() for i, entry in entries.items()]
    return {
        "references": [{"id": i, "task": task, "boxes": true, "intrinsics": K} for i, task, true, _ in some],
        "predictions": [{"id": i, "boxes": given} for i, _, _, given in some],
    }


def test_evaluate_module_by_class(tmp_path):
    metric = module_by_class.OrientedBoxGrounding(cache_dir=str(tmp_path))
    assert metric.compute(**evaluate_inputs(), iou="mono3dvg") == grounding_metrics(example(), iou="mono3dvg")
    inputs = evaluate_inputs()
    for prediction, reference in zip(inputs["predictions"], inputs["references"], strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute(thresholds=[0.25])["acc@0.25"] == pytest.approx(10 / 14)


def test_evaluate_module_by_path(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    metric = evaluate.load(str(Path(module_by_class.__file__).resolve()), cache_dir=str(tmp_path / "cache"))
    assert metric.compute(**evaluate_inputs()) == grounding_metrics(example())


@pytest.mark.parametrize("side", ["predictions", "references"])
@pytest.mark.parametrize("of_the_box", [False, True])
def test_evaluate_module_refuses_other_frames(tmp_path, side, of_the_box):
    inputs = evaluate_inputs()
    entry = inputs[side][0]
    inputs[side][0] = {**entry, "boxes": [box(frame="lidar")]} if of_the_box else {**entry, "frame": "lidar"}
    with pytest.raises(ValueError, match="got 'lidar', want 'camera'"):
        module_by_class.OrientedBoxGrounding(cache_dir=str(tmp_path)).compute(**inputs)
