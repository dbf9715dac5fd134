# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reinforcement learning on exact 3D IoU, small enough for a laptop: a model learns to write better boxes.

    python examples/grpo.py --out outputs/grpo

First the tiny checkpoint learns to write the boxes of the shipped images as text, stopping before it knows them by
heart. Then TRL's GRPO samples several answers to each phrase and reinforces those with a higher reward: readable, and
overlapping the true box. The same command resumes after an interruption. Writes

    OUT/rewards.json, rewards.png  mean rewards of the sampled answers, step by step
    OUT/comparison.md              before and after on the same phrases, decoded greedily, with paired intervals
    OUT/best_of_8.md               greedy against the best of eight sampled answers by the model's own score
    OUT/checkpoint                 the model

It is evaluated on its training images: this shows that the reward can be learned, and says nothing about other images.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from matplotlib.figure import Figure
from PIL import Image
from text_baseline import run, train_text, trainer_settings
from trl import GRPOConfig

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.data.outputs import write_whole
from llmi3d.data.schema import IG3D_FEATURES, grounding_conversation, grounding_pairs, make_object
from llmi3d.evaluation.comparison import compare
from llmi3d.evaluation.plots import BLUE, ORANGE
from llmi3d.evaluation.protocols import get_protocol
from llmi3d.evaluation.runner import evaluate
from llmi3d.processing.geometry_llmi3d import transform_intrinsics
from llmi3d.training.experimental.grpo import LLMI3DGRPOTrainer, box_rewards, grounding_prompts
from llmi3d.training.experimental.text_baseline import TEXT_PARTS, TextPredictor, text_lora_config
from llmi3d.training.experimental.text_boxes import BoxText

HERE = Path(__file__).parent
FORM = "numbers"
LONG_SIDE = 320  # as the tiny checkpoint was trained; quicker to prepare than the shipped 1,000 pixels
MAX_NEW_TOKENS = 64


def shipped_rows() -> Dataset:
    """Return the shipped images as IG3D rows, each with its phrases for one object."""
    rows = []
    for entry in json.loads((HERE / "pictures" / "pictures.json").read_text()):
        image = Image.open(HERE / "pictures" / entry["image"]).convert("RGB")
        scale = LONG_SIDE / max(image.size)
        size = [round(side * scale) for side in image.size]
        scales = [new / old for new, old in zip(size, image.size, strict=True)]
        k = transform_intrinsics(torch.tensor(entry["intrinsics"], dtype=torch.float64), scales, (0, 0)).tolist()
        objects = [
            make_object(*(box[name] for name in ("id", "category", "center", "size", "rotation")), k)
            for box in entry["boxes"]
        ]
        rows.append(
            {
                "image": image.resize(size, Image.Resampling.LANCZOS),
                "image_id": Path(entry["image"]).stem,
                "source": "synthetic",
                "split": "test",
                "intrinsics": k,
                "objects": objects,
                "messages": grounding_conversation([phrase["phrase"] for phrase in entry["phrases"]]),
                "targets": [phrase["box"] for phrase in entry["phrases"]],
                "task": ["grounding"] * len(entry["phrases"]),
                "meanings": None,
            }
        )
    return Dataset.from_list(rows, features=IG3D_FEATURES)


def asked_alone(rows: Dataset) -> Dataset:
    """Return a row for each phrase: in a fixed conversation, the position of a phrase would give its box away."""
    return Dataset.from_list(
        [
            {**row, "messages": grounding_conversation([phrase]), "targets": [entry["id"]], "task": ["grounding"]}
            for row in rows
            for phrase, entry in grounding_pairs(row)
        ],
        features=IG3D_FEATURES,
    )


