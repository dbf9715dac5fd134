# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Train the text-decoding baseline, evaluate it, and compare it with a model that has the 3D query token.

    python examples/text_baseline.py BASE DATA --protocol ig3d-kitti --out outputs/text
    python examples/text_baseline.py BASE DATA --protocol ig3d-kitti --out outputs/text --query CHECKPOINT

BASE is the checkpoint that both start from, DATA a folder that `llmi3d data build` wrote. The comparison is fair if
CHECKPOINT was trained with the same rows, steps and LoRA. The same command resumes after an interruption. Writes

    OUT/checkpoint                 the model, adapters merged
    OUT/text, OUT/query            evaluations: report.md, report.json, plots
    OUT/comparison.md              differences with paired intervals

Several processes share training and evaluation: accelerate launch examples/text_baseline.py ...
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.data.dataset import load_split
from llmi3d.data.outputs import process_state, write_whole
from llmi3d.evaluation.comparison import compare
from llmi3d.evaluation.protocols import get_protocol
from llmi3d.evaluation.runner import CheckpointPredictor, evaluate
from llmi3d.training.experimental.text_baseline import TEXT_PARTS, TextPredictor, text_lora_config, text_trainer
from llmi3d.training.experimental.text_boxes import FORMS


def trainer_settings(out: Path) -> dict:
    """Return settings that the runs of these examples share; bfloat16 where the device supports it."""
    return {
        "output_dir": str(out),
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": False,
        "save_total_limit": 1,
        "report_to": "none",
    }


def run(trainer, out: Path) -> Path:
    """Train from the last checkpoint on, merge the adapters, and save model and processor in OUT/checkpoint."""
    folder = Path(trainer.args.output_dir)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    trainer.accelerator.wait_for_everyone()
    done, unfinished = out / "checkpoint", out / "checkpoint.part"
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(unfinished)
        trainer.processing_class.save_pretrained(unfinished)
        os.rename(unfinished, done)
    trainer.accelerator.wait_for_everyone()
    return done


class StopAt(TrainerCallback):
    """End training once the logged loss is below a value."""

    def __init__(self, loss: float):
        self.loss = loss

    def on_log(self, args, state, control, logs=None, **kwargs):
        if (logs or {}).get("loss", self.loss) < self.loss:
            control.should_training_stop = True


def train_text(
    base: str | Path,
    rows,
    out: Path,
    *,
    form: str,
    rank: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    train: tuple[str, ...] = TEXT_PARTS,
    epochs: float = 1.0,
    stop_at: float = 0.0,
) -> Path:
    """Return the text model of OUT/checkpoint, trained if it does not exist yet. Positive `steps` override `epochs`.

    A positive `stop_at` is the loss at which training ends early; the learning rate then stays constant.
    """
    if (out / "checkpoint").is_dir():
        return out / "checkpoint"
    model = LLMI3DForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    processor = LLMI3DProcessor.from_pretrained(base)
    args = SFTConfig(
        **trainer_settings(out / "run"),
        per_device_train_batch_size=batch_size,
        num_train_epochs=epochs,
        max_steps=steps or -1,
        learning_rate=learning_rate,
        lr_scheduler_type="constant_with_warmup" if stop_at else "cosine",
        warmup_steps=0.05,
        logging_steps=5,
        save_steps=100,
    )
    adapters = text_lora_config(model, rank, train)
    trainer = text_trainer(model, processor, rows, args, form, adapters, callbacks=[StopAt(stop_at)])
    return run(trainer, out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="checkpoint to start from")
    parser.add_argument("data", help="folder that `llmi3d data build` wrote, or a data set on the Hub")
    parser.add_argument("--protocol", required=True, help="protocol such as ig3d-kitti; an unknown name lists all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--query", help="checkpoint with the 3D query token to compare with")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--split", help="split to evaluate on, instead of the protocol's")
    parser.add_argument("--form", choices=FORMS, default="numbers", help="how boxes are written")
    parser.add_argument("--rank", type=int, default=16, help="rank of the LoRA adapters")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=0, help="steps of training, instead of epochs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--samples", type=int, default=1, help="answers to choose from by the model's own score")
    parser.add_argument("--max-new-tokens", type=int, default=160, help="longest answer")
    return parser.parse_args()


def main() -> None:
    options = parse()
    protocol = get_protocol(options.protocol)
    protocol = protocol.variant(split=options.split) if options.split else protocol
    checkpoint = train_text(
        options.base,
        load_split(options.data, options.train_split),
        options.out,
        form=options.form,
        rank=options.rank,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
    )
    rows, state = load_split(options.data, protocol.split), process_state()
    device = state.device if state.num_processes > 1 else None
    writer = TextPredictor(
        checkpoint,
        options.form,
        "boxes as text",
        device,
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
    )
    text = evaluate(writer, rows, protocol, options.out / "text").report
    page = text.to_markdown()
    if options.query:
        asked = CheckpointPredictor(options.query, protocol.mode, "3D query token", device)
        query = evaluate(asked, rows, protocol, options.out / "query").report
        page = compare(query, text).to_markdown()
        if state.is_main_process:
            write_whole(options.out / "comparison.md", page)
    if state.is_main_process:
        print(page)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
