# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""examples/benchmarks/preprocessing.py: what it compares, and what it writes."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location(
        "preprocessing", ROOT / "examples" / "benchmarks" / "preprocessing.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_images_differ_and_are_as_large_as_photographs(benchmark, tmp_path):
    paths = benchmark.write_images(tmp_path, (621, 188), 2)
    images = [Image.open(path) for path in paths]
    assert [image.size for image in images] == [(621, 188)] * 2
    assert images[0].tobytes() != images[1].tobytes()
    assert all(0.1 < Path(path).stat().st_size / (621 * 188) < 0.6 for path in paths)  # bytes a pixel


def test_each_way_makes_what_its_model_takes(benchmark, tmp_path):
    paths = benchmark.write_images(tmp_path, (621, 188), 2)
    ours, theirs, same = (way(paths) for way in benchmark.ways().values())
    assert ours["pixel_values"].shape == theirs["pixel_values"].shape == (2, 3, 336, 336)
    assert ours["high_res_pixel_values"].shape == (2, 3, 768, 768)
    assert (theirs["pixel_values"] - same["pixel_values"]).abs().mean() < 0.02  # two decoders, the same images


def test_it_writes_its_ratios(benchmark, tmp_path, monkeypatch, capsys):
    settings = ["--count", "8", "--batch-size", "2", "--threads", "1", "--out", str(tmp_path / "found.json")]
    monkeypatch.setattr(benchmark, "SIZES", ((124, 37), (160, 90)))
    monkeypatch.setattr(sys, "argv", ["preprocessing.py", *settings])
    threads = torch.get_num_threads()
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [result["size"] for result in results] == [[124, 37], [160, 90]]
    for result in results:
        times = result["cpu_ms_per_image"]
        assert result["cpu"]["LLaVA"] == pytest.approx(times["LLMI3D"] / times["LLaVA"])
        assert set(result["wall"]) == {"LLaVA", "LLaVA, Pillow"}
    assert capsys.readouterr().out.count("/ LLaVA, Pillow") == 2


def test_counts_below_one_are_refused(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preprocessing.py", "--batch-size", "1", "0"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "--batch-size: got [1, 0], want at least 1" in capsys.readouterr().err
