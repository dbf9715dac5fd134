# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The 3D criterion."""

import math
from dataclasses import replace

import pytest
import torch

from llmi3d import LLMI3DConfig
from llmi3d.box_heads_llmi3d import Box3DHeadOutput
from llmi3d.processing.geometry_llmi3d import box_corners, encode_boxes, matrix_to_rotation_6d, yaw_to_matrix
from llmi3d.training.losses import (
    Box3DCriterion,
    Box3DLossWeights,
    Box3DTargets,
    corner_distance,
    depth_map_loss,
    paint_depth_bins,
    places_inside,
    pointing_loss,
)

K = torch.tensor([[60.0, 0.0, 30.0], [0.0, 62.0, 33.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def config():
    return LLMI3DConfig.from_pretrained("model_cards/llmi3d-tiny-random")


def make_targets(counts=(2, 1), seed=0) -> Box3DTargets:
    generator = torch.Generator().manual_seed(seed)
    batch, queries = len(counts), max(max(counts), 1)

    def draw(*shape):
        return torch.rand(batch, queries, *shape, generator=generator)

    center = torch.stack((draw() - 0.5, draw() - 0.5, 3 + 4 * draw()), -1)
    boxes_2d = torch.tensor([[[4.0, 4, 20, 30], [10, 10, 40, 50]]]).expand(batch, -1, -1)
    return Box3DTargets(
        mask=torch.arange(queries) < torch.tensor(counts)[:, None],
        center=center,
        size=0.5 + draw(3),
        rotation=yaw_to_matrix(6 * draw()),
        symmetric=torch.zeros(batch, queries, dtype=torch.bool),
        intrinsics=K.expand(batch, 3, 3),
        painted_boxes_2d_px=boxes_2d,
        painted_depths_virtual=torch.tensor([[9.0, 3.0]]).expand(batch, 2),
        painted_mask=torch.ones(batch, 2, dtype=torch.bool),
    )


def perfect(targets: Box3DTargets, config, **changes) -> Box3DHeadOutput:
    """What a network that knows the truth answers, with some outputs replaced."""
    truth = encode_boxes(
        targets.center, targets.size, targets.rotation, targets.intrinsics[:, None], config.virtual_focal_length
    )
    shape = targets.mask.shape
    outputs = {
        "mask": targets.mask,
        "center_2d_px": truth.center_2d_px,
        "box_2d_px": truth.box_2d_px,
        "log_depths": truth.depth_virtual.log()[..., None].expand(*shape, 3),
        "depth_log_scales": torch.zeros(*shape, 3),
        "depth_weights": torch.full((*shape, 3), 1 / 3),
        "depth_virtual": truth.depth_virtual,
        "size": targets.size,
        "rotation_6d": matrix_to_rotation_6d(truth.rotation_allocentric),
        "score_logits": torch.full(shape, 20.0),
        **changes,
    }
    return Box3DHeadOutput(
        **{key: value.clone().requires_grad_(value.is_floating_point()) for key, value in outputs.items()}
    )


# -------------------------------------------------------------------------------------------------------- whole loss


def test_the_truth_costs_nothing(config):
    targets = make_targets()
    loss = Box3DCriterion(config)(perfect(targets, config), None, targets)
    assert loss.iou == pytest.approx(torch.ones(3), abs=1e-4)
    for name, value in loss.components.items():
        assert value == pytest.approx(0, abs=2e-4), name


@pytest.mark.parametrize(
    ("output", "component", "moved"),
    [
        ("center_2d_px", "center", lambda x: x + 2),
        ("depth_virtual", "depth", lambda x: x * 1.2),
        ("size", "size", lambda x: x * 1.2),
        ("rotation_6d", "rotation", lambda x: x.flip(-1)),
        ("box_2d_px", "box_2d", lambda x: x + 3),
        ("log_depths", "depth_uncertainty", lambda x: x + 0.3),
        ("score_logits", "score", lambda x: -x),
    ],
)
def test_each_output_is_judged_by_its_own_component(config, output, component, moved):
    """Disentangled: a wrong output raises its component and the joint one, and no other."""
    targets = make_targets()
    wrong = {output: moved(getattr(perfect(targets, config), output).detach())}
    loss = Box3DCriterion(config)(perfect(targets, config, **wrong), None, targets)
    raised = {name for name, value in loss.components.items() if value > 0.01}
    judged_by_iou = {"joint", "score"} if component in ("center", "depth", "size", "rotation") else set()
    assert component in raised
    assert raised <= {component} | judged_by_iou


def test_weights_scale_components(config):
    targets = make_targets()
    wrong = {"depth_virtual": 2 * perfect(targets, config).depth_virtual.detach()}
    plain = Box3DCriterion(config)(perfect(targets, config, **wrong), None, targets)
    scaled = Box3DCriterion(config, Box3DLossWeights(depth=3.0, joint=0.0))(
        perfect(targets, config, **wrong), None, targets
    )
    assert scaled.components["depth"] == pytest.approx(3 * plain.components["depth"])
    assert scaled.components["joint"] == 0


def test_padding_does_not_count(config):
    """A batch of two samples is the sum of the samples, whatever stands in the padding."""
    targets = make_targets((2, 1))
    outputs = perfect(targets, config, size=targets.size * 1.3)
    together = Box3DCriterion(config)(outputs, None, targets, num_boxes=3)
    parts = []
    for index, count in enumerate((2, 1)):
        one = Box3DTargets(**{k: v[index : index + 1] for k, v in vars(targets).items() if v is not None})
        one_outputs = Box3DHeadOutput(**{k: v[index : index + 1] for k, v in outputs.items()})
        parts.append(Box3DCriterion(config)(one_outputs, None, one, num_boxes=3).total)
        assert one.mask.sum() == count
    assert together.total.item() == pytest.approx(sum(parts).item(), rel=1e-5)


def test_no_boxes_give_zero_and_keep_the_heads_in_the_graph(config):
    targets = make_targets((0, 0))
    outputs = perfect(targets, config)
    loss = Box3DCriterion(config)(outputs, None, targets)
    loss.total.backward()
    assert loss.total == 0
    assert outputs.size.grad is not None


def test_other_numbers_of_queries_than_boxes_are_refused(config):
    targets = make_targets((2, 1))
    outputs = perfect(targets, config)
    outputs.mask = torch.tensor([[True, False], [True, False]])
    with pytest.raises(ValueError, match=r"targets: got \[2, 1\] boxes for \[1, 1\] query tokens"):
        Box3DCriterion(config)(outputs, None, targets)


@pytest.mark.parametrize("case", ["perfect", "edge-on", "outside the picture", "behind the near plane", "absurd"])
def test_gradients_are_finite(config, case):
    targets = make_targets((1, 1))
    if case == "edge-on":  # seen exactly along one of its faces
        targets.center[..., :2] = 0
        targets.rotation = torch.eye(3).expand(2, 1, 3, 3).clone()
    elif case == "outside the picture":
        targets.center[..., 0] = 40
    elif case == "behind the near plane":
        targets.center[..., 2] = 0.3
        targets.size[:] = 3
    changes = {}
    if case == "absurd":
        changes = {
            "depth_virtual": torch.full((2, 1), 1e5),
            "size": torch.full((2, 1, 3), 1e-3),
            "rotation_6d": torch.zeros(2, 1, 6),
            "center_2d_px": torch.full((2, 1, 2), -1e4),
        }
    outputs = perfect(targets, config, **changes)
    depth_logits = torch.zeros(2, config.num_depth_bins + 1, 8, 8, requires_grad=True)
    loss = Box3DCriterion(config)(outputs, depth_logits, targets)
    loss.total.backward()
    assert loss.total.isfinite()
    for name, value in outputs.items():
        if value.is_floating_point():
            assert value.grad is None or value.grad.isfinite().all(), name
    assert depth_logits.grad.isfinite().all()


def test_gradient_descent_on_the_outputs_finds_the_boxes(config):
    targets = make_targets((2, 2), seed=1)
    start = perfect(targets, config)
    outputs = Box3DHeadOutput(
        **{
            **start,
            "center_2d_px": (start.center_2d_px.detach() + 8).requires_grad_(),
            "size": (start.size.detach() * 1.5).requires_grad_(),
            "rotation_6d": torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(2, 2, 1).requires_grad_(),
        }
    )
    free = [outputs.center_2d_px, outputs.size, outputs.rotation_6d]
    optimizer = torch.optim.Adam(free, lr=0.05)
    criterion = Box3DCriterion(config, Box3DLossWeights(score=0.0))
    for _ in range(400):
        optimizer.zero_grad()
        loss = criterion(outputs, None, targets)
        loss.total.backward()
        optimizer.step()
    assert loss.iou.min() > 0.8


# ----------------------------------------------------------------------------------------------------------- pieces


def test_corner_distance_of_a_shifted_box():
    center, size, rotation = torch.zeros(1, 3), torch.tensor([[3.0, 4.0, 12.0]]), torch.eye(3)[None]  # diagonal 13
    shifted = box_corners(center + torch.tensor([1.3, 0.0, 2.6]), size, rotation)
    distance = corner_distance(shifted, box_corners(center, size, rotation), torch.tensor([False]))
    assert distance == pytest.approx(math.log1p((1.3 + 2.6) / 13))


def test_symmetric_boxes_may_be_turned():
    size = torch.tensor([[2.0, 1.0, 2.0]])
    corners, turned = (
        box_corners(torch.zeros(1, 3), size, yaw_to_matrix(torch.tensor([a]))) for a in (0.0, math.pi / 2)
    )
    assert corner_distance(turned, corners, torch.tensor([True])) == pytest.approx(0, abs=1e-6)
    assert corner_distance(turned, corners, torch.tensor([False])) > 0.3


def test_painting_near_over_far_on_background(config):
    boxes = torch.tensor([[[0.0, 0.0, 40.0, 40.0], [20.0, 20.0, 64.0, 64.0], [33.0, 1.0, 34.0, 2.0]]])
    depths = torch.tensor([[10.0, 2.0, 1.0]])
    painted = paint_depth_bins(boxes, depths, torch.tensor([[True, True, True]]), (8, 8), config)[0]

    def bin_of(depth):
        low, high = math.log(config.depth_min_virtual), math.log(config.depth_max_virtual)
        return int((math.log(depth) - low) / (high - low) * config.num_depth_bins)

    assert painted[0, 0] == bin_of(10)
    assert painted[3, 3] == bin_of(2)  # both cover it: the nearer one stands before the other
    assert painted[7, 0] == config.num_depth_bins  # background
    assert painted[0, 4] == bin_of(1)  # smaller than a cell and off its middle, and painted all the same
    padded = paint_depth_bins(boxes, depths, torch.tensor([[True, False, False]]), (8, 8), config)[0]
    assert padded[7, 7] == config.num_depth_bins


def test_depths_out_of_range_take_the_outermost_bin(config):
    boxes = torch.tensor([[[0.0, 0.0, 64.0, 64.0]]])
    for depth, wanted in ((1e-3, 0), (1e4, config.num_depth_bins - 1)):
        painted = paint_depth_bins(boxes, torch.tensor([[depth]]), torch.tensor([[True]]), (2, 2), config)
        assert (painted == wanted).all()


def test_depth_map_loss_weighs_objects_and_background_alike(config):
    bins = torch.full((1, 10, 10), config.num_depth_bins)
    bins[0, 0, 0] = 3
    uniform = torch.zeros(1, config.num_depth_bins + 1, 10, 10)
    probability = 1 / (config.num_depth_bins + 1)
    wanted = 2 * (1 - probability) ** 2 * -math.log(probability)
    assert depth_map_loss(uniform, bins) == pytest.approx(wanted, rel=1e-5)
    sure = 50 * torch.nn.functional.one_hot(bins, config.num_depth_bins + 1).permute(0, 3, 1, 2).float()
    assert depth_map_loss(sure, bins) == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ pointing


def test_pointing_is_judged_by_the_probability_on_the_object():
    probs = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]).repeat(3, 1, 1)
    places = torch.zeros(3, 2, 2, dtype=torch.bool)
    places[0, 1] = True  # the lower row
    places[1, 0, 0] = True
    loss = pointing_loss(probs.log(), places)
    torch.testing.assert_close(loss, torch.tensor([-math.log(0.7), -math.log(0.1), 0.0]))  # nowhere: no loss


def test_places_inside_a_box_are_those_whose_middle_it_holds():
    boxes = torch.tensor([[[10.0, 0.0, 33.0, 15.0], [17.0, 17.0, 18.0, 18.0], [-50.0, -50.0, -40.0, -40.0]]])
    got = places_inside(boxes, (4, 4), 16, 64)
    want = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    want[0, 0, 0, 1] = True  # middles (8, 8), (24, 8), (40, 8)
    want[0, 1, 1, 1] = True  # smaller than a place
    assert torch.equal(got, want)
    cropped = places_inside(boxes, (2, 4), 16, 64)  # the middle rows of the square
    assert torch.equal(cropped[0, 1], want[0, 1, 1:3])
    assert not cropped[0, 0].any()


def test_the_2d_box_stands_in_for_unknown_places(config):
    targets = make_targets()
    rows = config.high_res_image_size // int(config.place_px)
    probs = torch.full((*targets.mask.shape, rows, rows), 1 / rows**2)
    outputs = perfect(targets, config, pointing_log_probs=probs.log())

    def loss(places):
        return Box3DCriterion(config)(outputs, None, replace(targets, pointing_places=places)).components["pointing"]

    box = encode_boxes(*(getattr(targets, name) for name in ("center", "size", "rotation")), K, 64.0).box_2d_px
    inside = places_inside(box.clamp(0, config.high_res_image_size), (rows, rows), config.place_px, 64)
    shares = inside[targets.mask].flatten(1).float().mean(1)
    assert loss(None).item() == pytest.approx(-shares.log().mean().item(), rel=1e-5)
    assert loss(torch.zeros_like(inside)) == 0  # unknown
    assert loss(torch.ones_like(inside)).item() == pytest.approx(0, abs=1e-5)
