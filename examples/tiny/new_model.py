# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Start a new model: a tokenizer of the data's words and weights drawn for training from nothing, as a checkpoint.

    python examples/tiny/new_model.py --data DATA --out BASE

`llmi3d train` starts from it as from any other base (examples/recipes/tiny.yaml). To start from pre-trained parts
instead, see `llmi3d init`.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, set_seed

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.data.dataset import load_split
from llmi3d.data.schema import turns_of
from llmi3d.training.first_words import first_words

SEED = 0
VOCABULARY = 1024


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on texts, with single digits; words keep the space after them.

    With the space before a word, as usual, "ASSISTANT: " would end in a token that training never sees before words.
    """
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r"[A-Za-z]+ ?|\d|[^\sA-Za-z\d]+ ?|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<image>", "<|box_3d|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>", "box_3d_token": "<|box_3d|>"},
        clean_up_tokenization_spaces=False,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LLMI3DConfig:
    """Return the paper's shape in small: 16x16 visual tokens, each over a window of 4x4 CNN cells at 256 pixels."""
    return LLMI3DConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "initializer_range": 0.06,  # by its width: 0.02 is for thousands of channels
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 128,
            "patch_size": 8,
            "projection_dim": 128,
            "hidden_act": "relu",  # on a CPU the smooth ones take as long as the convolutions
        },
        vision_feature_layer=-1,
        high_res_vision_config={
            "model_type": "timm_wrapper",
            "architecture": "convnext_atto",
            # No layer scale: there are no pre-trained weights that a small one would protect.
            "model_args": {
                "depths": [1, 2, 4, 1],
                "dims": [32, 64, 128, 160],
                "act_layer": "relu",
                "ls_init_value": None,
            },
        },
        high_res_image_size=256,
        depth_predictor_dim=48,
        depth_embedding_dim=32,
        box_head_dim=512,
        pointing=False,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        box_3d_token_id=tokenizer.convert_tokens_to_ids("<|box_3d|>"),
    )


def build_model(config: LLMI3DConfig) -> LLMI3DForConditionalGeneration:
    """Return a new model, its weights drawn for training from nothing."""
    model = LLMI3DForConditionalGeneration(config)
    with torch.no_grad():
        for module in model.model.high_res_tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        # The grey around an image is zero; where all channels are, a layer norm multiplies gradients a thousandfold.
        nn.init.normal_(model.model.high_res_tower.timm_model.stem[0].bias, std=0.5)
        positions = model.model.vision_tower.embeddings.position_embedding.weight
        positions[1:] = sine_positions(config.image_grid_size, positions.shape[1])
        # Nothing pre-trained that a neutral start of the mining would protect.
        nn.init.xavier_uniform_(model.model.feature_mining.attention.value_proj.weight)
        for layer in model.model.language_model.layers:
            # At first every layer passes on what it gets, so that boxes are read from its last one as from its first.
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def sine_positions(grid: int, dim: int) -> torch.Tensor:
    """Return sines and cosines of x and of y, [grid * grid, dim], row-major.

    Boxes are said in absolute pixels, and learned positions take long to be as exact.
    """
    waves = 2 * math.pi * 2 ** torch.linspace(-2, math.log2(grid / 2), dim // 4)
    angles = (torch.arange(grid) + 0.5)[:, None] / grid * waves
    code = 0.5 * torch.cat((angles.sin(), angles.cos()), 1)  # of the size of the patches' own embeddings
    return torch.cat((code.repeat(grid, 1), code.repeat_interleave(grid, 0)), 1)


def texts_of(rows: datasets.Dataset) -> Iterator[str]:
    """Yield the words of about 2,000 rows, those of the first stages included."""
    yield "USER: ASSISTANT: "
    sample = rows.select(range(0, len(rows), max(len(rows) // 2000, 1)))
    for row in sample.cast_column("image", datasets.Image(decode=False)):
        for turn in (*turns_of(row), *turns_of(first_words(row))):
            yield turn.question + " "
            yield turn.answer.replace("<box_3d>", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="from `llmi3d data build synth`, with masks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    options = parser.parse_args()
    tokenizer = build_tokenizer(texts_of(load_split(options.data, "train")))
    config = build_config(tokenizer)
    set_seed(SEED)
    model = build_model(config)
    model.generation_config.max_new_tokens = 48
    model.save_pretrained(options.out)
    LLMI3DProcessor.for_model(config, tokenizer).save_pretrained(options.out)


if __name__ == "__main__":
    main()
