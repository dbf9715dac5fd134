# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""AP3D against an independent implementation and against cases worked out by hand."""

import numpy as np
import pytest
import torch

from llmi3d.evaluation import Detections, box3d_iou, detection_metrics, make_record, with_predictions
from llmi3d.processing.geometry_llmi3d import box_corners, quaternion_to_matrix

K = [[1000.0, 0.0, 500.0], [0.0, 1000.0, 400.0], [0.0, 0.0, 1.0]]
EYE = torch.eye(3).tolist()


def box(x=0.0, z=5.0, category="car", **more) -> dict:
    """A 2-cube; shifted by d along one axis it has the IoU (2 - d) / (2 + d) with itself."""
    return {"center": [x, 0.0, z], "size": [2.0, 2.0, 2.0], "rotation": EYE, "category": category, **more}


def answered(images: dict[str, tuple[list, list | None]], **fields):
    records = [make_record(name, "detection", true, K, image_id=name, **fields) for name, (true, _) in images.items()]
    given = [{"id": name, "boxes": boxes} for name, (_, boxes) in images.items() if boxes is not None]
    return with_predictions(records, given)


# -------------------------------------------------------------------------------------------------------- by the hand


def test_hand_computed_precision_recall():
    # Four true cars. By falling score: right (0.9), wrong (0.8), right (0.7), and one whose IoU is 1/3 (0.6).
    records = answered(
        {
            "a": ([box(), box(x=20)], [box(score=0.9), box(x=50, score=0.8)]),
            "b": ([box()], [box(score=0.7)]),
            "c": ([box()], [box(x=1, score=0.6)]),
        }
    )
    metrics = detection_metrics(records)
    # Up to an IoU of 1/3 (0.05 to 0.30): recalls 1/4, 1/4, 2/4, 3/4 at precisions 1, 1/2, 2/3, 3/4; the best at that
    # recall or beyond is 1 for the 26 recalls 0 to 0.25, 3/4 for the 50 from 0.26 to 0.75, 0 beyond.
    loose = (26 * 1 + 50 * 3 / 4) / 101
    # Above (0.35 to 0.50): 1/4, 1/4, 2/4, 2/4 at 1, 1/2, 2/3, 2/4: 1 for 26, 2/3 for the 25 from 0.26 to 0.50.
    strict = (26 * 1 + 25 * 2 / 3) / 101
    assert metrics["AP3D@15"] == metrics["AP3D@25"] == pytest.approx(loose)
    assert metrics["AP3D@50"] == pytest.approx(strict)
    assert metrics["AP3D"] == metrics["categories"]["car"] == pytest.approx((6 * loose + 4 * strict) / 10)
    assert metrics["AP3D-near"] == metrics["AP3D"] and metrics["AP3D-medium"] is None
    assert metrics["counts"] == {
        "images": 3,
        "unanswered": 0,
        "true": 4,
        "ignored": 0,
        "predicted": 4,
        "of_other_categories": 0,
    }


def test_matching_reaches_the_threshold_itself():
    # A box within one twice its volume: an IoU of 1/2, at which COCO's rule still matches.
    twice = {**box(score=0.5), "size": [4.0, 2.0, 2.0]}
    assert detection_metrics(answered({"a": ([box()], [twice])}))["AP3D@50"] == pytest.approx(1)


def test_ignored_boxes_are_neither_right_nor_wrong():
    ignored = box(x=20, ignore=True)
    alone = detection_metrics(answered({"a": ([box()], [box(score=0.5)])}))
    found = detection_metrics(answered({"a": ([box(), ignored], [box(score=0.5), box(x=20, score=0.9)])}))
    assert found["AP3D"] == alone["AP3D"] == pytest.approx(1)
    assert found["counts"]["ignored"] == 1 and found["counts"]["true"] == 1
    # A second box on the one to ignore has nothing left to take, and is wrong, before the right one.
    twice = answered({"a": ([box(), ignored], [box(score=0.5), box(x=20, score=0.9), box(x=20, score=0.8)])})
    assert detection_metrics(twice)["AP3D"] == pytest.approx(1 / 2)
    # A box that fits one to ignore better still takes one that counts.
    both = answered({"a": ([box(x=1), box(ignore=True)], [box(score=0.5)])})
    assert detection_metrics(both)["AP3D@25"] == pytest.approx(1)
    only_ignored = detection_metrics(answered({"a": ([ignored], [box(x=20, score=0.9)])}))
    assert only_ignored["AP3D"] is None and only_ignored["categories"] == {}


