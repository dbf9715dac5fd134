# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Model cards: numbers reach the Hub's `model-index` and the section Evaluation, with protocol and intervals."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.evaluation import evaluate_records, get_protocol, records_from_row, with_predictions
from llmi3d.evaluation.baselines import ORACLES
from llmi3d.evaluation.model_index import eval_results, merge_results, write_evaluation
from llmi3d.model_card_llmi3d import TEMPLATE, UNSTATED, fill_card


@pytest.fixture
def report(row):
    rows = [{**row, "image_id": f"test/{i}", "split": "test"} for i in range(3)]
    records = [record for one in rows for record in records_from_row(one)]
    whole = row["objects"][0] | {"score": 0.5}  # right for every other question
    answers = [{"id": record.id, "boxes": [whole]} for record in records]
    return evaluate_records(with_predictions(records, answers), get_protocol("own"), model="mine", resamples=50)


def front_matter(path: Path) -> dict:
    """As the Hub's own library reads it, and checks it."""
    return ModelCard.load(path).data.to_dict()


def test_results_carry_protocol_interval_and_counts(report):
    by_name = {one.metric_type: one for one in eval_results(report)}
    one = by_name["acc@0.25"]
    assert (one.metric_value, one.dataset_config, one.dataset_split) == (50.0, "own", "test")
    assert one.metric_args["count"] == 6 and one.metric_args["interval"].startswith("95% bootstrap over 3 images, 50")
    assert one.metric_args["low"] <= 50 <= one.metric_args["high"] and one.metric_name == "acc@0.25 (%)"
    assert by_name["depth_error_median"].metric_name == "depth_error_median (m)"
    assert "abstention_f1" not in by_name  # nothing absent was asked for


def test_the_hub_reads_back_what_was_written(report, tmp_path):
    path = tmp_path / "README.md"
    fill_card(ModelCardData(license="apache-2.0"), title="A", made_of="", architecture="").save(path)
    write_evaluation(path, [report])
    assert f"| {ORACLES['scale']} |" in path.read_text()
    read = ModelCard.load(path).data
    assert read.license == "apache-2.0" and read.model_name == tmp_path.name
    assert {one.metric_type: one.metric_value for one in read.eval_results} == {
        one.metric_type: one.metric_value for one in eval_results(report)
    }
    [index] = front_matter(path)["model-index"]
    assert index["results"][0]["dataset"] == {
        "name": "IG3D rows from own",
        "type": "ig3d-own",
        "config": "own",
        "split": "test",
    }


def test_the_section_is_replaced_and_the_rest_stays(report, tmp_path):
    path = tmp_path / "README.md"
    fill_card(ModelCardData(), title="A", made_of="", architecture="|parts|", training="Long ago.").save(path)
    write_evaluation(path, [report])
    once = path.read_text()
    assert (
        "### mine on own" in once and "| acc@0.25 (%) | 50.00 |" in once and "Long ago." in once and "|parts|" in once
    )
    assert once.count("## Evaluation\n") == 1 and once.count(UNSTATED) == TEMPLATE.count("{{ licences }}") + 1
    write_evaluation(path, [report])
    assert path.read_text() == once


def test_other_protocols_stay_and_the_same_make_way(report, tmp_path):
    card = fill_card(ModelCardData(), title="A", made_of="", architecture="")
    merge_results(card, [report], "A")
    many = len(card.data.eval_results)
    merge_results(card, [replace(report, protocol=report.protocol.variant(mode="generate"))], "B")
    merge_results(card, [report], "B")
    assert len(card.data.eval_results) == 2 * many and card.data.model_name == "A"


def test_a_card_that_has_no_such_section_is_refused(report, tmp_path):
    for text in (None, "---\nlicense: mit\n---\n\n# Mine\n"):
        if text is not None:
            (tmp_path / "README.md").write_text(text)
        with pytest.raises(
            ValueError, match=r"card: got .*README\.md', want a checkpoint's README\.md with a section"
        ):
            write_evaluation(tmp_path / "README.md", [report])
    assert (tmp_path / "README.md").read_text() == text


def test_evaluate_fills_the_checkpoints_card(chain, row, tmp_path):
    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "data" / "data").mkdir(parents=True)
    rows = [{**row, "image_id": f"test/{i}", "split": "test"} for i in range(2)]
    path = tmp_path / "data" / "data" / "test-00000-of-00001.parquet"
    Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(path)
    given = [
        tmp_path / "checkpoint",
        tmp_path / "data",
        "--protocol",
        "own",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, ["evaluate", *map(str, given), "--card", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    accuracy = 100 * json.loads(done.stdout)["metrics"]["acc@0.25"]["value"]
    found = ModelCard.load(tmp_path / "checkpoint" / "README.md").data
    assert found.model_name == "checkpoint"
    assert {one.metric_type: one.metric_value for one in found.eval_results}["acc@0.25"] == round(accuracy, 2)
    (tmp_path / "checkpoint" / "README.md").write_text("mine")
    done = CliRunner().invoke(app, ["evaluate", *map(str, given), "--card", "--quiet"])
    assert done.exit_code == 2 and "card: got" in done.output


def test_the_card_that_comes_along_tells_the_hub_what_its_tables_say():
    folder = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "image-text-to-text")
    results = {(one.dataset_config, one.metric_type): one for one in card.data.eval_results}
    rows = {("ig3d-synth", name): name for name in ("acc@0.25", "acc@0.5", "f1@0.25", "expected_calibration_error")}
    rows["ig3d-synth[mode=generate]", "abstention_f1"] = "refusals of absent objects, f1"
    for key, name in rows.items():
        row = re.search(rf"^\| {name} \(%\) \| (.*) \| (.*) to (.*) \| (.*) \|$", card.text, re.MULTILINE)
        arguments = results[key].metric_args
        told = (results[key].metric_value, arguments["low"], arguments["high"], arguments["count"])
        assert [float(cell) for cell in row.groups()] == pytest.approx(told, abs=0.06)  # to one decimal
    stored = json.loads((folder / "processor_config.json").read_text())
    assert f"score_temperature {stored['score_temperature']:.3f}" in card.text
