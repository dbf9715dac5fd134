# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Where the time of an answer goes: latency, throughput, memory and stages of a checkpoint or a configuration.

    report = bench("model_cards/llmi3d-tiny", batch_sizes=(1, 4), phrases=(1, 16), dtypes=("float32", "bfloat16"))
    print(to_markdown(report))

An answer is the whole way from a JPEG file to metric boxes. Each way of asking is measured by itself, one after the
other in one process: some answers to warm up, then bare ones, which give latency, in turn with ones whose stages are
timed by hooks. docs/speed.md says what each field of the report means.
"""

import io
import json
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
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .configuration_llmi3d import LLMI3DConfig
from .modeling_llmi3d import LLMI3DForConditionalGeneration as Model
from .processing.image_processing_llmi3d import load_image
from .processing.jobs import write_whole
from .processing.processing_llmi3d import BOX_3D_TOKEN, IMAGE_TOKEN, QWEN_IMAGE_TOKEN, LLMI3DProcessor

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

# Shapes with random weights. `tiny` is model_cards/llmi3d-tiny's, `7b` the paper's; `1b` sees what the paper's sees.
SIZES = {
    "tiny": {
        "text_config": {
            **{"model_type": "llama", "vocab_size": 767, "hidden_size": 192, "intermediate_size": 384},
            **{"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 1024},
        },
        "vision_config": {
            **{"model_type": "clip_vision_model", "hidden_size": 128, "intermediate_size": 384, "projection_dim": 128},
            **{"num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 128, "patch_size": 8},
        },
        "vision_feature_layer": -1,
        "high_res_vision_config": {
            **{"model_type": "timm_wrapper", "architecture": "convnext_atto", "do_pooling": False},
            "model_args": {"depths": [1, 2, 4, 1], "dims": [32, 64, 128, 160]},
        },
        **{"high_res_image_size": 256, "depth_predictor_dim": 48, "depth_embedding_dim": 32, "box_head_dim": 512},
        **{"image_token_id": 3, "box_3d_token_id": 4},
    },
    "small": {
        "text_config": {
            **{"model_type": "llama", "vocab_size": 32064, "hidden_size": 768, "intermediate_size": 2048},
            **{"num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4},
            "max_position_embeddings": 4096,
        },
        "vision_config": {
            **{"model_type": "clip_vision_model", "hidden_size": 384, "intermediate_size": 1536},
            **{"num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 224, "patch_size": 14},
        },
        "high_res_vision_config": {
            **{"model_type": "timm_wrapper", "architecture": "convnext_tiny", "do_pooling": False}
        },
        "high_res_image_size": 512,
    },
    "1b": {
        "text_config": {
            **{"model_type": "llama", "vocab_size": 32064, "hidden_size": 2048, "intermediate_size": 5632},
            **{"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 4},
            "max_position_embeddings": 4096,
        },
        "vision_config": {
            **{"model_type": "clip_vision_model", "hidden_size": 768, "intermediate_size": 3072},
            **{"num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 336, "patch_size": 14},
        },
        "high_res_vision_config": {
            **{"model_type": "timm_wrapper", "architecture": "convnext_base", "do_pooling": False}
        },
    },
    "7b": {},
}


# ------------------------------------------------------------------------------------------------- what is measured


def load(name: str, dtype: torch.dtype, device: torch.device) -> tuple[Model, LLMI3DProcessor]:
    """A model in evaluation mode and its processor.

    Args:
        name: folder or Hub name of a checkpoint; a folder with a config.json alone, whose weights are then drawn; or
            one of `SIZES`.
        dtype, device: of the weights.

    Raises:
        ValueError: none of these, or a vocabulary too small for a made tokenizer.
    """
    folder = Path(name)
    if name not in SIZES and folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"checkpoint: '{name}' has no config.json.")
    if name not in SIZES and (not folder.is_dir() or any(folder.glob("*.safetensors"))):
        try:
            model = Model.from_pretrained(name, dtype=dtype).to(device)
            return model.eval(), LLMI3DProcessor.from_pretrained(name)
        except OSError as error:
            raise ValueError(
                f"checkpoint: got '{name}', want a checkpoint, a folder with a config.json or one of "
                f"{', '.join(SIZES)} ({error})."
            ) from error
    config = LLMI3DConfig(**SIZES[name]) if name in SIZES else LLMI3DConfig.from_pretrained(folder)
    if name not in SIZES and (folder / "processor_config.json").is_file():
        processor = LLMI3DProcessor.from_pretrained(folder)
    else:
        processor = LLMI3DProcessor.for_model(config, byte_tokenizer(config))
    torch.manual_seed(0)
    with device:  # drawn where they are used
        model = Model._from_config(config, dtype=dtype)
    return model.eval(), processor


def byte_tokenizer(config: LLMI3DConfig) -> PreTrainedTokenizerFast:
    """A tokenizer for drawn weights: bytes and, where the vocabulary has room, the words that are asked for here.

    Raises:
        ValueError: a vocabulary without room for the bytes.
    """
    size, text = config.text_config.vocab_size, config.text_config
    special = {
        QWEN_IMAGE_TOKEN if config.has_qwen_vision else IMAGE_TOKEN: config.image_token_id,
        BOX_3D_TOKEN: config.box_3d_token_id,
    }
    free = iter(sorted(set(range(size)) - set(special.values()), reverse=True))
    taken = set(special.values())
    for token, index in (("</s>", text.eos_token_id), ("<s>", text.bos_token_id), ("<pad>", text.pad_token_id)):
        index = index if isinstance(index, int) and 0 <= index < size and index not in taken else None
        special[token] = next(i for i in free if i not in taken) if index is None else index
        taken.add(special[token])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size - len(special) < len(alphabet):
        raise ValueError(
            f"text_config: vocab_size is {size}, want at least {len(special) + len(alphabet)} for a tokenizer of "
            "bytes; give a folder with a tokenizer."
        )
    # Words grow letter by letter, as byte-pair encoding has it; a phrase then is as long as real tokenizers make it.
    pieces, merges = dict.fromkeys(alphabet), []
    for word in {word: None for text in phrases_of(64) for word in f"USER: Locate {text} in 3D. ASSISTANT: ".split()}:
        for start in ("Ġ", ""):
            whole = start + word
            steps = [(whole[:i], whole[i]) for i in range(1, len(whole))]
            new = [left + right for left, right in steps if left + right not in pieces]
            if len(pieces) + len(new) > size - len(special):
                continue
            merges += [step for step in steps if step[0] + step[1] in new]
            pieces |= dict.fromkeys(new)
    names = iter([*pieces, *(f"<unused {i}>" for i in range(size))])
    by_id = {index: token for token, index in special.items()}
    vocabulary = {by_id.get(index) or next(names): index for index in range(size)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=[token for token in special if token not in ("<pad>", "<s>", "</s>")],
    )


def phrases_of(count: int) -> list[str]:
    """As many phrases as are wanted, some seven words each, the first 64 all different."""
    things = ("car", "cyclist", "van", "pedestrian")
    colours = ("red", "dark", "white", "blue")
    places = ("on the left", "behind the tree", "next to the sign", "at the crossing")
    made = [f"the {colour} {thing} {place}" for place, colour, thing in product(places, colours, things)]
    return [made[i % len(made)] for i in range(count)]


def save_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEG files of coarse and fine noise, which decode about as slowly as photographs."""
    files = []
    for index in range(count):
        noise = np.random.default_rng(index)
        coarse = noise.integers(0, 255, (max(size[1] // 16, 1), max(size[0] // 16, 1), 3), np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        picture = (picture + noise.integers(-12, 13, picture.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{index}.jpg")
        Image.fromarray(picture).save(files[-1], quality=90)
    return files


# ------------------------------------------------------------------------------------------------------ how it is done


def synchronize(device: torch.device) -> None:
    """Waits for what the device has been given to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class StageTimer:
    """Gives the time of an answer to the innermost stage that is open, while it is entered (`with`).

    The model's stages open and close by hooks on its parts, which are gone afterwards, whatever happens.

    Attributes:
        seconds: of each stage so far.
    """

    def __init__(self, model: Model):
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._model, self._device = model, model.device
        self._open, self._since, self._passes, self._handles = [], 0.0, 0, []

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
            self._hook(part, self._enter_pass)
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

    def _hook(self, part: torch.nn.Module, enter: Callable) -> None:
        self._handles.append(part.register_forward_pre_hook(enter))
        self._handles.append(part.register_forward_hook(lambda *_: self._leave(), always_call=True))

    def _enter_pass(self, *_) -> None:
        """A pass over the prompt, or over a word written since. `generate` passes through the outer model too."""
        within = self._open[-1:] in (["llm"], ["decoding"])
        self._passes += not within
        self._enter(self._open[-1] if within else "llm" if self._passes == 1 else "decoding")

    def _enter(self, name: str) -> None:
        self._charge()
        self._open.append(name)

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
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
            images, [phrases] * len(images), intrinsics=cameras, mode=mode, share_pictures=True
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
        repeats, warm_up: answers that count, and before them. Each that counts is given twice, once with hooks.
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
    _check_counts(at_least=0, warm_up=[warm_up])
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
            for mode, batch_size, count in product(*map(dict.fromkeys, (modes, batch_sizes, phrases))):
                asked = (model, processor, files[:batch_size], phrases_of(count), mode, new_tokens)
                report["results"].append(
                    {
                        **{"dtype": dtype, "mode": mode, "batch_size": batch_size, "phrases": count},
                        "attention": model.config.text_config._attn_implementation,
                        **_measure(asked, repeats, warm_up),
                    }
                )
                progress(report["results"][-1])
            del model  # before the next is there
    return report


def _check_counts(at_least: int = 1, **fields: Sequence[int]) -> None:
    for name, values in fields.items():
        if not values or min(values) < at_least:
            raise ValueError(f"{name}: got {', '.join(map(str, values)) or 'none'}, want at least {at_least}.")


def _measure(asked: tuple, repeats: int, warm_up: int) -> dict:
    """Latency, throughput, memory and stages of one way."""
    model, _, files, phrases, *_ = asked
    for _ in range(warm_up):
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
            staged.append((time.perf_counter() - start, timer.seconds))
    # Means over the middle half by time: they add up, as medians of stages would not, and outliers have no say.
    staged.sort(key=lambda run: run[0])
    middle = staged[len(staged) // 4 : len(staged) - len(staged) // 4]
    whole = statistics.fmean(run[0] for run in middle)
    stages = {name: statistics.fmean(run[1][name] for run in middle) for name in STAGES}
    median = statistics.median(seconds)
    return {
        "latency_ms": {"median": 1e3 * median, "p95": 1e3 * float(np.percentile(seconds, 95))},
        "phrases_per_second": len(files) * len(phrases) / median,
        "peak_mb": memory.bytes() / 2**20,
        "peak_of": memory.kind,
        "weights_mb": sum(one.numel() * one.element_size() for one in model.parameters()) / 2**20,
        "stages_ms": {name: 1e3 * value for name, value in stages.items()},
        "rest_ms": 1e3 * (whole - sum(stages.values())),
        "staged_ms": 1e3 * whole,
    }


# ---------------------------------------------------------------------------------------------------- how it is shown


def _way(result: dict) -> str:
    return f"{result['dtype']}, {result['mode']}, {result['batch_size']} x {result['phrases']}"


def to_markdown(report: dict) -> str:
    """Two tables, with what they depend on: each way as a whole, and its stages."""
    ours, settings = report["machine"], report["settings"]
    width, height = settings["picture"]
    rows, stages = [], []
    used = [name for name in STAGES if any(result["stages_ms"][name] for result in report["results"])]
    for result in report["results"]:
        latency = result["latency_ms"]
        rows.append(
            f"| {_way(result)} | {latency['median']:.1f} | {latency['p95']:.1f} | {result['phrases_per_second']:.1f} "
            f"| {result['peak_mb']:.0f} |"
        )
        numbers = [result["stages_ms"][name] for name in used]
        stages.append(
            f"| {_way(result)} | {' | '.join(f'{one:.1f}' for one in [*numbers, result['rest_ms']])} "
            f"| {sum(numbers) / result['staged_ms']:.1%} of {result['staged_ms']:.1f} |"
        )
    peak = report["results"][0]["peak_of"]
    return "\n".join(
        [
            f"{report['checkpoint']}, {report['parameters'] / 1e6:.1f} M parameters, pictures of {width}x{height}; "
            f"{ours['device']}, {ours['processor']}, {ours['cores']} cores, {ours['threads']} threads, load "
            f"{ours['load']}; torch {ours['torch']}, transformers {ours['transformers']}; "
            f"{report['results'][0]['attention']}; {settings['repeats']} repeats after {settings['warm_up']} to warm "
            f"up; {settings['new_tokens']} words where the model writes.",
            "",
            f"| dtype, mode, pictures x phrases | median ms | p95 ms | phrases/s | peak MB ({peak}) |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"| stages, ms | {' | '.join(used)} | rest | sum of stages |",
            f"|---|{'---|' * (len(used) + 2)}",
            *stages,
        ]
    )


def write_report(report: dict, out: Path) -> list[Path]:
    """Writes bench.json and bench.png (what each way's time goes to); each appears when it is complete.

    Raises:
        ValueError: the folder holds one of them already.
    """
    files, drawn = check_out(out), io.BytesIO()
    _plot(report).savefig(drawn, dpi=120, format="png", metadata={"Software": None})
    write_whole(files[0], json.dumps(report, indent=1) + "\n")
    write_whole(files[1], drawn.getvalue())
    return files


def check_out(out: Path) -> list[Path]:
    """The files that `write_report` will write.

    Raises:
        ValueError: the folder holds one of them already.
    """
    files = [out / "bench.json", out / "bench.png"]
    for file in files:
        if file.exists():
            raise ValueError(f"--out: {file} is there already; choose another folder.")
    return files


def _plot(report: dict):
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    results = report["results"]
    figure = Figure(figsize=(10, 1.8 + 0.45 * len(results)), layout="constrained")
    axes = figure.subplots()
    names = [_way(result) for result in results]
    colours, left = colormaps["tab20"].colors, [0.0] * len(results)
    for index, name in enumerate([*STAGES, "rest"]):
        values = [result["stages_ms"].get(name, result["rest_ms"]) for result in results]
        if any(values):
            colour = "#dddddd" if name == "rest" else colours[index]
            axes.barh(names, values, left=left, color=colour, label=name)
            left = [start + value for start, value in zip(left, values, strict=True)]
    axes.plot([one["latency_ms"]["median"] for one in results], names, "k|", markersize=14, label="without hooks")
    axes.invert_yaxis()
    axes.set(xlabel="ms an answer", title=f"{report['checkpoint']}: {report['machine']['device']}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