def test_depth_ranges():
    records = answered(
        {"a": ([box(z=5), box(z=10), box(z=20), box(z=60)], [box(z=z, score=0.5) for z in (5, 20, 61)] + [box(z=8)])}
    )
    metrics = detection_metrics(records)
    # 0 to 10 m holds the true boxes at 5 and 10; the answer at 8, of the highest score, is a false alarm ...
    at_half = {
        name: [ap[-1].item() for ap in Detections(records).average_precisions(name).values()]
        for name in ("near", "medium", "far")
    }
    # ... and the one at 5 is right: precisions 0, 1/2 at recalls 0, 1/2, hence 1/2 up to the recall 0.50 (51 points).
    assert at_half["near"] == pytest.approx([51 / 101 / 2])
    # 10 to 35 m holds those at 10 and 20: one is found, and nothing false lies in the range.
    assert at_half["medium"] == pytest.approx([51 / 101])
    # From 35 m on, IoU 1/3 < 1/2.
    assert at_half["far"] == pytest.approx([0.0]) and metrics["AP3D-far"] == pytest.approx(6 / 10)


def test_categories():
    records = answered(
        {
            "a": (
                [box(category="Traffic_Cone"), box(x=9, category="car")],
                [box(category="traffic cone"), box(category="cat")],
            )
        }
    )
    metrics = detection_metrics(records)
    assert metrics["categories"] == {"car": 0.0, "traffic cone": pytest.approx(1)}
    assert metrics["AP3D"] == pytest.approx(0.5) and metrics["counts"]["of_other_categories"] == 1
    chosen = detection_metrics(records, categories=["traffic cone", "bus"])
    assert chosen["AP3D"] == pytest.approx(1) and chosen["counts"]["true"] == 1


def test_at_most_so_many_boxes_of_an_image_and_category():
    boxes = [box(x=40 + 3 * i, score=0.9) for i in range(4)] + [box(score=0.1)]
    assert detection_metrics(answered({"a": ([box()], boxes)}), max_detections=4)["AP3D"] == 0
    assert detection_metrics(answered({"a": ([box()], boxes)}))["AP3D"] == pytest.approx(1 / 5)


def test_proximity_leaves_out_boxes_far_from_labelled_ones():
    # The unlabelled car beside the labelled one scores higher; only proximity forgives it.
    images = {"a": ([box()], [box(score=0.5), box(x=9, score=0.9)])}
    assert detection_metrics(answered(images))["AP3D"] == pytest.approx(1 / 2)
    assert detection_metrics(answered(images), proximity=True)["AP3D"] == pytest.approx(1)
    # Over the labelled one in the image but far behind it: no forgiveness.
    behind = {"a": ([box()], [box(score=0.5), {**box(z=10, score=0.9), "size": [4.0, 4.0, 2.0]}])}
    assert detection_metrics(answered(behind), proximity=True)["AP3D"] == pytest.approx(1 / 2)
    # An image without a labelled one of the category: Omni3D counts its boxes.
    nothing = {**images, "b": ([], [box(score=0.95)])}
    assert detection_metrics(answered(nothing), proximity=[True, True])["AP3D"] == pytest.approx(1 / 2)


def test_predictors():
    true = {f"{i}": ([box(x=5.0 * i, z=8.0 + 9 * i), box(x=-4, category="bus")], None) for i in range(4)}
    nobody = detection_metrics(answered(true))
    assert nobody["AP3D"] == 0 and nobody["counts"]["unanswered"] == 4
    perfect = detection_metrics(answered({name: (boxes, boxes) for name, (boxes, _) in true.items()}))
    assert all(value == pytest.approx(1) for name, value in perfect.items() if name.startswith("AP3D"))
    shifted = {
        name: (boxes, [{**b, "center": [b["center"][0] + 1, *b["center"][1:]]} for b in boxes])
        for name, (boxes, _) in true.items()
    }
    metrics = detection_metrics(answered(shifted))  # an IoU of 1/3 throughout
    assert metrics["AP3D@25"] == pytest.approx(1) and metrics["AP3D@50"] == 0 and metrics["AP3D"] == pytest.approx(0.6)


def test_bad_records_are_refused():
    with pytest.raises(ValueError, match="a: got the task 'absent', want 'detection'"):
        Detections([make_record("a", "absent", [], K)])
    with pytest.raises(ValueError, match="a: predicted: got a box without a category"):
        Detections(answered({"a": ([box()], [{**box(), "category": None}])}))
    with pytest.raises(ValueError, match="got the id 'a' a second time"):
        Detections(2 * answered({"a": ([box()], None)}))
    with pytest.raises(ValueError, match="proximity: got 2 for 1 records"):
        Detections(answered({"a": ([box()], None)}), proximity=[True, False])
    (record,) = with_predictions([make_record("a", "detection", [box()])], [{"id": "a", "boxes": [box()]}])
    with pytest.raises(ValueError, match="a: predicted: proximity needs box_2d or intrinsics, got neither"):
        Detections([record], proximity=True)


