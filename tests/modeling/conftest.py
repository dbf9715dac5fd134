# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A tiny LLMI3D: 4x4 visual tokens, 4x4 cells in a token's window, some 100 thousand parameters."""

import pytest
import torch

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration

IMAGE, QUERY = 3, 4  # ids of <image> and <|box_3d|> in the tiny vocabulary


def build_config(**overrides) -> LLMI3DConfig:
    parts = {
        "text_config": {
            "model_type": "llama",
            "vocab_size": 99,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 4,
            "projection_dim": 16,
        },
        "high_res_vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "convnext_atto",
            "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
            "do_pooling": False,
        },
        "high_res_image_size": 64,
        "depth_predictor_dim": 16,
        "depth_embedding_dim": 8,
        "num_depth_bins": 10,
        "box_head_dim": 32,
        "image_token_id": IMAGE,
        "box_3d_token_id": QUERY,
    }
    for key, value in overrides.items():
        both = isinstance(parts.get(key), dict) and "model_type" not in value
        parts[key] = {**parts[key], **value} if both else value
    return LLMI3DConfig(**parts)


def build_model(**overrides) -> LLMI3DForConditionalGeneration:
    """A model that is not neutral: every weight is drawn, the value path of the mining included."""
    torch.manual_seed(0)
    model = LLMI3DForConditionalGeneration(build_config(**overrides)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Strong enough for the answers to differ between samples, weak enough for float32.
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
    return model


def build_inputs(batch: int = 2, queries: int = 2, words: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """A picture and a prompt a sample: <bos>, 16 x <image>, words with `queries` query tokens among them."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(5, 99, (batch, words), generator=generator)
    text[:, 1 : 2 * queries : 2] = QUERY
    start, image = torch.full((batch, 1), 1), torch.full((batch, 16), IMAGE)
    input_ids = torch.cat((start, image, text), 1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(batch, 3, 16, 16, generator=generator),
        "high_res_pixel_values": torch.randn(batch, 3, 64, 64, generator=generator),
    }


@pytest.fixture(scope="session")
def tiny_config():
    """A function: the tiny configuration, with overrides (dicts are merged into the parts' own)."""
    return build_config


@pytest.fixture(scope="session")
def new_tiny_model():
    """A function: a fresh tiny model for tests that change it."""
    return build_model


@pytest.fixture(scope="session")
def tiny_model():
    """One tiny model in eval mode for tests that leave it as it is."""
    return build_model()


@pytest.fixture(scope="session")
def tiny_inputs():
    """A function: inputs of the tiny model."""
    return build_inputs
