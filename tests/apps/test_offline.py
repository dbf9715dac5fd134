# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tables of many images: each image once and in order, interruption, several processes, bad input."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from llmi3d.apps.image_sources import SourceImage, open_images
from llmi3d.apps.offline import SCHEMA, BatchPredictor, open_image, predict_images
from llmi3d.cli import app

K = (250.0, 260.0, 150.0, 110.0)
SIZES = {"batch_size": 2, "part_size": 3, "progress": False}


@pytest.fixture(scope="module")
def checkpoint(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in chain:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return BatchPredictor(checkpoint, ["the car", "the cone"], intrinsics=K, device="cpu")


def make_photos(folder, photograph):
    """Write seven images, named by number; number 3 is broken and number 5 too small for K."""
    folder.mkdir()
    for i in range(7):
        photograph.rotate(5 * i).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:2000])
    photograph.resize((32, 20)).save(folder / "5.png")
    return folder


@pytest.fixture
def photos(photograph, tmp_path):
    return make_photos(tmp_path / "photos", photograph)


def rows_of(path):
    return pq.read_table(path).to_pylist()


def ids_of(rows):
    return list(dict.fromkeys(row["id"] for row in rows))


# ---------------------------------------------------------------------------------------------------------------- rows


def test_each_image_once_in_order_with_the_pipelines_boxes(predictor, photos, tmp_path):
    report = predict_images(open_images(str(photos)), predictor, tmp_path / "boxes.parquet", **SIZES)
    rows = rows_of(tmp_path / "boxes.parquet")
    assert [(row["id"], row["prompt"]) for row in rows] == [
        (f"{i}.png", phrase) for i in range(7) for phrase in ("the car", "the cone")
    ]
    assert (report.images, report.boxes, report.errors, report.guessed_cameras) == (7, 10, 2, 0)
    for row in rows[:4]:
        answer = predictor.pipeline(str(photos / row["id"]), prompt=row["prompt"], intrinsics=K)
        (box,) = answer["boxes"]
        assert (row["label"], row["intrinsics"], row["intrinsics_source"]) == (
            box["label"],
            answer["intrinsics"],
            "given",
        )
        for name in ("score", "center", "size", "rotation", "box_2d"):
            np.testing.assert_allclose(row[name], box[name], rtol=1e-4, atol=1e-5)


def test_what_fails_is_a_row_with_its_error(predictor, photos, tmp_path):
    predict_images(open_images(str(photos)), predictor, tmp_path / "boxes.parquet", **SIZES)
    failed = [row for row in rows_of(tmp_path / "boxes.parquet") if row["error"]]
    assert [row["id"] for row in failed] == ["3.png", "3.png", "5.png", "5.png"]
    assert "image: cannot read" in failed[0]["error"] and "principal point" in failed[2]["error"]
    assert all(row["center"] is None and row["intrinsics"] is None for row in failed)


def test_errors_hold_nothing_of_the_moment():
    """Memory addresses would make the same images give another table."""
    first, again = (str(open_image(SourceImage("a", {"bytes": b"text", "path": None}))) for _ in range(2))
    assert first == again and "image: cannot read" in first and "0x" not in first


