# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Timing of answers: latency, throughput, memory and stages of a checkpoint or a configuration.

    report = bench("model_cards/llmi3d-tiny", batch_sizes=(1, 4), phrases=(1, 16), dtypes=("float32", "bfloat16"))
    print(to_markdown(report))

An answer goes from a JPEG file to metric boxes. Each setting is measured by itself, in one process: warm-up, then
plain answers, which give the latency, alternating with answers whose stages are timed by hooks. docs/speed.md explains
each field of the report.
"""

import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from llmi3d.apps.benchmark_models import load, phrases_of, save_images
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration as Model
from llmi3d.processing.image_processing_llmi3d import load_image
from llmi3d.processing.processing_llmi3d import LLMI3DProcessor

# In order; time between them is the rest.
STAGES = {
    "read": "opening and decoding the JPEG files",
    "preprocess": "letterbox, both resolutions, normalisation, tokens",
    "move": "inputs to the device and dtype",
    "vit": "low-resolution tower",
    "cnn": "high-resolution tower",
    "mining": "depth map and cross-branch attention",
    "projector": "visual tokens into the language model",
    "llm": "language model over the prompt",
    "decoding": "language model over each token it writes",
    "around": "other work of `ground` and `generate`: masks, caches, choice of tokens",
    "heads": "3D heads at the query tokens",
    "post_process": "network units to metres",
}
DTYPES = ("float32", "bfloat16", "float16")
MODES = ("direct", "generate")


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class StageTimer:
    """Context manager that charges time to the innermost open stage.

    Hooks on the model's parts open and close its stages; they are removed on exit.

    Args:
        model: the model.
        clock: returns the quantity that is spent, seconds by default.

    Attributes:
        spent: sum for each stage.
    """

    def __init__(self, model: Model, clock: Callable[[], float] | None = None):
        self.spent = dict.fromkeys(STAGES, 0.0)
        self._model, self._device, self._clock = model, model.device, clock or time.perf_counter
        self._open, self._since, self._handles = [], 0.0, []

    def __enter__(self) -> "StageTimer":
        core = self._model.model
        parts = {
            "vit": core.vision_tower,
            "cnn": core.high_res_tower,
            "mining": core.feature_mining,
            "projector": core.multi_modal_projector,
            "heads": self._model.box_head,
        }
        for name, part in parts.items():
            self._hook(part, lambda *_, name=name: self._enter(name))
        for part in (self._model, core):
            self._hook(part, self._enter_pass, with_kwargs=True)
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Open a stage outside the model."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def _hook(self, part: torch.nn.Module, enter: Callable, with_kwargs: bool = False) -> None:
        self._handles.append(part.register_forward_pre_hook(enter, with_kwargs=with_kwargs))
        self._handles.append(part.register_forward_hook(lambda *_: self._leave(), always_call=True))

    def _enter_pass(self, part: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        """Open the stage of a pass over the prompt (two passes if phrases share its start) or over a written token.

        In `generate` the outer model calls the inner one.
        """
        within = self._open[-1:] in (["llm"], ["decoding"])
        given = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
        self._enter(self._open[-1] if within else "llm" if given.shape[1] > 1 else "decoding")

    def _enter(self, name: str) -> None:
        self._charge()
        self._open.append(name)

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        synchronize(self._device)
        now = self._clock()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now


def answer(
    model: Model,
    processor: LLMI3DProcessor,
    files: Sequence[Path],
    phrases: list[str],
    mode: str,
    new_tokens: int,
    stage: Callable[[str], AbstractContextManager] = lambda name: nullcontext(),
) -> list[dict]:
    """Answer all phrases about each image, from files to metric boxes.

    Args:
        model, processor: of one checkpoint.
        files: images.
        phrases: asked about each image.
        mode: `direct`, or `generate`, which greedily writes exactly `new_tokens` tokens.
        stage: context manager around each stage outside the model.

    Returns:
        As `LLMI3DProcessor.post_process_grounding_3d`, one for each image and phrase.
    """
    with stage("read"):
        images = [load_image(file) for file in files]
    with stage("preprocess"):
        cameras = [(721.5, 721.5, image.width / 2, image.height / 2) for image in images]
        inputs = processor.grounding_inputs(
            images, [phrases] * len(images), intrinsics=cameras, mode=mode, share_images=True
        )
    with stage("move"):
        cameras = inputs.cameras
        inputs = dict(inputs.to(model.device, model.dtype))
    with stage("around"):
        if mode == "direct":
            outputs = model.ground(**inputs)
        else:
            outputs = model.generate_boxes(**inputs, **text_settings(new_tokens))
    with stage("post_process"):
        return processor.post_process_grounding_3d(outputs, cameras)


def text_settings(new_tokens: int) -> dict:
    """Return arguments of `generate` for exactly so many tokens, greedily, with the cache."""
    return {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "use_cache": True}


class PeakMemory:
    """Peak memory since `restart`: allocated on an accelerator, or the resident set of the process on a CPU.

    Attributes:
        kind: what is measured. Systems other than Linux cannot restart it: there it counts from the process start.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.kind = "resident set" if device.type == "cpu" else f"allocated on {device}"
        self.restart()

    def restart(self) -> None:
        """Reset the peak."""
        if self.device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.kind = "resident set since the process began"

    def bytes(self) -> int:
        """Return the peak in bytes."""
        if self.device.type != "cpu":
            return torch.accelerator.max_memory_allocated(self.device)
        if self.kind == "resident set":
            [line] = [row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")]
            return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine(device: torch.device) -> dict:
    """Describe the machine and the versions that the numbers depend on."""
    facts = {"processor": platform.processor() or platform.machine()}
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts["processor"] = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "?")
    facts |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    # Other work on the machine: with a load above the number of cores, only medians and ratios are meaningful.
    facts["load"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        **facts,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def reachable(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measure a plain matrix product and a plain copy, best of ten: `gflop_per_s` and `gb_per_s`."""
    side, length = (1024, 2**27) if device.type == "cpu" else (8192, 2**29)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source, target = (torch.zeros(length, dtype=torch.uint8, device=device) for _ in range(2))

    def best(work: Callable) -> float:
        seconds = []
        for _ in range(10):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return {
        "gflop_per_s": 2 * side**3 / best(lambda: left @ right) / 1e9,
        "gb_per_s": 2 * length / best(lambda: target.copy_(source)) / 1e9,  # read and written
    }


def count_operations(asked: tuple) -> dict[str, float]:
    """Count the floating-point operations of each stage of an answer: matrix products and convolutions."""

    def attention(query, key, value, *_, **__):
        return sdpa_flop_count(query, key, value)

    own = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # torch counts only GPUs'
    counter = FlopCounterMode(display=False, custom_mapping=own)
    with counter, StageTimer(asked[0], counter.get_total_flops) as timer:
        answer(*asked, stage=timer.stage)
    return timer.spent


def weight_bytes(model: Model, mode: str, new_tokens: int) -> dict[str, int]:
    """Return the bytes of weights that each stage of an answer reads."""

    def size(part: torch.nn.Module) -> int:
        return sum(weight.numel() * weight.element_size() for weight in part.parameters())

    core = model.model
    language = size(core.language_model) - size(
        core.get_input_embeddings()
    )  # only a few rows of the embeddings are read
    parts = {"vit": core.vision_tower, "cnn": core.high_res_tower, "mining": core.feature_mining}
    read = {name: size(part) for name, part in parts.items()}
    read |= {"projector": size(core.multi_modal_projector), "llm": language, "heads": size(model.box_head)}
    if mode == "generate":
        read["llm"] += size(model.lm_head)
        read["decoding"] = (new_tokens - 1) * read["llm"]
    return {name: read.get(name, 0) for name in STAGES}


def bench(
    name: str,
    *,
    batch_sizes: Sequence[int] = (1,),
    phrases: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",),
    modes: Sequence[str] = ("direct",),
    attention: str | None = None,
    repeats: int = 10,
    warm_up: int = 3,
    new_tokens: int = 60,
    image_size: tuple[int, int] = (1242, 375),
    device: str = "cpu",
    progress: Callable[[dict], None] = lambda result: None,
) -> dict:
    """Measure every combination of batch size, number of phrases, dtype and mode.

    Args:
        name: see `load`.
        batch_sizes: images per batch.
        phrases: phrases per image.
        dtypes, modes: of `DTYPES` and `MODES`.
        attention: implementation for towers and language model; the fastest by default.
        repeats, warm_up: measured answers, and answers before them; the first counts operations. Each measured answer
            is repeated with hooks.
        new_tokens: tokens written in mode `generate`; by default as many as a box in numbers takes.
        image_size: (width, height) of the JPEG files, pixels.
        device: such as `cpu` or `cuda:0`.
        progress: called with each result.

    Returns:
        A dictionary that `json.dumps` takes; docs/speed.md explains every field.

    Raises:
        ValueError: an argument is unknown or out of range; the message names it.
    """
    _check_counts(
        batch_size=batch_sizes, phrases=phrases, repeats=[repeats], new_tokens=[new_tokens], image_size=image_size
    )
    _check_counts(warm_up=[warm_up])
    for field, given, known in (("dtype", dtypes, DTYPES), ("mode", modes, MODES)):
        if not given or set(given) - set(known):
            raise ValueError(f"{field}: got {', '.join(given) or 'none'}, want some of {', '.join(known)}.")
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:  # torch raises either for a missing device
        raise ValueError(f"device: got '{device}', which torch cannot use here ({error}).") from error
    report = {
        "checkpoint": name,
        "machine": machine(where),
        "settings": {
            "attention": attention,
            "repeats": repeats,
            "warm_up": warm_up,
            "new_tokens": new_tokens,
            "image_size": list(image_size),
            "device": str(where),
        },
        "reachable": {},
        "results": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        files = save_images(Path(scratch), max(batch_sizes), image_size)
        for dtype in dict.fromkeys(dtypes):
            model, processor = load(name, getattr(torch, dtype), where)
            if attention is not None:
                try:
                    model.set_attn_implementation(attention)
                except (ValueError, ImportError) as error:
                    raise ValueError(f"attention: got '{attention}', which cannot be used here ({error}).") from error
            report["parameters"] = model.num_parameters()
            report["reachable"][dtype] = reachable(where, model.dtype)
            for mode, batch_size, count in product(*map(dict.fromkeys, (modes, batch_sizes, phrases))):
                asked = (model, processor, files[:batch_size], phrases_of(count), mode, new_tokens)
                result = {"dtype": dtype, "mode": mode, "batch_size": batch_size, "phrases": count}
                result |= _measure(asked, repeats, warm_up, report["reachable"][dtype])
                report["results"].append(result)
                progress(result)
            del model, asked  # free memory before the next one
    return report


def _check_counts(**fields: Sequence[int]) -> None:
    for name, values in fields.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name}: got {', '.join(map(str, values)) or 'none'}, want at least 1.")


def _measure(asked: tuple, repeats: int, warm_up: int, best: dict[str, float]) -> dict:
    """Measure latency, throughput, memory and stages of one setting; `best` is from `reachable`."""
    model, _, files, phrases, mode, new_tokens = asked
    operations, read = count_operations(asked), weight_bytes(model, mode, new_tokens)
    for _ in range(warm_up - 1):
        answer(*asked)
    synchronize(model.device)
    memory = PeakMemory(model.device)
    seconds, staged = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        answer(*asked)
        synchronize(model.device)
        seconds.append(time.perf_counter() - start)
        with StageTimer(model) as timer:
            start = time.perf_counter()
            answer(*asked, stage=timer.stage)
            synchronize(model.device)
            staged.append((time.perf_counter() - start, timer.spent))
    # Means over the middle half by time: unlike medians of stages they add up, and outliers do not matter.
    staged.sort(key=lambda run: run[0])
    middle = staged[len(staged) // 4 : len(staged) - len(staged) // 4]
    whole = statistics.fmean(run[0] for run in middle)
    stages = {name: statistics.fmean(run[1][name] for run in middle) for name in STAGES}
    median = statistics.median(seconds)
    # The limit of a stage is the time of its operations or of reading its weights, whichever is longer.
    limits = {
        name: max(operations[name] / best["gflop_per_s"], read[name] / best["gb_per_s"]) / 1e6 for name in STAGES
    }
    return {
        "attention": model.config.text_config._attn_implementation,
        "latency_ms": {"median": 1e3 * median, "p95": 1e3 * float(np.percentile(seconds, 95))},
        "phrases_per_second": len(files) * len(phrases) / median,
        "peak_mb": memory.bytes() / 2**20,
        "peak_of": memory.kind,
        "weights_mb": sum(weight.numel() * weight.element_size() for weight in model.parameters()) / 2**20,
        "stages_ms": {name: 1e3 * value for name, value in stages.items()},
        "rest_ms": 1e3 * (whole - sum(stages.values())),
        "staged_ms": 1e3 * whole,
        "gflop": {name: count / 1e9 for name, count in operations.items()},
        "limit_ms": limits,
    }
