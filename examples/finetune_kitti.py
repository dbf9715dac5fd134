# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Trains a small LLMI3D on a few real KITTI frames and grounds phrases in them: the whole chain, in minutes.

    python examples/finetune_kitti.py --samples ../shared/samples/kitti --out outputs/kitti

The frames are those the model was trained on: this shows that every part of the chain works together, and says nothing
about pictures it has not seen. An interrupted run goes on where it stopped when the same command is given again.
"""

import argparse
import json
import os
import random
import sys
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, pipeline, set_seed
from transformers.trainer_utils import get_last_checkpoint

from llmi3d import (
    LLMI3DConfig,
    LLMI3DForConditionalGeneration,
    LLMI3DProcessor,
    LLMI3DTrainer,
    LLMI3DTrainingArguments,
)
from llmi3d.data.schema import grounding_conversation, grounding_pairs
from llmi3d.data.sources.kitti import read_kitti_frames
from llmi3d.evaluation import box3d_iou
from llmi3d.processing.drawing import draw_answer
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.lora import lora_config

SEED = 0


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer for the few words of this example."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
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
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> tuple[LLMI3DForConditionalGeneration, LLMI3DProcessor]:
    """A model of the paper's shape, small enough for a laptop: 6x6 visual tokens, each over 8x8 cells of the CNN."""
    config = LLMI3DConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "initializer_range": 0.06,  # by its width: 0.02 is for thousands of channels
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 16,
            "projection_dim": 192,
        },
        high_res_vision_config={
            "model_type": "timm_wrapper",
            "architecture": "convnext_atto",
            # Layer scale starts at 1: there are no pre-trained weights that a small one would protect.
            "model_args": {"depths": [1, 1, 2, 1], "dims": [32, 64, 128, 256], "ls_init_value": 1.0},
        },
        high_res_image_size=192,
        depth_predictor_dim=64,
        depth_embedding_dim=32,
        box_head_dim=256,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        box_3d_token_id=tokenizer.convert_tokens_to_ids("<|box_3d|>"),
    )
    return LLMI3DForConditionalGeneration(config), LLMI3DProcessor.for_model(config, tokenizer)


