# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Plans against what real steps of small models save, compute and keep."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.lora import lora_config
from llmi3d.training.plan import DEVICES, GIB, count_step, plan_inference, plan_training
from llmi3d.training.preparation import sharding_of
from llmi3d.training.trainable import make_trainable

CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.fixture
def config(chain):
    return chain[0].config


def plan(config, **settings):
    return plan_training(config, **{"dtype": torch.float32, "overhead": 0.0, **settings})


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_real_step_saves_and_computes_as_much(new_chain, row, tuning):
    model, processor = new_chain
    config = model.config
    model.set_attn_implementation("sdpa")
    inputs = LLMI3DDataCollator(processor)([row])
    inputs.pop("targets_3d")
    text_tokens = inputs["input_ids"].shape[1] - config.image_seq_length
    queries = int((inputs["input_ids"] == config.box_3d_token_id).sum())
    parts = ("feature_mining", "box_head")
    with torch.device("meta"):
        planned = LLMI3DForConditionalGeneration(config)
        if tuning == "lora":
            planned = get_peft_model(planned, lora_config(planned, rank=4, train=parts))
    expected = count_step(make_trainable(planned, parts, full=tuning == "full"), 1, text_tokens, queries)

    if tuning == "lora":
        model = get_peft_model(model, lora_config(model, rank=4, train=parts))
    base = model.get_base_model() if tuning == "lora" else model
    for tower in (base.model.vision_tower, base.model.high_res_tower):
        tower.requires_grad_(False)
    weights = {one.untyped_storage()._cdata for one in model.parameters()}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(**inputs)
            boxes = [one for one in outputs.boxes_3d.values() if one is not None and one.is_floating_point()]
            loss = outputs.loss + outputs.depth_logits.sum() + sum(one.sum() for one in boxes)
        loss.backward()
    size = sum(one.untyped_storage().nbytes() for key, one in saved.items() if key not in weights)
    assert expected.saved == pytest.approx(size, rel=0.1)
    assert expected.operations == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("tuning", ["lora", "full", "new_parts"])
def test_weights_gradients_and_moments_are_those_of_adamw(new_chain, tuning):
    model = new_chain[0]
    planned = plan(model.config, tuning=tuning, rank=4)
    if tuning == "lora":
        model = get_peft_model(model, lora_config(model, rank=4))
    base = model.get_base_model() if tuning == "lora" else model
    if tuning == "new_parts":
        model.requires_grad_(False)
        for part in (base.model.feature_mining, base.model.multi_modal_projector, base.box_head):
            part.requires_grad_(True)
    for tower in (base.model.vision_tower, base.model.high_res_tower):
        tower.requires_grad_(False)
    trained = [one for one in model.parameters() if one.requires_grad]
    for one in trained:
        one.grad = torch.zeros_like(one)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert planned.trained_parameters == sum(one.numel() for one in trained)
    assert planned.weights * GIB == pytest.approx(sum(one.nbytes for one in model.parameters()))
    assert planned.gradients * GIB == pytest.approx(sum(one.grad.nbytes for one in trained))
    assert planned.optimizer * GIB == pytest.approx(sum(one.nbytes for one in moments))


def test_checkpointing_keeps_less_and_computes_more(config):
    plain, checkpointed = plan(config, tuning="full"), plan(config, tuning="full", gradient_checkpointing=True)
    assert checkpointed.activations < plain.activations
    assert 1 < checkpointed.tera_operations / plain.tera_operations < 4 / 3


def test_activations_grow_with_the_batch_and_weights_do_not(config):
    one, four = plan(config), plan(config, batch_size=4)
    # Except the interpolation in mining, which all images share.
    assert 3.8 * one.activations < four.activations <= 4 * one.activations
    assert four.weights == one.weights


def test_sharding_divides_what_it_shards(config):
    alone = plan(config, tuning="full")
    zero2 = plan(config, tuning="full", sharding="zero2", devices=4)
    fsdp = plan(config, tuning="full", sharding="fsdp", devices=4)
    assert zero2.weights == alone.weights
    for sharded in (zero2, fsdp):
        assert sharded.optimizer == pytest.approx(alone.optimizer / 4)
        assert sharded.gradients == pytest.approx(alone.gradients / 4)
    # One layer is whole at a time.
    assert alone.weights / 4 < fsdp.weights < alone.weights


@pytest.mark.parametrize(
    ("asked", "launched", "sharding"),
    [
        ({}, "false", "none"),
        ({}, "true", "fsdp"),
        ({"fsdp": True}, "false", "fsdp"),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "false", "fsdp"),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, "false", "zero2"),
    ],
)
def test_sharding_is_what_fields_or_the_launcher_ask_for(monkeypatch, asked, launched, sharding):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", launched)
    assert sharding_of(SimpleNamespace(**{"fsdp": False, "deepspeed_plugin": None, **asked})) == sharding


