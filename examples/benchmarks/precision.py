# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Errors and costs of quantised, half-precision, compiled and exported models against float32.

    python examples/benchmarks/precision.py
    llmi3d data build synth --split-sizes test:50 --out synth && python examples/benchmarks/precision.py --data synth

Every variant answers the same phrases about the same images, one phrase per pass: the shipped examples, or the
grounding questions of a dataset. Errors are differences from the boxes in float32 on the CPU: of the centre in metres
and in percent of its distance, of the depth and the size (worst side) in percent, of the rotation in degrees; median
and 95th percentile over the phrases.

    bfloat16        the model in bfloat16, 3D heads in float32
    compiled        float32 by torch.compile
    int8            torchao, weights of ViT and language model in 8 bits, one scale per row
    int4            torchao, in 4 bits, scale and zero per 32 weights; the rest in bfloat16, as its kernel requires
    nf4             bitsandbytes, in 4 bits, one scale per 64 weights; skipped if it is not installed
    onnx            float32, `llmi3d export` on ONNX Runtime

`memory` is that of the weights; `file` their size on disk, if that form can be saved. `latency` is the median over
repeats of the ratio to float32, for the first phrase, from network inputs to network outputs; every repeat runs each
variant once, in turn.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.apps.benchmark import machine
from llmi3d.processing.geometry_llmi3d import geodesic_angle

ROOT = Path(__file__).parents[2]
WAYS = ("bfloat16", "compiled", "int8", "int4", "nf4", "onnx")
ERRORS = {"center_m": "m", "center_percent": "%", "depth_percent": "%", "size_percent": "%", "rotation_deg": "deg"}


def shipped_questions() -> list[tuple]:
    """Return (image, phrase, intrinsics) of the phrases in examples/pictures."""
    folder = ROOT / "examples" / "pictures"
    entries = json.loads((folder / "pictures.json").read_text())
    images = [Image.open(folder / entry["image"]).convert("RGB") for entry in entries]
    return [
        (image, meant["phrase"], entry["intrinsics"])
        for image, entry in zip(images, entries, strict=True)
        for meant in entry["phrases"]
    ]


def questions_of(data: str, split: str) -> list[tuple]:
    """Return (image, phrase, intrinsics) of the grounding questions of a dataset."""
    from llmi3d.data.dataset import load_split

    asked = re.compile(r"(?:<image>\n)?Locate (.+) in 3D\.")
    return [
        (row["image"].convert("RGB"), found[1], row["intrinsics"])
        for row in load_split(data, split)
        for turn in row["messages"]
        if turn["role"] == "user" and (found := asked.fullmatch(turn["content"]))
    ]


def load(checkpoint: str, **kwargs) -> LLMI3DForConditionalGeneration:
    kwargs = {"dtype": torch.float32, **kwargs}
    return LLMI3DForConditionalGeneration.from_pretrained(checkpoint, **kwargs).eval()


def weight_bytes(model: torch.nn.Module) -> int:
    """Return the memory of the weights, with the scales of quantised ones."""

    def size(value: torch.Tensor) -> int:
        if hasattr(value, "__tensor_flatten__"):  # torchao's
            return sum(size(getattr(value, name)) for name in value.__tensor_flatten__()[0])
        state = getattr(value, "quant_state", None)  # bitsandbytes'
        scales = [] if state is None else [one for one in (state.absmax, state.code) if one is not None]
        return sum(one.numel() * one.element_size() for one in (value, *scales))

    return sum(map(size, model.parameters()))


