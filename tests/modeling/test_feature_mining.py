# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Feature mining against plain attention and loops.

Shapes: B images, N tokens, P cells in a window, C channels of a token, M of a cell, E of the depth embedding.
"""

import math

import numpy as np
import pytest
import torch

from llmi3d.feature_mining_llmi3d import (
    Cells,
    CrossBranchAttention,
    DepthPredictor,
    FeatureMining,
    attend,
    cells_of,
    depth_bin_centers,
    depth_bin_edges,
)

B, N, P, C, M, E = 2, 9, 6, 16, 40, 5
STAGE_CHANNELS = [8, 12, 16, 20]


def make_attention(depth_dim: int | None, dtype=torch.float32) -> CrossBranchAttention:
    """Every weight and bias drawn, so that no term hides behind a zero or a one."""
    torch.manual_seed(0)
    attention = CrossBranchAttention(C, M, depth_dim)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(0.3, 0.5)
    return attention.to(dtype)


def make_inputs(depth_dim: int | None, dtype=torch.float32) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    inputs = {"tokens": torch.randn(B, N, C, generator=generator)}
    # Cells far from mean 0 and deviation 1, different ones each: normalising them must matter.
    scale, shift = torch.rand(B, N, P, 1, generator=generator) * 4 + 0.5, torch.randn(B, N, P, 1, generator=generator)
    inputs["cells"] = torch.randn(B, N, P, M, generator=generator) * scale + shift
    inputs["depth"] = torch.randn(B, N, P, depth_dim, generator=generator) if depth_dim else None
    return {name: None if x is None else x.to(dtype).requires_grad_() for name, x in inputs.items()}


def folded(attention, tokens, cells, depth=None, weights=None, depth_weights=None) -> torch.Tensor:
    """`forward` of cells [B, N, S, M] in two stages; `weights` [N, P, S] bring them to the windows' cells."""
    stages = [Cells(part, weights) for part in cells.split([M // 4, M - M // 4], -1)]
    return attention(tokens, stages, None if depth is None else Cells(depth, depth_weights))


def value_and_gradients(attention, inputs, forward=None) -> dict[str, torch.Tensor]:
    tensors = {**{k: x for k, x in inputs.items() if x is not None}, **dict(attention.named_parameters())}
    value = forward(**inputs) if forward else folded(attention, **inputs)
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)
    gradients = torch.autograd.grad((value * weights).sum(), list(tensors.values()))
    return {"value": value.detach(), **dict(zip(tensors, gradients, strict=True))}


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


# ------------------------------------------------------------------------------------------- folded = plain attention


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("depth_dim", [E, None], ids=["with depth", "without depth"])
def test_folded_is_plain_attention(depth_dim, dtype, tolerance):
    attention, inputs = make_attention(depth_dim, dtype), make_inputs(depth_dim, dtype)
    # The arithmetic of attention in float64 is the truth, so that its own rounding is not held against the other.
    exact_attention = make_attention(depth_dim, torch.float64)
    exact_inputs = {name: None if x is None else x.detach().double().requires_grad_() for name, x in inputs.items()}
    exact = value_and_gradients(exact_attention, exact_inputs, exact_attention.reference_forward)
    got = value_and_gradients(attention, inputs)
    assert got.keys() == exact.keys()
    for name, want in exact.items():
        assert got[name].dtype == dtype
        assert relative(got[name], want) < tolerance, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_cells_of_a_coarser_stage_are_as_good_as_interpolated_ones(dtype, tolerance):
    attention, inputs = make_attention(E, dtype), make_inputs(E, dtype)
    generator = torch.Generator().manual_seed(3)
    weights, depth_weights = (torch.rand(N, 9, P, generator=generator, dtype=torch.float64) / 3 for _ in range(2))
    exact_attention = make_attention(E, torch.float64)
    exact_inputs = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}

    def plain(tokens, cells, depth):
        cells = torch.einsum("nps,bnsm->bnpm", weights, cells)
        return exact_attention.reference_forward(tokens, cells, torch.einsum("nps,bnse->bnpe", depth_weights, depth))

    exact = value_and_gradients(exact_attention, exact_inputs, plain)
    weights, depth_weights = weights.to(dtype), depth_weights.to(dtype)
    for name, got in value_and_gradients(
        attention, inputs, lambda **inputs: folded(attention, **inputs, weights=weights, depth_weights=depth_weights)
    ).items():
        assert relative(got, exact[name]) < tolerance, name


def test_reference_is_attention_by_a_loop():
    attention, inputs = make_attention(E, torch.float64), make_inputs(E, torch.float64)
    got = attention.reference_forward(**inputs)
    weight = {name: x.detach().numpy() for name, x in attention.named_parameters()}
    tokens, cells, depth = (inputs[name].detach().numpy() for name in ("tokens", "cells", "depth"))

    def layer_norm(x, name):
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return x * weight[f"{name}.weight"] + weight.get(f"{name}.bias", 0)

    for b in range(B):
        for n in range(N):
            query = weight["query_proj.weight"] @ layer_norm(tokens[b, n], "query_norm") + weight["query_proj.bias"]
            scores, values = [], []
            for cell, where in zip(cells[b, n], depth[b, n], strict=True):
                key = (
                    weight["key_proj.weight"] @ layer_norm(cell, "key_norm") + weight["depth_key_proj.weight"] @ where
                )
                value = weight["value_proj.weight"] @ layer_norm(cell, "value_norm") + weight["value_proj.bias"]
                scores.append(query @ key / math.sqrt(C))
                values.append(value + weight["depth_value_proj.weight"] @ where)
            shares = np.exp(scores - np.max(scores))
            np.testing.assert_allclose(got[b, n].detach(), shares / shares.sum() @ np.array(values), rtol=1e-9)


@pytest.mark.parametrize("depth_dim", [E, None], ids=["with depth", "without depth"])
def test_gradcheck(depth_dim):
    generator = torch.Generator().manual_seed(2)
    sizes = [(1, 3, 7), (1, 3, 4, 5), (1, 3, 2, 2)] + ([(1, 3, depth_dim), (1, 3, 4, depth_dim)] if depth_dim else [])
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes]
    weights = torch.rand(3, 4, 2, generator=generator, dtype=torch.float64)

    def run(query, fine, coarse, depth_query=None, depth=None):
        stages = [Cells(fine), Cells(coarse, weights)]
        attended, attended_depth = attend(query, stages, depth_query, None if depth is None else Cells(depth), 1e-5)
        return attended if depth is None else (attended, attended_depth)

    assert torch.autograd.gradcheck(run, inputs)


