# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Protocols, reports, oracles, intervals, comparisons, and bad input."""

import dataclasses
import json
import math

import pytest
import torch

from llmi3d.data.sources.kitti import read_kitti_frames
from llmi3d.evaluation import (
    PROTOCOLS,
    Protocol,
    Report,
    Statistic,
    compare,
    detection_record,
    evaluate_records,
    get_protocol,
    make_boxes,
    make_record,
    mean_sizes,
    with_predictions,
)
from llmi3d.evaluation.baselines import LEAVE_ONE_OUT, ORACLES
from llmi3d.evaluation.bootstrap import interval, resample_weights, weighted_median
from llmi3d.evaluation.comparison import check_comparable
from llmi3d.evaluation.protocols import GROUPINGS, Grouping
from llmi3d.evaluation.report import SMALL_SET
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT

EYE = torch.eye(3).tolist()
K = [[1000.0, 0.0, 500.0], [0.0, 1000.0, 400.0], [0.0, 0.0, 1.0]]


def box(x=0.0, z=10.0, **more) -> dict:
    return {"center": [x, 0.0, z], "size": [2.0, 2.0, 2.0], "rotation": EYE, "category": "car", **more}


def questions(count: int = 40, source="kitti", split="val", category="car"):
    """Two questions per image, at 5 to 44 m."""
    fields = {"source": source, "split": split}
    return [
        make_record(
            f"{source}/{i:03d}",
            "grounding",
            [box(z=5.0 + i, category=category)],
            K,
            image_id=f"{source}/{i // 2}",
            metadata={"category": category, "distance": 5.0 + i, "occlusion": i % 2, "truncation": None},
            **fields,
        )
        for i in range(count)
    ]


def shifted_answers(records, shift: float, score: float = 0.5) -> list[dict]:
    return [{"id": r.id, "boxes": [box(x=shift, z=r.true.center[0, 2].item(), score=score)]} for r in records]


def report_of(shifts, model="m", protocol="ig3d-kitti", **options) -> Report:
    records = questions()
    answers = [one for i, one in enumerate(shifted_answers(records, 0.0)) if shifts(i) is not None]
    for i, answer in zip([i for i in range(40) if shifts(i) is not None], answers, strict=True):
        answer["boxes"][0]["center"][0] = shifts(i)
    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    return evaluate_records(with_predictions(records, answers), protocol, model=model, **options)


# ---------------------------------------------------------------------------------------------------------- protocols


def test_presets():
    assert list(PROTOCOLS) == [
        "ig3d-sunrgbd",
        "ig3d-nuscenes",
        "ig3d-kitti",
        "ig3d-objectron",
        "mono3drefer",
        "omni3d",
        "ig3d-synth",
        "own",
    ]
    sizes = {name: len(protocol.categories) for name, protocol in PROTOCOLS.items()}
    assert sizes == {
        "ig3d-sunrgbd": 38,
        "ig3d-nuscenes": 9,
        "ig3d-kitti": 5,
        "ig3d-objectron": 9,
        "mono3drefer": 9,
        "omni3d": 50,
        "ig3d-synth": 0,
        "own": 0,
    }
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and len(set(protocol.categories)) == len(protocol.categories)
        assert protocol.iou == ("mono3dvg" if name == "mono3drefer" else "exact")
        if protocol.kind == "grounding":
            assert protocol.thresholds == (0.25, 0.5) and protocol.prompt == GROUNDING_PROMPT
        assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert get_protocol("omni3d").thresholds == pytest.approx([0.05 * i for i in range(1, 11)])


def test_unknown_protocol():
    with pytest.raises(ValueError, match="protocol: got 'ig3d', want one of ig3d-sunrgbd, ig3d-nuscenes, ig3d-kitti"):
        get_protocol("ig3d")


def test_protocols_are_frozen_and_variants_say_so():
    protocol = get_protocol("ig3d-kitti")
    with pytest.raises(dataclasses.FrozenInstanceError):
        protocol.split = "training"
    variant = protocol.variant(split="training", score_threshold=0.3)
    assert variant.name == "ig3d-kitti[score_threshold=0.3, split=training]" and variant.split == "training"
    assert protocol.variant(split="val") is protocol
    with pytest.raises(ValueError, match="protocol ig3d-kitti: got the field 'name', want one of categories"):
        protocol.variant(name="mine")
    with pytest.raises(ValueError, match="iou: got 'bev', want one of exact, mono3dvg"):
        protocol.variant(iou="bev")
    with pytest.raises(ValueError, match="kind: got 'vqa', want one of grounding, detection"):
        protocol.variant(kind="vqa")


