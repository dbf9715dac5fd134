# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Calibration: known maps are recovered, evaluation is on held-out images, and storing is all or nothing."""

import json
import math

import pytest
import torch
from datasets import Dataset
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.evaluation import calibrate, fit_scores, make_record, with_predictions
from llmi3d.evaluation.calibration import (
    BOTH,
    RAW,
    TEMPERATURE,
    ScoreMap,
    best_threshold,
    check_store,
    store_calibration,
)


def drawn(count, temperature, bias, seed=0):
    """(scores, right) of a network whose score, mapped like that, is the probability of being right."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, dtype=torch.float64, generator=generator) - 1
    chance = (logits / temperature + bias).sigmoid()
    return logits.sigmoid(), torch.rand(count, dtype=torch.float64, generator=generator) < chance


def records_of(scores, right, absent=()):
    """Grounding questions, two per image, with these scores; boxes of IoU 1 or 0; then absent ones, one per image."""

    def box(x, score=None):
        return {"center": [x, 0.0, 9.0], "size": [2.0] * 3, "rotation": torch.eye(3).tolist(), "score": score}

    records, answers = [], {}
    for i, (score, hit) in enumerate(zip(scores.tolist(), right.tolist(), strict=True)):
        records.append(make_record(f"q{i}", "grounding", [box(0.0)], image_id=f"image{i // 2}"))
        answers[f"q{i}"] = [box(0.0 if hit else 7.0, score)]
    for i, score in enumerate(absent):
        records.append(make_record(f"n{i}", "absent", [], image_id=f"image{i}"))
        answers[f"n{i}"] = [] if score is None else [box(0.0, score)]
    return with_predictions(records, [{"id": name, "boxes": boxes} for name, boxes in answers.items()])


def test_a_known_map_is_recovered():
    found = fit_scores(*drawn(20000, temperature=0.6, bias=1.8))
    assert found.temperature == pytest.approx(0.6, rel=0.05) and found.bias == pytest.approx(1.8, abs=0.1)
    alone = fit_scores(*drawn(20000, temperature=2.0, bias=0.0), bias=False)
    assert alone.temperature == pytest.approx(2.0, rel=0.05) and alone.bias == 0


def test_no_neighbour_has_a_lower_log_loss():
    scores, right = drawn(300, temperature=0.8, bias=0.5)
    found = fit_scores(scores, right)
    target = torch.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2)).double()

    def loss(one):
        return torch.nn.functional.binary_cross_entropy(one(scores), target).item()

    for step in (-1e-3, 1e-3):
        assert loss(found) <= loss(ScoreMap(found.temperature + step, found.bias))
        assert loss(found) <= loss(ScoreMap(found.temperature, found.bias + step))


def test_scores_that_part_right_from_wrong_have_a_finite_map():
    found = fit_scores(torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([False, False, True, True]))
    assert 0 < found.temperature < math.inf and abs(found.bias) < 10


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="scores: got none higher for right boxes"):
        fit_scores(torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([True, True, False, False]))
    with pytest.raises(ValueError, match="answers: got 0 right ones of 20, want right and wrong ones"):
        calibrate(records_of(torch.rand(20), torch.zeros(20)))
    with pytest.raises(ValueError, match="want at least one, and all within 0 to 1"):
        fit_scores(torch.tensor([1.5]), torch.tensor([True]))
    with pytest.raises(ValueError, match="images: got 2, want at least 5"):
        calibrate(records_of(torch.rand(4), torch.rand(4) > 0.5))


def test_the_certainly_better_way_is_chosen():
    found = calibrate(records_of(*drawn(1200, temperature=0.6, bias=1.8)))
    assert found.chosen == BOTH and (found.answers, found.images) == (1200, 600)
    assert found.ways[BOTH]["expected_calibration_error"] < 0.06 < found.ways[RAW]["expected_calibration_error"]
    assert found.ways[BOTH]["log_loss"] < found.ways[TEMPERATURE]["log_loss"]
    assert sum(found.after["count"]) == 1200
    assert json.loads(found.to_json())["score_bias"] == found.score_bias
    assert f"score_temperature {found.score_temperature:.4f}" in found.to_markdown()


def test_calibrated_scores_stay():
    found = calibrate(records_of(*drawn(1200, temperature=1.0, bias=0.0)))
    assert found.chosen == RAW and (found.score_temperature, found.score_bias) == (1.0, 0.0)
    assert "there is nothing to store" in found.to_markdown()


@pytest.mark.parametrize("seed", range(5))
def test_threshold_of_the_highest_f1(seed):
    generator = torch.Generator().manual_seed(seed)
    absent = torch.rand(40, generator=generator) < 0.3
    best = ((torch.rand(40, generator=generator) - 0.2 * absent).clamp(0.01) * 20).round().double() / 20  # ties
    best[3] = -math.inf

    def f1(threshold):
        refused = best < threshold
        return 2 * (refused & absent).sum().item() / (refused.sum() + absent.sum()).item()

    assert f1(best_threshold(best, absent)) == max(f1(threshold) for threshold in torch.linspace(0, 1, 201).tolist())


def test_refusals_are_judged_with_what_they_cost():
    scores, right = drawn(200, temperature=1.0, bias=0.0)
    scores = scores.clamp(min=0.1)
    refusal = calibrate(records_of(scores, right, absent=[0.01, 0.02, 0.03, None] * 10)).refusal
    assert (refusal.precision, refusal.recall, refusal.right_lost) == (1, 1, 0)
    assert 0.03 < refusal.threshold < 0.1 and (refusal.absent, refusal.questions) == (40, 240)
    assert calibrate(records_of(scores, right)).refusal is None


def test_storing_changes_three_fields_alone(tmp_path):
    found = calibrate(records_of(*drawn(1200, temperature=0.6, bias=1.8)))
    with pytest.raises(ValueError, match=r"want a folder with a processor_config\.json"):
        check_store(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({"patch_size": 8, "score_threshold": 0.5}))
    store_calibration(tmp_path, found)
    kept = {"score_temperature": found.score_temperature, "score_bias": found.score_bias, "score_threshold": 0.0}
    assert json.loads(path.read_text()) == {"patch_size": 8, **kept}
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not certainly better"):
        store_calibration(tmp_path, calibrate(records_of(*drawn(1200, temperature=1.0, bias=0.0))))
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == [path.name]


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def workplace(chain, row, tmp_path):
    """A checkpoint, and six images held out."""
    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "data" / "data").mkdir(parents=True)
    rows = [{**row, "image_id": f"test/{i}", "split": "validation"} for i in range(6)]
    Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(
        tmp_path / "data" / "data" / "validation-00000-of-00001.parquet"
    )
    return tmp_path


def run(workplace, *more):
    paths = (workplace / "checkpoint", workplace / "data", "--out", workplace / "out")
    given = ("calibrate", *paths, "--protocol", "own", "--device", "cpu", "--quiet", *more)
    return CliRunner().invoke(app, [str(one) for one in given])


def test_command_stores_only_what_is_better(workplace, monkeypatch):
    checkpoint = workplace / "checkpoint"
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    done = run(workplace, "--store", "--json")  # every box of drawn weights is wrong
    assert done.exit_code == 2 and "answers: got 0 right ones of 12" in done.output
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before

    found = calibrate(records_of(*drawn(1200, temperature=0.6, bias=1.8)))
    monkeypatch.setattr("llmi3d.evaluation.calibration.calibrate", lambda records, iou: found)
    done = run(workplace, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["chosen"] == BOTH
    assert (checkpoint / "processor_config.json").read_bytes() == before["processor_config.json"]
    assert (workplace / "out" / "calibration.png").stat().st_size and (
        workplace / "out" / "calibration.json"
    ).is_file()
    assert run(workplace, "--store").exit_code == 0
    after = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"processor_config.json"}

    from llmi3d import LLMI3DProcessor

    assert LLMI3DProcessor.from_pretrained(checkpoint).score_bias == found.score_bias


def test_images_of_the_evaluation_are_refused(workplace):
    done = run(workplace, "--split", "test")
    assert done.exit_code == 2 and "split: got 'test', which own evaluates on" in done.output
    done = run(workplace, "--protocol", "omni3d")
    assert done.exit_code == 2 and "protocol: got omni3d, a detection protocol, want one of grounding" in done.output
    assert not (workplace / "out").exists()
