# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The model cards, the shipped checkpoint, its images, and the demo that asks it about them."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from llmi3d.processing.geometry_llmi3d import box_corners, check_intrinsics, project

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"
FLOORS = ("modeling_llmi3d", "processing")  # whose code checkpoints carry
CHECKPOINT = CARDS / "llmi3d-tiny"
IMAGES = ROOT / "examples" / "pictures"
ENTRIES = json.loads((IMAGES / "pictures.json").read_text())


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ground():
    from transformers import pipeline

    import llmi3d  # noqa: F401 (registers the pipeline)

    return pipeline("image-3d-grounding", model=str(CHECKPOINT), device="cpu")


def test_weights_are_small_safe_and_half():
    assert {path.suffix for path in CHECKPOINT.iterdir()} <= {".safetensors", ".json", ".py", ".md", ".jinja"}
    assert (CHECKPOINT / "model.safetensors").stat().st_size < 40e6
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as weights:
        kinds = {name: weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118 (no mapping)
    assert {kind for name, kind in kinds.items() if not name.startswith("box_head")} == {torch.bfloat16}


@pytest.mark.parametrize("card", sorted(path for path in CARDS.iterdir() if path.is_dir()), ids=lambda card: card.name)
def test_the_code_of_every_card_is_that_of_the_package(card):
    """Every file is a copy of its source, and every file that one of them imports is there."""
    sources = {
        path.name: path for folder in ("modeling_llmi3d", "processing") for path in (ROOT / folder).glob("*.py")
    }
    for path in card.glob("*.py"):
        assert path.name in sources, f"{path}: no such module in the package; delete it"
        text = path.read_text()
        assert text == sources[path.name].read_text(), f"{path}: copy {sources[path.name]} to it"
        for name in re.findall(r"^\s*from \.(\w+) import", text, re.MULTILINE):
            assert (card / f"{name}.py").is_file(), f"{path}: imports {name}.py, which is not in {card}"


def test_card_and_log_say_how_it_was_made():
    card = (CHECKPOINT / "README.md").read_text()
    log = json.loads((CHECKPOINT / "training_log.json").read_text())
    assert "[[" not in card
    assert f"{log['pictures']:,} training images" in card
    assert set(log["stages"]) == {"towers", "pretrain", "align", "finetune"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["image"])
def test_images_have_their_truth(entry):
    """The camera fits, every phrase has its box, and its middle is in the image."""
    with Image.open(IMAGES / entry["image"]) as image:
        size = image.size
    k = torch.tensor(entry["intrinsics"], dtype=torch.float64)
    check_intrinsics(k, size)
    boxes = {box["id"]: box for box in entry["boxes"]}
    for one in entry["phrases"]:
        x, y = project(torch.tensor(boxes[one["box"]]["center"], dtype=torch.float64), k).tolist()
        assert 0 <= x < size[0]
        assert 0 <= y < size[1]
    assert entry["absent"] and entry["ask"]["question"] and entry["ask"]["answer"]


def test_a_shipped_image_is_answered_and_drawn(demo, ground, tmp_path, capsys):
    entry = next(entry for entry in ENTRIES if entry["image"].startswith("objects"))
    result = demo.shipped_image(ground, entry, tmp_path)
    assert [one["phrase"] for one in result["found"]] == [one["phrase"] for one in entry["phrases"]]
    assert all(0 <= one["iou"] <= 1 and one["box"]["center"][2] > 0 for one in result["found"])
    assert result["absent"]["answer"]
    assert result["question"]["said"]
    assert entry["phrases"][0]["phrase"] in capsys.readouterr().out
    with (
        Image.open(tmp_path / f"{Path(entry['image']).stem}.png") as drawn,
        Image.open(IMAGES / entry["image"]) as image,
    ):
        assert drawn.width * drawn.height > image.width * image.height  # the bird's-eye view beside it


def test_a_true_box_has_an_iou_of_one(demo):
    truth = ENTRIES[0]["boxes"][0]
    corners = box_corners(*(torch.tensor(truth[name]) for name in ("center", "size", "rotation")))
    assert demo.iou_with({"corners": corners.tolist()}, truth) == pytest.approx(1, abs=1e-6)


def test_an_image_of_ones_own(demo, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "mine.png"
    Image.open(IMAGES / ENTRIES[0]["image"]).save(picture)
    out = tmp_path / "out"
    arguments = [
        str(picture),
        "--prompt",
        "the purple table",
        "--prompt",
        "the bowl",
        "--fov",
        "60",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    demo.main()
    [result] = json.loads((out / "results.json").read_text())
    assert [answer["prompt"] for answer in result["answers"]] == ["the purple table", "the bowl"]
    assert result["answers"][0]["intrinsics_source"] == "fov"
    assert (out / "mine.png").is_file()
    assert "the bowl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photo.jpg"], "--prompt: got none"),
        (["missing.jpg", "--prompt", "the car"], "cannot read 'missing.jpg'"),
    ],
)
def test_the_demo_says_what_is_missing(demo, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=words):
        demo.main()
