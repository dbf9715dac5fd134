# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Pointing: where query tokens look, and what is read there."""

import math

import pytest
import torch

from llmi3d.pointing_llmi3d import Sight, one_place, place_centers, read_places

KINDS = {
    "CNN": {},
    "without depth branch": {"depth_branch": False, "depth_from_map": False},
    "without CNN": {"high_res_branch": False, "depth_branch": False, "depth_from_map": False},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return {"pointing": True, **request.param}


def sight_of(config, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, 4, 4, config.visual_token_dim, generator=generator)
    cells = torch.randn(batch, config.depth_predictor_dim, 8, 8, generator=generator)
    return Sight(None, tokens, cells if config.high_res_branch else None)


def test_the_output_has_a_distribution(new_tiny_model, tiny_inputs, kind):
    model = new_tiny_model(**kind)
    boxes = model(**tiny_inputs()).boxes_3d
    side = 8 if model.config.high_res_branch else 4
    assert boxes.pointing.shape == (2, 2, 16)
    assert boxes.pointing_log_probs.shape == (2, 2, side, side)
    torch.testing.assert_close(boxes.pointing.sum(-1), torch.ones(2, 2))
    coarse = boxes.pointing_log_probs.exp().unflatten(-1, (4, -1)).unflatten(-3, (4, -1)).sum((-1, -3))
    torch.testing.assert_close(boxes.pointing.unflatten(-1, (4, 4)), coarse)
    assert (boxes.pointing_spread_px > 0).all()


def test_without_pointing_there_is_none(tiny_model, tiny_inputs):
    boxes = tiny_model(**tiny_inputs()).boxes_3d
    assert boxes.pointing is None and boxes.pointing_log_probs is None
    assert not any("pointer" in name or "state_proj" in name for name, _ in tiny_model.named_parameters())


@pytest.mark.parametrize("batch_queries", [(1, 1), (2, 3)])
def test_a_dense_label_is_a_distribution_of_one_place(tiny_config, kind, batch_queries):
    """Against reading the very cell by its index."""
    config, batch, queries = tiny_config(**kind), *batch_queries
    sight = sight_of(config, batch)
    side = 8 if config.high_res_branch else 4
    places = torch.randint(side**2, (batch, queries), generator=torch.Generator().manual_seed(1))
    pointed = read_places(one_place(places, sight), sight, config)
    for b in range(batch):
        for q in range(queries):
            row, column = divmod(int(places[b, q]), side)
            want = torch.tensor([column + 0.5, row + 0.5]) * config.place_px
            torch.testing.assert_close(pointed.place_px[b, q], want)
            token = sight.tokens[b, row * 4 // side, column * 4 // side]
            torch.testing.assert_close(pointed.token_features[b, q], token)
            if sight.cells is not None:
                torch.testing.assert_close(pointed.cell_features[b, q], sight.cells[b, :, row, column])
    assert (pointed.spread_px < 0.01).all()


def test_place_and_spread_are_mean_and_deviation(tiny_config):
    """Against sampling."""
    config = tiny_config(pointing=True)
    generator = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(1, 1, 8, 8, generator=generator)).flatten(2).log_softmax(-1).view(1, 1, 8, 8)
    pointed = read_places(log_probs, sight_of(config, 1), config)
    drawn = torch.multinomial(log_probs.exp().flatten(), 200_000, replacement=True, generator=generator)
    points = place_centers(8, 8, 8, 64, log_probs.device).flatten(0, 1)[drawn]
    torch.testing.assert_close(pointed.place_px[0, 0], points.mean(0), rtol=0, atol=0.2)
    deviation = (points - points.mean(0)).square().sum(-1).mean().sqrt()
    torch.testing.assert_close(pointed.spread_px[0, 0], deviation, rtol=0.01, atol=0.0)


def test_the_centre_follows_the_place(new_tiny_model, kind):
    """The same features elsewhere: with no weight on the place itself, the whole box moves along."""
    model = new_tiny_model(**kind)
    config, head = model.config, model.box_head
    torch.nn.init.zeros_(head.place_proj.weight)
    sight = sight_of(config)
    sight = Sight(None, *(None if x is None else torch.ones_like(x) for x in sight[1:]))
    mask = torch.ones(2, 2, dtype=torch.bool)
    places = torch.tensor([[0, 5], [1, 3]])
    boxes = head(None, mask, *sight, places=places)
    side = 8 if config.high_res_branch else 4
    centers = place_centers(side, side, config.place_px, 64, mask.device).flatten(0, 1)
    offsets = boxes.center_2d_px - centers[places]
    torch.testing.assert_close(offsets, offsets[:1, :1].expand_as(offsets))
    torch.testing.assert_close(boxes.size, boxes.size[:1, :1].expand_as(boxes.size))


def test_language_starts_by_choosing_alone(tiny_config):
    """New heads read the box from the place; the query token's own state only points."""
    from llmi3d import LLMI3DForConditionalGeneration

    torch.manual_seed(0)
    head = LLMI3DForConditionalGeneration(tiny_config(pointing=True)).box_head
    sight, mask = sight_of(head.config), torch.ones(2, 2, dtype=torch.bool)
    places = torch.tensor([[3, 9], [20, 50]])
    states = torch.randn(2, 2, 32)
    alone = head(None, mask, *sight, places=places)
    beside = head(states, mask, *sight, places=places)
    for name in ("center_2d_px", "depth_virtual", "size", "rotation_6d", "score_logits"):
        torch.testing.assert_close(alone[name], beside[name])
    assert alone.pointing_log_probs is None


def test_gradient_reaches_the_query_token_through_the_place(new_tiny_model, kind):
    model = new_tiny_model(**kind)
    sight, mask = sight_of(model.config), torch.ones(2, 1, dtype=torch.bool)
    torch.nn.init.zeros_(model.box_head.state_proj[1].weight)
    states = torch.randn(2, 1, 32, requires_grad=True)
    model.box_head(states, mask, *sight).center_2d_px.sum().backward()
    assert states.grad.abs().sum() > 0


def test_a_sample_alone_answers_as_in_a_batch(new_tiny_model, tiny_inputs, kind):
    model, inputs = new_tiny_model(**kind), tiny_inputs()
    together = model(**inputs).boxes_3d
    for index in range(2):
        alone = model(**{name: value[index : index + 1] for name, value in inputs.items()}).boxes_3d
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][index], rtol=1e-4, atol=1e-4)


