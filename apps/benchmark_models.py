# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Models and inputs of `llmi3d bench`: checkpoints, or configurations with random weights; phrases and images."""

from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration as Model
from llmi3d.processing.processing_llmi3d import BOX_3D_TOKEN, IMAGE_TOKEN, QWEN_IMAGE_TOKEN, LLMI3DProcessor


def _llama(hidden: int, intermediate: int, layers: int, heads: int, **fields) -> dict:
    shape = {"hidden_size": hidden, "intermediate_size": intermediate}
    shape |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096, **shape, **fields}


def _clip(hidden: int, intermediate: int, layers: int, heads: int, image_size: int, patch_size: int) -> dict:
    shape = {"hidden_size": hidden, "intermediate_size": intermediate, "projection_dim": hidden}
    shape |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "clip_vision_model", "image_size": image_size, "patch_size": patch_size, **shape}


def _timm(architecture: str, **fields) -> dict:
    return {"model_type": "timm_wrapper", "architecture": architecture, "do_pooling": False, **fields}


# Configurations for random weights. `tiny` is that of model_cards/llmi3d-tiny, `7b` the paper's; `1b` has the paper's
# resolutions.
SIZES = {
    "tiny": {
        "text_config": _llama(192, 384, 4, 4, vocab_size=767, max_position_embeddings=1024),
        "vision_config": _clip(128, 384, 3, 4, image_size=128, patch_size=8),
        "vision_feature_layer": -1,
        "high_res_vision_config": _timm(
            "convnext_atto", model_args={"depths": [1, 2, 4, 1], "dims": [32, 64, 128, 160]}
        ),
        "high_res_image_size": 256,
        "depth_predictor_dim": 48,
        "depth_embedding_dim": 32,
        "box_head_dim": 512,
        "image_token_id": 3,
        "box_3d_token_id": 4,
    },
    "small": {
        "text_config": _llama(768, 2048, 12, 12, num_key_value_heads=4),
        "vision_config": _clip(384, 1536, 12, 6, image_size=224, patch_size=14),
        "high_res_vision_config": _timm("convnext_tiny"),
        "high_res_image_size": 512,
    },
    "1b": {
        "text_config": _llama(2048, 5632, 16, 32, num_key_value_heads=4),
        "vision_config": _clip(768, 3072, 12, 12, image_size=336, patch_size=14),
        "high_res_vision_config": _timm("convnext_base"),
    },
    "7b": {},
}


def load(name: str, dtype: torch.dtype, device: torch.device) -> tuple[Model, LLMI3DProcessor]:
    """Load a model in evaluation mode, and its processor.

    Args:
        name: folder or Hub name of a checkpoint; or, with random weights, a folder with only a config.json or one of
            `SIZES`.
        dtype, device: of the weights.

    Raises:
        ValueError: no such model, or a vocabulary too small for a byte tokenizer.
    """
    folder = Path(name)
    if name not in SIZES and folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"checkpoint: '{name}' has no config.json.")
    if name not in SIZES and (not folder.is_dir() or any(folder.glob("*.safetensors"))):
        try:
            model = Model.from_pretrained(name, dtype=dtype).to(device)
            return model.eval(), LLMI3DProcessor.from_pretrained(name)
        except OSError as error:
            raise ValueError(
                f"checkpoint: got '{name}', want a checkpoint, a folder with a config.json or one of "
                f"{', '.join(SIZES)} ({error})."
            ) from error
    config = LLMI3DConfig(**SIZES[name]) if name in SIZES else LLMI3DConfig.from_pretrained(folder)
    if name not in SIZES and (folder / "processor_config.json").is_file():
        processor = LLMI3DProcessor.from_pretrained(folder)
    else:
        processor = LLMI3DProcessor.for_model(config, byte_tokenizer(config))
    torch.manual_seed(0)
    with device:  # weights are drawn on the device
        model = Model._from_config(config, dtype=dtype)
    return model.eval(), processor


def byte_tokenizer(config: LLMI3DConfig) -> PreTrainedTokenizerFast:
    """Make a tokenizer for random weights: bytes and, as far as the vocabulary has room, the words of the phrases.

    Raises:
        ValueError: the vocabulary has no room for the bytes.
    """
    size, text = config.text_config.vocab_size, config.text_config
    special = {
        QWEN_IMAGE_TOKEN if config.has_qwen_vision else IMAGE_TOKEN: config.image_token_id,
        BOX_3D_TOKEN: config.box_3d_token_id,
    }
    free = iter(sorted(set(range(size)) - set(special.values()), reverse=True))
    taken = set(special.values())
    for token, index in (("</s>", text.eos_token_id), ("<s>", text.bos_token_id), ("<pad>", text.pad_token_id)):
        index = index if isinstance(index, int) and 0 <= index < size and index not in taken else None
        special[token] = next(i for i in free if i not in taken) if index is None else index
        taken.add(special[token])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size - len(special) < len(alphabet):
        raise ValueError(
            f"text_config: vocab_size is {size}, want at least {len(special) + len(alphabet)} for a tokenizer of "
            "bytes; give a folder with a tokenizer."
        )
    # Words grow letter by letter, as byte-pair encoding requires; phrases get as many tokens as real tokenizers give.
    pieces, merges = dict.fromkeys(alphabet), []
    for word in {word: None for text in phrases_of(64) for word in f"USER: Locate {text} in 3D. ASSISTANT: ".split()}:
        for start in ("Ġ", ""):
            whole = start + word
            steps = [(whole[:i], whole[i]) for i in range(1, len(whole))]
            new = [left + right for left, right in steps if left + right not in pieces]
            if len(pieces) + len(new) > size - len(special):
                continue
            merges += [step for step in steps if step[0] + step[1] in new]
            pieces |= dict.fromkeys(new)
    names = iter([*pieces, *(f"<unused {i}>" for i in range(size))])
    by_id = {index: token for token, index in special.items()}
    vocabulary = {by_id.get(index) or next(names): index for index in range(size)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=[token for token in special if token not in ("<pad>", "<s>", "</s>")],
    )


def phrases_of(count: int) -> list[str]:
    """Return `count` phrases of some seven words; the first 64 differ."""
    things = ("car", "cyclist", "van", "pedestrian")
    colours = ("red", "dark", "white", "blue")
    places = ("on the left", "behind the tree", "next to the sign", "at the crossing")
    phrases = [f"the {colour} {thing} {place}" for place, colour, thing in product(places, colours, things)]
    return [phrases[i % len(phrases)] for i in range(count)]


def save_images(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write JPEG files of coarse and fine noise, which decode about as slowly as photographs."""
    files = []
    for index in range(count):
        noise = np.random.default_rng(index)
        coarse = noise.integers(0, 255, (max(size[1] // 16, 1), max(size[0] // 16, 1), 3), np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = (pixels + noise.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{index}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files