def test_other_data_is_refused():
    protocol = get_protocol("ig3d-kitti")
    for source, split in (("kitti", "training"), ("nuscenes", "val")):
        records = questions(2) + questions(2, source=source, split=split)
        records = list({record.id: record for record in records}.values())
        with pytest.raises(ValueError, match=f"of {source}/{split}, want kitti, split val. One report holds one"):
            evaluate_records(records, protocol, model="m")
    with pytest.raises(ValueError, match="a second time, want unique ids"):
        evaluate_records(questions(2) * 2, protocol, model="m")
    with pytest.raises(ValueError, match="protocol ig3d-kitti: got 0 records, of which none is left"):
        evaluate_records([], protocol, model="m")


def test_other_categories_and_tasks_are_left_out_and_counted():
    protocol = get_protocol("ig3d-kitti")
    tram = make_record(
        "t", "grounding", [box()], source="kitti", split="val", metadata={"category": "tram"}, image_id="t"
    )
    absent = make_record("n", "absent", [], source="kitti", split="val")
    image = make_record("p", "detection", [box()], source="kitti", split="val")
    report = evaluate_records([*questions(4), tram, absent, image], protocol, model="m", resamples=10)
    assert report.ids == ("kitti/000", "kitti/001", "kitti/002", "kitti/003", "n")
    assert report.counts["other_categories"] == 1 and report.counts["other_tasks"] == 1
    assert report.counts["questions"] == 5 and report.counts["absent"] == 1


def test_score_threshold():
    records = questions(4)
    answered = with_predictions(records, shifted_answers(records, 0.0, score=0.2))
    strict = get_protocol("ig3d-kitti").variant(score_threshold=0.3)
    assert evaluate_records(answered, strict, model="m", resamples=10).counts["abstained"] == 4
    assert evaluate_records(answered, get_protocol("ig3d-kitti"), model="m", resamples=10).counts["abstained"] == 0


def test_groupings():
    distance = Grouping("distance", (0, 10, math.inf), "m")
    labels = [distance.label(make_record("a", "absent", [], metadata={"distance": d})) for d in (0.0, 10.0, None)]
    assert labels == ["0 to 10 m", "10 and more m", None]
    kind = Grouping("phrase_kind")
    assert kind.label(make_record("a", "absent", [], phrase_kind="ordinal")) == "ordinal"
    assert Grouping("occlusion").label(make_record("a", "absent", [], metadata={"occlusion": 2.0})) == "2"
    keys = {grouping.key for grouping in GROUPINGS}
    assert keys >= {"distance", "diagonal", "occlusion", "truncation", "image_area", "distractors", "phrase_kind"}


# ------------------------------------------------------------------------------------------------------------ reports


def test_report_numbers_and_groups():
    # The first half is found exactly, the second half with the IoU 1/3, the last two not at all.
    report = report_of(lambda i: None if i >= 38 else (0.0 if i < 20 else 1.0), resamples=200)
    assert report.metrics["acc@0.25"].value == 38 / 40 and report.metrics["acc@0.5"].value == 20 / 40
    assert report.metrics["mean_iou"].value == pytest.approx((20 + 18 / 3) / 40)
    assert report.metrics["center_distance"].value == pytest.approx(18 / 38)
    assert report.metrics["center_distance"].count == 38 and report.metrics["acc@0.25"].count == 40
    assert report.counts["missing"] == report.counts["unanswered"] == 2 and report.images == 20
    estimate = report.metrics["acc@0.5"]
    assert 0.25 < estimate.low < 0.5 < estimate.high < 0.75
    # 5 to 9 m (5 questions), 10 to 34 m (25; 15 of them exact), 35 to 44 m.
    by_distance = report.groups["distance"]
    assert list(by_distance) == ["0 to 10 m", "10 to 35 m", "35 and more m"]
    assert [part["acc@0.5"].value for part in by_distance.values()] == [1, 15 / 25, 0]
    assert [part["acc@0.5"].count for part in by_distance.values()] == [5, 25, 10]
    assert [part["acc@0.25"].value for part in by_distance.values()] == [1, 1, 8 / 10]
    assert list(report.groups["occlusion"]) == ["0", "1"] and "truncation" not in report.groups
    assert report.calibration["reliability"]["expected_calibration_error"] == pytest.approx(1 - 0.5)
    assert report.calibration["unanswered"] == 2


