# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Processor and pipeline of a LLMI3D on Qwen-VL: its turns and placeholder, the same camera and boxes."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor, pipeline

from llmi3d import LLMI3DProcessor

K = (250.0, 260.0, 150.0, 110.0)
BEFORE = "<|im_start|>user\n<|vision_start|>"
BEHIND = "<|vision_end|>Locate the car in 3D.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def ground(qwen_chain):
    model, processor = qwen_chain
    return pipeline("image-3d-grounding", model=model, processor=processor, device="cpu")


def test_the_prompt_is_qwens_with_as_many_placeholders_as_merged_tokens(qwen_chain, photograph):
    processor = qwen_chain[1]
    inputs = processor.grounding_inputs(photograph, "the car", intrinsics=K)
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert text == f"{BEFORE}{'<|image_pad|>' * 16}{BEHIND}<|box_3d|>"
    assert inputs["pixel_values"].shape[-2:] == (32, 32)
    assert inputs["high_res_pixel_values"].shape[-2:] == (64, 64)
    by_hand = processor(
        images=[photograph],
        text=f"{BEFORE}<|image_pad|>{BEHIND}<|box_3d|>",
        intrinsics=[K],
        return_tensors="pt",
    )
    for name, value in inputs.items():
        assert torch.equal(by_hand[name], value), name


def test_turns_are_qwens_and_only_answers_are_learned(qwen_chain):
    processor = qwen_chain[1]
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "There."},
    ]
    text = processor.apply_chat_template(turns)
    assert text == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n"
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\nThere.<|im_end|>\n"
    )
    batch = processor.tokenizer.apply_chat_template(
        turns, chat_template=processor.chat_template, return_dict=True, return_assistant_tokens_mask=True
    )
    learned = [token for token, mark in zip(batch["input_ids"], batch["assistant_masks"], strict=True) if mark]
    assert processor.tokenizer.decode(learned) == "Two.<|im_end|>There.<|im_end|>"


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|box_3d|>"])
def test_special_tokens_in_a_phrase_are_refused(qwen_chain, photograph, token):
    with pytest.raises(ValueError, match="prompt: got the special token"):
        qwen_chain[1].grounding_inputs(photograph, f"the {token} car", intrinsics=K)


def test_colours_are_the_bases(qwen_base, qwen_chain):
    base, own = AutoImageProcessor.from_pretrained(qwen_base[0]), qwen_chain[1].image_processor
    assert list(own.image_mean) == list(base.image_mean) and list(own.image_std) == list(base.image_std)


def test_saved_is_loaded(qwen_chain, photograph, tmp_path):
    processor = qwen_chain[1]
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LLMI3DProcessor and loaded.image_token == "<|image_pad|>" and loaded.patch_size == 8
    loaded.check_model(qwen_chain[0].config)
    for name, value in processor.grounding_inputs(photograph, "the car", intrinsics=K).items():
        assert torch.equal(loaded.grounding_inputs(photograph, "the car", intrinsics=K)[name], value), name


def test_a_processor_of_another_model_is_refused(qwen_chain, chain):
    with pytest.raises(ValueError, match=r"processor: its .* is .*, the model's is"):
        chain[1].check_model(qwen_chain[0].config)
    other = copy.deepcopy(qwen_chain[1])
    other.patch_size = 4
    with pytest.raises(ValueError, match="processor: its patch_size is 4, the model's is 8"):
        other.check_model(qwen_chain[0].config)


# ------------------------------------------------------------------------------------------------------------ pipeline


def test_the_pipeline_answers_directly_and_in_words(ground, photograph):
    direct = ground(photograph, prompt=["the car", "another, longer phrase"], intrinsics=K)
    assert json.loads(json.dumps(direct)) == direct
    assert [len(answer["boxes"]) for answer in direct] == [1, 1]
    alone = ground(photograph, prompt="the car", intrinsics=K)
    np.testing.assert_allclose(direct[0]["boxes"][0]["corners"], alone["boxes"][0]["corners"], rtol=1e-4, atol=1e-5)
    written = ground(photograph, prompt="the car", intrinsics=K, mode="generate", max_new_tokens=6)
    again = ground(photograph, prompt="the car", intrinsics=K, mode="generate", max_new_tokens=6)
    assert written == again and written["text"]


def test_generated_words_and_boxes(qwen_chain, photograph):
    """A model that says the query token at once gives the box that the direct prompt gives."""
    model, processor = copy.deepcopy(qwen_chain)
    others = [index for index in range(288) if index != processor.box_3d_token_id]
    model.generation_config.suppress_tokens = others
    ground = pipeline("image-3d-grounding", model=model, processor=processor, device="cpu")
    written = ground(photograph, prompt="the car", intrinsics=K, mode="generate", max_new_tokens=3)
    direct = ground(photograph, prompt="the car", intrinsics=K)
    assert len(written["boxes"]) == 2  # the third never got a state
    np.testing.assert_allclose(written["boxes"][0]["corners"], direct["boxes"][0]["corners"], rtol=1e-3, atol=1e-4)


def test_half_the_focal_length_is_half_the_depth(ground, photograph):
    far = ground(photograph, prompt="the car", intrinsics=K)["boxes"][0]
    near = ground(photograph, prompt="the car", intrinsics=(125.0, 130.0, 150.0, 110.0))["boxes"][0]
    assert near["center"][2] == pytest.approx(far["center"][2] / 2, rel=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_image_and_camera_rescaled_together_change_nothing(ground, photograph, factor):
    """To the precision of resampling an image: 8 bits and another filter."""
    scaled = photograph.resize((round(320 * factor), round(200 * factor)))
    before = ground(photograph, prompt="the car", intrinsics=K)["boxes"][0]
    after = ground(scaled, prompt="the car", intrinsics=[value * factor for value in K])["boxes"][0]
    for key in ("center", "size", "rotation", "corners"):
        np.testing.assert_allclose(after[key], before[key], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(after["box_2d"], np.multiply(before["box_2d"], factor), rtol=0.02, atol=1)


def test_without_cnn_the_pipeline_answers_too(qwen_base, new_qwen_chain, photograph):
    model, processor = new_qwen_chain(qwen_base[0], high_res_branch=False)
    ground = pipeline("image-3d-grounding", model=model, processor=processor, device="cpu")
    (box,) = ground(photograph, prompt="the car", intrinsics=K)["boxes"]
    assert box["depth_weights"]["map"] == 0 and np.isfinite(box["corners"]).all()