def file_bytes(model: torch.nn.Module) -> int | None:
    """Return the size of the saved weights, None if that form cannot be saved."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
        except ValueError:  # torchao packs for one machine
            return None
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def make(way: str, checkpoint: str, processor: LLMI3DProcessor, scratch: Path) -> tuple[Callable, int, int | None]:
    """Return (function of network inputs, bytes of the weights in memory, bytes on disk)."""
    if way == "onnx":
        import onnxruntime

        from llmi3d.apps.graph_export import ExportedGrounding, export

        description = export(load(checkpoint), processor, scratch / way)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        size = sum(file.stat().st_size for file in (scratch / way).glob(f"{description['file']}*"))
        return ExportedGrounding(scratch / way, options).ground, size, size
    if way == "bfloat16":
        model = load(checkpoint, dtype=torch.bfloat16)
    elif way == "int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        model = load(checkpoint, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    elif way == "int4":
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from transformers import TorchAoConfig

        config = TorchAoConfig(PrototypeInt4WeightOnlyConfig(group_size=32))
        model = load(checkpoint, dtype=torch.bfloat16, quantization_config=config)
    elif way == "nf4":
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        model = load(checkpoint, quantization_config=config)
    else:
        model = load(checkpoint)
    memory, file = weight_bytes(model), file_bytes(model)  # before the first pass, see docs/speed.md
    if way == "compiled":
        model.compile_grounding()

    def ground(**inputs):
        return model.ground(
            **{name: one.to(model.dtype) if one.is_floating_point() else one for name, one in inputs.items()}
        )

    return ground, memory, file


def box_of(processor: LLMI3DProcessor, outputs, cameras) -> dict[str, torch.Tensor]:
    """The one metric box: centre [3], size [3] in metres, rotation [3, 3]."""
    [answer] = processor.post_process_grounding_3d(outputs, cameras)
    return {name: answer[f"{name}s"][0] for name in ("center", "size", "rotation")}


def errors(box: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """By the names of `ERRORS`."""
    apart = (box["center"] - exact["center"]).norm()
    return {
        "center_m": apart.item(),
        "center_percent": (100 * apart / exact["center"].norm()).item(),
        "depth_percent": (100 * (box["center"][2] / exact["center"][2] - 1).abs()).item(),
        "size_percent": (100 * (box["size"] / exact["size"] - 1).abs().max()).item(),
        "rotation_deg": geodesic_angle(box["rotation"], exact["rotation"]).rad2deg().item(),
    }


def measure(arguments: argparse.Namespace, questions: list[tuple]) -> list[dict]:
    """One result a way, float32 first."""
    processor = LLMI3DProcessor.from_pretrained(arguments.checkpoint)
    asked = [processor.grounding_inputs(image, phrase, intrinsics=k) for image, phrase, k in questions]
    results, boxes, functions = [], {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for way in ("float32", *arguments.ways):
            try:
                ground, memory, file = make(way, arguments.checkpoint, processor, Path(scratch))
            except ImportError as error:
                print(f"{way} left out: {error}")
                continue
            boxes[way] = [box_of(processor, ground(**inputs), inputs.cameras) for inputs in asked]
            functions[way] = ground
            results.append({"way": way, "memory_mb": memory / 1e6, "file_mb": None if file is None else file / 1e6})
            found = [errors(box, exact) for box, exact in zip(boxes[way], boxes["float32"], strict=True)]
            for name in ERRORS:
                values = [one[name] for one in found]
                results[-1][name] = {"median": statistics.median(values), "p95": float(np.percentile(values, 95))}
        seconds = {way: [] for way in functions}
        for _ in range(arguments.repeats):
            for way, ground in functions.items():
                start = time.perf_counter()
                ground(**asked[0])
                seconds[way].append(time.perf_counter() - start)
    for result in results:
        pairs = zip(seconds[result["way"]], seconds["float32"], strict=True)
        result["latency_ratio"] = statistics.median(one / exact for one, exact in pairs)
    return results


def to_markdown(results: list[dict]) -> str:
    """A table; each error as median / 95th percentile."""
    head = ["way", "memory MB", "file MB", "latency", *(f"{name.rsplit('_', 1)[0]} {ERRORS[name]}" for name in ERRORS)]
    lines = [head, ["---"] * len(head)]
    for one in results:
        file = "-" if one["file_mb"] is None else f"{one['file_mb']:.1f}"
        apart = [f"{one[name]['median']:.2g} / {one[name]['p95']:.2g}" for name in ERRORS]
        lines.append([one["way"], f"{one['memory_mb']:.1f}", file, f"{one['latency_ratio']:.2f}x", *apart])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Runs the benchmark and writes its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=str(ROOT / "model_cards" / "llmi3d-tiny"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--data", help="folder that `llmi3d data build` wrote; the shipped examples by default")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="phrases at most")
    parser.add_argument("--repeats", type=int, default=10, help="for the latency")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/precision.json"))
    arguments = parser.parse_args()
    for name in ("repeats", "limit"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name}: got {getattr(arguments, name)}, want at least 1")
    questions = questions_of(arguments.data, arguments.split) if arguments.data else shipped_questions()
    questions = questions[: arguments.limit]
    if not questions:
        parser.error(f"--data: {arguments.data} has no grounding questions in its split {arguments.split}")
    report = {
        "machine": machine(torch.device("cpu")),
        "checkpoint": arguments.checkpoint,
        "data": arguments.data or "examples/pictures",
        "phrases": len(questions),
        "repeats": arguments.repeats,
    }
    print(json.dumps(report))
    report["results"] = measure(arguments, questions)
    print(to_markdown(report["results"]))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
