# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Fixtures for all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>", "<|box_3d|>")


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real frames in their data sets' own layouts: LLMI3D_SAMPLES, or ../shared/samples beside the clone.

    They are under research-only licences and no part of the repository, so tests that need them skip without them.
    """
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "samples"
    folder = Path(os.environ.get("LLMI3D_SAMPLES") or default).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}: set LLMI3D_SAMPLES to their folder")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with the special tokens at 0-4; small enough to be made for each run."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>", "box_3d_token": "<|box_3d|>"},
    )


@pytest.fixture(scope="session")
def chain(tokenizer):
    """(model, processor) of the tiny configuration, every weight drawn, for tests that leave them as they are."""
    return build_chain(tokenizer)


@pytest.fixture
def new_chain(tokenizer):
    """As `chain`, for tests that change it."""
    return build_chain(tokenizer)


def build_chain(tokenizer):
    from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DProcessor

    config = LLMI3DConfig.from_pretrained(Path(__file__).parents[1] / "model_cards" / "llmi3d-tiny-random")
    torch.manual_seed(0)
    model = LLMI3DForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no neutral start: every mechanism has its say
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model, LLMI3DProcessor.for_model(config, tokenizer)


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A smooth 320x200 picture that differs everywhere."""
    y, x = np.mgrid[0:200, 0:320] / 100
    channels = [np.sin(3 * x + y), np.cos(2 * y - x), np.sin(x * y)]
    return Image.fromarray((127.5 + 127 * np.stack(channels, -1)).astype(np.uint8))


@pytest.fixture
def row(photograph) -> dict:
    """An IG3D row with two objects, both asked for."""
    from llmi3d.training.ig3d.schema import grounding_conversation, make_object

    intrinsics = [[250.0, 0.0, 150.0], [0.0, 260.0, 110.0], [0.0, 0.0, 1.0]]
    turn = [[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]]
    objects = [
        make_object("a", "car", [0.5, 0.4, 6.0], [4.0, 1.5, 1.8], turn, intrinsics),
        make_object("b", "cone", [-1.0, 0.6, 4.0], [0.4, 0.8, 0.4], np.eye(3).tolist(), intrinsics),
    ]
    return {
        "image": photograph,
        "image_id": "test/0",
        "source": "test",
        "split": "train",
        "intrinsics": intrinsics,
        "objects": objects,
        "messages": grounding_conversation(["the car", "the cone"]),
        "targets": ["a", "b"],
        "task": ["grounding", "grounding"],
        "meanings": None,
    }