def test_frozen_cells_change_no_other_gradient():
    attention, inputs = make_attention(E), make_inputs(E)
    want = value_and_gradients(attention, inputs)
    frozen = {**inputs, "cells": inputs["cells"].detach()}
    value = folded(attention, **frozen)
    weights = torch.linspace(0.5, 1.5, value.numel()).view_as(value)
    for name, tensor in {
        "tokens": inputs["tokens"],
        "depth": inputs["depth"],
        **dict(attention.named_parameters()),
    }.items():
        (gradient,) = torch.autograd.grad((value * weights).sum(), tensor, retain_graph=True)
        torch.testing.assert_close(gradient, want[name])


def test_bfloat16_is_close_to_float32():
    exact = value_and_gradients(make_attention(E), make_inputs(E))
    attention, inputs = make_attention(E, torch.bfloat16), make_inputs(E, torch.bfloat16)
    for name, got in value_and_gradients(attention, inputs).items():
        assert got.dtype == torch.bfloat16
        assert relative(got, exact[name]) < 0.08, name


def test_autocast_is_close_to_float32():
    attention, inputs = make_attention(E), make_inputs(E)
    exact = value_and_gradients(attention, inputs)

    def forward(**inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return folded(attention, **inputs).float()

    for name, got in value_and_gradients(attention, inputs, forward).items():
        assert got.dtype == torch.float32
        assert relative(got, exact[name]) < 0.08, name


def test_constant_cells_give_finite_gradients():
    """The deviation of a constant cell is 0, as a black picture's may be."""
    attention, inputs = make_attention(E), make_inputs(E)
    inputs["cells"] = torch.full((B, N, P, M), 3.0, requires_grad=True)
    for name, gradient in value_and_gradients(attention, inputs).items():
        assert torch.isfinite(gradient).all(), name


# ------------------------------------------------------------------------------------------------------------ windows


def test_cells_of_the_finest_stage_against_a_loop():
    rows, columns, window = 3, 2, 4
    feature_map = torch.randn(2, 5, rows * window, columns * window)
    got = cells_of(feature_map, feature_map.shape[-2:], window)
    assert got.weights is None and got.values.shape == (2, rows * columns, window**2, 5)
    for i in range(rows):
        for j in range(columns):
            piece = feature_map[:, :, i * window : (i + 1) * window, j * window : (j + 1) * window]
            assert torch.equal(got.values[:, i * columns + j], piece.flatten(2).transpose(1, 2))


# Windows of several cells of the coarse stage, of one, of half a cell, and of one and a half.
@pytest.mark.parametrize(("window", "factor"), [(8, 2), (8, 8), (4, 8), (6, 4), (2, 4)])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (4, 8)])
def test_cells_of_a_coarse_stage_are_those_of_the_upsampled_map(window, factor, rows, columns):
    size = (rows * window, columns * window)
    feature_map = torch.randn(2, 5, size[0] // factor, size[1] // factor, dtype=torch.float64)
    upsampled = torch.nn.functional.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)
    want = cells_of(upsampled, size, window).values
    got = cells_of(feature_map, size, window).to(torch.float64)
    torch.testing.assert_close(torch.einsum("nps,bnsc->bnpc", got.weights, got.values), want)
    # What is asked of the windows' cells without ever making them.
    torch.testing.assert_close(got.squares(), want.square().sum(-1))
    torch.testing.assert_close(got.interpolate(got.values.sum(-1)), want.sum(-1))
    shares = torch.rand(want.shape[:3], dtype=torch.float64)
    torch.testing.assert_close(got.sum(shares), (shares[..., None] * want).sum(2))
    # No more than what the window touches.
    assert got.values.shape[2] <= (-(-(window - 1) // factor) + 2) ** 2


@pytest.mark.parametrize("size", [(7, 6), (6, 8)])
def test_cells_that_the_windows_do_not_divide_are_refused(size):
    with pytest.raises(ValueError, match=f"got {size[0]}x{size[1]} cells, want multiples of the 3 of a window"):
        cells_of(torch.zeros(1, 1, *size), size, 3)


def test_a_token_looks_into_its_own_window_only():
    attention, inputs = make_attention(E), make_inputs(E)
    before = folded(attention, **inputs).detach()
    changed = {name: x.detach().clone() for name, x in inputs.items()}
    for x in changed.values():
        x[1, 4] += 1.0
    moved = (folded(attention, **changed).detach() - before).abs().amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, 4]]


