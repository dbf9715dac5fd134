# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`evaluate`: known predictors on real frames, interruption, several processes, bad input."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.schema import IG3D_FEATURES
from llmi3d.data.sources.kitti import read_kitti_frames
from llmi3d.evaluation.protocols import get_protocol
from llmi3d.evaluation.robustness import Condition
from llmi3d.evaluation.runner import CheckpointPredictor, FilePredictor, evaluate

KITTI = get_protocol("ig3d-kitti").variant(split="training")


def boxes_of(record, shift=0.0):
    """The true boxes, moved along their own length by a share of it."""
    true = record.true
    center = true.center + shift * true.size[:, :1] * true.rotation[:, :, 0]
    parts = zip(center.tolist(), true.size.tolist(), true.rotation.tolist(), strict=True)
    return [{"center": c, "size": s, "rotation": r, "score": 1.0} for c, s, r in parts]


class Known:
    """A predictor from a function of the judged record. After `fatal` batches it kills its own process."""

    def __init__(self, name, answer, fatal=None):
        self.name, self.recipe, self.answer, self.fatal = name, {"known": name}, answer, fatal

    def __call__(self, questions):
        if self.fatal is not None:
            self.fatal -= 1
            if self.fatal < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return [self.answer(question.record) for question in questions]


PERFECT = Known("perfect", boxes_of)
SHIFTED = Known("shifted", lambda record: boxes_of(record, 0.5))
ABSENT = Known("absent", lambda record: [])


@pytest.fixture(scope="module")
def kitti(samples):
    return Dataset.from_list(list(read_kitti_frames(samples / "kitti")), features=IG3D_FEATURES)


@pytest.fixture
def rows(row):
    """Three made rows of two questions each, as of KITTI."""
    return [{**row, "image_id": f"kitti/{i}", "source": "kitti", "split": "val"} for i in range(3)]


ROWS_PROTOCOL = get_protocol("ig3d-kitti").variant(categories=())


def value(report, name):
    return report.metrics[name].value


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# ------------------------------------------------------------------------------------------------------------- numbers


def test_perfect_predictor_on_real_frames(kitti, tmp_path):
    conditions = [Condition("focal", 0.5), Condition("resize", 0.5), Condition("crop", 0.75), Condition("noise", 0.2)]
    result = evaluate(PERFECT, kitti, KITTI, tmp_path / "out", conditions=conditions, progress=False)
    for report in (result.report, *result.conditions.values()):
        assert report.counts["questions"] == 32
        assert value(report, "acc@0.5") == 1 and value(report, "mean_iou") == pytest.approx(1)
        assert value(report, "depth_error") == pytest.approx(0, abs=1e-9)
        assert value(report, "rotation_error") == pytest.approx(0, abs=1e-4)
    names = {report.protocol.name for report in result.conditions.values()}
    assert names == {f"ig3d-kitti[split=training][condition={condition}]" for condition in conditions}


def test_shifted_predictor_on_real_frames(kitti, tmp_path):
    """Half a length along the box's own axis leaves an IoU of (1/2) / (3/2), whatever the rotation."""
    report = evaluate(SHIFTED, kitti, KITTI, tmp_path / "out", progress=False).report
    assert value(report, "acc@0.25") == 1 and value(report, "acc@0.5") == 0
    assert value(report, "mean_iou") == pytest.approx(1 / 3)
    along = [abs(o["size"][0] * o["rotation"][2][0]) / 2 for row in kitti for o in row["objects"] if not o["ignore"]]
    assert value(report, "depth_error") == pytest.approx(sum(along) / len(along))


def test_absent_predictor_on_real_frames(kitti, tmp_path):
    report = evaluate(ABSENT, kitti, KITTI, tmp_path / "out", progress=False).report
    assert value(report, "acc@0.25") == 0 and report.counts["missing"] == report.counts["abstained"] == 32
    assert value(report, "depth_error") is None


def test_writes_report_table_answers_and_plots(rows, tmp_path):
    conditions = [Condition("focal", 0.5), Condition("focal", 1.5)]
    evaluate(PERFECT, rows, ROWS_PROTOCOL, tmp_path, conditions=conditions, progress=False)
    plots = {"error_against_distance.png", "reliability.png", "risk_coverage.png", "focal_sweep.png"}
    others = {"evaluation.json", "predictions.jsonl", "report.json", "report.md", "answers", "conditions"}
    assert files(tmp_path) == plots | others
    page = (tmp_path / "report.md").read_text()
    assert "| acc@0.25 (%) | 100.00 | 100.00 to 100.00 | 6 |" in page and "| focal-1.5 | 100.00 (" in page
    assert all(f"({name})" in page for name in plots)


