# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Latency of direct grounding against text, against the prefill of a plain LLaVA, and of many phrases against one.

    python examples/benchmarks/latency.py
    python examples/benchmarks/latency.py --size 1b --dtype bfloat16 --repeats 5
    python examples/benchmarks/latency.py --size 7b --dtype bfloat16 --device cuda

For each size, with the same random weights and network inputs:

    direct          `ground`, one phrase
    text            60 tokens about the same image, greedily, with the cache: as many as a box in numbers takes
    prefill         the plain LLaVA of transformers with the same ViT, projector and language model, over the prompt
    CNN             the high-resolution tower alone
    mining          the mining alone, on features of both towers
    together        `ground`, 16 phrases about the image
    one by one      `ground` 16 times, one phrase each

Every repeat runs each variant once, in turn, so that other work on the machine affects all alike. Times are medians
over the repeats, ratios are medians of the ratios of each repeat. `difference` is the largest difference of head
outputs between phrases asked together and one by one, absolute or relative, whichever is less.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from llmi3d.apps.benchmark import DTYPES, machine, synchronize, text_settings
from llmi3d.apps.benchmark_models import SIZES, load, phrases_of

RATIOS = {
    "text / direct": (("text",), ("direct",)),
    "direct / prefill": (("direct",), ("prefill",)),
    "direct / (prefill + CNN)": (("direct",), ("prefill", "CNN")),
    "direct / (prefill + CNN + mining)": (("direct",), ("prefill", "CNN", "mining")),
    "together / direct": (("together",), ("direct",)),
    "one by one / together": (("one by one",), ("together",)),
}


def plain_llava(model) -> torch.nn.Module:
    """Return a LLaVA of transformers with the model's ViT, projector and language model.

    Args:
        model: a `LLMI3DForConditionalGeneration` with CLIP or SigLIP as its ViT.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    names = ("vision_config", "text_config", "image_token_id", "vision_feature_layer")
    names = (*names, "vision_feature_select_strategy", "projector_hidden_act", "multimodal_projector_bias")
    fields = {name: getattr(model.config, name) for name in names}
    fields["image_token_index"] = fields.pop("image_token_id")
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(LlavaConfig(**fields, image_seq_length=model.config.image_seq_length))
    core = model.model
    llava.model.vision_tower, llava.model.language_model = core.vision_tower, core.language_model
    llava.model.multi_modal_projector.load_state_dict(core.multi_modal_projector.state_dict(), assign=True)
    llava.lm_head = model.lm_head
    return llava.eval()


def ways_of(model, processor, phrases: int, new_tokens: int) -> dict[str, Callable]:
    """Return the functions to time, by name; `together` and `one by one` return head outputs."""
    image = Image.effect_noise((1242, 375), 80).convert("RGB")
    camera = (721.5, 721.5, image.width / 2, image.height / 2)

    def inputs(asked, mode="direct"):
        made = processor.grounding_inputs(image, asked, intrinsics=camera, mode=mode, share_images=True)
        return dict(made.to(model.device, model.dtype))

    names = phrases_of(phrases)
    one, words, many = inputs(names[0]), inputs(names[0], "generate"), inputs(names)
    each = [inputs(name) for name in names]
    llava, core = plain_llava(model), model.model
    plain = {name: value for name, value in one.items() if name != "high_res_pixel_values"}

    def tower():
        return core.high_res_tower(
            one["high_res_pixel_values"], output_hidden_states=[0, 1, 2, 3], output_attentions=False, do_pooling=False
        )

    stages = list(tower().hidden_states)
    tokens = torch.randn(1, model.config.image_seq_length, model.config.visual_token_dim).to(stages[0])
    return {
        "direct": lambda: model.ground(**one),
        "text": lambda: model.generate(**words, **text_settings(new_tokens)),
        "prefill": lambda: llava(**plain, use_cache=True, logits_to_keep=1),
        "CNN": tower,
        "mining": lambda: core.feature_mining(tokens, stages),
        "together": lambda: [model.ground(**many).boxes_3d],
        "one by one": lambda: [model.ground(**inputs).boxes_3d for inputs in each],
    }


def difference(together: list, one_by_one: list) -> float:
    """Return the largest difference of head outputs, absolute or relative, whichever is less."""
    worst = 0.0
    for name, values in together[0].items():
        wanted = torch.cat([boxes[name] for boxes in one_by_one])
        if wanted.is_floating_point():
            apart = (values - wanted).abs() / wanted.abs().clamp(min=1)
            worst = max(worst, apart.max().item())
    return worst


@torch.no_grad()
def measure(size: str, arguments: argparse.Namespace) -> dict:
    """Times, ratios and difference of one size."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model, processor = load(size, getattr(torch, arguments.dtype), device)
    ways = ways_of(model, processor, arguments.phrases, arguments.new_tokens)
    seconds = {name: [] for name in ways}
    for repeat in range(-arguments.warm_up, arguments.repeats):
        for name, way in ways.items():
            synchronize(device)
            start = time.perf_counter()
            way()
            synchronize(device)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    ratios = {}
    for name, (above, below) in RATIOS.items():
        above, below = (
            [sum(each) for each in zip(*(seconds[one] for one in part), strict=True)] for part in (above, below)
        )
        ratios[name] = statistics.median(one / other for one, other in zip(above, below, strict=True))
    return {
        "size": size,
        "parameters": model.num_parameters(),
        "ms": {name: 1e3 * statistics.median(values) for name, values in seconds.items()},
        "ratios": ratios,
        "difference": difference(ways["together"](), ways["one by one"]()),
    }


def main() -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", nargs="+", default=["tiny", "small"], help=f"of {', '.join(SIZES)}, or folders as of `llmi3d bench`"
    )
    parser.add_argument("--phrases", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/latency.json"))
    arguments = parser.parse_args()
    for name, least in {"phrases": 2, "new_tokens": 1, "repeats": 1, "warm_up": 0}.items():
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, want at least {least}")
    names = ("dtype", "phrases", "new_tokens", "repeats", "warm_up")
    report = {
        "machine": machine(torch.device(arguments.device)),
        "batch_size": 1,
        **{name: getattr(arguments, name) for name in names},
        "results": [],
    }
    print(json.dumps({name: value for name, value in report.items() if name != "results"}))
    for size in arguments.size:
        found = measure(size, arguments)
        report["results"].append(found)
        print(f"\n{size}, {found['parameters'] / 1e6:.1f} M parameters; largest difference {found['difference']:.1e}")
        for name, value in found["ms"].items():
            print(f"  {name:36}{value:10.1f} ms")
        for name, value in found["ratios"].items():
            print(f"  {name:36}{value:10.2f}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