def test_report_prints_its_protocol():
    text = report_of(lambda i: 0.0, model="mine", resamples=50, seed=3).to_markdown()
    for part in (
        "## mine on ig3d-kitti",
        "protocol ig3d-kitti: grounding on kitti, split val, 5 categories, prompt 'Locate {phrase} in 3D.' (direct)",
        "exact oriented 3D IoU, thresholds 0.25, 0.5",
        "rotation errors up to: none",
        "40 questions, 40 grounding, 0 multi, 0 absent, 40 answered",
        "95% intervals: percentile bootstrap over 20 images, 50 resamples, seed 3",
        "| acc@0.25 (%) | 100.00 | 100.00 to 100.00 | 40 |",
        "| depth_error (m) | 0.000 | 0.000 to 0.000 | 40 |",
        "| box_2d_iou (%) | - | - | 0 |",
        "| expected_calibration_error (%) | 50.00 | 50.00 to 50.00 | 40 |",
        "| distance | acc@0.25 | acc@0.5 | mean_iou | acc@0.25, oracle of scale | acc@0.25, oracle of height | over |",
    ):
        assert part in text, part
    assert "mono3dvg" not in text


def test_rotation_blind_iou_stands_beside_the_exact_one():
    protocol = get_protocol("ig3d-kitti").variant(iou="mono3dvg")
    report = report_of(lambda i: 0.0, protocol=protocol, resamples=20)
    assert {"acc@0.25", "mono3dvg/acc@0.25", "mean_iou", "mono3dvg/mean_iou"} <= set(report.metrics)
    assert "beside the rotation-blind one of Mono3DVG" in report.to_markdown()
    assert "mono3dvg/acc@0.5" in report.groups["distance"]["0 to 10 m"]
    with pytest.raises(ValueError, match=r"got the protocols ig3d-kitti and ig3d-kitti\[iou=mono3dvg\], want one"):
        compare(report_of(lambda i: 0.0, resamples=20), report)


def test_oracles_stand_below_the_model():
    # A cube of 1.6 m edges among three of 2 m, seen as if it were of 2 m: 1.25 times as far away.
    records = questions(4)
    records[0] = dataclasses.replace(records[0], true=make_boxes([box(z=5.0) | {"size": [1.6] * 3}]))
    protocol = get_protocol("ig3d-kitti")
    report = evaluate_records(records, protocol, model="mine", resamples=20)
    assert report.metrics["acc@0.25"].value == 0 and report.oracle_sizes == LEAVE_ONE_OUT
    mean = (1.6 + 2 + 2) / 3
    shared = 1 + 0.8 - (6.25 - 5)  # metres along z; across, the smaller cube lies within the larger one
    ious = [1.6**2 * shared / (1.6**3 + 2**3 - 1.6**2 * shared)]
    for z in (6.0, 7.0, 8.0):
        away = z * mean / 2
        shared = mean / 2 + 1 - (z - away)
        ious.append(mean**2 * shared / (mean**3 + 2**3 - mean**2 * shared))
    assert report.oracles["scale"]["mean_iou"].value == pytest.approx(sum(ious) / 4)
    assert report.oracles["scale"]["acc@0.25"].value == sum(iou > 0.25 for iou in ious) / 4
    near = report.oracle_groups["scale"]["distance"]["0 to 10 m"]["acc@0.25"]
    assert near.value == report.oracles["scale"]["acc@0.25"].value and near.low is None
    # An upright cube of edge a at depth z is a / (z - a / 2) high, so as the scale goes, so does the depth.
    assert report.oracles["height"]["mean_iou"].value == pytest.approx(sum(ious) / 4)
    text = report.to_markdown()
    assert f"| {ORACLES['scale']} | {100 * report.oracles['scale']['acc@0.25'].value:.2f} (" in text
    assert f"Mean sizes: {LEAVE_ONE_OUT}." in text and "| mine | 0.00 (0.00 to 0.00) |" in text
    trained = evaluate_records(
        records, protocol, model="mine", resamples=20, sizes=mean_sizes([box(z=5.0)], "the split train")
    )
    assert trained.oracles["scale"]["mean_iou"].value == pytest.approx((3 + ious[0]) / 4)
    assert "Mean sizes: the split train." in trained.to_markdown()
    assert trained.metrics == report.metrics