# ---------------------------------------------------------------------------------------------------- independently


def random_records(seed: int, images: int = 8):
    """Crowded scenes with shifted answers, false alarms, boxes to ignore, equal scores and unanswered images."""
    rng = np.random.default_rng(seed)
    scenes = {}
    for image in range(images):
        true, given = [], []
        for _ in range(rng.integers(0, 9)):
            size, turn = rng.uniform(1, 3, 3), quaternion_to_matrix(torch.from_numpy(rng.normal(size=4))).tolist()
            center = np.array([rng.uniform(-6, 6), rng.uniform(-1, 1), rng.choice([6.0, 9.5, 10.5, 20.0, 34.0, 40.0])])
            category = str(rng.choice(["car", "bus", "cone"]))
            true.append({"center": center.tolist(), "size": size.tolist(), "rotation": turn, "category": category})
            true[-1]["ignore"] = bool(rng.random() < 0.2)
            for _ in range(rng.integers(0, 3)):
                moved = center + rng.normal(size=3) * 0.5
                given.append(
                    {**true[-1], "center": moved.tolist(), "size": (size * rng.uniform(0.8, 1.2, 3)).tolist()}
                )
                given[-1]["score"] = float(rng.integers(0, 12)) / 12
        scenes[f"{image}"] = (true, None if image == 3 else given)
    return answered(scenes)


def all_ious(record) -> list[list[float]]:
    boxes = (record.predicted or record.true[[]], record.true)
    return box3d_iou(*(box_corners(side.center, side.size, side.rotation) for side in boxes)).tolist()


def reference_ap(records, ious, category: str, threshold: float, low: float, high: float) -> float | None:
    """AP of one category, threshold and range: COCO's rules written out one box at a time."""
    outcomes, wanted = [], 0
    for record, iou in zip(records, ious, strict=True):
        true = [i for i, name in enumerate(record.true.category) if name == category]
        depth = record.true.center[:, 2].tolist()
        counts = {i: not record.true.ignore[i] and low <= depth[i] <= high for i in true}
        wanted += sum(counts.values())
        predicted = record.predicted or record.true[[]]
        scores, depths = predicted.score.tolist(), predicted.center[:, 2].tolist()
        found = [i for i, name in enumerate(predicted.category) if name == category]
        left = set(true)
        for i in sorted(found, key=lambda i: -scores[i])[:100]:
            fits = [j for j in left if iou[i][j] >= threshold]
            fits = [j for j in fits if counts[j]] or fits
            outcome = "wrong" if low <= depths[i] <= high else "neither"
            if fits:
                best = max(fits, key=iou[i].__getitem__)
                left.remove(best)
                outcome = "right" if counts[best] else "neither"
            outcomes.append((scores[i], outcome))
    if not wanted:
        return None
    curve, right, wrong = [], 0, 0
    for _, outcome in sorted(outcomes, key=lambda pair: -pair[0]):
        right, wrong = right + (outcome == "right"), wrong + (outcome == "wrong")
        if right + wrong:
            curve.append((right / wanted, right / (right + wrong)))
    best = [max((p for recall, p in curve if recall >= point), default=0.0) for point in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@pytest.mark.parametrize("seed", [0, 1, 11])
def test_equals_an_independent_implementation(seed):
    records = random_records(seed, images=12)
    detections, ious = Detections(records), [all_ious(record) for record in records]
    ranges = {"all": (0, 1e5), "near": (0, 10), "medium": (10, 35), "far": (35, 1e5)}
    for name, (low, high) in ranges.items():
        found = detections.average_precisions(name)
        for category in ("car", "bus", "cone"):
            for place in range(10):
                expected = reference_ap(records, ious, category, 0.05 * (place + 1), low, high)
                if expected is None:
                    assert category not in found
                else:
                    assert found[category][place].item() == pytest.approx(expected, abs=1e-9), (name, category, place)
    means = [ap.mean().item() for ap in detections.average_precisions().values()]
    assert detections.metrics()["AP3D"] == pytest.approx(sum(means) / len(means))


def test_weights_are_copies_of_images():
    records = random_records(7)
    weights = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0, 0.0, 2.0, 1.0])
    # Scores are made unique: copies of one box stand together, and no other box between them.
    copies = []
    for i, record in enumerate(records):
        if record.predicted is not None:
            record.predicted.score.add_(1e-6 * torch.arange(len(record.predicted)) + 1e-4 * i)
        for copy in range(int(weights[i])):
            copies.append(type(record)(**{**vars(record), "id": f"{record.id}-{copy}"}))
    weighted, repeated = Detections(records).metrics(weights), Detections(copies).metrics()
    assert weighted == pytest.approx(repeated, abs=1e-9, nan_ok=True)
