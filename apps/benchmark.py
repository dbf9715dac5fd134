# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Where the time of an answer goes: latency, throughput, memory and stages of a checkpoint or a configuration.

    report = bench("model_cards/llmi3d-tiny", batch_sizes=(1, 4), phrases=(1, 16), dtypes=("float32", "bfloat16"))
    print(to_markdown(report))

An answer is the whole way from a JPEG file to metric boxes. Each way of asking is measured by itself, one after the
other in one process: some answers to warm up, then bare ones, which give latency, in turn with ones whose stages are
timed by hooks. docs/speed.md says what each field of the report means.
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

from llmi3d.apps.benchmark_models import load, phrases_of, save_pictures
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration as Model
from llmi3d.processing.image_processing_llmi3d import load_image
from llmi3d.processing.processing_llmi3d import LLMI3DProcessor

# In the order in which an answer passes them; what lies between them is the rest.
STAGES = {
    "read": "opening and decoding the JPEG files",
    "preprocess": "letterbox, both resolutions, normalisation, tokens",
    "move": "inputs to the device and dtype",
    "vit": "low-resolution tower",
    "cnn": "high-resolution tower",
    "mining": "depth map and cross-branch attention",
    "projector": "visual tokens into the language model",
    "llm": "language model over the prompt",
    "decoding": "language model over each word it writes",
    "around": "what `ground` and `generate` do around these: masks, caches, choice of words",
    "heads": "3D heads at the query tokens",
    "post_process": "network units to metres",
}
DTYPES = ("float32", "bfloat16", "float16")
MODES = ("direct", "generate")


