# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Oracles against an independent calculation, one object at a time, and lifted 2D boxes against known cases."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from llmi3d.evaluation import grounding_metrics, make_record, oracle_records, with_predictions
from llmi3d.evaluation.baselines import box_2d_predictions, mean_sizes
from llmi3d.processing.geometry_llmi3d import quaternion_to_matrix, yaw_to_matrix

K = [[1000.0, 0.0, 500.0], [0.0, 900.0, 400.0], [0.0, 0.0, 1.0]]


def car(x=0.0, z=20.0, size=(4.0, 1.5, 2.0), yaw=0.0, category="car", **more) -> dict:
    rotation = yaw_to_matrix(torch.tensor(yaw, dtype=torch.float64)).tolist()
    return {"center": [x, 1.0, z], "size": list(size), "rotation": rotation, "category": category, **more}


def objects(count: int = 9) -> list[dict]:
    """Cars and cups of various sizes, turned about all axes, and a single bus."""
    generator = torch.Generator().manual_seed(4)
    turns = quaternion_to_matrix(torch.randn(count, 4, generator=generator, dtype=torch.float64)).tolist()
    grow = (1 + torch.rand(count, generator=generator)).tolist()
    kinds = {"car": (4.0, 1.5, 2.0), "Cup": (0.1, 0.12, 0.1), "bus": (9.0, 3.0, 2.5)}
    names = ["bus", *("car" if i % 2 else "Cup" for i in range(1, count))]
    return [
        {
            "center": [i - 4.0, 0.5, 8.0 + 2 * i],
            "size": [edge * grow[i] for edge in kinds[name]],
            "rotation": turns[i],
            "category": name,
        }
        for i, name in enumerate(names)
    ]


def corners(center, size, rotation) -> np.ndarray:
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return np.asarray(center) + (signs * np.asarray(size) / 2) @ np.asarray(rotation).T


def pixels(points: np.ndarray) -> np.ndarray:
    image = points @ np.array(K).T
    return image[:, :2] / image[:, 2:]


def height(center, size, rotation) -> float:
    return float(np.ptp(pixels(corners(center, size, rotation))[:, 1]))


def mean_of_others(entry: dict, entries: list[dict]) -> np.ndarray:
    others = [o for o in entries if o is not entry]
    alike = [o for o in others if o["category"] == entry["category"]]
    return np.mean([o["size"] for o in alike or others], axis=0)


def center_of_height(entry: dict, size: np.ndarray) -> np.ndarray:
    """Where on the ray of an object a box of another size looks as high as the object."""
    turn, ray = entry["rotation"], np.array(entry["center"]) / entry["center"][2]
    want = height(entry["center"], entry["size"], turn)
    nearest = 0.5001 * np.linalg.norm(size)  # from here on the whole box is in front of the camera
    return ray * brentq(lambda depth: height(ray * depth, size, turn) - want, nearest, 1e4)


@pytest.mark.parametrize("training", [False, True])
def test_oracles_equal_an_independent_calculation(training):
    entries = objects()
    records = [make_record(f"{i}", "grounding", [entry], K, image_id="a") for i, entry in enumerate(entries)]
    # The same objects once more, together: an object in two questions is still left out of its own mean.
    records += [make_record("m", "multi", entries[1:4], K, image_id="a"), make_record("n", "absent", [], K)]
    known = [car(size=(3.0, 2.0, 1.0)), car(size=(5.0, 2.0, 1.0)), car(size=(0.2, 0.2, 0.4), category="cup")]
    answers = oracle_records(records, mean_sizes(known) if training else None)
    table = {"car": (4.0, 2.0, 1.0), "Cup": (0.2, 0.2, 0.4), "bus": np.mean([o["size"] for o in known], axis=0)}
    for name, answered in answers.items():
        assert [len(record.predicted) for record in answered] == [1] * len(entries) + [3, 0]
        boxes = [(record.predicted, 0) for record in answered[: len(entries)]]
        boxes += [(answered[-2].predicted, 0), (answered[-2].predicted, 2)]
        for (box, place), entry in zip(boxes, [*entries, entries[1], entries[3]], strict=True):
            mean = np.array(table[entry["category"]]) if training else mean_of_others(entry, entries)
            center, size = np.array(entry["center"]), np.array(entry["size"])
            if name == "scale":
                scale = (mean.prod() / size.prod()) ** (1 / 3)
                want_center, want_size = center * scale, size * scale
            else:
                want_center, want_size = center_of_height(entry, mean), mean
            assert box.center[place].tolist() == pytest.approx(want_center.tolist(), rel=1e-6)
            assert box.size[place].tolist() == pytest.approx(want_size.tolist())
            assert box.rotation[place].flatten().tolist() == pytest.approx(np.ravel(entry["rotation"]).tolist())


