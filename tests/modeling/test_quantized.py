# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Quantised loading: the ViT and the language model alone, by whatever configuration; saved and loaded again."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.quantizers.quantizers_utils import should_convert_module

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DModel, LLMI3DProcessor
from llmi3d.pretrained_llmi3d import keep_full_precision

SHIPPED = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"
PARTS = ("vision_tower", "language_model")


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model.save_pretrained(folder)
    return folder


def torchao_config(**fields):
    torchao = pytest.importorskip("torchao", reason="needs pip install 'llmi3d[quantize]'")
    from transformers import TorchAoConfig

    return TorchAoConfig(torchao.quantization.Int8WeightOnlyConfig(), **fields)


def quantized(model) -> set[str]:
    """Names of the weights that are no plain tensors any more."""
    return {name for name, value in model.named_parameters() if type(value) is not nn.Parameter}


def linear_of(model, *parts) -> set[str]:
    """Names of the weights of all linear layers of some parts."""
    found = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {f"{name}.weight" for name in found if any(part in name.split(".") for part in parts)}


def answers(model, inputs):
    boxes = model.ground(**inputs).boxes_3d
    return {name: value for name, value in boxes.items() if value.is_floating_point()}


@pytest.mark.parametrize("given", [None, ["model.language_model.layers.0"]])
def test_vit_and_language_model_alone_are_quantized(checkpoint, tiny_model, given):
    model = LLMI3DForConditionalGeneration.from_pretrained(
        checkpoint, quantization_config=torchao_config(modules_to_not_convert=given)
    )
    wanted = linear_of(tiny_model, *PARTS)
    assert quantized(model) == {name for name in wanted if not given or not name.startswith(given[0])}
    assert len(wanted) > 20


def test_the_base_model_too(checkpoint, tiny_model):
    model = LLMI3DModel.from_pretrained(checkpoint, quantization_config=torchao_config())
    assert quantized(model) == linear_of(tiny_model.model, *PARTS)


def test_answers_stay_near_and_a_saved_model_is_the_same(checkpoint, tiny_model, tiny_inputs, tmp_path):
    model = LLMI3DForConditionalGeneration.from_pretrained(checkpoint, quantization_config=torchao_config()).eval()
    inputs = tiny_inputs()
    exact, got = answers(tiny_model, inputs), answers(model, inputs)
    assert (got["depth_virtual"] / exact["depth_virtual"] - 1).abs().max() < 0.05
    assert (got["rotation_6d"] - exact["rotation_6d"]).abs().max() > 0  # it is quantised
    model.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".safetensors", ".json", ".md", ".py"}
    again = LLMI3DForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert quantized(again) == quantized(model)
    for name, value in answers(again, inputs).items():
        torch.testing.assert_close(value, got[name], rtol=0, atol=0)


def test_heads_and_mining_stay_in_float32(checkpoint):
    model = LLMI3DForConditionalGeneration.from_pretrained(checkpoint, quantization_config=torchao_config())
    for part in (model.box_head, model.model.feature_mining):
        assert {(type(one), one.dtype) for one in part.parameters()} == {(nn.Parameter, torch.float32)}


def test_the_list_is_the_callers_own_and_is_saved(checkpoint):
    mine = torchao_config(modules_to_not_convert=["language_model.layers.1"])
    model = LLMI3DForConditionalGeneration.from_pretrained(checkpoint, quantization_config=mine)
    assert mine.modules_to_not_convert == ["language_model.layers.1"]
    assert "box_head" in json.loads(model.config.to_json_string())["quantization_config"]["modules_to_not_convert"]


@pytest.mark.parametrize(
    "config", [BitsAndBytesConfig(load_in_8bit=True), {"load_in_8bit": True, "quant_method": "bitsandbytes"}]
)
def test_bitsandbytes_converts_the_same(tiny_model, config):
    """By the rule by which transformers chooses, so that no GPU and no bitsandbytes is needed."""
    skipped = keep_full_precision(config).llm_int8_skip_modules
    # bitsandbytes replaces plain linear layers alone.
    plain = {name for name, module in tiny_model.named_modules() if type(module) is nn.Linear}
    chosen = {f"{name}.weight" for name in plain if should_convert_module(name, skipped)}
    assert chosen == linear_of(tiny_model, *PARTS)


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_answers(photograph, tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="needs pip install bitsandbytes")
    exact = LLMI3DForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    inputs = LLMI3DProcessor.from_pretrained(SHIPPED).grounding_inputs(photograph, "the car", fov_deg=70)
    model = LLMI3DForConditionalGeneration.from_pretrained(
        SHIPPED, dtype=torch.float32, quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    ).eval()
    kind = f"Linear{bits}bit" + ("Lt" if bits == 8 else "")
    changed = {f"{name}.weight" for name, module in model.named_modules() if type(module).__name__ == kind}
    assert changed == linear_of(exact, *PARTS)
    model.save_pretrained(tmp_path)  # before its first pass: on a CPU that packs 4-bit weights anew
    got = answers(model, inputs)
    assert (got["depth_virtual"] / answers(exact, inputs)["depth_virtual"] - 1).abs().max() < 0.5
    again = LLMI3DForConditionalGeneration.from_pretrained(tmp_path).eval()
    for name, value in answers(again, inputs).items():
        torch.testing.assert_close(value, got[name])
