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

# Several processes run the tests (`pytest -n 0`: one); they and what they start have a share of the cores each.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(workers))))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

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

    folder = Path(__file__).parents[1] / "model_cards" / "llmi3d-tiny-random"
    config = LLMI3DConfig.from_pretrained(folder, pointing=True)  # tests of the network alone go without
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
    from llmi3d.data.schema import grounding_conversation, make_object

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


# ------------------------------------------------------------------------------------------------------------- Qwen-VL

QWEN_FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# As published: in front of the tokenizer's own, or behind, does not matter; the vocabulary has rows to spare.
QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)


def build_qwen_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with Qwen-VL's special tokens at 0-6."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*QWEN_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=[token for token in QWEN_TOKENS if token not in ("<|endoftext|>", "<|im_end|>")],
    )


def build_qwen_base(family: str, folder: Path, **changes):
    """Saves a tiny Qwen-VL, every weight drawn, in its own format with tokenizer and image processor; gives it.

    Args:
        family: one of `QWEN_FAMILIES`.
        changes: of its configuration.
    """
    import transformers

    tokenizer = build_qwen_tokenizer()
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    text = {
        **{"vocab_size": 288, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
        **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2},
    }
    vision = {
        **{"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2},
        **{"patch_size": 4, "spatial_merge_size": 2, "out_hidden_size": 32},
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    if family == "qwen3_vl":
        text |= {"head_dim": 16, "rope_parameters": {**rope, "mrope_section": [4, 2, 2], "mrope_interleaved": True}}
        vision |= {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]}
        kind, mean, std = "Qwen3VL", [0.5] * 3, [0.5] * 3
    else:
        text |= {"rope_parameters": {**rope, "mrope_section": [2, 1, 1]}}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        kind, mean, std = "Qwen2_5_VL", [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **{**ids, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    draw(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessor(
        size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32}, patch_size=4, image_mean=mean, image_std=std
    )
    images.save_pretrained(folder)
    return model


@torch.no_grad()
def draw(model) -> None:
    """Weights strong enough for tokens to differ, weak enough for float32; no neutral start is left."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.15)


QWEN_CHANGES = {
    **{"image_size": 32, "high_res_image_size": 64, "depth_predictor_dim": 16, "depth_embedding_dim": 8},
    **{"num_depth_bins": 10, "box_head_dim": 32},
    "high_res_vision_config": {
        "model_type": "timm_wrapper",
        "architecture": "convnext_atto",
        "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
        "do_pooling": False,
    },
}


def build_qwen_chain(folder: Path, **changes):
    """(model, processor) that took over a tiny Qwen-VL: 4x4 visual tokens, new parts neutral."""
    from transformers import AutoTokenizer

    from llmi3d.bases.qwen_vl import from_qwen_vl, qwen_vl_processor

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = from_qwen_vl(str(folder), tokenizer, **{**QWEN_CHANGES, **changes})
    return model, qwen_vl_processor(str(folder), model.config, tokenizer)


@pytest.fixture(scope="session")
def new_qwen_base():
    """A function: saves a tiny Qwen-VL of a family in a folder and gives the original model."""
    return build_qwen_base


@pytest.fixture(scope="session")
def new_qwen_chain():
    """A function: (model, processor) that took over the base in a folder."""
    return build_qwen_chain


@pytest.fixture(scope="session", params=QWEN_FAMILIES)
def qwen_base(request, tmp_path_factory):
    """(folder, original model) of each family."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, build_qwen_base(request.param, folder)


@pytest.fixture(scope="session")
def qwen_chain(qwen_base):
    """As `chain`, of each Qwen-VL family, its new parts drawn too; for tests that leave them as they are."""
    model, processor = build_qwen_chain(qwen_base[0])
    for part in (model.model.high_res_tower, model.model.feature_mining, model.box_head):
        draw(part)
    return model, processor
