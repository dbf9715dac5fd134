# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Checkpoints in the published format of Mini-Gemini, with random weights."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# Sizes by name: `grid` and `patch` of the ViT, `depths` and `dims` of the ConvNeXt.
TINY = {
    **{"vocab": 259, "hidden": 32, "intermediate": 48, "layers": 2, "heads": 4, "kv_heads": 2},
    **{"vit_dim": 64, "vit_mlp": 96, "vit_layers": 3, "grid": 4, "patch": 4, "high_res": 64},
    **{"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)},
}
LARGE = {
    **{"vocab": 32000, "hidden": 4096, "intermediate": 11008, "layers": 32, "heads": 32, "kv_heads": 32},
    **{"vit_dim": 1024, "vit_mlp": 4096, "vit_layers": 24, "grid": 24, "patch": 14, "high_res": 768},
    **{"depths": (3, 3, 27, 3), "dims": (192, 384, 768, 1536)},
}


def original_config(sizes: dict) -> dict:
    """Return config.json as Mini-Gemini writes it."""
    return {
        "architectures": ["MiniGeminiLlamaForCausalLM"],
        "model_type": "mini_gemini",
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["intermediate"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "image_aspect_ratio": "pad",
        "image_size_aux": sizes["high_res"],
        "mm_hidden_size": sizes["vit_dim"],
        "mm_hidden_size_aux": sum(sizes["dims"]),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
        "mm_vision_tower_aux": "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup",
        "use_mm_proj": True,
    }


def original_shapes(sizes: dict) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of Mini-Gemini's weights."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    hidden, mlp = sizes["hidden"], sizes["intermediate"]
    kv = hidden // sizes["heads"] * sizes["kv_heads"]
    layer("model.embed_tokens", sizes["vocab"], hidden, bias=False)
    layer("model.norm", hidden, bias=False)
    layer("lm_head", sizes["vocab"], hidden, bias=False)
    for i in range(sizes["layers"]):
        block = f"model.layers.{i}"
        for name, rows, columns in (
            *(("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv, hidden)),
            *(("self_attn.v_proj", kv, hidden), ("self_attn.o_proj", hidden, hidden)),
            *(("mlp.gate_proj", mlp, hidden), ("mlp.up_proj", mlp, hidden), ("mlp.down_proj", hidden, mlp)),
        ):
            layer(f"{block}.{name}", rows, columns, bias=False)
        for name in ("input_layernorm", "post_attention_layernorm"):
            layer(f"{block}.{name}", hidden, bias=False)

    vit, dim = "model.vision_tower.vision_tower.vision_model", sizes["vit_dim"]
    shapes[f"{vit}.embeddings.class_embedding"] = (dim,)
    layer(f"{vit}.embeddings.patch_embedding", dim, 3, sizes["patch"], sizes["patch"], bias=False)
    layer(f"{vit}.embeddings.position_embedding", sizes["grid"] ** 2 + 1, dim, bias=False)
    for name in ("pre_layrnorm", "post_layernorm"):
        layer(f"{vit}.{name}", dim)
    for i in range(sizes["vit_layers"]):
        block = f"{vit}.encoder.layers.{i}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            layer(f"{block}.self_attn.{name}", dim, dim)
        for name in ("layer_norm1", "layer_norm2"):
            layer(f"{block}.{name}", dim)
        layer(f"{block}.mlp.fc1", sizes["vit_mlp"], dim)
        layer(f"{block}.mlp.fc2", dim, sizes["vit_mlp"])

    cnn, dims = "model.vision_tower_aux.vision_", sizes["dims"]
    layer(f"{cnn}stem.0", dims[0], 3, 4, 4)
    layer(f"{cnn}stem.1", dims[0])
    for stage, (depth, channels) in enumerate(zip(sizes["depths"], dims, strict=True)):
        if stage:
            layer(f"{cnn}stages.{stage}.downsample.0", dims[stage - 1])
            layer(f"{cnn}stages.{stage}.downsample.1", channels, dims[stage - 1], 2, 2)
        for i in range(depth):
            block = f"{cnn}stages.{stage}.blocks.{i}"
            shapes[f"{block}.gamma"] = (channels,)
            layer(f"{block}.conv_dw", channels, 1, 7, 7)
            layer(f"{block}.norm", channels)
            layer(f"{block}.mlp.fc1", 4 * channels, channels)
            layer(f"{block}.mlp.fc2", channels, 4 * channels)

    for name, width in (("query", dim), ("aux", sum(dims)), ("val", sum(dims))):
        layer(f"model.vlm_uni_{name}_projector.0", width)
        layer(f"model.vlm_uni_{name}_projector.1", dim, width)
    layer("model.mm_projector.0", hidden, dim)
    layer("model.mm_projector.2", hidden, hidden)
    return shapes


def original_state(sizes: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return random weights: scales around 1, the others large enough for every part to matter."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in original_shapes(sizes).items():
        values = torch.randn(shape, generator=generator)
        is_scale = len(shape) == 1 and name.endswith(("weight", "gamma"))
        fan_in = math.prod(shape[1:])
        values = 1 + 0.2 * values if is_scale else values / math.sqrt(fan_in) if len(shape) > 1 else 0.2 * values
        state[name] = values.to(dtype)
    return state


def vicuna_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like Vicuna's: <unk>, <s>, </s>, no padding token, no <image>; then one token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=2048
    )


def write_original(folder: Path, state: dict, sizes: dict = TINY, form: str = "safetensors", shards: int = 3) -> Path:
    """Write a checkpoint as Mini-Gemini's are published."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(sizes)))
    vicuna_tokenizer().save_pretrained(folder)
    stem, end = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    names, weight_map = list(state), {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.{end}"
        part = {name: state[name].contiguous() for name in names[i::shards]}
        weight_map |= dict.fromkeys(part, file)
        if form == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps(index))
    return folder
