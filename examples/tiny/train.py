# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Trains the tiny checkpoint, stage by stage.

    python examples/tiny/train.py STAGE --out OUT

    towers     stage 0a  ViT, CNN, feature mining, projector and 3D heads on dense labels, standing in for the
                         pre-training that CLIP and ConvNeXt bring along
    pretrain   stage 0b  the whole MLLM on captions, places in words and questions, dense labels kept
    align      stage 1   feature mining, projector and 3D heads on grounding, with towers and language model frozen
    finetune   stage 2   LoRA on the language model, with the new parts, on all turns; merged
    export               bfloat16 weights, processor, code and log into a folder as it would lie on the Hub

Every stage goes on where it was interrupted and is passed over when it is done.
"""

import argparse
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import torch
from peft import get_peft_model
from prepare import SEED, build_config, build_model, new_packer
from timm.optim import Muon
from torch import nn
from transformers import TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor, LLMI3DTrainingArguments
from llmi3d.training.dense import DenseCollator, DenseTowers, DenseTowersTrainer, DenseTrainer
from llmi3d.training.lora import lora_config
from llmi3d.training.losses import Box3DLossWeights
from llmi3d.training.packing import Packer


@dataclass(frozen=True)
class Stage:
    """How a stage is trained.

    Attributes:
        epochs: passes over the pictures.
        learning_rate: at its highest; falls by a cosine to a share of it (`end`) after a short warm-up.
        turns: of a picture that are learned each time it comes.
        dense: weight of the dense box loss.
        gaze: weight of the loss of attending to what is spoken of.
    """

    epochs: float
    learning_rate: float
    turns: int = 0
    dense: float = 0.0
    gaze: float = 0.0
    end: float = 0.0


BATCH = 16
CELLS = 32
STAGES = {
    "towers": Stage(epochs=5.0, learning_rate=2e-3, end=0.1),
    "pretrain": Stage(epochs=0.75, learning_rate=1.5e-3, turns=10, dense=1.0, gaze=1.0, end=0.3),
    "align": Stage(epochs=0.04, learning_rate=1e-3, turns=10, dense=1.0, gaze=1.0, end=0.5),
    "finetune": Stage(epochs=1.6, learning_rate=1e-3, turns=10, dense=0.5, gaze=1.0, end=0.01),
}


def towers(out: Path, scale: float) -> None:
    """Stage 0a."""
    done = out / "towers" / "model"
    if (done / "model.safetensors").is_file():
        return
    set_seed(SEED)
    processor = LLMI3DProcessor.from_pretrained(out / "processor")
    model = for_cpu(build_model(build_config(processor.tokenizer)))
    classes = [len(values) for values in json.loads((out / "names.json").read_text()).values()]
    wrapped = DenseTowers(model, classes, name_weight=1.0, box_weights=Box3DLossWeights(**WEIGHTS))
    collator = DenseCollator(packer_of(out), words=False, cells=CELLS, jitter=0.2, flip=True)
    trainer = DenseTowersTrainer(
        wrapped,
        TrainingArguments(**arguments(out, "towers", scale), remove_unused_columns=False),
        train_dataset=records_of(out),
        data_collator=collator,
        optimizers=(optimizer(wrapped, STAGES["towers"].learning_rate), None),
    )
    run(trainer, out / "towers")
    model.save_pretrained(done)


# The depth map's loss is a cross-entropy over 80 bins that never becomes small; size and rotation are learned last.
WEIGHTS = {"depth_map": 0.5, "size": 2.0, "rotation": 2.0}


def words_stage(out: Path, name: str, model: nn.Module, scale: float, turns: str) -> None:
    """One stage with the language model."""
    stage = STAGES[name]
    collator = DenseCollator(packer_of(out), turns, most_turns=stage.turns, cells=CELLS, jitter=0.2)
    trainer = DenseTrainer(
        model,
        LLMI3DTrainingArguments(**arguments(out, name, scale), box_loss_weights=WEIGHTS),
        train_dataset=records_of(out),
        data_collator=collator,
        dense_weight=stage.dense,
        gaze_weight=stage.gaze,
        optimizers=(optimizer(model, stage.learning_rate), None),
    )
    run(trainer, out / name)


def pretrain(out: Path, scale: float) -> None:
    """Stage 0b."""
    done = out / "pretrain" / "model"
    if (done / "model.safetensors").is_file():
        return
    set_seed(SEED)
    model = load(out / "towers" / "model")
    words_stage(out, "pretrain", model, scale, "pretrain")
    model.save_pretrained(done)


def align(out: Path, scale: float) -> None:
    """Stage 1."""
    done = out / "align" / "model"
    if (done / "model.safetensors").is_file():
        return
    set_seed(SEED)
    model = load(out / "pretrain" / "model")
    model.requires_grad_(False)
    for part in (model.model.feature_mining, model.model.multi_modal_projector, model.box_head):
        part.requires_grad_(True)
    words_stage(out, "align", model, scale, "finetune")
    model.save_pretrained(done)


def finetune(out: Path, scale: float) -> None:
    """Stage 2."""
    done = out / "finetune" / "model"
    if (done / "model.safetensors").is_file():
        return
    set_seed(SEED)
    model = load(out / "align" / "model")
    # The towers too: the short first stage leaves them much to learn.
    new = ("vision_tower", "high_res_tower", "feature_mining", "multi_modal_projector", "box_head", "lm_head")
    model = get_peft_model(model, lora_config(model, rank=64, alpha=64, train=new))
    words_stage(out, "finetune", model, scale, "finetune")
    model.merge_and_unload().save_pretrained(done)


def load(folder: Path) -> LLMI3DForConditionalGeneration:
    """A model of an earlier stage."""
    return for_cpu(LLMI3DForConditionalGeneration.from_pretrained(folder, dtype=torch.float32))


def for_cpu(model: LLMI3DForConditionalGeneration) -> LLMI3DForConditionalGeneration:
    """The model, with the attention that is faster on a CPU for so few and narrow heads, by a quarter."""
    if not torch.accelerator.is_available():
        model.set_attn_implementation("eager")
    return model


def packer_of(out: Path) -> Packer:
    return new_packer(LLMI3DProcessor.from_pretrained(out / "processor"))


def records_of(out: Path) -> datasets.Dataset:
    return datasets.load_from_disk(out / "prepared")


def arguments(out: Path, name: str, scale: float) -> dict:
    """What all stages have in common."""
    stage = STAGES[name]
    steps = max(round(scale * stage.epochs * len(records_of(out)) / BATCH), 2)
    return {
        "output_dir": str(out / name),
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": stage.end},
        "warmup_steps": min(100, steps // 10),
        "max_grad_norm": 1.0,
        "bf16": True,
        "use_cpu": not torch.accelerator.is_available(),
        "logging_steps": min(25, max(steps // 10, 1)),
        "save_steps": 200,
        "save_total_limit": 1,
        "seed": SEED,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }


def optimizer(model: nn.Module, learning_rate: float) -> Muon:
    """Muon on matrices, AdamW on the rest, with steps as large (timm's implementation). To the same loss in two thirds
    of AdamW's steps."""
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    # Rows of these are words; a word that the batch lacks has no gradient that could be made as large as the others'.
    words = {name for name in trained if "embed_tokens" in name or "lm_head" in name}
    groups = [
        {"params": [one for name, one in trained.items() if one.ndim >= 2 and name not in words]},
        {"params": [trained[name] for name in trained if name in words], "use_fallback": True},
        {"params": [one for one in trained.values() if one.ndim < 2], "weight_decay": 0.0},
    ]
    return Muon(groups, lr=learning_rate, weight_decay=0.05, nesterov=True, betas=(0.9, 0.99))


def run(trainer, out: Path) -> None:
    """Trains from the last checkpoint on, if there is one, and keeps the log."""
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)) if out.is_dir() else None)
    trainer.save_state()
    for checkpoint in out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def export(out: Path, card: Path) -> None:
    """The merged model in bfloat16 with all that belongs to a checkpoint, and the log of all stages."""
    model = LLMI3DForConditionalGeneration.from_pretrained(out / "finetune" / "model", dtype=torch.float32)
    model.generation_config.max_new_tokens = 48
    model.to(torch.bfloat16).save_pretrained(card)
    LLMI3DProcessor.from_pretrained(out / "processor").save_pretrained(card)
    (card / "training_log.json").write_text(json.dumps(training_log(out), indent=1))
    print(f"{card}: {sum(file.stat().st_size for file in card.iterdir() if file.is_file()) / 1e6:.1f} MB")