def test_cropped_padding_keeps_places_where_they_are(new_tiny_model):
    """Places of the middle of the square have the coordinates that they have in the square."""
    model = new_tiny_model(pointing=True)
    full = Sight(None, torch.zeros(1, 4, 4, 24), torch.zeros(1, 16, 8, 8))
    middle = Sight(None, torch.zeros(1, 2, 4, 24), torch.zeros(1, 16, 4, 8))
    wide = read_places(one_place(torch.tensor([[2 * 8 + 5]]), full), full, model.config)
    cropped = read_places(one_place(torch.tensor([[5]]), middle), middle, model.config)
    torch.testing.assert_close(wide.place_px, cropped.place_px)


def test_generated_boxes_point_like_those_of_one_pass(new_tiny_model, tiny_inputs):
    model, inputs = new_tiny_model(pointing=True), tiny_inputs(queries=1, words=2)
    with torch.no_grad():
        direct = model(**inputs).boxes_3d
        prompt = {
            **inputs,
            "input_ids": inputs["input_ids"][:, :-1],
            "attention_mask": inputs["attention_mask"][:, :-1],
        }
        model.lm_head.weight.zero_()
        model.lm_head.weight[4] = 0
        model.generation_config.bad_words_ids = [[token] for token in range(99) if token != 4]
        answer = model.generate_boxes(**prompt, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    torch.testing.assert_close(answer.boxes_3d.pointing[:, :1], direct.pointing, rtol=1e-3, atol=1e-4)


def test_several_beams_and_answers_read_their_own_image(new_tiny_model, tiny_inputs):
    model = new_tiny_model(pointing=True)
    inputs = tiny_inputs(queries=1, words=2)
    answer = model.generate_boxes(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert answer.boxes_3d.pointing.shape[0] == len(answer.sequences) == 4


def test_misuse_is_named(tiny_model, new_tiny_model):
    mask, states = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 32)
    with pytest.raises(ValueError, match=r"tokens: got None with config\.pointing=True"):
        new_tiny_model(pointing=True).box_head(states, mask)
    with pytest.raises(ValueError, match="places, states: want"):
        tiny_model.box_head(states, mask, places=torch.zeros(1, 1, dtype=torch.long))


def test_one_place_is_certain(tiny_config):
    log_probs = one_place(torch.tensor([[7]]), sight_of(tiny_config(pointing=True), 1))
    assert log_probs.exp().sum() == 1 and log_probs.max() == 0 and log_probs.min() == -math.inf
