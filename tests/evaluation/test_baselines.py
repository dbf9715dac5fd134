# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Baselines that see part of the truth."""

import math

import pytest
import torch

from llmi3d.evaluation import grounding_metrics, make_record, with_predictions
from llmi3d.evaluation.baselines import box_2d_predictions, mean_size_predictions, mean_sizes
from llmi3d.processing.geometry_llmi3d import yaw_to_matrix

K = [[1000.0, 0.0, 500.0], [0.0, 1000.0, 400.0], [0.0, 0.0, 1.0]]


def car(x=0.0, z=20.0, size=(4.0, 1.5, 2.0), yaw=0.0, category="car", **more) -> dict:
    rotation = yaw_to_matrix(torch.tensor(yaw, dtype=torch.float64)).tolist()
    return {"center": [x, 1.0, z], "size": list(size), "rotation": rotation, "category": category, **more}


def test_mean_sizes():
    objects = [car(), car(size=(5.0, 1.7, 2.0), category="Car"), car(size=(9.0, 3.2, 3.0), category="bus")]
    sizes = mean_sizes([*objects, car(size=(99.0, 99.0, 99.0), ignore=True)])
    assert sizes["car"] == pytest.approx([4.5, 1.6, 2.0]) and sizes["bus"] == [9.0, 3.2, 3.0]
    assert sizes[""] == pytest.approx([6.0, (1.5 + 1.7 + 3.2) / 3, 7 / 3])
    with pytest.raises(ValueError, match="objects: got none"):
        mean_sizes([])


def test_mean_size_predictions():
    records = [
        make_record("a", "grounding", [car(yaw=0.5)], K),
        make_record("b", "grounding", [car(category="tram")], K),
        make_record("n", "absent", [], K),
    ]
    sizes = {"": [1.0, 1.0, 1.0], "car": [4.4, 1.5, 2.0]}
    predictions = mean_size_predictions(records, sizes, true_rotation=True)
    assert [len(one["boxes"]) for one in predictions] == [1, 1, 0]
    assert predictions[1]["boxes"][0]["size"] == [1.0, 1.0, 1.0]
    metrics = grounding_metrics(with_predictions(records, predictions))
    assert metrics["center_distance"] == 0 and metrics["rotation_error"] == pytest.approx(0, abs=1e-5)
    assert metrics["length_error"] == pytest.approx((0.4 + 3) / 2) and metrics["abstention_recall"] == 1
    facing = grounding_metrics(with_predictions(records[:1], mean_size_predictions(records[:1], sizes)))
    assert facing["rotation_error"] == pytest.approx(math.degrees(0.5))


def test_box_2d_predictions():
    # A flat board that faces the camera fills 1000 * 2 / 10 px in height, exactly.
    board = {**car(z=10.0), "size": [1.0, 2.0, 1e-4], "center": [0.0, 0.0, 10.0]}
    records = [make_record("a", "grounding", [board], K)]
    metrics = grounding_metrics(with_predictions(records, box_2d_predictions(records, mean_sizes([board]))))
    assert metrics["depth_error"] < 1e-3 and metrics["center_2d_error"] < 1e-6 and metrics["iou_2d"] > 0.999
    given = {"a": [[400.0, 350.0, 500.0, 450.0]]}
    (prediction,) = box_2d_predictions(records, {"": [1.0, 2.0, 1.0]}, given)
    # 100 px high: 2 * 1000 / 100 = 20 m deep, 50 px left of the middle: -1 m.
    assert prediction["boxes"][0]["center"] == pytest.approx([-1.0, 0.0, 20.0])
    (nothing,) = box_2d_predictions(records, {"": [1.0, 2.0, 1.0]}, {"a": [[400.0, 350.0, 500.0, 350.0]]})
    assert nothing["boxes"] == []
    with pytest.raises(ValueError, match="a: got 0 2D boxes for 1 true boxes"):
        box_2d_predictions(records, {"": [1.0, 2.0, 1.0]}, {})
    with pytest.raises(ValueError, match="b: got no intrinsics"):
        box_2d_predictions([make_record("b", "grounding", [board])], {"": [1.0, 2.0, 1.0]})