def test_the_scale_oracle_is_seen_on_the_same_pixels():
    entry, *_ = entries = objects()
    records = [make_record(f"{i}", "grounding", [e], K) for i, e in enumerate(entries)]
    box = oracle_records(records)["scale"][0].predicted
    seen = pixels(corners(box.center[0], box.size[0], box.rotation[0]))
    assert seen == pytest.approx(pixels(corners(entry["center"], entry["size"], entry["rotation"])))
    metrics = grounding_metrics(oracle_records(records)["scale"])
    assert metrics["iou_2d"] == pytest.approx(1) and metrics["acc@0.25"] < 1


def test_oracles_that_know_the_size_are_right():
    records = [make_record(f"{i}", "grounding", [car(x=i, z=9 + i, yaw=i)], K) for i in range(4)]
    for answered in oracle_records(records).values():
        metrics = grounding_metrics(answered)
        assert metrics["mean_iou"] == pytest.approx(1) and metrics["depth_error"] == pytest.approx(0, abs=1e-6)


def test_oracles_answer_only_what_they_can():
    two = [car(), car(size=(5.0, 1.5, 2.0))]
    assert set(oracle_records([make_record("a", "multi", two)])) == {"scale"}  # no K
    assert oracle_records([make_record("a", "grounding", [car()], K)]) == {}  # no other object
    twice = [make_record(name, "grounding", [car()], K, image_id="i") for name in "ab"]
    assert oracle_records(twice) == {}
    assert oracle_records([make_record("n", "absent", [], K)], mean_sizes(two)) == {}
    ignored = make_record("d", "detection", [*two, car(x=5.0, ignore=True)], K)
    assert [len(answered[0].predicted) for answered in oracle_records([ignored]).values()] == [2, 2]
    behind = make_record("a", "multi", [*two, car(z=-5.0)], K)
    assert [len(answered[0].predicted) for answered in oracle_records([behind]).values()] == [3, 2]


def test_mean_sizes():
    entries = [car(), car(size=(5.0, 1.7, 2.0), category="Car"), car(size=(9.0, 3.2, 3.0), category="bus")]
    sizes = mean_sizes([*entries, car(size=(99.0, 99.0, 99.0), ignore=True)], "here")
    assert sizes.of("CAR") == pytest.approx([4.5, 1.6, 2.0]) and sizes.of("bus") == [9.0, 3.2, 3.0]
    assert sizes.of("tram") == sizes.of(None) == pytest.approx([6.0, (1.5 + 1.7 + 3.2) / 3, 7 / 3])
    assert sizes.source == "here"
    with pytest.raises(ValueError, match="objects: got none"):
        mean_sizes([])


def test_box_2d_predictions():
    # A flat board that faces the camera fills 900 * 2 / 10 px in height, exactly.
    board = {**car(), "size": [1.0, 2.0, 1e-4], "center": [0.0, 0.0, 10.0]}
    records = [make_record("a", "grounding", [board], K)]
    metrics = grounding_metrics(with_predictions(records, box_2d_predictions(records, mean_sizes([board]))))
    assert metrics["depth_error"] < 1e-3 and metrics["center_2d_error"] < 1e-6 and metrics["iou_2d"] > 0.999
    sizes = mean_sizes([{**board, "size": [1.0, 2.0, 1.0]}])
    (prediction,) = box_2d_predictions(records, sizes, {"a": [[400.0, 355.0, 500.0, 445.0]]})
    # 90 px high: 2 * 900 / 90 = 20 m deep, 50 px left of the middle: -1 m.
    assert prediction["boxes"][0]["center"] == pytest.approx([-1.0, 0.0, 20.0])
    (nothing,) = box_2d_predictions(records, sizes, {"a": [[400.0, 350.0, 500.0, 350.0]]})
    assert nothing["boxes"] == []
    with pytest.raises(ValueError, match="a: got 0 2D boxes for 1 true boxes"):
        box_2d_predictions(records, sizes, {})
    with pytest.raises(ValueError, match="b: got no intrinsics"):
        box_2d_predictions([make_record("b", "grounding", [board])], sizes)
