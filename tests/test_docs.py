# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""docs/your_data.md does what it says: its commands and Python run, in order, on made pictures; lists are whole.

What concerns every page is tested in tests/docs/.
"""

import json
import shlex

import numpy as np
import pytest
from doc_pages import ROOT, blocks
from PIL import Image
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.data.build import SOURCES
from llmi3d.evaluation.protocols import PROTOCOLS

DOCS = ROOT / "docs"
PAGE = "docs/your_data.md"


@pytest.fixture
def workplace(tmp_path, monkeypatch, new_chain):
    """A folder with pictures in the page's own format, a tiny checkpoint, and a new picture."""
    monkeypatch.chdir(tmp_path)
    for part in new_chain:
        part.save_pretrained(tmp_path / "checkpoint")
    [line] = [block.text for block in blocks(PAGE, "json")]
    (tmp_path / "photos").mkdir()
    lines = []
    for i in range(1, 7):
        noise = np.random.default_rng(i).integers(0, 255, (480, 640, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{i:04d}.jpg")
        entry = json.loads(line)
        lines.append(json.dumps({**entry, "image": f"photos/{i:04d}.jpg", "split": "val" if i > 4 else "train"}))
    (tmp_path / "photos.jsonl").write_text("\n".join(lines))
    Image.fromarray(noise).save(tmp_path / "new.jpg")
    return tmp_path


def test_from_pictures_to_an_adapter(workplace):
    names = {"checkpoint": str(workplace / "checkpoint"), "steps": 1}
    for block in blocks(PAGE):
        if block.language == "python":
            exec(block.text, names)
        for command in block.text.splitlines() if block.language == "bash" else ():
            arguments = shlex.split(command)
            assert arguments[0] == "llmi3d"
            result = CliRunner().invoke(app, arguments[1:])
            assert result.exit_code == 0, f"{command}: {result.output} {result.exception}"
    assert json.loads((workplace / "my_report" / "report.json").read_text())["counts"]["questions"] > 1
    assert (workplace / "answers" / "new.png").is_file()


def test_sources_are_all_described():
    page = (DOCS / "data.md").read_text()
    assert all(f"| `{name}` |" in page for name in SOURCES)
    assert "own" in PROTOCOLS and "`own`" in (DOCS / "evaluation.md").read_text()