class ShuffledTurns(torch.utils.data.Dataset):
    """Passes over all phrases of all frames, in conversations of at most four turns; item i is always the same.

    Every phrase comes once a pass, whatever number of phrases its frame has, in one of a few orders.
    """

    TURNS, ORDERS = 4, 24

    def __init__(self, rows: list[dict], passes: int):
        self.rows = [{**row, "image": Image.open(row["image"]).convert("RGB")} for row in rows]
        self.pairs = [grounding_pairs(row) for row in rows]
        # Of each conversation of a pass: its frame, and where its phrases start in the frame's shuffled ones.
        self.starts = [
            (frame, start) for frame, pairs in enumerate(self.pairs) for start in range(0, len(pairs), self.TURNS)
        ]
        self.passes = passes

    def __len__(self) -> int:
        return self.passes * len(self.starts)

    def __getitem__(self, index: int) -> dict:
        frame, start = self.starts[index % len(self.starts)]
        pairs = list(self.pairs[frame])
        random.Random(index // len(self.starts) % self.ORDERS).shuffle(pairs)
        pairs = pairs[start : start + self.TURNS]
        return {
            **self.rows[frame],
            "messages": grounding_conversation([phrase for phrase, _ in pairs]),
            "targets": [entry["id"] for _, entry in pairs],
            "task": ["grounding"] * len(pairs),
        }


def run_trainer(model, processor, rows: list[dict], out: Path, steps: int) -> None:
    """One stage of training; goes on from the stage's last checkpoint in `out`, if there is one."""
    conversations = ShuffledTurns(rows, passes=steps)
    arguments = LLMI3DTrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=len(conversations.starts),
        train_sampling_strategy="sequential",
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        logging_steps=max(steps // 20, 1),
        save_steps=max(steps // 4, 1),
        save_total_limit=1,
        seed=SEED,
        report_to="none",
    )
    trainer = LLMI3DTrainer(model, arguments, train_dataset=conversations, data_collator=LLMI3DDataCollator(processor))
    last = get_last_checkpoint(arguments.output_dir) if out.is_dir() else None
    trainer.train(resume_from_checkpoint=last)


def train(rows: list[dict], out: Path, steps: int) -> Path:
    """Trains in the paper's two stages, merges the adapter and saves a checkpoint that `pipeline` loads."""
    set_seed(SEED)
    phrases = [phrase for row in rows for phrase, _ in grounding_pairs(row)]
    tokenizer = build_tokenizer(["USER: ASSISTANT: Locate in 3D.", *phrases])
    model, processor = build_model(tokenizer)

    print("Stage 1: align feature mining and projector; towers and language model stay as they are.")
    aligned = out / "aligned"
    if not (aligned / "model.safetensors").is_file():
        model.requires_grad_(False)
        for part in (model.model.feature_mining, model.model.multi_modal_projector, model.box_head):
            part.requires_grad_(True)
        run_trainer(model, processor, rows, out / "stage_1", steps // 5)
        model.save_pretrained(aligned)

    print("Stage 2: LoRA on the language model, with the 3D heads.")
    model = LLMI3DForConditionalGeneration.from_pretrained(aligned)
    # A base that was pre-trained would not need its output embeddings trained.
    adapters = lora_config(model, rank=32, train=("box_head", "lm_head"))
    model = get_peft_model(model, adapters)
    model.print_trainable_parameters()
    run_trainer(model, processor, rows, out / "stage_2", steps)

    adapter, checkpoint = out / "adapter", out / "checkpoint"
    model.save_pretrained(adapter)
    base = LLMI3DForConditionalGeneration.from_pretrained(aligned)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    return checkpoint


def evaluate(rows: list[dict], checkpoint: Path, out: Path) -> dict:
    """Grounds every phrase in every frame with `pipeline()`, draws pictures, and prints the exact 3D IoU of each."""
    ground = pipeline("image-3d-grounding", model=str(checkpoint), device="cpu")
    results = []
    print(f"\n{'frame':<22}{'phrase':<36}{'IoU':>6}{'score':>7}{'depth m':>9}{'true m':>8}")
    for row in rows:
        pairs = grounding_pairs(row)
        answers = ground(row["image"], prompt=[phrase for phrase, _ in pairs], intrinsics=row["intrinsics"])
        for (phrase, entry), answer in zip(pairs, answers, strict=True):
            box = answer["boxes"][0]
            truth = box_of(entry)
            iou = box3d_iou(torch.tensor([box["corners"]]), truth[None], paired=True).item()
            depths = box["center"][2], entry["center"][2]
            results.append({"frame": row["image_id"], "phrase": phrase, "iou": iou, "score": box["score"], "box": box})
            print(
                f"{row['image_id']:<22}{phrase:<36}{iou:>6.2f}{box['score']:>7.2f}{depths[0]:>9.2f}{depths[1]:>8.2f}"
            )
        together = {**answers[0], "prompt": "", "boxes": [box for answer in answers for box in answer["boxes"]]}
        picture = draw_answer(Image.open(row["image"]).convert("RGB"), together)
        picture.save(out / f"{Path(row['image']).stem}.png")
    ious = [result["iou"] for result in results]
    summary = {
        "phrases": len(ious),
        "acc_25": sum(iou > 0.25 for iou in ious) / len(ious),
        "acc_50": sum(iou > 0.5 for iou in ious) / len(ious),
        "mean_iou": sum(ious) / len(ious),
        "note": "measured on the frames trained on: a proof of the chain, not of generalisation",
    }
    (out / "results.json").write_text(json.dumps({"summary": summary, "results": results}, indent=1))
    return summary


def box_of(entry: dict) -> torch.Tensor:
    """Corners [8, 3] of a row's object, metres."""
    from llmi3d.processing.geometry_llmi3d import box_corners

    return box_corners(*(torch.tensor(entry[name], dtype=torch.float64) for name in ("center", "size", "rotation")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    samples = Path(os.environ.get("LLMI3D_SAMPLES", "../shared/samples")) / "kitti"
    parser.add_argument(
        "--samples", type=Path, default=samples, help="folder with KITTI's training/image_2, calib, label_2"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/kitti"))
    parser.add_argument("--steps", type=int, default=700, help="steps of the second stage")
    options = parser.parse_args()
    if not (options.samples / "training" / "image_2").is_dir():
        sys.exit(
            f"No KITTI frames in {options.samples}/training.\nGet the left colour images, camera calibration and "
            f"training "
            "labels of the KITTI object benchmark (https://www.cvlibs.net/datasets/kitti/eval_object.php), put a few "
            "frames under training/image_2, training/calib and training/label_2 of one folder, and give that folder "
            "by "
            "--samples, or its parent by the environment variable LLMI3D_SAMPLES."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    rows = list(read_kitti_frames(options.samples))
    checkpoint = train(rows, options.out, options.steps)
    summary = evaluate(rows, checkpoint, options.out)
    print(
        f"\nAcc@0.25 {summary['acc_25']:.3f}   Acc@0.5 {summary['acc_50']:.3f}   mean IoU {summary['mean_iou']:.3f}   "
        f"({summary['phrases']} phrases; {summary['note']})\nPictures and results.json: {options.out}"
    )


if __name__ == "__main__":
    main()