def test_a_list_brings_its_own_phrases_and_cameras(checkpoint, photos, tmp_path):
    lines = [
        {"id": "b", "image": "photos/0.png", "prompts": ["a", "b"], "fov_deg": 50},
        {"id": "a", "image": "photos/1.png"},
        {"id": "c", "image": "photos/2.png", "prompt": "<image>"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    predictor = BatchPredictor(checkpoint, "c", device="cpu")
    report = predict_images(open_images(str(tmp_path / "list.jsonl")), predictor, tmp_path / "o.parquet", **SIZES)
    rows = rows_of(tmp_path / "o.parquet")
    assert [(row["id"], row["prompt"], row["intrinsics_source"]) for row in rows] == [
        *(("b", "a", "fov"), ("b", "b", "fov"), ("a", "c", "default"), ("c", "<image>", None))
    ]
    assert "special token" in rows[3]["error"]
    assert (report.guessed_cameras, report.errors) == (1, 1)


def test_phrases_without_boxes_keep_a_row(checkpoint, photos, tmp_path):
    predictor = BatchPredictor(checkpoint, "it", intrinsics=K, device="cpu", threshold=1.0)
    report = predict_images(open_images(str(photos)), predictor, tmp_path / "boxes.parquet", **SIZES)
    rows = rows_of(tmp_path / "boxes.parquet")
    assert len(rows) == 7 and report.boxes == 0 and report.errors == 2
    assert (rows[0]["prompt"], rows[0]["label"], rows[0]["intrinsics_source"]) == ("it", None, "given")


def test_generated_answers_have_their_words(checkpoint, photos, tmp_path):
    predictor = BatchPredictor(checkpoint, "it", intrinsics=K, device="cpu", mode="generate", max_new_tokens=4)
    predict_images(open_images(str(photos)), predictor, tmp_path / "boxes.parquet", **SIZES)
    answer = predictor.pipeline(str(photos / "0.png"), prompt="it", intrinsics=K, mode="generate", max_new_tokens=4)
    assert rows_of(tmp_path / "boxes.parquet")[0]["text"] == answer["text"] != ""


def test_images_of_datasets_are_turned_upright_first(predictor, photograph, tmp_path):
    """K of a dataset row belongs to the upright image; K of a file to the image as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows = {"image": [str(tmp_path / "turned.png")], "image_id": ["x"], "intrinsics": [K]}
    features = datasets.Features({**datasets.Dataset.from_dict(rows).features, "image": datasets.Image()})
    rows = datasets.Dataset.from_dict(rows, features=features)
    rows.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    predict_images(open_images(str(tmp_path / "set")), predictor, tmp_path / "o.parquet", **SIZES)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.png"))
    (box,) = predictor.pipeline(upright, prompt="the car", intrinsics=K)["boxes"]
    assert upright.size == (320, 200)
    assert rows_of(tmp_path / "o.parquet")[0]["center"] == pytest.approx(box["center"], rel=1e-4)


# -------------------------------------------------------------------------------------------------------- interruption


class Fatal(BatchPredictor):
    """Kills its own process at a batch."""

    batches = 0

    def answer(self, opened):
        self.batches -= 1
        if self.batches < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(opened)


def killed_job(checkpoint, photos, out, batches, **sizes) -> Path:
    """Run a job that is killed after so many batches; return the folder of its parts."""
    # Not forked: torch's threads do not survive a fork.
    child = multiprocessing.get_context("spawn").Process(target=begin, args=(checkpoint, photos, out, batches, sizes))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert not out.exists()
    return out.with_name(f"{out.name}.parts")


def begin(checkpoint, photos, out, batches, sizes):
    predictor = Fatal(checkpoint, ["the car", "the cone"], intrinsics=K, device="cpu")
    predictor.batches = batches
    predict_images(open_images(str(photos)), predictor, out, **{**SIZES, **sizes})


@pytest.fixture(scope="module")
def killed(checkpoint, photograph, tmp_path_factory):
    """Return images and the parts of a killed job, which had answered three of five batches in three parts."""
    folder = tmp_path_factory.mktemp("killed")
    photos = make_photos(folder / "photos", photograph)
    return photos, killed_job(checkpoint, photos, folder / "boxes.parquet", 3)


def test_killed_job_resumes_to_the_same_bytes(checkpoint, predictor, killed, tmp_path):
    photos, left = killed
    out, parts = tmp_path / "boxes.parquet", tmp_path / "boxes.parquet.parts"
    assert {path.name for path in left.iterdir()} == {"job.json", "part-00000000.parquet"}
    shutil.copytree(left, parts)
    (parts / ".part-00000001.parquet.x").write_bytes(b"half")  # left by a kill during a write
    again = Fatal(checkpoint, ["the car", "the cone"], intrinsics=K, device="cpu")
    again.batches = 3  # no more than are left
    predict_images(open_images(str(photos)), again, out, **SIZES)
    assert not parts.exists()
    predict_images(open_images(str(photos)), predictor, tmp_path / "whole.parquet", **SIZES)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert ids_of(rows_of(out)) == [f"{i}.png" for i in range(7)]


def test_complete_job_asks_nothing_again(checkpoint, predictor, photos, tmp_path):
    out = tmp_path / "boxes.parquet"
    first = predict_images(open_images(str(photos)), predictor, out, **SIZES)
    again = Fatal(checkpoint, ["the car", "the cone"], intrinsics=K, device="cpu")
    assert predict_images(open_images(str(photos)), again, out, **SIZES) == first


def arguments(checkpoint, photos, out, *more):
    return [
        *("batch", str(photos), "--prompt", "the car", "--prompt", "the cone", "--checkpoint", str(checkpoint)),
        *("--out", str(out), "--intrinsics", "250,260,150,110", "--batch-size", "2", "--part-size", "2"),
        *("--device", "cpu", *more),
    ]


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one_and_either_resumes(checkpoint, photos, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "llmi3d"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(start, name):
        command = [sys.executable, *start, *arguments(checkpoint, photos, tmp_path / name, "--quiet")]
        subprocess.run(command, check=True, env=environment)
        return (tmp_path / name).read_bytes()

    one = run(["-m", "llmi3d"], "one.parquet")
    assert run(launch, "two.parquet") == one
    # Begun by one process, resumed by two.
    parts = killed_job(checkpoint, photos, tmp_path / "mixed.parquet", 1, part_size=2)
    assert len(list(parts.glob("part-*"))) == 1
    assert run(launch, "mixed.parquet") == one


# ----------------------------------------------------------------------------------------------------------- bad input


def test_other_jobs_are_refused_by_name(checkpoint, predictor, photos, tmp_path):
    out = tmp_path / "boxes.parquet"
    predict_images(open_images(str(photos)), predictor, out, **SIZES)
    before = out.read_bytes()
    other = BatchPredictor(checkpoint, "it", intrinsics=K, device="cpu", threshold=0.5)
    with pytest.raises(ValueError, match="holds boxes with other prompts, threshold; choose a new file"):
        predict_images(open_images(str(photos)), other, out, **SIZES)
    (photos / "0.png").unlink()
    with pytest.raises(ValueError, match="holds boxes with other images, count; choose a new file"):
        predict_images(open_images(str(photos)), predictor, out, **SIZES)
    assert out.read_bytes() == before


def test_parts_of_another_job_are_refused_by_name(checkpoint, killed, tmp_path):
    photos, left = killed
    parts = tmp_path / "boxes.parquet.parts"
    shutil.copytree(left, parts)
    shutil.copytree(checkpoint, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "model.safetensors", ns=(1, 1))
    other = BatchPredictor(tmp_path / "copy", ["the car", "the cone"], intrinsics=K, device="cpu")
    with pytest.raises(ValueError, match=r"boxes.parquet.parts holds a job with other checkpoint; choose a new file"):
        predict_images(open_images(str(photos)), other, tmp_path / "boxes.parquet", **SIZES)
    assert {path.name for path in parts.iterdir()} == {"job.json", "part-00000000.parquet"}


def test_files_of_others_are_not_overwritten(predictor, photos, tmp_path):
    mine = tmp_path / "mine.parquet"
    mine.write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        predict_images(open_images(str(photos)), predictor, mine, **SIZES)
    assert mine.read_text() == "mine"
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(mine)
    with pytest.raises(ValueError, match="holds something else"):
        predict_images(open_images(str(photos)), predictor, mine, **SIZES)
    (tmp_path / "new.parquet.parts").mkdir()
    (tmp_path / "new.parquet.parts" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        predict_images(open_images(str(photos)), predictor, tmp_path / "new.parquet", **SIZES)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"prompts": "the <image>"}, "prompt: got the special token '<image>'"),
        ({"prompts": ["car", " "]}, "prompt: got ' ', want a phrase"),
        ({"fov_deg": 200.0}, "fov_deg: got 200.0"),
        ({"fov_deg": 60.0, "intrinsics": K}, "got both"),
        ({"intrinsics": (0, 1, 1, 1)}, "focal lengths"),
        ({"mode": "quick"}, "mode: got 'quick'"),
    ],
)
def test_invalid_requests_are_refused_at_once(checkpoint, given, problem):
    with pytest.raises(ValueError, match=problem):
        BatchPredictor(checkpoint, **given)


def test_images_without_phrases_are_refused(checkpoint, photos, tmp_path):
    with pytest.raises(ValueError, match="prompt: got none"):
        predict_images(open_images(str(photos)), BatchPredictor(checkpoint), tmp_path / "boxes.parquet")
    assert not (tmp_path / "boxes.parquet.parts").exists()


# -------------------------------------------------------------------------------------------------- batches of others


def test_datasets_map_gives_the_same_rows(predictor, photos, tmp_path):
    predict_images(open_images(str(photos)), predictor, tmp_path / "boxes.parquet", **SIZES)
    names = [f"{i}.png" for i in range(7)]
    rows = datasets.Dataset.from_dict({"id": names, "image": [str(photos / name) for name in names]})
    rows = rows.cast_column("image", datasets.Image(decode=False))
    types = datasets.Features.from_arrow_schema(SCHEMA)
    mapped = rows.map(predictor, batched=True, batch_size=2, remove_columns=rows.column_names, features=types)
    assert mapped.column_names == SCHEMA.names
    for got, wanted in zip(mapped, rows_of(tmp_path / "boxes.parquet"), strict=True):
        assert (got["id"], got["prompt"], got["error"]) == (wanted["id"], wanted["prompt"], wanted["error"])
        if got["error"] is None:
            np.testing.assert_allclose(got["center"], wanted["center"], rtol=1e-4)


def test_the_page_about_many_images(checkpoint, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("3.png", "5.png"):
        (photos / name).unlink()
    page = (Path(__file__).parents[2] / "docs" / "offline.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code.replace('"CHECKPOINT"', repr(str(checkpoint))), names)
    assert [row["id"] for row in names["boxes"]] == [f"{i:06d}" for i in range(5) for _ in range(2)]
    assert set(names["boxes"]["intrinsics_source"]) == {"fov"}
    assert all(f"`{name}`" in page for name in SCHEMA.names)


def test_arrays_as_ray_passes_them(predictor, photograph):
    batch = {
        "id": np.array(["a", "b"]),
        "image": np.stack([np.asarray(photograph)] * 2),
        "prompts": np.array([["x", "y"], ["z", "z"]]),
        "intrinsics": np.array([K, K]),
    }
    rows = predictor(batch)
    (box,) = predictor.pipeline(photograph, prompt="y", intrinsics=K)["boxes"]
    assert list(zip(rows["id"], rows["prompt"], strict=True)) == [("a", "x"), ("a", "y"), ("b", "z"), ("b", "z")]
    assert rows["center"][1] == pytest.approx(box["center"], rel=1e-4)
    assert rows["intrinsics_source"] == ["given"] * 4


def test_batches_without_ids_are_refused(predictor, photograph):
    with pytest.raises(ValueError, match="batch: got the columns image, want image, and image_id or id"):
        predictor({"image": [photograph]})


def test_weights_do_not_travel(predictor, photograph):
    assert predictor.pipeline is not None
    sent = pickle.dumps(predictor)
    assert len(sent) < 10_000
    batch = {"id": ["a"], "image": [photograph]}
    assert pickle.loads(sent)(batch) == predictor(batch)


# ------------------------------------------------------------------------------------------------------------- command


def test_command_writes_a_table_and_counts(checkpoint, photos, tmp_path):
    done = CliRunner().invoke(app, arguments(checkpoint, photos, tmp_path / "boxes.parquet"))
    assert done.exit_code == 0, done.output
    assert "7 images, 10 boxes" in done.output and "2 images could not be answered" in done.output
    assert len(rows_of(tmp_path / "boxes.parquet")) == 14


def test_strict_is_an_exit_code(checkpoint, photos, tmp_path):
    assert CliRunner().invoke(app, arguments(checkpoint, photos, tmp_path / "a.parquet", "--strict")).exit_code == 1
    for name in ("3.png", "5.png"):
        (photos / name).unlink()
    assert CliRunner().invoke(app, arguments(checkpoint, photos, tmp_path / "b.parquet", "--strict")).exit_code == 0


@pytest.mark.parametrize(
    ("out", "more", "problem"),
    [
        ("boxes.parquet", ("--overwrite",), "No such option: --overwrite"),
        ("boxes.parquet", ("--fov", "60"), "got both"),
        ("boxes.parquet", ("--split", "val"), "split: got 'val' for"),
        ("boxes", (), "want NAME.parquet"),
    ],
)
def test_command_names_what_is_wrong(checkpoint, photos, tmp_path, out, more, problem):
    done = CliRunner().invoke(app, arguments(checkpoint, photos, tmp_path / out, *more))
    assert done.exit_code == 2 and problem in done.output
    assert {path.name for path in Path(tmp_path).iterdir()} == {"photos"}
