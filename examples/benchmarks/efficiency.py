# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Compare LoRA with full fine-tuning: trained parameters, memory, time per step, saved size and accuracy.

    python examples/benchmarks/efficiency.py
    python examples/benchmarks/efficiency.py --base CHECKPOINT --steps 400 --out outputs/benchmarks/efficiency.json

Adapters of rank 4 to 128 with the new parts, the new parts only (language model frozen), and all weights except the
towers: from the same base, on the same batches of rendered rows, with the same number of steps. Each way runs in its
own process. Accuracy is that of `LLMI3DTrainer.evaluate` on held-out rows, which is teacher-forced. Memory is the
peak of the process minus what it had before the first step; `planned` is what `llmi3d.training.plan` predicts for
gradients, optimizer and activations without running anything.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from data import measured  # the script beside this one

CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"
RANKS = (4, 8, 16, 32, 64, 128)
WAYS = {**{f"rank {rank}": ("lora", rank) for rank in RANKS}, "frozen": ("new_parts", 1), "full": ("full", 1)}
BATCH, WARM_UP = 4, 5


def train(way: str, base: Path, data: Path, steps: int, found: Path) -> None:
    """Train one way and write its measurements."""
    import resource

    import torch
    from peft import get_peft_model
    from transformers import TrainerCallback

    from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor, LLMI3DTrainer, LLMI3DTrainingArguments
    from llmi3d.data.dataset import load_split
    from llmi3d.training.collator import LLMI3DDataCollator
    from llmi3d.training.lora import NEW_PARTS, lora_config
    from llmi3d.training.plan import GIB, plan_training

    class Watch(TrainerCallback):
        """Record the seconds of each step, and the memory before the first."""

        seconds: list[float] = []

        def on_train_begin(self, args, state, control, **kwargs):
            self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        def on_step_begin(self, args, state, control, **kwargs):
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds.append(time.perf_counter() - self.started)

    tuning, rank = WAYS[way]
    torch.manual_seed(0)
    model = LLMI3DForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    collator = LLMI3DDataCollator(LLMI3DProcessor.from_pretrained(base))
    if tuning == "lora":
        model = get_peft_model(model, lora_config(model, rank=rank))
    core = model.get_base_model() if tuning == "lora" else model
    if tuning == "new_parts":
        model.requires_grad_(False)
        for part in NEW_PARTS:
            getattr(core, part, getattr(core.model, part, None)).requires_grad_(True)
    for tower in (core.model.vision_tower, core.model.high_res_tower):
        tower.requires_grad_(False)
    rows = load_split(data, "train")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = LLMI3DTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=1e-4 if tuning == "full" else 5e-4,
            lr_scheduler_type="cosine",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        watch = Watch()
        trainer = LLMI3DTrainer(
            model,
            arguments,
            train_dataset=rows,
            eval_dataset=load_split(data, "validation"),
            data_collator=collator,
            callbacks=[watch],
        )
        trainer.train()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        judged = trainer.evaluate()
        model.save_pretrained(Path(scratch) / "saved")
        saved = sum(one.stat().st_size for one in (Path(scratch) / "saved").rglob("*.safetensors"))
    longest = max(collator([rows[i]])["input_ids"].shape[1] for i in range(min(len(rows), 16)))
    planned = plan_training(
        core.config,
        tuning=tuning,
        rank=rank,
        batch_size=BATCH,
        text_tokens=longest - core.config.image_seq_length,
        dtype=torch.float32,
        overhead=0.0,
    )
    result = {
        "way": way,
        "trained_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "added_mb": peak - watch.before,
        "planned_mb": (planned.total - planned.weights) * GIB / 2**20,
        "seconds_per_step": statistics.median(watch.seconds[WARM_UP:]),
        "saved_mb": saved / 1e6,
        **{name: judged[f"eval_{name}"] for name in ("loss", "acc@0.25", "acc@0.5", "mean_iou", "num_boxes")},
    }
    found.write_text(json.dumps(result))


def plot(results: list[dict], path: Path) -> None:
    """Plot loss, memory and time over trained parameters."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {"loss": "loss on held-out rows", "added_mb": "memory of training, MB", "seconds_per_step": "s per step"}
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.2), layout="constrained")
    for axis, (name, title) in zip(axes, shown.items(), strict=True):
        for result in results:
            axis.plot(result["trained_parameters"], result[name], "o", color="C0")
            axis.annotate(
                result["way"],
                (result["trained_parameters"], result[name]),
                fontsize=7,
                xytext=(3, 3),
                textcoords="offset points",
            )
        axis.set(xscale="log", xlabel="trained parameters", title=title)
        axis.margins(x=0.2, y=0.1)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the benchmark and write its JSON and plot."""
    import torch

    from llmi3d.data.build import build, open_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=CHECKPOINT)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/efficiency.json"))
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP:
        parser.error(f"--steps: got {arguments.steps}, want more than {WARM_UP}, the warm-up.")
    report = {"base": arguments.base.name, "steps": arguments.steps, "batch_size": BATCH, "warm_up": WARM_UP}
    report |= {"threads": torch.get_num_threads(), "rows": arguments.rows, "results": []}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        frames = f"train:{arguments.rows},validation:{max(arguments.rows // 4, 1)}"
        build(open_source("synth", None, frames=frames, long_side="320", seed="77"), data, max_turns=8, progress=False)
        head = ("trained", 11), ("added MB", 10), ("planned", 9), ("s/step", 8), ("saved MB", 10), ("Acc@0.25", 10)
        print(f"{'way':10}" + "".join(f"{title:>{width}}" for title, width in head) + f"{'loss':>8}")
        for way in WAYS:
            measured(train, way, arguments.base, data, arguments.steps, Path(name) / "found.json")
            one = json.loads((Path(name) / "found.json").read_text())
            report["results"].append(one)
            print(
                f"{way:10}{one['trained_parameters']:11,}{one['added_mb']:10.0f}{one['planned_mb']:9.0f}"
                f"{one['seconds_per_step']:8.2f}{one['saved_mb']:10.1f}{one['acc@0.25']:10.3f}{one['loss']:8.3f}",
                flush=True,
            )
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    plot(report["results"], arguments.out.with_suffix(".png"))
    print(f"written to {arguments.out} and {arguments.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
