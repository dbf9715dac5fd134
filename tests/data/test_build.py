# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Building, validating and splitting data sets, and the commands that do it."""

import json
import multiprocessing
import os
import signal

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.build import build, open_source
from llmi3d.data.contact_sheets import contact_sheet, draw_row, find_row
from llmi3d.data.dataset import find_splits, load_split
from llmi3d.data.dataset_statistics import statistics
from llmi3d.data.schema import IG3D_FEATURES, validate_row
from llmi3d.data.sources.jsonl import JsonLines
from llmi3d.data.splits import keep_turns, novel_categories, split_by_category
from llmi3d.data.validate import validate

NAMES = ("pallet", "box", "barrel")
COUNT = 12


def write_own(folder, count=COUNT, split="train", first=0):
    """A JSON Lines file of pictures that all differ, each with three objects."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(first, first + count):
        noise = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((160, 120), Image.Resampling.NEAREST).save(folder / "photos" / f"{i}.png")
        boxes = [
            {
                "category": NAMES[(i + k) % 3],
                "center": [k - 1.2, 0.1, 4 + k + i / 10],
                "size": [1, 0.5, 0.8],
                "yaw": 0.1 * i,
            }
            for k in range(3)
        ]
        camera = [150, 150, 80, 60]
        lines.append(
            {"image": f"photos/{i}.png", "intrinsics": camera, "boxes": boxes, "split": split, "id": f"{i:03d}"}
        )
    path = folder / f"{split}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.fixture
def own(tmp_path):
    return write_own(tmp_path / "own")


@pytest.fixture
def built(own, tmp_path):
    build(JsonLines(own), tmp_path / "built", progress=False, rows_per_shard=5)
    return tmp_path / "built"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def spoil(path, number, change):
    lines = path.read_text().splitlines()
    entry = json.loads(lines[number])
    change(entry)
    lines[number] = json.dumps(entry)
    path.write_text("\n".join(lines))


# --------------------------------------------------------------------------------------------------------------- build


def test_rows_are_valid_and_hold_their_pictures(built, own):
    assert sorted(path.name for path in (built / "data").iterdir()) == [
        f"train-{i:05d}-of-00003.parquet" for i in range(3)
    ]
    rows = load_split(built, "train")
    assert rows.features == IG3D_FEATURES and len(rows) == COUNT
    assert datasets.load_dataset(str(built), split="train").features == IG3D_FEATURES
    for row in rows:
        validate_row(row)
    raw = rows.cast_column("image", datasets.Image(decode=False))[3]
    assert raw["image"]["bytes"] == (own.parent / "photos" / "3.png").read_bytes()
    assert not (built / ".building").exists() and (built / "skipped.jsonl").read_text() == ""


def test_two_processes_write_the_same_bytes(built, own, tmp_path):
    build(JsonLines(own), tmp_path / "again", progress=False, rows_per_shard=5, num_proc=2)
    assert contents(tmp_path / "again") == contents(built)


def test_another_seed_asks_otherwise(built, own, tmp_path):
    build(JsonLines(own), tmp_path / "again", progress=False, rows_per_shard=5, seed=1)
    first, second = (load_split(folder, "train")["messages"] for folder in (built, tmp_path / "again"))
    assert list(first) != list(second)


def test_another_wording_is_another_build(built, own, tmp_path):
    source = JsonLines(own)
    source.wording = "varied"
    with pytest.raises(ValueError, match="other wording"):
        build(source, built, progress=False, rows_per_shard=5)
    build(source, tmp_path / "again", progress=False)
    asked = [message["content"] for row in load_split(tmp_path / "again", "train") for message in row["messages"]]
    assert any(text.startswith("Where is the") for text in asked)
    source.wording = "flowery"
    with pytest.raises(ValueError, match="wording: got 'flowery', want one of plain, varied"):
        build(source, tmp_path / "new", progress=False)


class Fatal(JsonLines):
    """Kills its process at one record."""

    def read(self, image_id):
        if image_id.endswith("007"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(image_id)


def build_fatally(own, out):
    source = Fatal(own)
    source.__class__.__name__ = "JsonLines"
    build(source, out, progress=False, rows_per_shard=5)


def test_killed_build_goes_on_to_the_same_bytes(built, own, tmp_path):
    child = multiprocessing.get_context("fork").Process(target=build_fatally, args=(own, tmp_path / "killed"))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "killed" / "data").exists()
    done = tmp_path / "killed" / ".building" / "train-00000-of-00003.parquet"
    written = done.stat().st_mtime_ns
    build(JsonLines(own), tmp_path / "killed", progress=False, rows_per_shard=5)
    assert contents(tmp_path / "killed") == contents(built)
    assert (tmp_path / "killed" / "data" / done.name).stat().st_mtime_ns == written  # not built again


def test_complete_build_is_left_alone(built, own):
    before = contents(built)
    assert build(JsonLines(own), built, progress=False, rows_per_shard=5).rows == {"train": COUNT}
    assert contents(built) == before


def test_another_build_is_not_overwritten(built, own, tmp_path):
    with pytest.raises(ValueError, match="holds a build with other seed"):
        build(JsonLines(own), built, progress=False, rows_per_shard=5, seed=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        build(JsonLines(own), tmp_path / "mine", progress=False)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"mine"}


DAMAGES = {
    "corrupt image": lambda entry: entry.update(image="photos/corrupt.png"),
    "missing image": lambda entry: entry.update(image="photos/nowhere.png"),
    "path traversal": lambda entry: entry.update(image="../../own/photos/../../secret.png"),
    "NaN box": lambda entry: entry["boxes"][0].update(center=[0, 0, float("nan")]),
    "negative size": lambda entry: entry["boxes"][0].update(size=[1, -1, 1]),
    "no camera": lambda entry: entry.pop("intrinsics"),
    "behind the camera": lambda entry: entry["boxes"][0].update(center=[0, 0, -4]),
}


def test_damaged_records_are_counted_and_the_rest_is_built(own, tmp_path):
    whole = (own.parent / "photos" / "0.png").read_bytes()
    (own.parent / "photos" / "corrupt.png").write_bytes(whole[: len(whole) // 2])
    for number, change in enumerate(DAMAGES.values()):
        spoil(own, number, change)
    own.write_text(own.read_text()[:-30])  # and the last line is cut off
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    report = build(JsonLines(own), tmp_path / "built", progress=False)
    assert report.rows["train"] == COUNT - len(DAMAGES) - 1
    reasons = dict(report.skipped)
    assert len(reasons) == len(DAMAGES) + 1
    for number, words in enumerate(
        ("truncated", "want a file in", "stays inside", "finite", "above 0", "misses intr", "depth of")
    ):
        assert words in reasons[f"own/train/{number:03d}"]
    assert sum(report.reasons().values()) == len(report.skipped)
    logged = [json.loads(line) for line in (tmp_path / "built" / "skipped.jsonl").read_text().splitlines()]
    assert {one["id"]: one["reason"] for one in logged} == reasons
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(tmp_path / "built") for path in new)


class Odd(JsonLines):
    """A converter that meets records of a form that it does not expect."""

    def read(self, image_id):
        damage = {"002": lambda: {}["K"], "003": lambda: len(None), "004": lambda: int(float("inf"))}
        damage.get(image_id[-3:], lambda: None)()
        return super().read(image_id)


def test_records_of_another_form_are_left_out(own, tmp_path):
    report = build(Odd(own), tmp_path / "built", progress=False)
    assert report.rows["train"] == COUNT - 3
    assert all("is not in the form of own" in reason for _, reason in report.skipped)


def test_strict_stops_at_the_first(own, tmp_path):
    spoil(own, 4, DAMAGES["NaN box"])
    with pytest.raises(ValueError, match=r"own/train/004: .*center"):
        build(JsonLines(own), tmp_path / "built", progress=False, strict=True)
    assert not (tmp_path / "built" / "data").exists()


def test_nothing_usable_is_an_error(own, tmp_path):
    for number in range(COUNT):
        spoil(own, number, DAMAGES["no camera"])
    with pytest.raises(ValueError, match="none of which can be used"):
        build(JsonLines(own), tmp_path / "built", progress=False)


def test_unknown_sources_and_options_are_refused(own):
    with pytest.raises(ValueError, match="source: got 'coco', want one of kitti"):
        open_source("coco", own)
    with pytest.raises(ValueError, match="option: got 'nmae' for jsonl, want one of name"):
        open_source("jsonl", own, nmae="x")
    own.with_name("Mono3DRefer.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"Mono3DRefer.json"):
        open_source("mono3drefer", own.parent)


# ------------------------------------------------------------------------------------------------------------ inspect


def test_a_sound_data_set_is_sound(built):
    found = validate(built, progress=False)
    assert found.sound and found.rows == {"train": COUNT} and not found.duplicates
    assert found.mean_iou_2d == pytest.approx(1)


def test_the_same_picture_in_two_splits_is_an_overlap(tmp_path):
    for split in ("train", "test"):
        path = write_own(tmp_path / "own", 3, split)
        build(JsonLines(path), tmp_path / split, progress=False)
    (tmp_path / "test" / "data" / "test-00000-of-00001.parquet").rename(
        tmp_path / "train" / "data" / "test-00000-of-00001.parquet"
    )
    found = validate(tmp_path / "train", progress=False)
    assert not found.sound and len(found.overlaps) == 3 and not found.errors


def test_bad_rows_are_named(built):
    path = built / "data" / "train-00000-of-00003.parquet"
    rows = datasets.Dataset.from_parquet(str(path)).to_list()
    rows[1]["objects"][0]["box_2d"] = [0.0, 0.0, 5.0, 5.0]
    rows[2]["objects"][0]["rotation"] = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]]
    datasets.Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(str(path))
    found = validate(built, progress=False)
    assert {name: problem.split(":")[0] for name, problem in found.errors} == {
        "own/train/001": "box_2d", "own/train/002": "objects[0].rotation"
    }  # fmt: skip


def test_statistics_count_what_is_there(built):
    found = statistics(built, progress=False)["train"]
    assert found["rows"] == COUNT and found["categories"] == dict.fromkeys(NAMES, COUNT)
    assert found["focal_lengths"] == [150] * COUNT and found["objects_per_image"] == [3] * COUNT
    turns = sum(len(row["task"]) for row in load_split(built, "train"))
    assert sum(found["tasks"].values()) == turns
    assert sum(found["phrase_kinds"].values()) + sum(found["question_kinds"].values()) == turns


def test_pictures_of_rows(built):
    row = find_row(built, "own/train/005")
    assert draw_row(row).size == (160, 120) and draw_row(row) != row["image"]
    assert contact_sheet(built, "train", most=4).width > 1000
    with pytest.raises(ValueError, match="id: got 'nothing'"):
        find_row(built, "nothing")


# ------------------------------------------------------------------------------------------------------------ splits


def test_novel_categories_are_drawn_from_the_seed():
    names = [f"c{i}" for i in range(20)]
    assert novel_categories(names, 0.2, 0) == novel_categories(reversed(names), 0.2, 0)
    assert len(novel_categories(names, 0.2, 0)) == 4
    assert novel_categories(names, 0.2, 0) != novel_categories(names, 0.2, 1)
    with pytest.raises(ValueError, match="at least two"):
        novel_categories(["car"])


def test_open_vocabulary_split_keeps_novel_names_out_of_training(built, tmp_path):
    record = split_by_category(built, tmp_path / "split", novel=["barrel"])
    assert json.loads((tmp_path / "split" / "splits.json").read_text()) == record
    assert record["novel"] == ["barrel"] and record["base"] == ["box", "pallet"]
    for row in load_split(tmp_path / "split", "train"):
        validate_row(row)
        assert not any("barrel" in message["content"] for message in row["messages"])
    novel = load_split(tmp_path / "split", "train_novel")
    assert len(novel)
    for row in novel:
        validate_row(row)
        categories = {entry["id"]: entry["category"] for entry in row["objects"]}
        assert all(categories[target] == "barrel" for target in row["targets"])
    with pytest.raises(ValueError, match="exists; choose a new folder"):
        split_by_category(built, tmp_path / "split", novel=["barrel"])
    with pytest.raises(ValueError, match="novel: got"):
        split_by_category(built, tmp_path / "other", novel=["dragon"])


def test_columns_of_ones_own_pass_into_a_split(built, tmp_path):
    mine = load_split(built, "train")
    mine = mine.add_column("weather", [f"rain {i}" for i in range(len(mine))])
    mine = mine.map(
        lambda row: {"mask": row["image"]}, features=datasets.Features(mine.features, mask=datasets.Image())
    )
    first, *others = find_splits(built)["train"]
    for path in others:
        path.unlink()
    mine.to_parquet(first)
    split_by_category(built, tmp_path / "split", novel=["barrel"])
    by_id = {row["image_id"]: row for row in mine}
    for row in load_split(tmp_path / "split", "train"):
        held = by_id[row["image_id"]]
        assert row["weather"] == held["weather"] and row["mask"].tobytes() == held["mask"].tobytes()
    assert "weather" in (tmp_path / "split" / "README.md").read_text()


def test_given_phrases_that_name_a_novel_category_are_no_training(row):
    given = {**row, "meanings": [{"kind": "given"}] * 2}
    kept = keep_turns(given, {"cone"}, novel=False)
    assert kept["targets"] == ["a"] and keep_turns(given, {"cone"}, novel=True)["targets"] == ["b"]
    validate_row(kept)


# ------------------------------------------------------------------------------------------------------------ commands


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_commands_from_pictures_to_a_looked_at_data_set(own, tmp_path):
    spoil(own, 0, DAMAGES["NaN box"])
    result = run("build", "jsonl", "--root", own, "--out", tmp_path / "out", "--option", "name=yard", "--quiet")
    assert result.exit_code == 0 and "11 rows in train" in result.output and "1 records skipped" in result.output
    result = run("validate", tmp_path / "out", "--quiet")
    assert result.exit_code == 0 and "11 rows in train; mean 2D overlap 1.000; sound" in result.output
    result = run("stats", tmp_path / "out", "--quiet")
    assert result.exit_code == 0 and "barrel 11" in result.output
    result = run("show", tmp_path / "out", "yard/train/004")
    assert result.exit_code == 0 and "Locate" in result.output
    result = run("split", tmp_path / "out", "--out", tmp_path / "split", "--novel", "barrel")
    assert result.exit_code == 0 and "novel: barrel" in result.output
    made = {path.name for path in (tmp_path / "out" / "checks").iterdir()}
    assert made == {"validation.json", "train.png", "statistics.json", "statistics.png", "yard_train_004.png"}


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (("build", "coco", "--root", ".", "--out", "x"), "source: got 'coco'"),
        (("build", "jsonl", "--root", "nowhere.jsonl", "--out", "x"), "want a JSON Lines file"),
        (("build", "jsonl", "--root", ".", "--out", "x", "--option", "name"), "want NAME=VALUE"),
        (("validate", "nowhere"), "want a folder with data/"),
    ],
)
def test_commands_name_what_is_wrong(arguments, problem):
    result = run(*arguments)
    assert result.exit_code == 2 and problem in result.output


def test_real_samples_build_and_validate(samples, tmp_path):
    for name, folder, rows in (("kitti", "kitti", 8), ("nuscenes", "nuscenes", 12), ("sunrgbd-votenet", "sunrgbd", 2)):
        report = build(open_source(name, samples / folder), tmp_path / name, progress=False)
        assert sum(report.rows.values()) == rows and not report.skipped
        assert validate(tmp_path / name, progress=False).sound
