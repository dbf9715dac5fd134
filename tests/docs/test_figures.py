# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Figures quoted in README and docs/measurements.md are those that commands wrote on the card and the experiments."""

import re

import pytest
from doc_pages import ROOT

# How a row of the table begins, and where its figures come from.
SOURCES = {
    "`model_cards/llmi3d-tiny`": "model_cards/llmi3d-tiny/README.md",
    "the 3D query token": "docs/experiments.md",
    "virtual depth": "docs/experiments.md",
}


@pytest.mark.parametrize("start", SOURCES)
def test_measurements_quote_what_commands_wrote(start):
    page = (ROOT / "docs" / "measurements.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    quoted = re.findall(r"(-?[\d.]+) %[\w ]* \((-?[\d.]+ to -?[\d.]+)\)", row)
    assert quoted
    written = (ROOT / SOURCES[start]).read_text()
    for value, interval in quoted:
        assert f"| {value} | {interval} |" in written or f" {value} ({interval})" in written, f"{value} ({interval})"


def test_readme_quotes_the_card():
    readme, card = (ROOT / "README.md").read_text(), (ROOT / "model_cards/llmi3d-tiny/README.md").read_text()
    [(value, interval)] = re.findall(r"([\d.]+) % \(([\d.]+ to [\d.]+)\)", readme)
    assert f"| {value} | {interval} |" in card
    [depth] = re.findall(r"median depth error is ([\d.]+) %", " ".join(readme.split()))
    assert re.search(rf"depth_error.*\| {depth} \|", card)
