# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Pairs per second of the exact 3D IoU, its slow scipy reference and, if installed, pytorch3d's IoU.

python examples/benchmarks/iou3d.py
python examples/benchmarks/iou3d.py --pairs 10000 100000 --threads 1 --out outputs/benchmarks/iou3d.json
python examples/benchmarks/iou3d.py --device cuda

Families of pairs: `rotated` (any rotation, all overlap), `upright` (yaw only, all overlap) and `separate` (any
rotation, some 0.1 % overlap). The reference, from tests/evaluation/test_iou3d.py, takes the first pairs of each family
one by one. Needs a clone of the repository with its `test` extra.
"""

import argparse
import json
import math
import platform
import resource
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from llmi3d.evaluation import box3d_iou
from llmi3d.evaluation.iou3d import PAIRS_PER_CHUNK
from llmi3d.processing.geometry_llmi3d import box_corners, quaternion_to_matrix, yaw_to_matrix

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 1


def make_boxes(family: str, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Draw (center, size, rotation) of boxes in metres; all pairs overlap, except in the family `separate`."""
    options = {"generator": generator, "dtype": torch.float64}
    size = 1 + torch.rand(count, 3, **options)
    if family == "separate":
        center = 10 * torch.randn(count, 3, **options)
    else:
        # Centres at most 0.9 m apart: the spheres inside the boxes, of at least 0.5 m radius, meet.
        center = (
            0.45 * torch.rand(count, 1, **options) * torch.nn.functional.normalize(torch.randn(count, 3, **options))
        )
    if family == "upright":
        return center, size, yaw_to_matrix(2 * math.pi * torch.rand(count, **options))
    return center, size, quaternion_to_matrix(torch.randn(count, 4, **options))


def seconds_of(function, repeats: int, device: torch.device) -> float:
    """Return the median seconds of a call, after `WARM_UP` calls."""
    times = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of the device since the last reset; on a CPU that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_reference(boxes_a, boxes_b, count: int, got: torch.Tensor) -> tuple[float, float]:
    """Run the scipy loop over the first `count` pairs: (pairs per second, largest difference from `got`)."""
    scipy_iou = runpy.run_path(str(ROOT / "tests/evaluation/test_iou3d.py"))["scipy_iou"]
    boxes_a, boxes_b = (tuple(tensor[:count] for tensor in boxes) for boxes in (boxes_a, boxes_b))
    start = time.perf_counter()
    want = scipy_iou(boxes_a, boxes_b)
    seconds = time.perf_counter() - start
    return count / seconds, (want - got[:count].cpu()).abs().max().item()


MOST_PYTORCH3D_PAIRS = 40_000  # it takes minutes for more


def measure_pytorch3d(corners_a, corners_b, repeats: int) -> dict[str, float] | None:
    """Measure both all-pairs forms over a square of pairs; pytorch3d's box3d_overlap has no other form.

    It computes in float32. Where it differs from ours, the scipy reference has agreed with ours so far.
    """
    try:
        from pytorch3d.ops import box3d_overlap
    except ImportError:
        return None
    side = math.isqrt(min(len(corners_a), MOST_PYTORCH3D_PAIRS))
    corners_a, corners_b = corners_a[:side], corners_b[:side]
    single_a, single_b = corners_a.float(), corners_b.float()
    off = (box3d_iou(corners_a, corners_b) - box3d_overlap(single_a, single_b)[1]).abs()
    ours = seconds_of(lambda: box3d_iou(corners_a, corners_b), repeats, corners_a.device)
    theirs = seconds_of(lambda: box3d_overlap(single_a, single_b), repeats, corners_a.device)
    return {
        "pairs": side**2,
        "pairs_per_second": side**2 / ours,
        "pytorch3d_pairs_per_second": side**2 / theirs,
        "ratio_to_pytorch3d": theirs / ours,
        "largest_difference": off.max().item(),
        "pairs_off_by_a_thousandth": int((off > 1e-3).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--reference-pairs", type=int, default=200, help="pairs for the scipy loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/benchmarks/iou3d.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    on_gpu = device.type == "cuda"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    report = {
        "command": "python examples/benchmarks/iou3d.py " + " ".join(sys.argv[1:]),
        "commit": commit,
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "warm_up": WARM_UP,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "pairs_per_chunk": PAIRS_PER_CHUNK["cpu" if device.type == "cpu" else "other"],
        "rows": [],
    }
    print(", ".join(f"{key} {value}" for key, value in report.items() if key not in ("rows", "command")))
    print(f"{'family':10}{'pairs':>10}{'overlap':>9}{'pairs/s':>12}{'scipy':>8}{'ratio':>8}{'pytorch3d':>11}", end="")
    print(f"{'largest error':>15}{'peak MB':>9}{'before':>8}")
    for family in ("rotated", "upright", "separate"):
        for pairs in arguments.pairs:
            generator = torch.Generator().manual_seed(arguments.seed)
            boxes_a, boxes_b = (make_boxes(family, pairs, generator) for _ in range(2))
            corners_a, corners_b = (box_corners(*boxes).to(device) for boxes in (boxes_a, boxes_b))
            # Only the reference's pairs are kept, so that the peak is that of the corners and the work on them.
            boxes_a, boxes_b = (
                [tensor[: arguments.reference_pairs].clone() for tensor in boxes] for boxes in (boxes_a, boxes_b)
            )
            reset_peak_memory(device)
            before = peak_memory_mb(device)
            ious = box3d_iou(corners_a, corners_b, paired=True)
            peak = peak_memory_mb(device)
            seconds = seconds_of(
                lambda a=corners_a, b=corners_b: box3d_iou(a, b, paired=True), arguments.repeats, device
            )
            count = min(arguments.reference_pairs, pairs)
            reference, error = measure_reference(boxes_a, boxes_b, count, ious)
            pytorch3d = measure_pytorch3d(corners_a, corners_b, arguments.repeats)
            row = {
                "family": family,
                "pairs": pairs,
                "overlapping": (ious > 0).double().mean().item(),
                "pairs_per_second": pairs / seconds,
                "scipy_pairs_per_second": reference,
                "ratio_to_scipy": pairs / seconds / reference,
                "all_pairs_beside_pytorch3d": pytorch3d,
                "largest_error": error,
                "peak_memory_mb": peak,
                "memory_before_mb": before,
            }
            report["rows"].append(row)
            print(f"{family:10}{pairs:10}{row['overlapping']:9.4f}{pairs / seconds:12.0f}{reference:8.0f}", end="")
            print(f"{row['ratio_to_scipy']:8.0f}", end="")
            beside = f"{pytorch3d['ratio_to_pytorch3d']:.0f}x" if pytorch3d else "absent"
            print(f"{beside:>11}", end="")
            print(f"{error:15.1e}{peak:9.0f}{before:8.0f}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