def test_training_rows_give_the_oracles_their_sizes(rows, tmp_path):
    training = [{**rows[0], "split": "train"}]
    report = evaluate(
        SHIFTED, rows, ROWS_PROTOCOL, tmp_path / "out", training_rows=training, resamples=20, progress=False
    ).report
    count = len(rows[0]["objects"])
    assert report.oracle_sizes == f"{count} objects of the split train"
    assert report.oracles["scale"]["acc@0.5"].value == 1 > value(report, "acc@0.5")
    with pytest.raises(ValueError, match="holds an evaluation with other"):
        evaluate(
            SHIFTED,
            rows,
            ROWS_PROTOCOL,
            tmp_path / "out",
            training_rows=[{**training[0], "objects": training[0]["objects"][:1]}],
            resamples=20,
            progress=False,
        )


def test_predictions_file_gives_the_same_numbers(rows, tmp_path):
    first = evaluate(SHIFTED, rows, ROWS_PROTOCOL, tmp_path / "a", progress=False).report
    predictor = FilePredictor(tmp_path / "a" / "predictions.jsonl")
    second = evaluate(predictor, rows, ROWS_PROTOCOL, tmp_path / "b", progress=False).report
    assert second.metrics == first.metrics


def test_detection_asks_for_every_category(rows, tmp_path):
    protocol = get_protocol("omni3d").variant(split="val", categories=("car", "cone"))
    asked = []

    def answer(record):
        return [box | {"category": name} for box, name in zip(boxes_of(record), record.true.category, strict=True)]

    predictor = Known("detector", answer)
    call = lambda questions: asked.extend(question.phrases for question in questions) or predictor(questions)  # noqa: E731
    wrapped = type("Spy", (), {"name": "spy", "recipe": {}, "__call__": staticmethod(call)})()
    report = evaluate(wrapped, rows, protocol, tmp_path / "out", resamples=20, progress=False).report
    assert asked == [("car", "cone")] * 3
    assert value(report, "AP3D") == pytest.approx(1)
    assert report.groups["category"]["car"]["AP3D"].low == pytest.approx(1)


def test_checkpoint_is_asked_through_the_pipeline(rows, chain, tmp_path):
    model, processor = chain
    for part in (model, processor):
        part.save_pretrained(tmp_path / "checkpoint")
    predictor = CheckpointPredictor(tmp_path / "checkpoint", device="cpu")
    report = evaluate(predictor, rows, ROWS_PROTOCOL, tmp_path / "out", batch_size=4, progress=False).report
    assert report.model == "checkpoint" and report.counts["answered"] == 6
    answers = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    alone = predictor.pipeline(rows[2]["image"], prompt="the cone", intrinsics=rows[2]["intrinsics"])
    assert answers[5]["id"] == "kitti/2#1"
    assert answers[5]["boxes"][0]["center"] == pytest.approx(alone["boxes"][0]["center"], rel=1e-4)


# -------------------------------------------------------------------------------------------------------- interruption


def evaluate_in_child(fatal, kitti, out):
    predictor = Known("shifted", SHIFTED.answer, fatal)
    evaluate(predictor, kitti, KITTI, out, conditions=[Condition("resize", 0.5)], batch_size=4, progress=False)


