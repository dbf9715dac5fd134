# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Makes the tokenizer, and the training rows as the collator wants them; also says what a new model looks like.

python examples/tiny/prepare.py --data DATA --out OUT
"""

import argparse
import json
import math
from pathlib import Path
from random import Random

import datasets
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, set_seed

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.data.dataset import load_split
from llmi3d.data.expressions.nouns import article, words
from llmi3d.data.expressions.questions import say_metres
from llmi3d.data.schema import Turn, turns_of
from llmi3d.training.dense import name_classes, open_map, row_cells
from llmi3d.training.packing import Packer

SEED = 0
VOCABULARY = 1024
# What the classifiers of the first stage learn to tell.
NAMED = ("category", "color", "material")


# ------------------------------------------------------------------------------------------------- tokenizer and model


def build_tokenizer(texts) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the generated texts; single digits; words keep the space behind them.

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
    """The paper's shape in small: 16x16 visual tokens, each over a window of 4x4 cells of the CNN at 256 pixels."""
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
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        box_3d_token_id=tokenizer.convert_tokens_to_ids("<|box_3d|>"),
    )


def build_model(config: LLMI3DConfig) -> LLMI3DForConditionalGeneration:
    """A new model, its weights drawn for training from nothing."""
    model = LLMI3DForConditionalGeneration(config)
    with torch.no_grad():
        for module in model.model.high_res_tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        # The grey around a picture is zero; where all channels are, a layer norm multiplies gradients a thousandfold.
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
    """[grid * grid, dim], row-major: sines and cosines of x and of y. Boxes are said in absolute pixels, and learned
    positions take long to be as exact."""
    waves = 2 * math.pi * 2 ** torch.linspace(-2, math.log2(grid / 2), dim // 4)
    angles = (torch.arange(grid) + 0.5)[:, None] / grid * waves
    code = 0.5 * torch.cat((angles.sin(), angles.cos()), 1)  # of the size of the patches' own embeddings
    return torch.cat((code.repeat(grid, 1), code.repeat_interleave(grid, 0)), 1)


# --------------------------------------------------------------------------------------------------------------- texts


def name_of(entry: dict) -> str:
    """ "a red chair", "an orange"."""
    noun = " ".join([*filter(None, [entry["attributes"].get("color")]), words(entry["category"])])
    return f"{article(noun)} {noun}"


def described(entry: dict) -> str:
    """ "A red chair, 3.2 m away"."""
    name = name_of(entry)
    return f"{name[0].upper()}{name[1:]}, {say_metres(math.dist(entry['center'], (0, 0, 0)))} away"


def pretraining_turns(row: dict) -> list[Turn]:
    """The row's questions, a caption, and places in words: what is here, and where is that.

    Places are percents of the picture's width and height. They are what grounding is for an MLLM without 3D.
    """
    turns = [turn for turn in turns_of(row) if turn.task == "vqa"]
    instances = np.asarray(open_map(row["instance_map"]))
    height, width = instances.shape
    draw = Random(row["image_id"])

    def place(x: float, y: float) -> str:
        return f"{min(max(int(100 * x / width), 0), 99):02d}, {min(max(int(100 * y / height), 0), 99):02d}"

    seen = []
    for index, entry in enumerate(row["objects"]):
        pixels = np.argwhere(instances == index + 1)
        if len(pixels) and not entry["ignore"]:
            seen.append((len(pixels), index, entry))
            y, x = pixels[draw.randrange(len(pixels))]
            question = f"What is at {place(x + 0.5, y + 0.5)}?"
            turns.append(_words_turn(question, f"{described(entry)}.", entry["id"]))
    largest = [entry for _, _, entry in sorted(seen, key=lambda one: -one[0])[:4]]
    if largest:
        turns.append(_words_turn("Describe the picture.", "; ".join(map(described, largest)) + "."))
    objects = {entry["id"]: entry for entry in row["objects"]}
    for turn in turns_of(row):
        if turn.task == "grounding":
            phrase = turn.phrase
            left, top, right, bottom = objects[turn.targets[0]]["box_2d"]
            middle = place((max(left, 0) + min(right, width)) / 2, (max(top, 0) + min(bottom, height)) / 2)
            turns.append(_words_turn(f"Where is {phrase}?", f"At {middle}.", turn.targets[0]))
        elif turn.task == "absent":
            phrase = turn.phrase
            turns.append(_words_turn(f"Where is {phrase}?", turn.answer))
    return turns


def _words_turn(question: str, answer: str, *targets: str) -> Turn:
    return Turn(question, answer, "caption", targets)


# ------------------------------------------------------------------------------------------------------------- prepare


def prepare(data: Path, out: Path, num_proc: int = 2) -> None:
    """Tokenizer and processor, and the training rows as the collator wants them."""
    if (out / "prepared").is_dir():
        return
    set_seed(SEED)
    rows = load_split(data, "train")
    sample = rows.select(range(0, len(rows), max(len(rows) // 2000, 1)))
    texts = ["USER: ASSISTANT: "]
    for row in sample.cast_column("image", datasets.Image(decode=False)):
        for turn in (*turns_of(row), *pretraining_turns(row)):
            texts += [turn.question + " ", turn.answer.replace("<box_3d>", "")]
    tokenizer = build_tokenizer(texts)
    processor = LLMI3DProcessor.for_model(build_config(tokenizer), tokenizer)
    vocabularies = _vocabularies(sample)
    processor.save_pretrained(out / "processor")
    (out / "names.json").write_text(json.dumps(vocabularies))
    print(f"{len(tokenizer)} tokens, {len(rows)} pictures")

    packed = rows.cast_column("image", datasets.Image(decode=False)).map(
        PackRow(processor, vocabularies),
        remove_columns=rows.column_names,
        writer_batch_size=200,
        num_proc=num_proc,
        load_from_cache_file=False,
        desc="letterbox and tokenise",
    )
    packed.save_to_disk(out / "prepared.tmp")
    (out / "prepared.tmp").rename(out / "prepared")


def _vocabularies(rows) -> dict[str, list[str]]:
    found = {name: set() for name in NAMED}
    for row in rows.remove_columns(["image", "instance_map"]):
        for entry in row["objects"]:
            for name in NAMED:
                found[name] |= {entry["category"] if name == "category" else entry["attributes"].get(name)}
    return {name: sorted(values - {None}) for name, values in found.items()}


class PackRow:
    """A row of IG3D-Synth as a record for `DenseCollator`."""

    def __init__(self, processor: LLMI3DProcessor, vocabularies: dict[str, list[str]]):
        self.packer = new_packer(processor)
        self.vocabularies = vocabularies

    def __call__(self, row: dict) -> dict:
        record = self.packer(row)
        processor = self.packer.processor
        canvas = processor.image_processor.high_res_size["height"]
        grid = processor.image_processor.size["height"] // processor.patch_size
        record["cells"] = row_cells(row, record["place"], canvas, grid)
        objects = [{**entry["attributes"], "category": entry["category"]} for entry in row["objects"]]
        record["names"] = name_classes(objects, self.vocabularies).tobytes()
        return record


def new_packer(processor: LLMI3DProcessor) -> Packer:
    """With the turns of both halves of the training."""
    return Packer(processor, {"pretrain": pretraining_turns, "finetune": turns_of})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what `llmi3d data build synth` wrote, with masks")
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny"))
    parser.add_argument("--num-proc", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options.data, options.out, options.num_proc)


if __name__ == "__main__":
    main()