def test_small_sets_say_which_differences_they_show():
    few = report_of(lambda i: 0.0 if i % 3 else None, resamples=50)
    half = 50 * (few.metrics["acc@0.25"].high - few.metrics["acc@0.25"].low)
    assert f"over 40 questions the interval of acc@0.25 reaches {half:.1f} percentage points" in few.to_markdown()
    # No width at all is no certainty: three of twenty images.
    assert "reaches 15.0 percentage points" in report_of(lambda i: 0.0, resamples=50).to_markdown()
    many = questions(SMALL_SET)
    assert "Small set" not in evaluate_records(many, few.protocol, model="m", resamples=5).to_markdown()


def test_reports_of_before_there_were_oracles_load():
    plain = json.loads(report_of(lambda i: 0.0, resamples=20).to_json())
    del plain["oracles"], plain["oracle_groups"], plain["oracle_sizes"]
    assert Report.from_json(json.dumps(plain)).oracles == {}


def test_json_round_trip(tmp_path):
    report = report_of(lambda i: None if i % 3 else 0.4, resamples=20)
    assert report.oracles
    path = tmp_path / "out" / "report.json"
    report.save(path)
    loaded = Report.load(path)
    assert loaded.to_json() == report.to_json() and loaded.to_markdown() == report.to_markdown()
    assert loaded.protocol == report.protocol and compare(report, loaded).differences["acc@0.25"].value == 0
    assert [name.name for name in path.parent.iterdir()] == ["report.json"]


def test_same_seed_same_report():
    first, again = (report_of(lambda i: 0.1 * (i % 9), resamples=30) for _ in range(2))
    assert first.to_json() == again.to_json()
    other = report_of(lambda i: 0.1 * (i % 9), resamples=30, seed=1)
    assert other.metrics["mean_iou"].value == first.metrics["mean_iou"].value
    assert other.metrics["mean_iou"].low != first.metrics["mean_iou"].low


# --------------------------------------------------------------------------------------------------------- comparison


def test_paired_comparison_is_narrower():
    # Both models miss the same images; the second misses one box in ten more. Pairing removes what they share.
    first = report_of(lambda i: 0.0 if i % 4 < 2 else None, model="a")
    second = report_of(lambda i: 0.0 if i % 4 < 2 and i % 20 else None, model="b")
    difference = compare(first, second).differences["acc@0.25"]
    assert difference.value == pytest.approx(-2 / 40)
    single = first.metrics["acc@0.25"]
    assert difference.high - difference.low < 0.7 * (single.high - single.low)
    assert difference.high <= 0 and difference.low < -2 / 40
    text = compare(first, second).to_markdown()
    assert "## b against a on ig3d-kitti" in text and "95% interval (paired)" in text
    assert "| acc@0.25 (%) | 50.00 | 45.00 | -5.00 |" in text


def test_incomparable_reports_are_refused():
    report = report_of(lambda i: 0.0, resamples=20)
    fewer = evaluate_records(questions(38), report.protocol, model="few", resamples=20)
    with pytest.raises(ValueError, match="'m' and 'few': got 40 and 38 questions, 2 of them in one report alone"):
        compare(report, fewer)
    with pytest.raises(ValueError, match=r"got the bootstraps \(resamples, seed, images\) \(20, 0, 20\) and \(20, 1"):
        check_comparable([report, report_of(lambda i: 0.0, resamples=20, seed=1)])
    other_ids = dataclasses.replace(report, ids=(*report.ids[:-1], "kitti/999"))
    with pytest.raises(ValueError, match=r"got 40 and 40 questions, 2 of them .*the first is 'kitti/039'"):
        compare(report, other_ids)
    changed = dataclasses.replace(report.protocol, score_threshold=0.5)  # the name does not tell
    with pytest.raises(ValueError, match=r"ig3d-kitti and ig3d-kitti .of the same name, with other settings"):
        compare(report, dataclasses.replace(report, protocol=changed))


# ---------------------------------------------------------------------------------------------------------- bootstrap


