# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Figures that README quotes are those of the card and of the experiments' page, which commands write."""

import re

import pytest
from doc_pages import ROOT

# How a row of README's table begins, and where its figures come from.
SOURCES = {
    "`model_cards/llmi3d-tiny`": "model_cards/llmi3d-tiny/README.md",
    "the 3D query token": "docs/experiments.md",
    "virtual depth": "docs/experiments.md",
}


@pytest.mark.parametrize("start", SOURCES)
def test_readme_quotes_what_commands_wrote(start):
    [row] = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {start}")]
    quoted = re.findall(r"(-?[\d.]+) %[\w ]* \((-?[\d.]+ to -?[\d.]+)\)", row)
    assert quoted
    written = (ROOT / SOURCES[start]).read_text()
    for value, interval in quoted:
        assert f"| {value} | {interval} |" in written or f" {value} ({interval})" in written, f"{value} ({interval})"
