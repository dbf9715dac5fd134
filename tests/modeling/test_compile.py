# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Compiled direct grounding: one whole graph, the same answers, and no more graphs than docs/speed.md says.

What torch makes of the graph is torch's: `backend="eager"` compiles as it does everywhere, without the compiler.
"""

import pytest
import torch
from torch._dynamo.utils import counters


@pytest.fixture
def compiled(tiny_model, new_tiny_model):
    """(model, the same compiled), with nothing compiled before."""
    torch._dynamo.reset()
    counters.clear()
    model = new_tiny_model()
    model.compile_grounding(backend="eager")
    return tiny_model, model


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def assert_the_same(models, inputs):
    wanted, got = (model.ground(**inputs) for model in models)
    for name, value in wanted.boxes_3d.items():
        torch.testing.assert_close(got.boxes_3d[name], value)
    torch.testing.assert_close(got.depth_logits, wanted.depth_logits)


def shared(inputs, phrases: int) -> dict:
    """The words of `inputs`, one picture, as phrases that share a sequence."""
    ids, picture = inputs["input_ids"], 17
    tail = ids[:, picture:].repeat(1, phrases)
    length = ids.shape[1] - picture
    numbers = torch.arange(2, phrases + 2).repeat_interleave(length)[None]
    within = torch.arange(picture, ids.shape[1]).repeat(phrases)[None]
    return {
        "input_ids": torch.cat((ids[:, :picture], tail), 1),
        "phrase_ids": torch.cat((torch.ones(1, picture, dtype=torch.long), numbers), 1),
        "position_ids": torch.cat((torch.arange(picture)[None], within), 1),
        **{name: inputs[name] for name in ("pixel_values", "high_res_pixel_values")},
    }


def test_one_shape_compiles_once_and_lengths_twice(compiled, tiny_inputs):
    for seed in range(2):
        assert_the_same(compiled, tiny_inputs(batch=1, queries=1, seed=seed))
    assert graphs() == 1
    for words in (9, 4, 13):
        assert_the_same(compiled, tiny_inputs(batch=1, queries=1, words=words))
    assert graphs() == 2 and not counters["graph_break"]


@pytest.mark.slow
def test_numbers_of_phrases_and_pictures_compile_as_often_as_documented(compiled, tiny_inputs):
    one = tiny_inputs(batch=1, queries=1)
    for phrases in (2, 3, 7, 5):
        assert_the_same(compiled, shared(one, phrases))
    assert graphs() == 2
    for batch in (1, 2, 3, 5):
        for words in (6, 9):
            assert_the_same(compiled, tiny_inputs(batch=batch, queries=1, words=words))
    assert graphs() <= 6 and not counters["graph_break"]


def test_what_the_graph_cannot_see_is_refused_before_it(compiled, tiny_inputs):
    inputs = tiny_inputs(batch=1)
    inputs["input_ids"][0, 3] = 7  # one placeholder too few
    with pytest.raises(ValueError, match="Image features and image tokens do not match, tokens: 15, features: 16"):
        compiled[1].ground(**inputs)
    assert graphs() == 0


def test_the_model_is_saved_as_before(compiled, tmp_path, tiny_inputs):
    model = compiled[1]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert set(again.state_dict()) == set(model.state_dict())
    assert_the_same((compiled[0], again), tiny_inputs())


@pytest.mark.slow
def test_each_canvas_is_a_graph_of_its_own(compiled, tiny_inputs):
    """Pictures without their padding: 2x4, 4x2 and 2x2 of the 4x4 tokens."""
    inputs = tiny_inputs(batch=1, queries=1)
    for rows, columns in ((4, 4), (2, 4), (4, 2), (2, 2)):
        low, high = inputs["pixel_values"], inputs["high_res_pixel_values"]
        kept = [*range(1 + rows * columns), *range(17, inputs["input_ids"].shape[1])]
        asked = {
            **{name: inputs[name][:, kept] for name in ("input_ids", "attention_mask")},
            "pixel_values": low[..., : 4 * rows, : 4 * columns],
            "high_res_pixel_values": high[..., : 16 * rows, : 16 * columns],
        }
        for _ in range(2):
            assert_the_same(compiled, asked)
    assert graphs() <= 4


@pytest.mark.slow
def test_inductor_answers_the_same(new_tiny_model, tiny_model, tiny_inputs):
    torch._dynamo.reset()
    model = new_tiny_model()
    model.compile_grounding()
    assert_the_same((tiny_model, model), tiny_inputs(batch=1, queries=1))
