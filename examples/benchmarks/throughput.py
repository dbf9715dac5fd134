# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Measure turns learned per second: single turns, conversations, batches by length, cached features, loaders.

    python examples/benchmarks/throughput.py
    python examples/benchmarks/throughput.py --rows 256 --out outputs/benchmarks/throughput.json
    python examples/benchmarks/throughput.py --only "conversations, cached" --language 192x4 512x8 1024x8

LoRA with frozen towers, as in the paper's second stage, on rendered rows. Every way of training learns the same turns
in its own process: one epoch to warm up, and one that is measured. The feature cache is built before. `batch` is the
CPU time of making a batch, `step` that of learning it; on a busy machine they say more than turns per second.
`waiting` is the share of the epoch in which a step waits for its batch. Loader processes persist over both epochs;
with them, only batches that take longer than a step are waited for.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

from data import measured  # the script beside this one

CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"
# Way: samples per step, and what it changes.
WAYS = {
    "a turn a sample": {"batch": 32, "alone": True},
    "conversations": {"batch": 4},
    "conversations by length": {"batch": 4, "by_length": True},
    "conversations, one loader process": {"batch": 4, "workers": 1},
    "conversations, cached": {"batch": 4, "cached": True},
    "conversations, cached, one loader process": {"batch": 4, "cached": True, "workers": 1},
}


def rows_of(folder: Path, alone: bool):
    """Return the rows, or each of their turns as its own row."""
    from llmi3d.data.dataset import load_split
    from llmi3d.training.mixture import take_turns

    rows = load_split(folder, "train")
    if not alone:
        return rows
    return [take_turns(row, [i]) for row in rows for i in range(len(row["task"]))]


def language_size(text: str) -> tuple[int, int]:
    """Return (width, layers) of "512x8".

    Raises:
        argparse.ArgumentTypeError: another form, or a width that is not a multiple of 64, the width of a head.
    """
    width, _, layers = text.partition("x")
    if not (width.isdigit() and layers.isdigit() and int(width) and int(width) % 64 == 0 and int(layers)):
        raise argparse.ArgumentTypeError(f"got {text!r}, want WIDTHxLAYERS with a width that is a multiple of 64")
    return int(width), int(layers)


def model_of(language: tuple[int, int] | None):
    """Return the checkpoint's model, or one like it with a new language model of another size."""
    import torch

    from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration

    if language is None:
        return LLMI3DForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    config = LLMI3DConfig.from_pretrained(CHECKPOINT)
    width, config.text_config.num_hidden_layers = language
    config.text_config.hidden_size, config.text_config.intermediate_size = width, 2 * width
    config.text_config.head_dim, config.text_config.num_attention_heads = 64, width // 64
    config.text_config.num_key_value_heads = width // 64
    config.dtype = "float32"
    return LLMI3DForConditionalGeneration(config)