# ------------------------------------------------------------------------------------------------------------- depths


def test_depth_bins_are_equal_in_log_depth_over_the_range(tiny_config):
    config = tiny_config(num_depth_bins=12, depth_min_virtual=0.5, depth_max_virtual=60.0)
    edges, centers = depth_bin_edges(config), depth_bin_centers(config)
    assert edges.dtype == centers.dtype == torch.float32
    assert edges.shape == (13,) and centers.shape == (12,)
    depths = edges.double().exp()
    assert depths[0].item() == pytest.approx(0.5) and depths[-1].item() == pytest.approx(60)
    np.testing.assert_allclose(depths[1:] / depths[:-1], (60 / 0.5) ** (1 / 12), rtol=1e-5)
    # A centre is the geometric mean of its edges.
    np.testing.assert_allclose(centers.double().exp(), (depths[1:] * depths[:-1]).sqrt(), rtol=1e-5)


def test_default_depth_bins_are_ten_percent_wide():
    from llmi3d import LLMI3DConfig

    edges = depth_bin_edges(LLMI3DConfig()).exp()
    np.testing.assert_allclose(edges[1:] / edges[:-1], 1.1, atol=1e-3)


def stages(batch: int = 2, seed: int = 0) -> list[torch.Tensor]:
    """Stages of the tiny CNN at 64 pixels: 16x16, 8x8, 4x4 and 2x2 cells."""
    generator = torch.Generator().manual_seed(seed)
    sides = (16, 8, 4, 2)
    return [torch.randn(batch, c, s, s, generator=generator) for c, s in zip(STAGE_CHANNELS, sides, strict=True)]


@pytest.mark.parametrize("stage", range(4))
def test_depth_map_lies_at_the_chosen_stage(tiny_config, stage):
    logits = DepthPredictor(tiny_config(depth_map_stage=stage), STAGE_CHANNELS)(stages())[1]
    assert logits.shape == (2, 10 + 1, 16 >> stage, 16 >> stage)


# ----------------------------------------------------------------------------------------------------- mining at large


def randomised_mining(config) -> FeatureMining:
    torch.manual_seed(0)
    mining = FeatureMining(config, STAGE_CHANNELS)
    with torch.no_grad():
        for parameter in mining.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return mining


