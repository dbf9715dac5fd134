# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Compare bases: parameters by part, and memory for inference and LoRA, by `llmi3d.training.plan`.

    python examples/bases_table.py                      # the published bases below
    python examples/bases_table.py FOLDER HUB/NAME ...  # others: LLMI3D checkpoints, or bases of `llmi3d init`

Everything is built on the meta device: no weights are read or created.
"""

import argparse
import warnings
from collections.abc import Iterator

import torch
from transformers import AutoConfig, PreTrainedConfig

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration
from llmi3d.bases import llava, qwen_vl
from llmi3d.bases.assemble import count_parts
from llmi3d.training.plan import plan_inference, plan_training

CLIP_L = {
    "model_type": "clip_vision_model",
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    **{"image_size": 336, "patch_size": 14, "projection_dim": 768},
}
SIGLIP_SO400M = {
    "model_type": "siglip_vision_model",
    **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16},
    **{"image_size": 384, "patch_size": 14, "vision_use_head": False},
}


def text(model_type: str, hidden: int, intermediate: int, layers: int, heads: int, groups: int, rows: int) -> dict:
    """Return the `text_config` of a language model; `groups` are key and value heads, `rows` the vocabulary."""
    return {
        "model_type": model_type,
        **{"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": rows},
    }


def qwen3_vl(tied: bool, vision: tuple[int, int, int], deepstack: list[int], *sizes: int) -> PreTrainedConfig:
    """Return the configuration of a Qwen3-VL.

    Args:
        tied: whether embeddings are tied.
        vision: (width, inner width, layers) of the encoder.
        deepstack: encoder layers that feed DeepStack.
        sizes: as in `text`.
    """
    width, inside, layers = vision
    return AutoConfig.for_model(
        "qwen3_vl",
        text_config={**text("qwen3_vl_text", *sizes), "head_dim": 128},
        vision_config={
            **{"hidden_size": width, "intermediate_size": inside, "depth": layers, "out_hidden_size": sizes[0]},
            "deepstack_visual_indexes": deepstack,
        },
        tie_word_embeddings=tied,
    )


def published() -> Iterator[tuple[str, str, PreTrainedConfig]]:
    """Yield (name, licence of the weights, configuration) of bases; sizes are those of their published config.json."""
    yield "Mini-Gemini-7B (paper)", "CC BY-NC 4.0, Llama 2", LLMI3DConfig()
    make = AutoConfig.for_model
    for size, sizes in (("7B", (4096, 11008, 32, 32, 32)), ("13B", (5120, 13824, 40, 40, 40))):
        yield (
            f"llava-1.5-{size.lower()}-hf",
            "Llama 2",
            make("llava", vision_config=CLIP_L, text_config=text("llama", *sizes, 32064)),
        )
    mistral = text("mistral", 4096, 14336, 32, 32, 8, 32064)
    yield "llava-v1.6-mistral-7b-hf", "Apache-2.0", make("llava_next", vision_config=CLIP_L, text_config=mistral)
    for size, tied, sizes in (
        ("0.5b", True, (896, 4864, 24, 14, 2, 152000)),
        ("7b", False, (3584, 18944, 28, 28, 4, 152128)),
    ):
        yield (
            f"llava-onevision-qwen2-{size}-ov-hf",
            "Apache-2.0",
            make(
                "llava_onevision",
                vision_config=SIGLIP_SO400M,
                text_config=text("qwen2", *sizes),
                tie_word_embeddings=tied,
            ),
        )

    small, large = ((1024, 4096, 24), [5, 11, 17]), ((1152, 4304, 27), [8, 16, 24])
    for size, tied, encoder, sizes in (
        ("2B", True, small, (2048, 6144, 28, 16, 8, 151936)),
        ("4B", True, small, (2560, 9728, 36, 32, 8, 151936)),
        ("8B", False, large, (4096, 12288, 36, 32, 8, 151936)),
    ):
        yield f"Qwen3-VL-{size}-Instruct", "Apache-2.0", qwen3_vl(tied, *encoder, *sizes)


def as_llmi3d(config: PreTrainedConfig) -> LLMI3DConfig:
    """Return the configuration that `llmi3d init` would write for a base; LLMI3D's own are unchanged.

    Raises:
        ValueError: a family that it does not support.
    """
    if config.model_type == LLMI3DConfig.model_type:
        return config
    return (qwen_vl.qwen_vl_config if config.model_type in qwen_vl.FAMILIES else llava.llava_config)(config)


def parameters(config: LLMI3DConfig) -> dict[str, int]:
    """Count parameters by part; both embeddings count for the language model."""
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(config)
    counts = count_parts(model)
    counts["language_model"] += counts.pop("lm_head", 0)
    return counts


def row(name: str, licence: str, config: LLMI3DConfig) -> str:
    """Return a line of the table."""
    counts = parameters(config)
    lora = plan_training(config, tuning="lora", gradient_checkpointing=True)
    columns = ("vision_tower", "high_res_tower", "feature_mining", "multi_modal_projector", "language_model")
    millions = [f"{counts[part] / 1e6:,.1f}" if part in counts else "-" for part in columns]
    total = f"{sum(counts.values()) / 1e9:.2f}"
    memory = [f"{plan_inference(config):.1f}", f"{lora.total:.1f}"]
    return f"| {' | '.join([name, licence, str(config.image_seq_length), *millions, total, *memory])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*", help="folders or Hub names; published bases by default")
    given = parser.parse_args().bases
    rows = [(name, "see its card", AutoConfig.from_pretrained(name)) for name in given] or published()
    warnings.filterwarnings("ignore", category=FutureWarning)  # from within transformers
    titles = "base, licence, visual tokens, ViT M, CNN M, mining M, projector M, LLM M, all B, inference GiB, LoRA GiB"
    print(f"| {titles.replace(', ', ' | ')} |\n|---|---|{'---:|' * 9}")
    for name, licence, config in rows:
        print(row(name, licence, as_llmi3d(config)), flush=True)


if __name__ == "__main__":
    main()
