# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Feature mining at the paper's size, against its plain form, and its share of all vision.

    python examples/benchmarks/mining.py
    python examples/benchmarks/mining.py --device cuda --dtype bfloat16 --batch 8 --repeats 20

The plain form upsamples and concatenates all CNN stages, and projects keys and values from every cell; ours never
makes such cells. For each task (forward, forward and backward, the same with a frozen CNN) it measures the time, the
peak memory above weights and inputs (gradients included) and, on the same inputs, the largest difference of values and
gradients. Then it times ViT, CNN and mining in turn on one image, and measures the peak of the three with either form.
Every variant runs in its own process, so that one peak cannot hide another.
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
import torch.nn.functional as F

from llmi3d import LLMI3DConfig, LLMI3DModel
from llmi3d.feature_mining_llmi3d import FeatureMining, MinedFeatures, cells_of

# The language model is not used.
NO_WORDS = {
    **{"model_type": "llama", "vocab_size": 32064, "hidden_size": 64, "intermediate_size": 64},
    **{"num_hidden_layers": 1, "num_attention_heads": 4},
}
CHANNELS = (192, 384, 768, 1536)  # of ConvNeXt-L's stages

# Whether there is a backward pass, and whether the stages of the CNN get a gradient.
TASKS = {"forward": (False, False), "forward+backward": (True, True), "forward+backward, CNN frozen": (True, False)}
VARIANTS = ("here", "plain")


def plain_form(mining: FeatureMining, tokens: torch.Tensor, stages: list[torch.Tensor]) -> torch.Tensor:
    """Compute `FeatureMining` step by step."""
    size = stages[0].shape[-2:]

    def windows(*maps: torch.Tensor) -> torch.Tensor:
        upsampled = [F.interpolate(stage, size=size, mode="bilinear", align_corners=False) for stage in maps]
        return cells_of(torch.cat(upsampled, 1), size, mining.window).values

    shares = mining.depth_predictor(stages)[1].float().softmax(1).to(tokens.dtype)
    depth = windows(torch.einsum("bdhw,de->behw", shares, mining.depth_embedding.weight))
    return tokens + mining.attention.reference_forward(tokens, windows(*stages), depth)