@pytest.mark.parametrize("depth_branch", [True, False])
def test_mining_is_plain_attention_to_upsampled_stages(tiny_config, depth_branch):
    config = tiny_config(depth_branch=depth_branch, depth_from_map=depth_branch)
    mining, given, tokens = randomised_mining(config).double(), [x.double() for x in stages()], torch.randn(2, 16, 24)
    tokens, size = tokens.double(), (16, 16)

    def upsampled(one):
        return torch.nn.functional.interpolate(one, size=size, mode="bilinear", align_corners=False)

    cells = cells_of(torch.cat([upsampled(stage) for stage in given], 1), size, 4).values
    depth = None
    if depth_branch:
        shares = mining.depth_predictor(given)[1].softmax(1)
        embedded = torch.einsum("bdhw,de->behw", shares, mining.depth_embedding.weight)
        depth = cells_of(upsampled(embedded), size, 4).values
    want = tokens + mining.attention.reference_forward(tokens, cells, depth)
    # The distribution over depths is float32 in any case.
    torch.testing.assert_close(mining(tokens, given).tokens, want, rtol=1e-5, atol=1e-5)


def test_the_depth_predictor_merges_the_stages_resized_to_one(tiny_config):
    predictor, seen = DepthPredictor(tiny_config(depth_map_stage=2), STAGE_CHANNELS), {}
    predictor.convs.register_forward_pre_hook(lambda _, inputs: seen.update(merged=inputs[0]))
    predictor(stages())
    resized = [
        torch.nn.functional.interpolate(lateral(stage), size=(4, 4), mode="bilinear", align_corners=False)
        for lateral, stage in zip(predictor.laterals, stages(), strict=True)
    ]
    torch.testing.assert_close(seen["merged"], sum(resized))


def test_mining_enriches_tokens_by_the_expected_depth_embedding(tiny_config, monkeypatch):
    config = tiny_config()
    mining = randomised_mining(config)
    seen = {}
    monkeypatch.setattr(
        mining.attention, "forward", lambda t, cells, depth: seen.update(depth=depth) or torch.zeros_like(t)
    )
    # Certain of bin 7 everywhere: the depth embedding of every cell is that bin's.
    logits = torch.full((2, 11, 8, 8), -50.0)
    logits[:, 7] = 50.0
    monkeypatch.setattr(mining.depth_predictor, "forward", lambda stages: (None, logits))
    mining(torch.randn(2, 16, 24), stages())
    want = mining.depth_embedding.weight[7].expand(seen["depth"].values.shape)
    torch.testing.assert_close(seen["depth"].values, want)
    torch.testing.assert_close(seen["depth"].weights.sum(-1), torch.ones(16, 16))


@pytest.mark.parametrize("depth_branch", [True, False])
def test_mining_is_local_but_for_what_the_cnn_and_the_resizing_spread(tiny_config, depth_branch):
    """Without depth branch a cell of the finest stage reaches one token alone."""
    config = tiny_config(depth_branch=depth_branch, depth_from_map=depth_branch)
    mining, given, tokens = randomised_mining(config), stages(1), torch.randn(1, 16, 24)
    changed = [x.clone() for x in given]
    changed[0][:, :, 5, 10] += 3.0  # window row 1, column 2
    with torch.no_grad():
        moved = (mining(tokens, changed).tokens - mining(tokens, given).tokens).abs().amax(-1)[0] > 1e-6
    assert moved[1 * 4 + 2]
    # The depth predictor looks around (3x3 convolutions, group norm), so that all tokens may feel it.
    assert moved.sum() == 1 or depth_branch


def test_a_new_mining_module_leaves_the_tokens_unchanged(tiny_config):
    from llmi3d import LLMI3DForConditionalGeneration

    model = LLMI3DForConditionalGeneration(tiny_config())
    mining, tokens = model.model.feature_mining, torch.randn(2, 16, 24)
    assert torch.equal(mining(tokens, stages()).tokens, tokens)
    # It can leave that state: the value path gets a gradient from the first step on.
    mining(tokens, stages()).tokens.square().sum().backward()
    assert mining.attention.value_proj.weight.grad.any() and mining.attention.depth_value_proj.weight.grad.any()


def test_mining_in_bfloat16_is_close_to_float32(tiny_config):
    mining, given, tokens = randomised_mining(tiny_config()), stages(), torch.randn(2, 16, 24)
    with torch.no_grad():
        want = mining(tokens, given)
        got = mining.bfloat16()(tokens.bfloat16(), [x.bfloat16() for x in given])
    assert got.tokens.dtype == torch.bfloat16
    assert relative(got.tokens, want.tokens) < 0.05
    assert relative(got.depth_logits, want.depth_logits) < 0.05