def test_the_sum_decides_whether_it_fits(config):
    found = plan_training(config, device="l40s", overhead=0.5)
    parts = found.weights + found.gradients + found.optimizer + found.activations
    assert found.overhead == pytest.approx(parts / 2)
    assert found.total == pytest.approx(1.5 * parts)
    assert found.fits and found.memory == DEVICES["l40s"][0]
    assert f"{found.total:.2f}" in found.to_markdown() and "fits 48 GiB" in found.to_markdown()


def test_time_is_operations_over_achieved_speed(config):
    fast, slow = (plan_training(config, device="h100", utilisation=share) for share in (0.5, 0.25))
    assert slow.seconds_per_step == pytest.approx(2 * fast.seconds_per_step)
    assert fast.seconds_per_step == pytest.approx(fast.tera_operations * 1e12 / (989e12 * 0.5))


@pytest.mark.slow
def test_adapters_and_moments_of_the_papers_size_are_those_counted_by_hand():
    config = LLMI3DConfig.from_pretrained(CARDS / "llmi3d-7b")
    found = plan_training(config, tuning="lora", rank=16, train=("box_head",))
    with torch.device("meta"):
        heads = sum(one.numel() for one in LLMI3DForConditionalGeneration(config).box_head.parameters())
    # A and B of rank 16 on q, k, v, o (4096 to 4096) and on gate, up, down (4096 to 11008 or back), in 32 layers; and
    # the query token's row.
    adapters = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) + 4096
    assert adapters == 39_976_960 + 4096
    assert found.trained_parameters == adapters + heads
    # float32: four bytes per gradient, and as much for each of AdamW's two moments.
    assert found.gradients * GIB == pytest.approx(4 * (adapters + heads))
    assert found.optimizer * GIB == pytest.approx(8 * (adapters + heads))
    # bfloat16, except trained weights and the heads, which PEFT keeps beside the copy that it trains.
    single = adapters + 2 * heads
    assert found.weights * GIB == pytest.approx(2 * (found.parameters - single) + 4 * single)


@pytest.mark.slow
def test_the_papers_size():
    config = LLMI3DConfig.from_pretrained(CARDS / "llmi3d-7b")
    with torch.device("meta"):
        parameters = sum(one.numel() for one in LLMI3DForConditionalGeneration(config).parameters())
    found = plan_training(config, tuning="new_parts", batch_size=1)
    assert found.parameters == parameters
    assert found.weights * GIB == pytest.approx(2 * parameters, rel=0.01)  # bfloat16, except the heads
    # Twice the language model's weights for each of its tokens forward, as much backward to its inputs.
    tokens = config.image_seq_length + 128
    assert found.tera_operations * 1e12 > 4 * 6.6e9 * tokens
    assert plan_training(config, batch_size=1, device="rtx-3090", gradient_checkpointing=True).fits
    # AdamW in float32: four times four bytes per weight.
    assert not plan_training(config, tuning="full", dtype=torch.float32, device="a100-80gb").fits


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tuning": "half"}, "tuning: got 'half', want one of lora, full, new_parts"),
        ({"device": "abacus"}, "device: got 'abacus'"),
        ({"sharding": "some"}, "sharding: got 'some'"),
        ({"rank": 0}, "rank: got 0, want at least 1"),
        ({"utilisation": 2}, "utilisation: got 2"),
    ],
)
def test_what_cannot_be_planned_is_named(config, settings, said):
    with pytest.raises(ValueError, match=said):
        plan_training(config, **settings)


def test_planning_leaves_real_models_alone(new_chain):
    model = new_chain[0]
    before = model.config.text_config._attn_implementation
    count_step(model, 1, 8, 1)
    assert model.config.text_config._attn_implementation == before
    assert all(one.grad is None for one in model.parameters())


def test_inference_is_weights_and_cache(chain):
    model = chain[0]
    words = model.config.text_config
    head = words.hidden_size // words.num_attention_heads
    a_token = 2 * 2 * words.num_hidden_layers * words.num_key_value_heads * head
    short, long = (plan_inference(model.config, text_tokens=tokens) for tokens in (1, 1001))
    assert (long - short) * 2**30 == pytest.approx(1.1 * 1000 * a_token)
    exact = sum(one.numel() for one in model.box_head.parameters())
    weights = 2 * (model.num_parameters() - exact) + 4 * exact
    assert short * 2**30 == pytest.approx(1.1 * (weights + (model.config.image_seq_length + 1) * a_token))
    with pytest.raises(ValueError, match="text_tokens: got 0"):
        plan_inference(model.config, text_tokens=0)
