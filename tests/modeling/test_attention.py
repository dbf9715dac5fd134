# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Attention of each tower as the user chose it."""

import pytest
import torch

from llmi3d import LLMI3DForConditionalGeneration


@pytest.mark.parametrize(
    ("chosen", "text", "vision"),
    [
        ({"text_config": "eager", "vision_config": "sdpa"}, "eager", "sdpa"),
        ({"text_config": "sdpa", "vision_config": "eager"}, "sdpa", "eager"),
        ({"vision_config": "eager"}, "sdpa", "eager"),
        ("eager", "eager", "eager"),
    ],
)
def test_each_tower_has_the_attention_that_was_asked_for(tiny_model, tiny_inputs, tmp_path, chosen, text, vision):
    tiny_model.save_pretrained(tmp_path)
    model = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=chosen).eval()
    inputs = tiny_inputs()
    wanted, got = (one.ground(**inputs).boxes_3d for one in (tiny_model, model))  # after a pass, which may follow
    assert model.model.language_model.config._attn_implementation == text
    assert model.model.vision_tower.config._attn_implementation == vision
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)
