# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The short scripts and the notebook of examples/ run; the diagram of docs/cameras.md can be drawn."""

import json
import runpy
import sys

import matplotlib.pyplot as plt
import pytest
from doc_pages import ROOT
from PIL import Image

from llmi3d.processing.geometry_llmi3d import project

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def run(script: str, *arguments: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / script), run_name="__main__")


def test_quickstart(tmp_path, monkeypatch, capsys):
    out = tmp_path / "drawn.jpg"
    run("examples/quickstart.py", "--out", str(out), monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert said.startswith("the brown car: ") and "camera: given" in said
    with Image.open(out) as drawn, Image.open(ROOT / "examples" / "pictures" / "surround-000022.jpg") as image:
        assert drawn.width > image.width  # the bird's-eye view beside it
    with pytest.raises(SystemExit):
        run("examples/quickstart.py", "--out", str(out), monkeypatch=monkeypatch)
    assert "exists already" in capsys.readouterr().err


def test_quickstart_with_an_own_image(workplace, monkeypatch, capsys):
    run("examples/quickstart.py", "photo.jpg", "--prompt", "the red mug", "--fov", "65", monkeypatch=monkeypatch)
    assert "camera: fov" in capsys.readouterr().out
    assert (workplace / "quickstart.jpg").is_file()
    with pytest.raises(SystemExit):
        run("examples/quickstart.py", "missing.jpg", "--out", "other.jpg", monkeypatch=monkeypatch)
    assert "missing.jpg" in capsys.readouterr().err


def test_notebook_is_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[test]'")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_cells_of_the_notebook_run(monkeypatch, capsys):
    """Here, without a kernel: quick."""
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[test]'")
    monkeypatch.chdir(NOTEBOOK.parent)
    names = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    said = capsys.readouterr().out
    assert "the pink cyclist" in said and " given: " in said and "default: " in said
    depths = [names[name]["boxes"][0]["center"][2] for name in ("answer", "half")]
    assert depths[0] == pytest.approx(2 * depths[1])
    assert not names["refusal"]["found"]


@pytest.mark.slow
def test_notebook_runs_in_a_kernel():
    nbclient = pytest.importorskip("nbclient", reason="pip install '.[test]'")
    pytest.importorskip("ipykernel", reason="pip install '.[test]'")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    shown = "".join(str(one.get("data")) for cell in notebook.cells for one in cell.get("outputs", ()))
    assert "image/png" in shown


def test_diagram(tmp_path, monkeypatch):
    """What it draws at a place is what the geometry says is there."""
    drawing = runpy.run_path(str(ROOT / "docs" / "images" / "cameras.py"))
    figure = drawing["draw"]()
    picture = figure.axes[1]
    points = project(drawing["corners"](), drawing["K"])
    ends = {tuple(round(value, 3) for value in xy) for line in picture.lines for xy in line.get_xydata().tolist()}
    assert {tuple(round(value, 3) for value in xy) for xy in points.tolist()} <= ends
    plt.close(figure)
    out = tmp_path / "cameras.png"
    run("docs/images/cameras.py", "--out", str(out), monkeypatch=monkeypatch)
    with Image.open(out) as drawn, Image.open(ROOT / "docs" / "images" / "cameras.png") as kept:
        assert drawn.size == kept.size


@pytest.mark.parametrize("name", ["synthetic", "tracked"])
def test_pictures_of_the_pages(name):
    """Those that need no browser can be drawn, as large as those that are kept."""
    for package in ("av", "stonesoup", "playwright"):
        pytest.importorskip(package, reason="pip install '.[test]'")
    drawing = runpy.run_path(str(ROOT / "docs" / "images" / "pictures.py"))
    entries = {one["image"]: one for one in json.loads((ROOT / "examples/pictures/pictures.json").read_text())}
    given = entries if name == "synthetic" else entries["driving-000041.jpg"]
    with Image.open(ROOT / "docs" / "images" / f"{name}.jpg") as kept:
        assert drawing[f"draw_{name}"](given).size == kept.size