def synchronize(device: torch.device) -> None:
    """Waits for what the device has been given to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class StageTimer:
    """Gives the time of an answer to the innermost stage that is open, while it is entered (`with`).

    The model's stages open and close by hooks on its parts, which are gone afterwards, whatever happens.

    Args:
        clock: what is spent, seconds by default.

    Attributes:
        spent: on each stage so far.
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
        """A stage outside of the model."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def _hook(self, part: torch.nn.Module, enter: Callable, with_kwargs: bool = False) -> None:
        self._handles.append(part.register_forward_pre_hook(enter, with_kwargs=with_kwargs))
        self._handles.append(part.register_forward_hook(lambda *_: self._leave(), always_call=True))

    def _enter_pass(self, part: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        """A pass over the prompt, in two where phrases share its start, or over a word written since.

        `generate` passes through the outer model too.
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
    """The whole way from files to metric boxes.

    Args:
        files: pictures; each is asked for all `phrases`.
        mode: `direct`, or `generate`, which writes exactly `new_tokens` words, greedily.
        stage: a context around each stage outside of the model.

    Returns:
        As `LLMI3DProcessor.post_process_grounding_3d`, one a picture and phrase.
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
    """Arguments of `generate`: exactly as many words, greedily, with the cache."""
    return {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "use_cache": True}


class PeakMemory:
    """Highest memory since `restart`: allocated on an accelerator, or the process's resident set on a CPU.

    Attributes:
        kind: what is counted. Where the system cannot restart it (other than Linux), from the process's start.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.kind = "resident set" if device.type == "cpu" else f"allocated on {device}"
        self.restart()

    def restart(self) -> None:
        """Forgets what was before."""
        if self.device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.kind = "resident set since the process began"

    def bytes(self) -> int:
        """The peak."""
        if self.device.type != "cpu":
            return torch.accelerator.max_memory_allocated(self.device)
        if self.kind == "resident set":
            [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
            return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine(device: torch.device) -> dict:
    """What the numbers depend on, beside the model."""
    found = {"processor": platform.processor() or platform.machine()}
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found["processor"] = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "?")
    found |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    # Other work on the machine: with more of it than cores, medians are what to look at, and ratios.
    found["load"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        **found,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def reachable(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What a plain matrix product and a plain copy reach here, the best of ten: `gflop_per_s` and `gb_per_s`."""
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
    """Floating-point operations of each stage of an answer, by giving it once: matrix products and convolutions."""

    def attention(query, key, value, *_, **__):
        return sdpa_flop_count(query, key, value)

    own = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # torch counts those of GPUs alone
    counter = FlopCounterMode(display=False, custom_mapping=own)
    with counter, StageTimer(asked[0], counter.get_total_flops) as timer:
        answer(*asked, stage=timer.stage)
    return timer.spent


def weight_bytes(model: Model, mode: str, new_tokens: int) -> dict[str, int]:
    """Bytes of weights that each stage of an answer has to read, as `answer` is given it."""

    def size(part: torch.nn.Module) -> int:
        return sum(one.numel() * one.element_size() for one in part.parameters())

    core = model.model
    language = size(core.language_model) - size(core.get_input_embeddings())  # of which a few rows are read
    found = {"vit": core.vision_tower, "cnn": core.high_res_tower, "mining": core.feature_mining}
    found = {name: size(part) for name, part in found.items()}
    found |= {"projector": size(core.multi_modal_projector), "llm": language, "heads": size(model.box_head)}
    if mode == "generate":
        found["llm"] += size(model.lm_head)
        found["decoding"] = (new_tokens - 1) * found["llm"]
    return {name: found.get(name, 0) for name in STAGES}


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
    picture: tuple[int, int] = (1242, 375),
    device: str = "cpu",
    progress: Callable[[dict], None] = lambda result: None,
) -> dict:
    """Measures every combination of batch size, number of phrases, dtype and mode.

    Args:
        name: see `load`.
        batch_sizes: pictures asked at once.
        phrases: asked about each picture.
        dtypes, modes: of `DTYPES` and `MODES`.
        attention: of both towers that have it; the fastest by default.
        repeats, warm_up: answers that count, and before them (operations are counted in the first). Each that counts
            is given twice, once with hooks.
        new_tokens: words written in mode `generate`, as many as a box in numbers takes.
        picture: (width, height) of the JPEG files, pixels.
        device: such as `cpu` or `cuda:0`.
        progress: called with each result as it is there.

    Returns:
        What `json.dumps` takes; docs/speed.md names every field.

    Raises:
        ValueError: an argument out of range or unknown, by name.
    """
    _check_counts(batch_size=batch_sizes, phrases=phrases, repeats=[repeats], new_tokens=[new_tokens], picture=picture)
    _check_counts(warm_up=[warm_up])
    for field, given, known in (("dtype", dtypes, DTYPES), ("mode", modes, MODES)):
        if not given or set(given) - set(known):
            raise ValueError(f"{field}: got {', '.join(given) or 'none'}, want some of {', '.join(known)}.")
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:  # torch says in several ways what it has not
        raise ValueError(f"device: got '{device}', which torch cannot use here ({error}).") from error
    report = {
        "checkpoint": name,
        "machine": machine(where),
        "settings": {
            "attention": attention,
            "repeats": repeats,
            "warm_up": warm_up,
            "new_tokens": new_tokens,
            "picture": list(picture),
            "device": str(where),
        },
        "reachable": {},
        "results": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        files = save_pictures(Path(scratch), max(batch_sizes), picture)
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
            del model, asked  # before the next is there
    return report


def _check_counts(**fields: Sequence[int]) -> None:
    for name, values in fields.items():
        if not values or min(values) < 1:
            raise ValueError(f"{name}: got {', '.join(map(str, values)) or 'none'}, want at least 1.")


def _measure(asked: tuple, repeats: int, warm_up: int, best: dict[str, float]) -> dict:
    """Latency, throughput, memory and stages of one way; `best` as of `reachable`."""
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
    # Means over the middle half by time: they add up, as medians of stages would not, and outliers have no say.
    staged.sort(key=lambda run: run[0])
    middle = staged[len(staged) // 4 : len(staged) - len(staged) // 4]
    whole = statistics.fmean(run[0] for run in middle)
    stages = {name: statistics.fmean(run[1][name] for run in middle) for name in STAGES}
    median = statistics.median(seconds)
    # At best a stage takes as long as its operations or, if that is longer, as reading its weights.
    limits = {
        name: max(operations[name] / best["gflop_per_s"], read[name] / best["gb_per_s"]) / 1e6 for name in STAGES
    }
    return {
        "attention": model.config.text_config._attn_implementation,
        "latency_ms": {"median": 1e3 * median, "p95": 1e3 * float(np.percentile(seconds, 95))},
        "phrases_per_second": len(files) * len(phrases) / median,
        "peak_mb": memory.bytes() / 2**20,
        "peak_of": memory.kind,
        "weights_mb": sum(one.numel() * one.element_size() for one in model.parameters()) / 2**20,
        "stages_ms": {name: 1e3 * value for name, value in stages.items()},
        "rest_ms": 1e3 * (whole - sum(stages.values())),
        "staged_ms": 1e3 * whole,
        "gflop": {name: count / 1e9 for name, count in operations.items()},
        "limit_ms": limits,
    }