def reinforce(start: Path, rows: Dataset, out: Path, options: argparse.Namespace) -> Path:
    """Run GRPO with LoRA, and return the merged checkpoint."""
    if (out / "checkpoint").is_dir():
        return out / "checkpoint"
    model = LLMI3DForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    processor = LLMI3DProcessor.from_pretrained(start)
    prompts = grounding_prompts(rows, processor)
    args = GRPOConfig(
        **trainer_settings(out / "run"),
        per_device_train_batch_size=options.batch_size,
        num_generations=options.generations,
        max_completion_length=MAX_NEW_TOKENS,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=0.05,
        reward_weights=[0.2, 1.0],
        logging_steps=1,
        save_steps=10,
    )
    trainer = LLMI3DGRPOTrainer(
        model,
        reward_funcs=box_rewards(BoxText.for_processor(processor, FORM)),
        args=args,
        train_dataset=prompts,
        processing_class=processor,
        peft_config=text_lora_config(model, rank=32, train=()),
    )
    checkpoint = run(trainer, out)
    save_curve(trainer.state.log_history, out)
    return checkpoint


def save_curve(log: list[dict], out: Path) -> None:
    """Write rewards.json and rewards.png from a trainer's log."""
    names = {"iou_reward": "exact 3D IoU", "format_reward": "form"}
    entries = [entry for entry in log if "reward" in entry]
    curve = {"step": [entry["step"] for entry in entries]}
    curve |= {name: [entry[f"rewards/{name}/mean"] for entry in entries] for name in names}
    write_whole(out / "rewards.json", json.dumps(curve, indent=1))
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (name, label), color in zip(names.items(), (BLUE, ORANGE), strict=True):
        axes.plot(curve["step"], curve[name], color=color, alpha=0.35, linewidth=1)
        means = [sum(curve[name][max(0, i - 4) : i + 1]) / min(i + 1, 5) for i in range(len(entries))]
        axes.plot(curve["step"], means, color=color, label=label)
    axes.set(xlabel="step", ylabel="mean reward (thick: over 5 steps)", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out / "rewards.png", dpi=120)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(HERE.parent / "model_cards" / "llmi3d-tiny"))
    parser.add_argument("--out", type=Path, default=Path("outputs/grpo"))
    parser.add_argument("--images", type=int, default=8, help="number of shipped images to use")
    parser.add_argument("--text-steps", type=int, default=300, help="steps of learning to write boxes, at most")
    parser.add_argument(
        "--stop-at", type=float, default=0.2, help="loss at which that ends, so that something is left to reinforce"
    )
    parser.add_argument("--steps", type=int, default=60, help="steps of reinforcement")
    parser.add_argument("--batch-size", type=int, default=48, help="answers per step")
    parser.add_argument("--generations", type=int, default=8, help="answers per phrase")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    return parser.parse_args()


def main() -> None:
    options = parse()
    rows, out = shipped_rows(), options.out
    rows = rows.select(range(min(options.images, len(rows))))
    phrases = asked_alone(rows)
    start = train_text(
        options.base,
        phrases,
        out / "text",
        form=FORM,
        rank=64,
        steps=options.text_steps,
        batch_size=min(16, len(phrases)),
        learning_rate=2e-3,
        stop_at=options.stop_at,
        train=(*TEXT_PARTS, "lm_head"),  # bases of the usual size need no training of their output embeddings
    )
    checkpoint = reinforce(start, rows, out, options)
    protocol = get_protocol("ig3d-synth").variant(split="test")

    def report(name: str, folder: str, of: Path, samples: int = 1):
        predictor = TextPredictor(of, FORM, name, samples=samples, max_new_tokens=MAX_NEW_TOKENS)
        return evaluate(predictor, rows, protocol, out / folder, progress=False).report

    before, after = report("before", "before", start), report("after", "after", checkpoint)
    best = report("best of 8", "best_of_8", start, samples=8)
    for name, first, second in (("comparison", before, after), ("best_of_8", before, best)):
        page = compare(first, second).to_markdown()
        write_whole(out / f"{name}.md", page)
        print(page)
    curve = json.loads((out / "rewards.json").read_text())["iou_reward"]
    few = min(5, len(curve))
    print(f"mean exact 3D IoU of sampled answers: {sum(curve[:few]) / few:.3f} -> {sum(curve[-few:]) / few:.3f}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
