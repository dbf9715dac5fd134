# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The recipe of the small checkpoint on a handful of images: every stage, the evaluation and the card."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmi3d.training import run as command

TINY = Path(__file__).parents[2] / "examples" / "tiny"


def run(script: str, *arguments) -> None:
    subprocess.run([sys.executable, TINY / script, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    pytest.importorskip("embreex")
    from llmi3d.data.build import build, open_source

    out = tmp_path_factory.mktemp("data") / "synth"
    source = open_source("synth", None, frames="train:32,test:8", masks="true", long_side="160")
    build(source, out, progress=False)
    return out


@pytest.mark.slow
def test_the_whole_chain(data, tmp_path):
    base, out, card = tmp_path / "base", tmp_path / "run", tmp_path / "card"
    run("new_model.py", "--data", data, "--out", base)
    recipe = str(TINY.parent / "recipes" / "tiny.yaml")
    flags = ["--model_name_or_path", str(base), "--output_dir", str(out), "--datasets", str(data)]
    command.main([recipe, *flags, "--max_steps", "2", "--logging_steps", "1"])
    shutil.copytree(out / "final", card)
    run("evaluate.py", "--data", data, "--out", tmp_path / "out", "--card", card, "--run", out)

    text = (card / "README.md").read_text()
    assert "[[" not in text and "acc@0.25" in text
    log = json.loads((card / "training_log.json").read_text())
    assert list(log["stages"]) == ["sight", "words", "align", "tune"]
    assert not [name for name in json.loads((card / "config.json").read_text()) if name.startswith("_attn")]

    from transformers import pipeline

    import llmi3d  # noqa: F401 (registers the pipeline)

    ground = pipeline("image-3d-grounding", model=str(card), device="cpu")
    from llmi3d.data.dataset import load_split

    row = load_split(data, "test")[0]
    answer = ground(row["image"], prompt="the car", intrinsics=row["intrinsics"])
    assert len(answer["boxes"]) == 1
