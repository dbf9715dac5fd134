# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d predict`: files, drawings and errors."""

import json
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.cli.console import read_intrinsics


@pytest.fixture(scope="module")
def checkpoint(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in chain:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def picture(photograph, tmp_path):
    photograph.save(tmp_path / "street.v2.png")
    return tmp_path / "street.v2.png"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def predict(picture, checkpoint, out, *more):
    camera = () if "--fov" in more or "--intrinsics" in more else ("--intrinsics", "250,260,150,110")
    return run(
        *("predict", picture, "--prompt", "the car", "--checkpoint", checkpoint, "--out", out, "--device", "cpu"),
        *(*camera, *more),
    )


def test_predict_writes_json_and_picture(checkpoint, picture, tmp_path):
    done = predict(picture, checkpoint, tmp_path / "out", "--prompt", "the cone")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "street.v2.json").read_text())
    assert [answer["prompt"] for answer in written["answers"]] == ["the car", "the cone"]
    assert written["answers"][0]["intrinsics"][0] == [250, 0, 150]
    with Image.open(tmp_path / "out" / "street.v2.png") as drawn:
        assert drawn.width > 320  # the photograph and the bird's-eye view
    assert "the cone" in done.output and "K: given" in done.output


def test_predict_writes_svg_and_a_3d_view_if_asked(checkpoint, picture, tmp_path):
    pytest.importorskip("plotly", reason="needs plotly: pip install 'llmi3d[plot]'")
    out = tmp_path / "out"
    done = predict(picture, checkpoint, out, "--svg", "--html")
    assert done.exit_code == 0, done.output
    assert sorted(path.suffix for path in out.iterdir()) == [".html", ".json", ".png", ".svg"]
    assert all(f"street.v2{suffix}" in done.output for suffix in (".html", ".svg"))
    root = ElementTree.parse(out / "street.v2.svg").getroot()
    with Image.open(out / "street.v2.png") as drawn:
        assert (root.get("width"), root.get("height")) == tuple(map(str, drawn.size))
    page = (out / "street.v2.html").read_text()
    assert "the car" in page and len(page) > 3e6  # plotly itself is in it, so that it works offline
    (out / "street.v2.svg").write_text("mine")
    done = predict(picture, checkpoint, tmp_path / "out", "--svg")
    assert done.exit_code == 2 and (out / "street.v2.svg").read_text() == "mine"


@pytest.mark.parametrize(
    ("image", "out", "message"),
    [
        (".", "out", "is a folder; use `llmi3d batch` for its images, `llmi3d track` for video frames"),
        ("clip.mp4", "out", "is a video; use `llmi3d track`"),
        ("a.png", "out.parquet", "want a folder; `llmi3d batch` writes .parquet files"),
        ("a.png", "out.mp4", "want a folder; `llmi3d track` writes .mp4 files"),
    ],
)
def test_other_inputs_and_outputs_name_the_other_command(tmp_path, image, out, message):
    done = predict(tmp_path / image, "none", tmp_path / out)
    assert done.exit_code == 2 and message in done.output


def test_results_are_not_overwritten(checkpoint, picture, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "street.v2.json").write_text("mine")
    done = predict(picture, checkpoint, tmp_path / "out")
    assert done.exit_code == 2 and "is there already" in done.output
    assert (tmp_path / "out" / "street.v2.json").read_text() == "mine"
    assert predict(picture, checkpoint, tmp_path / "out", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--intrinsics", "1,2,3"), "--intrinsics: got '1,2,3', want fx,fy,cx,cy"),
        (("--intrinsics", "1,1,999,1"), "principal point"),
        (("--fov", "200"), "fov_deg: got 200.0"),
    ],
)
def test_bad_cameras_are_refused(checkpoint, picture, tmp_path, more, message):
    done = predict(picture, checkpoint, tmp_path / "out", *more)
    assert done.exit_code == 2 and message in done.output


def test_unreadable_pictures_are_refused(checkpoint, tmp_path):
    done = predict(tmp_path / "nothing.png", checkpoint, tmp_path / "out")
    assert done.exit_code == 2 and "image: cannot read" in done.output


@pytest.mark.parametrize("text", ["[[1, 0, 2], [0, 3, 4], [0, 0, 1]]", "1 0 2\n0 3 4\n0 0 1\n"])
def test_intrinsics_from_a_file(tmp_path, text):
    (tmp_path / "k.txt").write_text(text)
    assert read_intrinsics(str(tmp_path / "k.txt")) == [[1, 0, 2], [0, 3, 4], [0, 0, 1]]
