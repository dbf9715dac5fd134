# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tiny bases with random weights: the LLaVA family, each saved by its own classes, and a ConvNeXt."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

# What the families' own templates write, in a form of our own.
VICUNA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'][0]['text'] + '</s> ' }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CLIP = {
    "model_type": "clip_vision_model",
    **{"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"image_size": 16, "patch_size": 4, "projection_dim": 16},
}
# 18 pixels are four patches and a rest that is never seen, as the published 384 are 27 patches of 14.
SIGLIP = {
    "model_type": "siglip_vision_model",
    **{"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": 18, "patch_size": 4, "vision_use_head": False},
}
TEXT = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 256},
}


def build_tokenizer(specials: list[str], bos: str | None, eos: str, pad: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte and the special tokens at the end, as if they had been added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *specials])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"bos_token": bos, "eos_token": eos, "pad_token": pad},
        extra_special_tokens={"image_token": "<image>"},
    )


def build_base(family: str, folder, vocab_size: int | None = None, **changes):
    """Save a base of a family with random weights; return the original model.

    Args:
        family: `llava`, `llava_next` or `llava_onevision`.
        vocab_size: of the language model, its tokenizer's size by default.
        changes: of the configuration.
    """
    if family == "llava_onevision":
        tokenizer = build_tokenizer(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"], None, "<|im_end|>", "<|endoftext|>"
        )
    else:
        tokenizer = build_tokenizer(["<unk>", "<s>", "</s>", "<image>", "<pad>"], "<s>", "</s>", "<pad>")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {**TEXT, **ids, "vocab_size": vocab_size or len(tokenizer)}
    shared = {"image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    if family == "llava":
        config = LlavaConfig(text_config={"model_type": "llama", **text}, vision_config=CLIP, **{**shared, **changes})
        kind, images = LlavaForConditionalGeneration, CLIPImageProcessor(size=16, crop_size=16)
        processor = LlavaProcessor(images, tokenizer, 4, "default", VICUNA)
    elif family == "llava_next":
        config = LlavaNextConfig(
            text_config={"model_type": "mistral", **text},
            vision_config=CLIP,
            image_grid_pinpoints=[[16, 32], [32, 16]],
            **{**shared, **changes},
        )
        kind, images = LlavaNextForConditionalGeneration, LlavaNextImageProcessor(size=16, crop_size=16)
        processor = LlavaNextProcessor(images, tokenizer, 4, "default", MISTRAL)
    else:
        shared["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
        config = LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **text},
            vision_config=SIGLIP,
            image_grid_pinpoints=[[18, 36], [36, 18]],
            **{**shared, **changes},
        )
        kind, images = (
            LlavaOnevisionForConditionalGeneration,
            LlavaOnevisionImageProcessor(size=18, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        )
        processor = LlavaOnevisionProcessor(
            images, tokenizer, LlavaOnevisionVideoProcessor(size=18), 16, "full", CHATML
        )
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():  # strong enough for tokens to differ, weak enough for float32
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def build_convnext(path: Path) -> torch.nn.Module:
    """Save a tiny ConvNeXt with OpenCLIP's names; return it."""
    model = timm.create_model("convnext_large_mlp", depths=[1, 1, 1, 1], dims=[8, 12, 16, 20], num_classes=0)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    weights = model.state_dict()
    save_file({f"visual.trunk.{name}": weights[name] for name in weights if not name.startswith("head.")}, path)
    return model.eval()
