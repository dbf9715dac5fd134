# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Wide images without their padding against the whole square: tokens, time and boxes.

    python examples/benchmarks/canvas.py
    python examples/benchmarks/canvas.py --steps 400 --rows 2000 --images 200

Evaluates a checkpoint on rendered driving images (of the aspect of 1242x375), as squares and with `crop_padding`. With
`--steps` it also trains all weights for so many steps either way, from the same checkpoint and on the same rows, and
evaluates the results, since a checkpoint that only ever saw squares may rely on padding. Times are medians of one pass
over one image, alternating; visual tokens are given for the paper's grid and the checkpoint's.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor, LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.apps.benchmark import machine
from llmi3d.data.build import build, open_source
from llmi3d.data.dataset import load_split
from llmi3d.evaluation.protocols import get_protocol
from llmi3d.evaluation.runner import CheckpointPredictor, evaluate
from llmi3d.processing.image_processing_llmi3d import LLMI3DImageProcessor
from llmi3d.training.collator import LLMI3DDataCollator

CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "llmi3d-tiny"
SIZE, WAYS = (1242, 375), {"square": False, "cropped": True}
SHOWN = ("acc@0.25", "acc@0.5", "mean_iou", "depth_error", "depth_error_median")


def tokens(processor: LLMI3DImageProcessor, crop: bool) -> tuple[int, int]:
    """Return (rows, columns) of visual tokens of an image of `SIZE`."""
    pixels = processor([Image.new("RGB", SIZE)], fov_deg=80.0, crop_padding=crop, return_tensors="pt")["pixel_values"]
    return tuple(side // processor.token_size for side in pixels.shape[-2:])


def latency(checkpoint: Path, repeats: int) -> dict[str, float]:
    """Return milliseconds of one pass over an image and a phrase, alternating."""
    model = LLMI3DForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = LLMI3DProcessor.from_pretrained(checkpoint)
    inputs = {
        way: dict(
            processor.grounding_inputs(Image.new("RGB", SIZE), "the nearest car", fov_deg=80.0, crop_padding=crop)
        )
        for way, crop in WAYS.items()
    }
    spent = {way: [] for way in WAYS}
    for turn in range(repeats + 2):
        for way, one in inputs.items():
            start = time.perf_counter()
            model.ground(**one)
            if turn >= 2:  # the first warm up
                spent[way].append(1000 * (time.perf_counter() - start))
    return {way: statistics.median(times) for way, times in spent.items()}


def ask(checkpoint: Path, crop: bool, data: Path, scratch: Path) -> dict[str, float]:
    """Return the accuracy on the test split."""
    predictor = CheckpointPredictor(str(checkpoint))
    predictor.pipeline.processor.image_processor.crop_padding = crop
    answered = evaluate(predictor, load_split(data, "test"), get_protocol("ig3d-synth"), scratch, progress=False)
    return {name: answered.report.metrics[name].value for name in SHOWN}


def train(checkpoint: Path, crop: bool, data: Path, steps: int, folder: Path) -> Path:
    """Train all weights on the train split."""
    torch.manual_seed(0)
    model = LLMI3DForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = LLMI3DProcessor.from_pretrained(checkpoint)
    processor.image_processor.crop_padding = crop
    arguments = LLMI3DTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=8,
        max_steps=steps,
        learning_rate=3e-4,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = LLMI3DTrainer(
        model, arguments, train_dataset=load_split(data, "train"), data_collator=LLMI3DDataCollator(processor)
    )
    trainer.train()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--images", type=int, default=60, help="test images")
    parser.add_argument("--rows", type=int, default=400, help="training images, with --steps")
    parser.add_argument("--steps", type=int, default=0, help="training steps either way, 8 rows each")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/canvas.json"))
    arguments = parser.parse_args()
    paper, own = LLMI3DImageProcessor(), LLMI3DProcessor.from_pretrained(arguments.checkpoint).image_processor
    grids = {
        name: {way: tokens(processor, WAYS[way]) for way in WAYS}
        for name, processor in (("paper", paper), ("own", own))
    }
    report = {"checkpoint": arguments.checkpoint.name, "image_size": SIZE, "machine": machine(torch.device("cpu"))}
    report |= {name: getattr(arguments, name) for name in ("images", "rows", "steps", "repeats")}
    report |= {"tokens": grids, "latency_ms": latency(arguments.checkpoint, arguments.repeats), "answers": []}
    for name, grid in grids.items():
        (rows, columns), (less, fewer) = grid["square"], grid["cropped"]
        share = less * fewer / (rows * columns)
        print(f"{name:6} {rows}x{columns} tokens, without padding {less}x{fewer}: {100 * share:.1f} %")
    print(f"one pass takes {report['latency_ms']['cropped'] / report['latency_ms']['square']:.2f} of the time")
    print(f"{'':24}" + "".join(f"{name:>20}" for name in SHOWN))
    with tempfile.TemporaryDirectory() as name:
        data, scratch = Path(name) / "data", Path(name)
        frames = f"test:{arguments.images}" + (f",train:{arguments.rows}" if arguments.steps else "")
        source = open_source("synth", None, frames=frames, domains="driving", long_side="320")
        build(source, data, max_turns=8, progress=False)
        for way, crop in WAYS.items():
            for steps in sorted({0, arguments.steps}):
                checkpoint = arguments.checkpoint
                if steps:
                    checkpoint = train(checkpoint, crop, data, steps, scratch / f"{way}-trained")
                found = ask(checkpoint, crop, data, scratch / f"{way}-{steps}")
                report["answers"].append({"way": way, "steps": steps, **found})
                print(f"{way:12}{steps:6} steps" + "".join(f"{found[name]:20.3f}" for name in SHOWN), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
