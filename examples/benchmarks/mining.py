# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Cross-branch attention at the paper's size: the folded `forward` against the plain `reference_forward`.

    python examples/benchmarks/mining.py
    python examples/benchmarks/mining.py --device cuda --dtype bfloat16 --batch 8 --repeats 20

For each task (forward alone, forward and backward, the same with a frozen CNN) it measures the time and the peak of
memory above weights and inputs (all gradients included), and, on the same inputs, the largest difference of values and
gradients. Every variant runs in a process of its own, so that no peak hides behind another's.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from llmi3d.feature_mining_llmi3d import CrossBranchAttention

# 24x24 tokens of CLIP ViT-L, 8x8 cells of ConvNeXt-L's four stages (192 + 384 + 768 + 1536 channels) for each.
SHAPES = {"tokens": 576, "dim": 1024, "cells": 64, "cell_dim": 2880, "depth_dim": 128}
SMALL_SHAPES = {"tokens": 4, "dim": 1024, "cells": 4, "cell_dim": 2880, "depth_dim": 128}

# Whether there is a backward pass, and whether the cells get a gradient from it.
TASKS = {"forward": (False, False), "forward+backward": (True, True), "forward+backward, CNN frozen": (True, False)}
VARIANTS = {"folded": "forward", "reference": "reference_forward"}


def make_inputs(args, shapes: dict[str, int], cells_need_grad: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(args.seed)
    sizes = {
        "tokens": (args.batch, shapes["tokens"], shapes["dim"]),
        "cells": (args.batch, shapes["tokens"], shapes["cells"], shapes["cell_dim"]),
        "depth": (args.batch, shapes["tokens"], shapes["cells"], shapes["depth_dim"]),
    }
    return {
        name: torch.randn(
            size, device=args.device, dtype=args.torch_dtype, requires_grad=cells_need_grad or name != "cells"
        )
        for name, size in sizes.items()
    }


def make_attention(args) -> CrossBranchAttention:
    torch.manual_seed(args.seed)
    attention = CrossBranchAttention(SHAPES["dim"], SHAPES["cell_dim"], SHAPES["depth_dim"])
    return attention.to(args.device, args.torch_dtype)


def run(
    attention: CrossBranchAttention, variant: str, inputs: dict[str, torch.Tensor], backward: bool
) -> torch.Tensor:
    """One pass; gradients of an earlier one are dropped first."""
    for tensor in (*attention.parameters(), *inputs.values()):
        tensor.grad = None
    with torch.set_grad_enabled(backward):
        mined = getattr(attention, VARIANTS[variant])(**inputs)
    if backward:
        # Another weight for every output, so that no gradient cancels to rounding error.
        mined.backward(torch.randn(mined.shape, generator=torch.Generator().manual_seed(1)).to(mined))
    return mined.detach()


def synchronize(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(args) -> int:
    """Highest memory of the process (of torch on the GPU) so far."""
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(args, variant: str, task: str) -> dict[str, float]:
    """Time and peak memory of one variant at one task; only in a fresh process is the peak its own."""
    backward, cells_need_grad = TASKS[task]
    attention = make_attention(args)
    # A small pass first: the buffers of the libraries are not the variant's.
    run(attention, variant, make_inputs(args, SMALL_SHAPES, cells_need_grad), backward)
    for parameter in attention.parameters():
        parameter.grad = None
    inputs = make_inputs(args, SHAPES, cells_need_grad)
    synchronize(args)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_bytes(args)
    run(attention, variant, inputs, backward)
    synchronize(args)
    peak = peak_bytes(args) - before

    for _ in range(args.warmup - 1):  # the pass above was the first
        run(attention, variant, inputs, backward)
    seconds = []
    for _ in range(args.repeats):
        synchronize(args)
        start = time.perf_counter()
        run(attention, variant, inputs, backward)
        synchronize(args)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds_median": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "peak_mib": peak / 2**20,
    }


def compare(args) -> dict[str, float]:
    """Largest difference of value and gradients, relative to the largest entry of the reference."""
    attention, inputs = make_attention(args), make_inputs(args, SHAPES, cells_need_grad=True)
    tensors = {**inputs, **dict(attention.named_parameters())}
    reference = {"value": run(attention, "reference", inputs, True), **{name: x.grad for name, x in tensors.items()}}
    folded = {"value": run(attention, "folded", inputs, True), **{name: x.grad for name, x in tensors.items()}}
    return {
        name: ((folded[name] - want).abs().max() / want.abs().max()).item()
        for name, want in ((name, x.float()) for name, x in reference.items())
    }


def in_fresh_process(*what: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", *what]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def machine(args) -> dict[str, object]:
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    if args.device == "cpu" and Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        device = names[0].split(":", 1)[1].strip() if names else device
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {"device": device, "torch": torch.__version__, "commit": commit.stdout.strip()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--warmup", type=int, default=1, help="passes before the timed ones, at least 1")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes; the median is reported")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/mining.json"))
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)  # one measurement, to stdout: for the processes
    args = parser.parse_args()
    if args.warmup < 1 or args.repeats < 1:
        parser.error(f"--warmup, --repeats: got {args.warmup} and {args.repeats}, want at least 1.")
    args.torch_dtype = getattr(torch, args.dtype)
    torch.set_num_threads(args.threads)
    if args.only:
        print(json.dumps(compare(args) if args.only == ["difference"] else measure(args, *args.only)))
        return

    settings = {name: getattr(args, name) for name in ("dtype", "batch", "warmup", "repeats", "threads", "seed")}
    result = {"command": " ".join(sys.argv), **machine(args), **settings, "shapes": SHAPES, "tasks": {}}
    print(", ".join(f"{name} {value}" for name, value in {**machine(args), **settings}.items()))
    print(f"{'':<30}{'folded':>22}{'reference':>22}{'faster':>9}{'less memory':>13}")
    for task in TASKS:
        measured = {variant: in_fresh_process(variant, task) for variant in VARIANTS}
        faster, less = (measured["reference"][key] / measured["folded"][key] for key in ("seconds_median", "peak_mib"))
        result["tasks"][task] = {**measured, "times_faster": faster, "times_less_memory": less}
        cells = [f"{m['seconds_median']:.3f} s {m['peak_mib']:.0f} MiB" for m in measured.values()]
        print(f"{task:<30}{cells[0]:>22}{cells[1]:>22}{faster:>8.1f}x{less:>12.1f}x", flush=True)
    result["largest_relative_difference"] = difference = in_fresh_process("difference")
    worst = max(difference.keys() - {"value"}, key=difference.get)
    print(f"largest relative difference: value {difference['value']:.1e}, gradients {difference[worst]:.1e} ({worst})")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
