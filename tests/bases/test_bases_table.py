# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The table of bases counts parameters rightly, and the page shows the bases that the script prints."""

import runpy
from pathlib import Path

from transformers import AutoConfig

ROOT = Path(__file__).parents[2]
TABLE = runpy.run_path(str(ROOT / "examples" / "bases_table.py"))


def test_parts_are_the_model(chain):
    counts = TABLE["parameters"](chain[0].config)
    assert sum(counts.values()) == chain[0].num_parameters()
    tower = chain[0].model.vision_tower
    assert counts["vision_tower"] == sum(one.numel() for one in tower.parameters())


def test_a_line_of_a_base_that_init_takes(bases):
    config = TABLE["as_llmi3d"](AutoConfig.from_pretrained(bases["llava"][0]))
    assert config.model_type == "llmi3d" and TABLE["as_llmi3d"](config) is config
    config.high_res_vision_config.architecture = "convnext_atto"
    line = TABLE["row"]("tiny", "none", config)
    assert line.startswith("| tiny | none | 16 | 0.0 |") and line.count("|") == 12


def test_the_page_shows_every_published_base_by_its_own_licence():
    page = (ROOT / "docs" / "bases.md").read_text()
    for name, licence, config in TABLE["published"]():
        tokens = TABLE["as_llmi3d"](config).image_seq_length
        assert f"| {name} | {licence} | {tokens} |" in page, name
