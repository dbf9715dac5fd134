# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Images per second from JPEG files to network inputs, against the image processor of LLaVA in transformers.

    python examples/benchmarks/preprocessing.py
    python examples/benchmarks/preprocessing.py --count 200 --batch-size 1 8 --threads 1 2

JPEG files of 1242x375 and 1600x900 are written to a temporary folder and turned into tensors, from paths, by

    LLMI3D            our image processor: 336 and 768 pixels, and the camera
    LLaVA             CLIPImageProcessor of transformers as LLaVA-1.5 uses it: 336 pixels, the middle of the image
    LLaVA, Pillow     the same on images opened by Pillow, so that all use one decoder

Each batch is read by all three, in changing order, so that other work on the machine affects all alike. `wall` and
`cpu` are ratios of ours to theirs: the median over batches of elapsed time, and of the sums of processor time of all
threads, which depends least on other work. Below 1 ours is faster.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from llmi3d import LLMI3DImageProcessor
from llmi3d.apps.benchmark import machine

SIZES = ((1242, 375), (1600, 900))
OURS, THEIRS = "LLMI3D", ("LLaVA", "LLaVA, Pillow")


def write_images(folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """Write different JPEG files of smooth patches and noise, as large as photographs (0.3 bytes per pixel).

    Args:
        size: (width, height), pixels.
    """
    random = np.random.default_rng(0)
    width, height = size
    noise = random.normal(0, 4, (height, width, 3))
    paths = []
    for index in range(count):
        patches = random.integers(0, 256, (max(height // 32, 2), max(width // 32, 2), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC), np.float32)
        pixels = (smooth + np.roll(noise, 7 * index, axis=1)).clip(0, 255).astype(np.uint8)
        paths.append(str(folder / f"{width}x{height}-{index}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def ways() -> dict[str, Callable]:
    """Return functions from a list of paths to tensors, by name."""
    ours = LLMI3DImageProcessor()
    theirs = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return {
        OURS: lambda paths: ours(paths, fov_deg=60.0, return_tensors="pt"),
        THEIRS[0]: lambda paths: theirs(paths, return_tensors="pt"),
        THEIRS[1]: lambda paths: theirs([Image.open(path) for path in paths], return_tensors="pt"),
    }


def measure(paths: list[str], batch_size: int, warm_up: int = 2) -> dict:
    """Return images per second of each processor, and the ratios of ours to theirs."""
    named = ways()
    orders = itertools.cycle(itertools.permutations(named))
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    wall, cpu = ({name: [] for name in named} for _ in range(2))
    for number, batch in enumerate([*batches[:warm_up], *batches], -len(batches[:warm_up])):
        for name in next(orders):
            start, start_cpu = time.perf_counter(), time.process_time()
            named[name](batch)
            took = time.perf_counter() - start, time.process_time() - start_cpu
            if number >= 0:
                wall[name].append(took[0])
                cpu[name].append(took[1])
    return {
        "images_per_second": {name: len(paths) / sum(times) for name, times in wall.items()},
        "cpu_ms_per_image": {name: 1e3 * sum(times) / len(paths) for name, times in cpu.items()},
        "wall": {
            name: statistics.median(our / their for our, their in zip(wall[OURS], wall[name], strict=True))
            for name in THEIRS
        },
        "cpu": {name: sum(cpu[OURS]) / sum(cpu[name]) for name in THEIRS},
    }


def main() -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="images, half of each size")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()], help="of torch")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/preprocessing.json"))
    arguments = parser.parse_args()
    for name, least in {"count": 2, "batch_size": 1, "threads": 1}.items():
        given = getattr(arguments, name)
        if min(given if isinstance(given, list) else [given]) < least:
            parser.error(f"--{name.replace('_', '-')}: got {given}, want at least {least}")
    report = {"machine": machine(torch.device("cpu")), "count": arguments.count, "results": []}
    print(json.dumps(report["machine"]))
    print(f"{'size':10}{'batch':>6}{'threads':>8}{'images/s':>12}   {'':15}{'wall':>6}{'cpu':>6}")
    with tempfile.TemporaryDirectory() as folder:
        files = {size: write_images(Path(folder), size, arguments.count // 2) for size in SIZES}
        for threads, batch_size in itertools.product(arguments.threads, arguments.batch_size):
            torch.set_num_threads(threads)
            for (width, height), paths in files.items():
                settings = {"size": [width, height], "batch_size": batch_size, "threads": threads}
                found = measure(paths, batch_size)
                report["results"].append(settings | found)
                start = f"{width}x{height:<5}{batch_size:6}{threads:8}{found['images_per_second'][OURS]:12.1f}"
                for name in THEIRS:
                    print(f"{start}   / {name:13}{found['wall'][name]:6.2f}{found['cpu'][name]:6.2f}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