def training_log(out: Path) -> dict:
    """Of each stage its settings, duration and every tenth line of its log, rounded."""
    log = {"seed": SEED, "batch_size": BATCH, "cells": CELLS, "pictures": len(records_of(out)), "stages": {}}
    for name, stage in STAGES.items():
        state = json.loads((out / name / "trainer_state.json").read_text())
        lines = [line for line in state["log_history"] if "loss" in line]
        kept = [*lines[:: max(len(lines) // 12, 1)], lines[-1]]
        numbers = [{key: float(f"{float(value):.4g}") for key, value in line.items()} for line in kept]
        minutes = [line["train_runtime"] / 60 for line in state["log_history"] if "train_runtime" in line]
        log["stages"][name] = {
            "settings": asdict(stage),
            "steps": state["global_step"],
            "minutes": round(minutes[-1], 1) if minutes else None,  # since it was last interrupted
            "log": numbers,
        }
    return log


STAGE_FUNCTIONS = {"towers": towers, "pretrain": pretrain, "align": align, "finetune": finetune}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGE_FUNCTIONS, "export"])
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny"))
    parser.add_argument("--card", type=Path, default=Path("model_cards/llmi3d-tiny"), help="for export")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps, for trials")
    options = parser.parse_args()
    if options.stage == "export":
        export(options.out, options.card)
    else:
        STAGE_FUNCTIONS[options.stage](options.out, options.scale)


if __name__ == "__main__":
    main()