def test_weights_are_numbers_of_copies_of_whole_images():
    weights = torch.cat(list(resample_weights(["a", "b", "a", "c"], 250, seed=0)))
    assert weights.shape == (250, 4)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
    assert weights.mean(0).tolist() == pytest.approx([1, 1, 1, 1], abs=0.15)
    assert torch.equal(weights, torch.cat(list(resample_weights(["x", "y", "x", "z"], 250, seed=0))))
    assert list(resample_weights([], 10, seed=0)) == []


def test_statistics_of_copies():
    values = torch.tensor([5.0, math.nan, 1.0, 2.0, 8.0])
    weights = torch.tensor([[1.0, 1, 1, 1, 1], [2, 5, 0, 1, 0], [0, 3, 0, 0, 0], [1, 0, 2, 0, 1]])
    mean, median = Statistic.of(values), Statistic.of(values, "median")
    # Copies: 1 2 5 8, 2 5 5, none, 1 1 5 8.
    assert mean.value(weights).tolist() == pytest.approx([4, 4, math.nan, 15 / 4], nan_ok=True)
    assert median.value(weights).tolist() == pytest.approx([3.5, 5, math.nan, 3], nan_ok=True)
    assert mean.count == 4 and mean.value().item() == 4 and median.value().item() == 3.5
    assert mean.only(torch.tensor([1.0, 1, 0, 0, 0])).value().item() == 5
    ratio = Statistic(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 0.0, 2.0]))
    assert ratio.value().item() == 3 / 4
    assert weighted_median(torch.zeros(0), torch.zeros(2, 0)).isnan().all()


def test_intervals_are_those_of_the_theory():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator, dtype=torch.float64)
    weights = torch.cat(list(resample_weights([f"{i}" for i in range(400)], 2000, seed=1)))
    low, high = interval(Statistic.of(values).value(weights))
    error = values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.01)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.01)
    # Ten copies of each question in one image say no more than one: clusters keep the interval as wide.
    repeated = values.repeat_interleave(10)
    clusters = [f"{i // 10}" for i in range(4000)]
    wide = interval(torch.cat([Statistic.of(repeated).value(chunk) for chunk in resample_weights(clusters, 500, 1)]))
    assert wide[1] - wide[0] == pytest.approx(high - low, rel=0.15)
    assert interval(torch.tensor([math.nan, 1.0])) is None


# ----------------------------------------------------------------------------------------------- detection, real data


def test_detection_report(tmp_path):
    fields = {"source": "kitti", "split": "test"}
    records = [make_record(f"{i}", "detection", [box(x=3.0 * i, z=9.0 + i)], K, **fields) for i in range(6)]
    answers = [
        {"id": r.id, "boxes": [box(x=r.true.center[0, 0].item() + (1 if int(r.id) > 3 else 0), z=9.0 + int(r.id))]}
        for r in records
    ]
    report = evaluate_records(with_predictions(records, answers), get_protocol("omni3d"), model="d", resamples=30)
    # Of six cars of equal scores four are found exactly and two with the IoU 1/3 (six of ten thresholds).
    assert report.metrics["AP3D@25"].value == pytest.approx(1)
    assert (
        0 < report.metrics["AP3D@50"].low <= report.metrics["AP3D@50"].value <= report.metrics["AP3D@50"].high < 1.01
    )
    assert (
        report.counts["images"] == 6 and report.groups["category"]["car"]["AP3D"].value == report.metrics["AP3D"].value
    )
    assert "| AP3D (%) |" in report.to_markdown() and "detection on sunrgbd" in report.to_markdown()
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").to_json() == report.to_json()
    assert compare(report, report).differences["AP3D"].high == 0


def test_detection_on_real_kitti_frames(samples):
    rows = list(read_kitti_frames(samples / "kitti"))
    records = [detection_record(row) for row in rows]
    answers = [{"id": row["image_id"], "boxes": [o for o in row["objects"] if not o["ignore"]]} for row in rows]
    everything = get_protocol("omni3d").variant(split="training", categories=())
    report = evaluate_records(with_predictions(records, answers), everything, model="oracle", resamples=5)
    scale = report.oracles["scale"]["AP3D"]
    assert report.metrics["AP3D"].value == pytest.approx(1) and 0 < scale.value < 1 and scale.low is None
