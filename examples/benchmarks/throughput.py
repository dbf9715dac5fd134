# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Turns learned per second: one turn a sample, conversations, batches by length, cached features, loader processes.

    python examples/benchmarks/throughput.py
    python examples/benchmarks/throughput.py --rows 256 --out outputs/benchmarks/throughput.json

LoRA with frozen towers, as in the paper's second stage, on rendered rows. Every way of training learns the same turns;
each runs in a process of its own, one epoch to warm up (and to fill the cache) and one that counts. `waiting` is the
share of that epoch in which the step waits for its batch.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path

from data import measured  # the script beside this one

CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"
# Way: samples a step, and what it changes.
WAYS = {
    "a turn a sample": {"batch": 32, "alone": True},
    "conversations": {"batch": 4},
    "conversations by length": {"batch": 4, "by_length": True},
    "conversations, features cached": {"batch": 4, "cached": True},
    "conversations, cached, one loader process": {"batch": 4, "cached": True, "workers": 1},
}


def rows_of(folder: Path, alone: bool):
    """The rows, or each of their turns as a row of its own."""
    from llmi3d.training.data import take_turns
    from llmi3d.training.ig3d.dataset import load_split

    rows = load_split(folder, "train")
    if not alone:
        return rows
    return [take_turns(row, [i]) for row in rows for i in range(len(row["task"]))]


def train(folder: Path, way: str, found: Path) -> None:
    """One epoch to warm up, one that counts; writes what it took."""
    import torch
    from peft import get_peft_model
    from transformers import TrainerCallback

    from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor, LLMI3DTrainer, LLMI3DTrainingArguments
    from llmi3d.training.collator import LLMI3DDataCollator
    from llmi3d.training.feature_cache import FeatureCache
    from llmi3d.training.lora import lora_config

    class Watch(TrainerCallback):
        """When each epoch began."""

        began: list[float] = []

        def on_epoch_begin(self, args, state, control, **kwargs):
            self.began.append(time.perf_counter())

    class Watched(LLMI3DTrainer):
        waited: list[tuple[float, float]] = []

        def get_batch_samples(self, *args, **kwargs):
            start = time.perf_counter()
            batches = super().get_batch_samples(*args, **kwargs)
            self.waited.append((start, time.perf_counter() - start))
            return batches

    settings = {"alone": False, "by_length": False, "cached": False, "workers": 0, **WAYS[way]}
    torch.manual_seed(0)
    model = LLMI3DForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    processor = LLMI3DProcessor.from_pretrained(CHECKPOINT)
    for tower in (model.model.vision_tower, model.model.high_res_tower):
        tower.requires_grad_(False)
    model = get_peft_model(model, lora_config(model, rank=16))
    rows = rows_of(folder, settings["alone"])
    turns = sum(len(row["task"]) for row in rows)
    options = {}
    if settings["by_length"]:
        options = {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}
        rows = rows.add_column("length", [sum(len(one["content"]) for one in each) for each in rows["messages"]])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = LLMI3DTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=settings["batch"],
            num_train_epochs=2,
            dataloader_num_workers=settings["workers"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **options,
        )
        watch = Watch()
        trainer = Watched(
            model,
            arguments,
            train_dataset=rows,
            data_collator=LLMI3DDataCollator(processor),
            callbacks=[watch],
        )
        cache = FeatureCache(model, Path(scratch) / "features") if settings["cached"] else contextlib.nullcontext()
        with cache:
            trainer.train()
        end = time.perf_counter()
    second = watch.began[1]
    waiting = sum(seconds for start, seconds in trainer.waited if start >= second)
    seconds = end - second
    result = {"turns_per_second": turns / seconds, "samples_per_second": len(rows) / seconds}
    found.write_text(json.dumps({**result, "waiting": waiting / seconds, "turns": turns, **settings}))


def main() -> None:
    """Runs the benchmark and writes its JSON."""
    import torch

    from llmi3d.training.ig3d.build import build, open_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/throughput.json"))
    arguments = parser.parse_args()
    report = {"rows": arguments.rows, "threads": torch.get_num_threads(), "warm_up": "one epoch", "results": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        source = open_source("synth", None, frames=f"train:{arguments.rows}", long_side="320")
        build(source, folder, max_turns=8, progress=False)
        print(f"{'way':44}{'turns/s':>9}{'samples/s':>11}{'waiting':>9}{'peak MB':>9}")
        for way in WAYS:
            found = measured(train, folder, way, Path(name) / "found.json")
            found = json.loads((Path(name) / "found.json").read_text()) | {"way": way, "peak_mb": found["peak_mb"]}
            report["results"].append(found)
            print(
                f"{way:44}{found['turns_per_second']:9.1f}{found['samples_per_second']:11.1f}"
                f"{found['waiting']:9.1%}{found['peak_mb']:9.0f}",
                flush=True,
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