def make_inputs(args, side: int, stages_need_grad: bool) -> list[torch.Tensor]:
    """Make tokens and CNN stages of images of `side` pixels."""
    torch.manual_seed(args.seed)
    sizes = [(args.batch, (side // 32) ** 2, 1024)]
    sizes += [(args.batch, channels, side // (4 << i), side // (4 << i)) for i, channels in enumerate(CHANNELS)]
    return [
        torch.randn(size, device=args.device, dtype=args.torch_dtype, requires_grad=stages_need_grad or i == 0)
        for i, size in enumerate(sizes)
    ]


def make_mining(args) -> FeatureMining:
    """Make the paper's feature mining with weights that are not neutral."""
    torch.manual_seed(args.seed)
    mining = FeatureMining(LLMI3DConfig(text_config=NO_WORDS), list(CHANNELS))
    return mining.to(args.device, args.torch_dtype)


def run(mining: FeatureMining, variant: str, inputs: list[torch.Tensor], backward: bool) -> torch.Tensor:
    """Run one pass, without gradients of an earlier one."""
    for tensor in (*mining.parameters(), *inputs):
        tensor.grad = None
    tokens, *stages = inputs
    with torch.set_grad_enabled(backward):
        mined = mining(tokens, stages).tokens if variant == "here" else plain_form(mining, tokens, stages)
    if backward:
        # Random weights for outputs, so that no gradient cancels to rounding error.
        mined.backward(torch.randn(mined.shape, generator=torch.Generator().manual_seed(1)).to(mined))
    return mined.detach()


def synchronize(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(args) -> int:
    """Return the peak memory of the process (of torch on a GPU)."""
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(args, variant: str, task: str) -> dict[str, float]:
    """Measure time and peak memory of one variant at one task, in a fresh process."""
    backward, stages_need_grad = TASKS[task]
    mining = make_mining(args)
    # A small pass first: buffers of the libraries do not count.
    run(mining, variant, make_inputs(args, 64, stages_need_grad), backward)
    for parameter in mining.parameters():
        parameter.grad = None
    inputs = make_inputs(args, 768, stages_need_grad)
    found = {"peak_mib": peak_of(args, lambda: run(mining, variant, inputs, backward))}
    for _ in range(args.warmup - 1):  # the pass above was the first
        run(mining, variant, inputs, backward)
    seconds = [timed(args, lambda: run(mining, variant, inputs, backward)) for _ in range(args.repeats)]
    return {
        **{f"seconds_{name}": of(seconds) for name, of in (("median", statistics.median), ("min", min), ("max", max))},
        **found,
    }


def timed(args, work) -> float:
    """Return seconds."""
    synchronize(args)
    start = time.perf_counter()
    work()
    synchronize(args)
    return time.perf_counter() - start


def peak_of(args, work) -> float:
    """Return the peak in MiB above the earlier one."""
    synchronize(args)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_bytes(args)
    work()
    synchronize(args)
    return (peak_bytes(args) - before) / 2**20


@torch.no_grad()
def vision(args, variant: str) -> dict[str, float]:
    """Peak memory of ViT, CNN and mining together, and with `here` the time of each, in turn."""
    torch.manual_seed(args.seed)
    torch.set_default_dtype(args.torch_dtype)
    with torch.device(args.device):
        model = LLMI3DModel._from_config(LLMI3DConfig(text_config=NO_WORDS), dtype=args.torch_dtype).eval()
        low, high = torch.randn(args.batch, 3, 336, 336), torch.randn(args.batch, 3, 768, 768)
    mining = model.feature_mining

    def cnn() -> list[torch.Tensor]:
        seen = model.high_res_tower(high, output_hidden_states=[0, 1, 2, 3], output_attentions=False, do_pooling=False)
        return [seen.hidden_states[stage] for stage in range(4)]

    def vit() -> torch.Tensor:
        return model.vision_tower(low, output_hidden_states=True).hidden_states[-2][:, 1:]

    if variant == "plain":
        mining.forward = lambda tokens, stages: MinedFeatures(plain_form(mining, tokens, stages), None)
    run(mining, variant, make_inputs(args, 64, False), False)
    found = {"peak_mib": peak_of(args, lambda: model.get_image_features(low, high))}
    if variant == "here":
        inputs = [vit(), *cnn()]
        parts = {"vit": vit, "cnn": cnn, "mining": lambda: run(mining, "here", inputs, False)}
        parts["plain mining"] = lambda: run(mining, "plain", inputs, False)
        spent = {name: [] for name in parts}
        for _ in range(args.repeats):
            for name, part in parts.items():
                spent[name].append(timed(args, part))
        found |= {f"{name}_seconds": statistics.median(each) for name, each in spent.items()}
    return found


def compare(args) -> dict[str, float]:
    """Largest difference of value and gradients, relative to the largest entry of the plain form."""
    mining, inputs = make_mining(args), make_inputs(args, 768, True)
    tensors = {f"input {i}": x for i, x in enumerate(inputs)} | dict(mining.named_parameters())
    want, got = (
        {"value": run(mining, variant, inputs, True), **{name: x.grad for name, x in tensors.items()}}
        for variant in ("plain", "here")
    )
    return {
        name: ((got[name] - x).abs().max() / x.abs().max()).item()
        for name, x in ((name, x.float()) for name, x in want.items())
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
    parser.add_argument("--batch", type=int, default=1, help="images per batch")
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
        kinds = {"difference": compare, "vision": vision}
        what, *rest = args.only
        print(json.dumps(kinds[what](args, *rest) if what in kinds else measure(args, *args.only)))
        return

    settings = {name: getattr(args, name) for name in ("dtype", "batch", "warmup", "repeats", "threads", "seed")}
    result = {"command": " ".join(sys.argv), **machine(args), **settings, "tasks": {}}
    print(", ".join(f"{name} {value}" for name, value in {**machine(args), **settings}.items()))
    print(f"{'':<30}{'here':>22}{'plain':>22}{'faster':>9}{'less memory':>13}")
    for task in TASKS:
        measured = {variant: in_fresh_process(variant, task) for variant in VARIANTS}
        faster, less = (measured["plain"][key] / measured["here"][key] for key in ("seconds_median", "peak_mib"))
        result["tasks"][task] = {**measured, "times_faster": faster, "times_less_memory": less}
        cells = [f"{m['seconds_median']:.3f} s {m['peak_mib']:.0f} MiB" for m in measured.values()]
        print(f"{task:<30}{cells[0]:>22}{cells[1]:>22}{faster:>8.1f}x{less:>12.1f}x", flush=True)
    result["largest_relative_difference"] = difference = in_fresh_process("difference")
    worst = max(difference.keys() - {"value"}, key=difference.get)
    print(f"largest relative difference: value {difference['value']:.1e}, gradients {difference[worst]:.1e} ({worst})")
    result["vision"] = seen = {variant: in_fresh_process("vision", variant) for variant in VARIANTS}
    times = {name.removesuffix("_seconds"): value for name, value in seen["here"].items() if name.endswith("_seconds")}
    together = times["vit"] + times["cnn"]
    print(", ".join(f"{name} {value:.3f} s" for name, value in times.items()))
    share, plain = (100 * times[name] / together for name in ("mining", "plain mining"))
    print(f"mining takes {share:.1f} % of the time of ViT and CNN, plain {plain:.1f} %")
    here, plain = (seen[variant]["peak_mib"] for variant in VARIANTS)
    print(f"peak of all vision {here:.0f} MiB, plain {plain:.0f} MiB: {plain / here:.1f}x less")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
