# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The Python of each page runs, its blocks in order with one set of names; JSON and YAML can be read."""

import ast
import contextlib
import io
import json

import pytest
import yaml
from doc_pages import PAGES, ROOT, blocks

# Pages whose Python another test runs.
ELSEWHERE = {
    "docs/your_data.md": "tests/test_docs.py",
    "docs/offline.md": "tests/apps/test_offline.py",
    "docs/page.md": "tests/apps/test_server.py",
    "docs/speed.md": "tests/apps/test_graph_export.py, where there is an export",
    "examples/tiny/card.md": "model_cards/llmi3d-tiny/README.md, which is made of it",
}
LANGUAGES = {"python", "bash", "json", "yaml", "text", ""}


def training_objects():
    """Return a model, its processor and rows, as `llmi3d data build` writes them."""
    from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor
    from llmi3d.data.dataset import load_split

    model = LLMI3DForConditionalGeneration.from_pretrained("CHECKPOINT")
    processor = LLMI3DProcessor.from_pretrained("CHECKPOINT")
    return {"model": model, "processor": processor, "rows": load_split("DIR", "val"), "steps": 1}


# Names that a page uses without defining them.
GIVEN = {
    "docs/data.md": lambda: {"first": "DATASET", "second": "DATASET"},
    "docs/training.md": training_objects,
    "model_cards/llmi3d-tiny/README.md": lambda: {"fx": 721.5, "fy": 721.5, "cx": 609.6, "cy": 172.9},
}
# Packages of extras that a page's Python needs.
WANTED = {"docs/pictures.md": ("plotly",)}


def run_page(page: str) -> tuple[dict, str]:
    """Run the Python of a page and return its names and what it printed.

    A block of `text` after one of Python must be what that prints.
    """
    names, printed = GIVEN.get(page, dict)(), ""
    every = blocks(page)
    for block, following in zip(every, [*every[1:], None], strict=True):
        if block.language != "python":
            continue
        code = compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec")  # errors name the page's line
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        printed += out.getvalue()
        if following and following.language == "text":
            assert out.getvalue() == following.text, f"{page}:{following.line}"
    return names, printed


# Pages that show the tables that their Python prints.
PRINTS = {"docs/training.md"}
# Conditions on the names that a page defines.
CHECKS = {
    "README.md": {
        "answer": lambda answer: len(answer["boxes"]) == 1 and answer["intrinsics_source"] == "given",
    },
    "docs/cameras.md": {
        "ratio": lambda ratio: abs(ratio - 2) < 1e-6,
        "wide": lambda answer: answer["intrinsics_source"] == "fov",
        "point": lambda point: point.tolist() == pytest.approx([1.2, 0.9, 9.0]),
        "yaw": lambda yaw: yaw.item() == pytest.approx(-0.9),
        "cropped": lambda k: k[:2, 2].tolist() == pytest.approx([409.6, 122.9], abs=1e-3),
    },
    "docs/data.md": {"row": lambda row: row["objects"]},
    "docs/quickstart.md": {
        "box": lambda box: len(box["corners"]) == 8,
        "first": lambda first: len(first["centers"]) == 1 and first["intrinsics_source"] == "given",
        "answers": lambda answers: len(answers) == 3,
        "written": lambda written: written.sequences.shape[0] == 1,
    },
    "docs/training.md": {"trainer": lambda trainer: trainer.state.global_step == 1},
}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page not in ELSEWHERE])
def test_python_runs(page, workplace):
    for package in WANTED.get(page, ()):
        pytest.importorskip(package, reason="pip install '.[test]'")
    names, printed = run_page(page)
    if page in PRINTS:
        tables = [line for line in printed.splitlines() if line.startswith("|")]
        shown = (ROOT / page).read_text()
        assert tables and [line for line in tables if line not in shown] == []
    for name, check in CHECKS.get(page, {}).items():
        assert check(names[name]), f"{page}: {name} is {names[name]!r}"


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_known_languages_and_can_be_read(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page}:{block.line}: {block.language}"
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)
        elif block.language == "python":
            ast.parse(block.text)