def test_killed_run_resumes_to_the_same_report(kitti, tmp_path):
    child = multiprocessing.get_context("fork").Process(target=evaluate_in_child, args=(5, kitti, tmp_path / "killed"))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert "report.json" not in files(tmp_path / "killed")
    answers = next((tmp_path / "killed" / "answers" / "none").iterdir())
    answers.write_text(answers.read_text() + '{"batch": 5, "answ')  # what a kill in the middle of a write leaves

    evaluate_in_child(3 + 8, kitti, tmp_path / "killed")  # 3 batches are left of 8, and 8 under the condition
    evaluate_in_child(None, kitti, tmp_path / "whole")
    for name in ("report.json", "report.md", "predictions.jsonl", "conditions/resize-0.5.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_complete_evaluation_asks_nothing_again(rows, tmp_path):
    first = evaluate(PERFECT, rows, ROWS_PROTOCOL, tmp_path / "out", progress=False).report
    again = evaluate(Known("perfect", None), rows, ROWS_PROTOCOL, tmp_path / "out", progress=False).report
    assert again == first


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(rows, chain, tmp_path):
    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "data" / "data").mkdir(parents=True)
    dataset = Dataset.from_list(rows, features=IG3D_FEATURES)
    dataset.to_parquet(tmp_path / "data" / "data" / "val-00000-of-00001.parquet")
    arguments = ["evaluate", str(tmp_path / "checkpoint"), str(tmp_path / "data"), "--protocol", "ig3d-kitti"]
    arguments += ["--batch-size", "1", "--quiet", "--device", "cpu", "--out"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, start in (("one", ["-m", "llmi3d"]), ("two", [*launch, "-m", "llmi3d"])):
        subprocess.run([sys.executable, *start, *arguments, str(tmp_path / name)], check=True, env=environment)
    assert files(tmp_path / "two" / "answers" / "none") == {"0-of-2.jsonl", "1-of-2.jsonl"}
    assert (tmp_path / "one" / "report.json").read_bytes() == (tmp_path / "two" / "report.json").read_bytes()


# ----------------------------------------------------------------------------------------------------------- bad input


def test_another_evaluation_is_not_overwritten(rows, tmp_path):
    evaluate(PERFECT, rows, ROWS_PROTOCOL, tmp_path / "out", progress=False)
    before = (tmp_path / "out" / "report.json").read_bytes()
    with pytest.raises(ValueError, match=r"out: .* holds an evaluation with other predictor; choose a new folder"):
        evaluate(ABSENT, rows, ROWS_PROTOCOL, tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_folder_with_other_things_is_refused(rows, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        evaluate(PERFECT, rows, ROWS_PROTOCOL, tmp_path, progress=False)
    assert files(tmp_path) == {"mine.txt"}


@pytest.mark.parametrize(
    "boxes, problem",
    [
        ([{"center": [0, 0, float("nan")], "size": [1, 1, 1], "rotation": torch.eye(3).tolist()}], "center: got"),
        (
            [{"center": [0, 0, 1], "size": [1, 1, 1], "rotation": torch.eye(3).tolist(), "frame": "lidar"}],
            "frame: got",
        ),
    ],
)
def test_bad_answers_leave_no_report(rows, tmp_path, boxes, problem):
    with pytest.raises(ValueError, match=problem):
        evaluate(Known("bad", lambda record: boxes), rows, ROWS_PROTOCOL, tmp_path / "out", progress=False)
    assert not files(tmp_path / "out") & {"report.json", "report.md", "predictions.jsonl"}


def test_rows_of_another_split_are_refused(rows, tmp_path):
    rows[1]["split"] = "test"
    with pytest.raises(ValueError, match="want kitti, split val"):
        evaluate(PERFECT, rows, ROWS_PROTOCOL, tmp_path / "out", progress=False)
    assert not files(tmp_path / "out")


def test_duplicate_rows_are_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="'kitti/0#0' a second time"):
        evaluate(PERFECT, [*rows, rows[0]], ROWS_PROTOCOL, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    "lines, problem",
    [
        (['{"id": "kitti/0#0", "boxes": []}'] * 2, "a second time"),
        (['{"id": "kitti/9#0", "boxes": []}'], "1 ids that no question has"),
        (['{"id": "kitti/0#0", "box'], r":1: got .* want a JSON object with id and boxes"),
    ],
)
def test_bad_predictions_files_are_refused(rows, tmp_path, lines, problem):
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=problem):
        evaluate(FilePredictor(tmp_path / "mine.jsonl"), rows, ROWS_PROTOCOL, tmp_path / "out", progress=False)
    assert not files(tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def built(rows, tmp_path):
    (tmp_path / "data" / "data").mkdir(parents=True)
    Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(tmp_path / "data/data/val-00000-of-00001.parquet")
    (tmp_path / "mine.jsonl").write_text('{"id": "kitti/0#0", "boxes": []}\n')
    return tmp_path


def command(folder, *arguments):
    given = ["evaluate", str(folder / "mine.jsonl"), str(folder / "data"), "--out", str(folder / "out"), *arguments]
    return CliRunner().invoke(app, given)


def test_command_prints_the_report(built):
    result = command(built, "--protocol", "ig3d-kitti")
    assert result.exit_code == 0, result.output
    assert "## mine on ig3d-kitti" in result.output and "3 missing" in result.output
    assert "3 other categories" in result.output
    assert "Mean sizes: those of the other evaluated objects" in result.output


def test_command_takes_mean_sizes_from_a_split(built):
    result = command(built, "--protocol", "ig3d-kitti", "--training-split", "val")
    assert result.exit_code == 0, result.output
    assert "objects of the split val." in result.output


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("--protocol", "kitti"), "protocol: got 'kitti', want one of ig3d-sunrgbd"),
        (("--protocol", "ig3d-kitti", "--split", "test"), "split: got 'test', want one of val"),
        (("--protocol", "ig3d-kitti", "--condition", "focal"), "condition: got 'focal'"),
        (("--protocol", "ig3d-kitti", "--robustness"), "conditions: got some for a file of predictions"),
    ],
)
def test_command_names_what_is_wrong(built, arguments, problem):
    result = command(built, *arguments)
    assert result.exit_code == 2 and problem in result.output
    assert not (built / "out").exists()
