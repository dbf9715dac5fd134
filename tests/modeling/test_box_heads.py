# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The 3D heads, the sources of depth and their fusion against plain numpy.

Shapes: B samples, Q query tokens, C channels, D depth bins.
"""

import math

import numpy as np
import pytest
import torch

from llmi3d import LLMI3DForConditionalGeneration
from llmi3d.box_heads_llmi3d import Box3DHead, fuse_depths, gather_queries, read_depth_map
from llmi3d.feature_mining_llmi3d import depth_bin_centers

B, Q, C, D = 2, 3, 32, 10
CANVAS = 64  # high_res_image_size of the tiny model


def make_head(config) -> Box3DHead:
    torch.manual_seed(0)
    head = Box3DHead(config)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return head


def make_inputs(dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "states": torch.randn(B, Q, C, generator=generator).to(dtype),
        "mask": torch.ones(B, Q, dtype=torch.bool),
        "depth_logits": (2 * torch.randn(B, D + 1, 8, 8, generator=generator)).to(dtype),
    }


# ------------------------------------------------------------------------------------------------------------- fusion


@pytest.mark.parametrize("available", [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_fusion_is_the_inverse_variance_mean(available):
    rng = np.random.default_rng(0)
    log_depths, log_scales = rng.normal(2, 1, (4, 3)), rng.uniform(-5, 3, (4, 3))
    precision = np.exp(log_scales) ** -2.0 * np.array(available)
    shares = precision / precision.sum(-1, keepdims=True)
    got, weights = fuse_depths(torch.tensor(log_depths), torch.tensor(log_scales), torch.tensor(available).bool())
    np.testing.assert_allclose(weights, shares, atol=1e-12)
    np.testing.assert_allclose(got, (shares * log_depths).sum(-1))
    np.testing.assert_allclose(weights.sum(-1), 1)
    assert (weights[:, ~torch.tensor(available).bool()] == 0).all()


def test_fusion_gives_finite_gradients_and_none_to_a_source_that_is_off():
    log_depths = torch.randn(5, 3, requires_grad=True)
    log_scales = torch.tensor([-7.0, 0.0, 4.0]).repeat(5, 1).requires_grad_()
    fused, _ = fuse_depths(log_depths, log_scales, torch.tensor([True, True, False]))
    fused.sum().backward()
    for gradient in (log_depths.grad, log_scales.grad):
        assert torch.isfinite(gradient).all() and gradient[:, 0].any() and not gradient[:, 2].any()


SWITCHES = [(r, h, m) for r in (True, False) for h in (True, False) for m in (True, False) if r or h or m]


@pytest.mark.parametrize("switches", SWITCHES)
def test_each_switch_turns_its_own_source_off(tiny_config, switches):
    names = ("depth_from_regression", "depth_from_height", "depth_from_map")
    out = make_head(tiny_config(**dict(zip(names, switches, strict=True))))(**make_inputs())
    assert ((out.depth_weights > 0) == torch.tensor(switches)).all()
    torch.testing.assert_close(out.depth_weights.sum(-1), torch.ones(B, Q))
    fused = (out.depth_weights * out.log_depths).sum(-1).exp()
    torch.testing.assert_close(out.depth_virtual, fused)
    if sum(switches) == 1:
        torch.testing.assert_close(out.depth_virtual.log(), out.log_depths[..., switches.index(True)])


def test_without_a_depth_map_its_source_gets_no_weight(tiny_config):
    inputs = {**make_inputs(), "depth_logits": None}
    out = make_head(tiny_config(depth_branch=False, depth_from_map=False))(**inputs)
    assert (out.depth_weights[..., 2] == 0).all()
    out = make_head(tiny_config())(**inputs)
    assert (out.depth_weights[..., 2] == 0).all() and torch.isfinite(out.depth_virtual).all()


def test_without_a_depth_map_a_head_that_reads_nothing_else_says_so(tiny_config):
    head = make_head(tiny_config(depth_from_regression=False, depth_from_height=False))
    with pytest.raises(
        ValueError, match="depth_logits: got none, but the configuration reads depth from the depth map alone"
    ):
        head(**{**make_inputs(), "depth_logits": None})


def test_depth_from_height_is_the_pinhole_cameras(tiny_config):
    config = tiny_config(virtual_focal_length=80.0)
    out = make_head(config)(**make_inputs())
    height_px = (out.box_2d_px[..., 3] - out.box_2d_px[..., 1]).detach().numpy()
    height_m = out.size[..., 1].detach().numpy()
    np.testing.assert_allclose(out.log_depths[..., 1].exp().detach(), 80.0 * height_m / height_px, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- depth map


@pytest.mark.parametrize(("row", "column", "bin_"), [(0, 0, 0), (2, 5, 3), (7, 7, 9), (4, 0, 6)])
def test_a_one_hot_depth_map_is_read_where_its_cell_lies(tiny_config, row, column, bin_):
    """8x8 cells over 64 pixels: cell (row, column) has its middle at pixel (8 column + 4, 8 row + 4)."""
    centers = depth_bin_centers(tiny_config())
    elsewhere = (bin_ + 5) % D
    logits = torch.zeros(1, D + 1, 8, 8)
    logits[:, elsewhere] = 60.0
    logits[0, :, row, column] = 0.0
    logits[0, bin_, row, column] = 60.0
    points = torch.tensor([[[8.0 * column + 4, 8.0 * row + 4], [8.0 * ((column + 3) % 8) + 4, 8.0 * row + 4]]])
    got = read_depth_map(logits, points, centers, CANVAS, 8)
    torch.testing.assert_close(got[0], centers[[bin_, elsewhere]])


def test_the_depth_map_is_read_bilinearly_in_logits(tiny_config):
    """Midway between two cells, by a loop over the bins."""
    centers = depth_bin_centers(tiny_config())
    logits = torch.randn(1, D + 1, 8, 8)
    got = read_depth_map(logits, torch.tensor([[[24.0, 36.0]]]), centers, CANVAS, 8)  # between columns 2 and 3, row 4
    mixed = (logits[0, :D, 4, 2] + logits[0, :D, 4, 3]).numpy() / 2
    shares = np.exp(mixed) / np.exp(mixed).sum()
    assert got.item() == pytest.approx(
        sum(share * c for share, c in zip(shares, centers.tolist(), strict=True)), abs=1e-5
    )


def test_the_depth_map_beyond_the_picture_is_its_border(tiny_config):
    centers, logits = depth_bin_centers(tiny_config()), torch.randn(1, D + 1, 8, 8)
    outside = torch.tensor([[[-500.0, 20.0], [30.0, 9000.0], [0.0, 0.0]]])
    border = torch.tensor([[[4.0, 20.0], [30.0, 60.0], [4.0, 4.0]]])
    got, want = (read_depth_map(logits, points, centers, CANVAS, 8) for points in (outside, border))
    torch.testing.assert_close(got, want)


def test_the_background_bin_has_no_depth(tiny_config):
    centers, logits = depth_bin_centers(tiny_config()), torch.randn(1, D + 1, 8, 8)
    points = torch.tensor([[[20.0, 30.0]]])
    before = read_depth_map(logits, points, centers, CANVAS, 8)
    logits[:, -1] = 90.0
    assert torch.equal(read_depth_map(logits, points, centers, CANVAS, 8), before)


def test_the_map_does_not_pull_at_the_centre_that_reads_it(tiny_config):
    head, inputs = make_head(tiny_config()), make_inputs()
    inputs["depth_logits"].requires_grad_()
    head(**inputs).log_depths[..., 2].sum().backward()
    assert inputs["depth_logits"].grad.any()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in head.parameters())


# ------------------------------------------------------------------------------------------------------------ queries


def test_gather_queries_keeps_order_and_pads():
    states = torch.arange(3 * 6 * 2.0).view(3, 6, 2)
    is_query = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]]).bool()
    got, mask = gather_queries(states, is_query)
    assert mask.tolist() == [[True, True, True], [False, False, False], [True, True, False]]
    for b in range(3):
        want = [states[b, t] for t in range(6) if is_query[b, t]]
        for q, state in enumerate(want):
            assert torch.equal(got[b, q], state)


def test_gather_queries_without_any_query_keeps_one_masked_row_in_the_graph():
    states = torch.randn(2, 5, 4, requires_grad=True)
    got, mask = gather_queries(states, torch.zeros(2, 5, dtype=torch.bool))
    assert got.shape == (2, 1, 4) and mask.tolist() == [[False], [False]]
    got.sum().backward()
    assert states.grad is not None


# -------------------------------------------------------------------------------------------------------------- heads


def test_the_2d_box_encloses_the_projected_centre(tiny_config):
    out = make_head(tiny_config())(**{**make_inputs(), "states": 20 * torch.randn(B, Q, C)})
    assert (out.box_2d_px[..., :2] < out.center_2d_px).all() and (out.center_2d_px < out.box_2d_px[..., 2:]).all()


def test_a_new_head_starts_at_a_sensible_answer(tiny_config):
    """In the middle of the picture, a fifth of its side, a metre cube, upright, at the middle of the depth range."""
    config = tiny_config()
    head = LLMI3DForConditionalGeneration(config).box_head
    with torch.no_grad():
        for layer in head.outputs.values():
            layer.weight.zero_()  # what the small random weights add
        out = head(**make_inputs())
    torch.testing.assert_close(out.center_2d_px, torch.full((B, Q, 2), CANVAS / 2))
    fifth = torch.tensor([-1.0, -1.0, 1.0, 1.0]) * CANVAS / 10
    torch.testing.assert_close(out.box_2d_px, (CANVAS / 2 + fifth).expand(B, Q, 4))
    torch.testing.assert_close(out.size, torch.ones(B, Q, 3))
    torch.testing.assert_close(out.rotation_6d, torch.tensor([1.0, 0, 0, 0, 1, 0]).expand(B, Q, 6))
    middle = math.log(math.sqrt(config.depth_min_virtual * config.depth_max_virtual))
    torch.testing.assert_close(out.log_depths[..., 0], torch.full((B, Q), middle))
    torch.testing.assert_close(out.score_logits.sigmoid(), torch.full((B, Q), 0.5))


def test_wild_states_give_finite_answers_and_gradients(tiny_config):
    head, inputs = make_head(tiny_config()), make_inputs()
    with torch.no_grad():
        for layer in head.outputs.values():
            layer.weight.mul_(1000)
    out = head(**inputs)
    for name, value in out.items():
        assert torch.isfinite(value).all(), name
    sum(out[name].sum() for name in out if name != "mask").backward()
    for name, parameter in head.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_shapes_are_as_documented(tiny_config):
    out = make_head(tiny_config())(**make_inputs())
    trailing = {
        "mask": (),
        "center_2d_px": (2,),
        "box_2d_px": (4,),
        "log_depths": (3,),
        "depth_log_scales": (3,),
        "depth_weights": (3,),
        "depth_virtual": (),
        "size": (3,),
        "rotation_6d": (6,),
        "score_logits": (),
    }
    assert {name: tuple(value.shape) for name, value in out.items()} == {k: (B, Q, *v) for k, v in trailing.items()}


# ---------------------------------------------------------------------------------------------------------- precision


def assert_float32(boxes):
    for name, value in boxes.items():
        assert value.dtype == (torch.bool if name == "mask" else torch.float32), name


def test_half_precision_states_are_decoded_in_float32(tiny_config):
    head, inputs = make_head(tiny_config()), make_inputs(torch.bfloat16)
    want = head(inputs["states"].float(), inputs["mask"], inputs["depth_logits"].float())
    got = head(**inputs)
    assert_float32(got)
    for name in got:
        assert torch.equal(got[name], want[name]), name


def test_autocast_does_not_reach_the_head(tiny_config):
    head, inputs = make_head(tiny_config()), make_inputs()
    want = head(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = head(**inputs)
    assert_float32(got)
    for name in got:
        assert torch.equal(got[name], want[name]), name


def test_the_head_of_a_bfloat16_checkpoint_stays_float32(new_tiny_model, tiny_inputs, tmp_path):
    model = new_tiny_model()
    model.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    for (name, got), want in zip(loaded.box_head.named_parameters(), model.box_head.parameters(), strict=True):
        assert got.dtype == torch.float32, name
        assert torch.equal(got, want), name
    assert_float32(loaded(**tiny_inputs()).boxes_3d)