def train(folder: Path, way: str, language: tuple[int, int] | None, found: Path) -> None:
    """Train one epoch to warm up and one that is measured; write the measurements."""
    import torch
    from peft import get_peft_model
    from transformers import TrainerCallback

    from llmi3d import LLMI3DProcessor, LLMI3DTrainingArguments
    from llmi3d.training.collator import LLMI3DDataCollator
    from llmi3d.training.feature_cache import CachedViews, FeatureCacheArguments, build_feature_cache, undecoded
    from llmi3d.training.lora import lora_config
    from llmi3d.training.mixture import TrainingRows
    from llmi3d.training.run import StageTrainer

    class Watch(TrainerCallback):
        """Record when each epoch began, in wall-clock and CPU time."""

        began: list[tuple[float, float]] = []

        def on_epoch_begin(self, args, state, control, **kwargs):
            self.began.append((time.perf_counter(), time.process_time()))

    class Watched(StageTrainer):
        waited: list[tuple[float, float, float]] = []

        def get_batch_samples(self, *args, **kwargs):
            start, start_cpu = time.perf_counter(), time.process_time()
            batches = super().get_batch_samples(*args, **kwargs)
            self.waited.append((start, time.perf_counter() - start, time.process_time() - start_cpu))
            return batches

    settings = {"alone": False, "by_length": False, "cached": False, "workers": 0, **WAYS[way]}
    torch.manual_seed(0)
    model = model_of(language)
    processor = LLMI3DProcessor.from_pretrained(CHECKPOINT)
    for tower in (model.model.vision_tower, model.model.high_res_tower):
        tower.requires_grad_(False)
    model = get_peft_model(model, lora_config(model, rank=16))
    rows, collate, size = rows_of(folder, settings["alone"]), LLMI3DDataCollator(processor), settings["batch"]
    turns = sum(len(row["task"]) for row in rows)
    making, views = [], None
    scratch = tempfile.TemporaryDirectory()
    if settings["cached"]:
        features = FeatureCacheArguments(f"{scratch.name}/features")
        rows, views = undecoded(rows), CachedViews(build_feature_cache(model, processor, rows, features))
    rows = TrainingRows(rows, augment=views)
    for first in range(0, min(len(rows), 8 * size), size):
        start = time.process_time()
        collate([rows[i] for i in range(first, min(first + size, len(rows)))])
        making.append(time.process_time() - start)
    with scratch:
        arguments = LLMI3DTrainingArguments(
            output_dir=scratch.name,
            per_device_train_batch_size=size,
            num_train_epochs=2,
            dataloader_num_workers=settings["workers"],
            dataloader_persistent_workers=settings["workers"] > 0,
            dataloader_pin_memory=False,
            train_sampling_strategy="group_by_length" if settings["by_length"] else "random",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        watch = Watch()
        trainer = Watched(
            model,
            arguments,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[watch],
        )
        trainer.train()
        end, end_cpu = time.perf_counter(), time.process_time()
    second, second_cpu = watch.began[1]
    waits = [(seconds, cpu) for start, seconds, cpu in trainer.waited if start >= second]
    waiting, waiting_cpu = (sum(each) for each in zip(*waits, strict=True))
    seconds, steps = end - second, math.ceil(len(rows) / size)
    result = {
        "turns_per_second": turns / seconds,
        "samples_per_second": len(rows) / seconds,
        "batch_cpu_seconds": statistics.median(making),
        "step_cpu_seconds": (end_cpu - second_cpu - waiting_cpu) / steps,
        "waiting": waiting / seconds,
        "parameters": sum(one.numel() for one in model.parameters()),
    }
    found.write_text(json.dumps({**result, "turns": turns, **settings}))


def main() -> None:
    """Run the benchmark and write its JSON."""
    import torch

    from llmi3d.data.build import build, open_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--only", default="", metavar="TEXT", help="ways whose names contain this")
    parser.add_argument(
        "--language",
        type=language_size,
        nargs="+",
        default=[None],
        metavar="WIDTHxLAYERS",
        help="sizes of language models instead of the checkpoint's, to see how waiting falls with the time per step",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/throughput.json"))
    arguments = parser.parse_args()
    ways = [way for way in WAYS if arguments.only in way]
    if not ways:
        parser.error(f"--only: got {arguments.only!r}, want a part of one of {', '.join(WAYS)}")
    report = {"rows": arguments.rows, "threads": torch.get_num_threads(), "warm_up": "one epoch", "results": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        source = open_source("synth", None, frames=f"train:{arguments.rows}", long_side="320")
        build(source, folder, max_turns=8, progress=False)
        print(
            f"{'way':42}{'parameters':>12}{'turns/s':>9}{'samples/s':>11}{'batch ms':>10}{'step ms':>9}{'waiting':>9}"
            f"{'peak MB':>9}"
        )
        for language in arguments.language:
            for way in ways:
                taken = measured(train, folder, way, language, Path(name) / "found.json")
                found = json.loads((Path(name) / "found.json").read_text())
                found |= {"way": way, "language": language, "peak_mb": taken["peak_mb"]}
                report["results"].append(found)
                print(
                    f"{way:42}{found['parameters'] / 1e6:10.1f} M{found['turns_per_second']:9.1f}"
                    f"{found['samples_per_second']:11.1f}{found['batch_cpu_seconds'] * 1e3:10.0f}"
                    f"{found['step_cpu_seconds'] * 1e3:9.0f}{found['waiting']:9.1%}{found['peak_mb']:9.0f}",
                    flush=True,
                )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
