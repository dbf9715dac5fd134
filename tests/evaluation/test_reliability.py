# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reliability and risk-coverage, worked out by hand and against plain loops."""

import math

import numpy as np
import pytest
import torch

from llmi3d.evaluation import (
    expected_calibration_error,
    grounding_calibration,
    make_record,
    question_values,
    reliability,
    risk_coverage,
    with_predictions,
)
from llmi3d.evaluation.reliability import resampled_calibration


def test_hand_computed_reliability():
    scores = torch.tensor([0.1, 0.2, 0.2, 0.6, 0.7, 1.0])
    correct = torch.tensor([False, False, True, True, True, False])
    diagram = reliability(scores, correct, bins=4)
    # 0 to 0.25: 0.1, 0.2, 0.2, one right of three; 0.5 to 0.75: 0.6, 0.7, both right; above 0.75: 1.0, wrong.
    assert diagram.edges == [0, 0.25, 0.5, 0.75, 1]
    assert diagram.count == [3, 0, 2, 1]
    assert diagram.score == pytest.approx([0.5 / 3, math.nan, 0.65, 1.0], nan_ok=True)
    assert diagram.accuracy == pytest.approx([1 / 3, math.nan, 1.0, 0.0], nan_ok=True)
    # 3/6 of |1/3 - 1/6|, 2/6 of |1 - 0.65|, 1/6 of |0 - 1|.
    assert diagram.expected_calibration_error == pytest.approx(0.5 / 6 + 0.35 / 3 + 1 / 6)
    assert diagram.maximum_calibration_error == 1


def test_a_score_on_an_edge_belongs_to_the_bin_below():
    diagram = reliability(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0, 1, 1]), bins=2)
    assert diagram.count == [2, 1]


def test_calibrated_scores_have_no_error_and_random_ones_the_loops():
    rng = np.random.default_rng(0)
    scores = rng.random(5000)
    calibrated = rng.random(5000) < scores
    assert expected_calibration_error(torch.from_numpy(scores), torch.from_numpy(calibrated)) < 0.03
    correct, error = rng.random(5000) < 0.5, 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (scores > low) & (scores <= high)
        error += inside.sum() / 5000 * abs(scores[inside].mean() - correct[inside].mean())
    assert expected_calibration_error(torch.from_numpy(scores), torch.from_numpy(correct)) == pytest.approx(error)


def test_hand_computed_risk_coverage():
    curve = risk_coverage(torch.tensor([0.2, 0.9, 0.7, 0.8]), torch.tensor([False, True, True, False]))
    # By falling score: right, wrong, right, wrong.
    assert curve.coverage == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # The best order is right, right, wrong, wrong: 0, 0, 1/3, 1/2.
    assert curve.excess_area == pytest.approx((1 / 2) / 4)


def test_equal_scores_give_the_mean_over_orders():
    scores, correct = torch.tensor([0.5, 0.5, 0.1]), torch.tensor([True, False, True])
    curve = risk_coverage(scores, correct)
    assert curve.risk == pytest.approx([1 / 2, 1 / 2, 1 / 3])  # first right or first wrong
    assert risk_coverage(scores.flip(0), correct.flip(0)) == curve


def test_unanswered_questions_are_wrong_and_last():
    curve = risk_coverage(torch.tensor([0.9, 0.8]), torch.tensor([True, True]), unanswered=2)
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 2 / 4]) and curve.excess_area == pytest.approx(0)


def test_no_answers():
    assert math.isnan(expected_calibration_error(torch.zeros(0), torch.zeros(0)))
    assert math.isnan(risk_coverage(torch.zeros(0), torch.zeros(0)).area)
    assert risk_coverage(torch.zeros(0), torch.zeros(0), unanswered=3).area == 1


def test_errors():
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\), want \[N\] and \[N\]"):
        reliability(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="scores: got nan at 1"):
        risk_coverage(torch.tensor([0.5, math.nan]), torch.ones(2))
    with pytest.raises(ValueError, match=r"scores: got 0\.5 to 1\.5, want values within 0 to 1"):
        reliability(torch.tensor([0.5, 1.5]), torch.ones(2))
    with pytest.raises(ValueError, match="bins: got 0, want at least 1"):
        reliability(torch.tensor([0.5]), torch.ones(1), bins=0)


def test_of_grounding_questions():
    def box(x, score=None):
        rotation = torch.eye(3).tolist()
        return {"center": [x, 0.0, 10.0], "size": [2.0, 2.0, 2.0], "rotation": rotation, "score": score}

    records = [make_record(name, "grounding", [box(0.0)]) for name in "abcd"] + [make_record("n", "absent", [])]
    answers = {"a": [box(0.0, 0.9)], "b": [box(1.0, 0.8)], "c": [box(5.0, 0.3)], "n": [box(0.0, 0.99)]}
    records = with_predictions(records, [{"id": name, "boxes": boxes} for name, boxes in answers.items()])
    result = grounding_calibration(question_values(records), bins=2)
    assert (result["answers"], result["unanswered"]) == (3, 1)  # d; the absent one is no question of a box
    # IoU 1 and 1/3 are right, 0 is wrong: 2/3 of |1 - 0.85| and 1/3 of |0 - 0.3|.
    assert result["reliability"]["expected_calibration_error"] == pytest.approx(0.1 + 0.1)
    assert result["risk_coverage"]["risk"] == pytest.approx([0, 0, 1 / 3, 2 / 4])
    strict = grounding_calibration(question_values(records), threshold=0.5, bins=2)
    assert strict["risk_coverage"]["risk"] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    many = {"iou": torch.ones(1000), "score": torch.rand(1000)}
    thinned = grounding_calibration(many)["risk_coverage"]
    assert len(thinned["coverage"]) == 101 and thinned["coverage"][-1] == 1


def test_one_copy_of_each_question_resamples_to_the_numbers_themselves():
    generator = torch.Generator().manual_seed(3)
    scores = (torch.rand(60, generator=generator, dtype=torch.float64) * 8).round() / 8  # ties
    iou = torch.rand(60, generator=generator, dtype=torch.float64) * 0.5
    scores[::7], iou[5] = math.nan, math.nan
    values = {"score": scores, "iou": iou}
    whole = grounding_calibration(values)
    drawn = resampled_calibration(values, [torch.ones(1, 60, dtype=torch.float64)])
    ece, area = whole["reliability"]["expected_calibration_error"], whole["risk_coverage"]["area"]
    assert drawn["expected_calibration_error"].item() == pytest.approx(ece, abs=1e-12)
    assert drawn["risk_coverage_area"].item() == pytest.approx(area, abs=1e-12)


def test_copies_resample_as_if_the_questions_were_asked_that_often():
    scores = torch.tensor([0.9, 0.6, 0.6, 0.2, math.nan], dtype=torch.float64)
    iou = torch.tensor([0.5, 0.0, 0.5, 0.1, 0.0], dtype=torch.float64)
    copies = torch.tensor([2, 0, 3, 1, 2])
    repeated = {"score": scores.repeat_interleave(copies), "iou": iou.repeat_interleave(copies)}
    whole = grounding_calibration(repeated)
    drawn = resampled_calibration({"score": scores, "iou": iou}, [copies.double()[None]])
    ece, area = whole["reliability"]["expected_calibration_error"], whole["risk_coverage"]["area"]
    assert drawn["expected_calibration_error"].item() == pytest.approx(ece, abs=1e-12)
    assert drawn["risk_coverage_area"].item() == pytest.approx(area, abs=1e-12)
