# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D from a Qwen2.5-VL or Qwen3-VL in transformers' format.

The vision encoder, its merger and the language model are loaded key by key; no projector is needed. The new parts
start neutral: on an image of LLMI3D's size and text the first forward pass is the base's own, including DeepStack and
the positions of visual tokens.

    family              visual tokens       published sizes (vision encoder + language model)
    qwen2_5_vl          of 28 x 28 pixels   3B, 7B, 72B
    qwen3_vl            of 32 x 32 pixels   2B, 4B, 8B, 32B
"""

import copy
import math
from typing import Any

from transformers import AutoImageProcessor, PreTrainedConfig

from llmi3d.bases.llava import config_of, load_base, read, refuse_other_bases
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration
from llmi3d.processing.processing_llmi3d import QWEN_IMAGE_TOKEN, LLMI3DProcessor

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# Related families, and the reason why they cannot be used.
OTHER_LAYOUTS = {
    "qwen2_vl": "its vision encoder is an older, different one",
    "qwen3_vl_moe": "its language model is a mixture of experts",
}
# Visual tokens along a side, as in the paper's ViT.
GRID_SIZE = 24
# Names of the parts in older and current versions of transformers, and in LLMI3D.
KEY_MAPPING = {
    r"^(?:model\.)?visual\.": "model.vision_tower.",
    r"^model\.(?!language_model\.|vision_tower\.)": "model.language_model.",
}


def qwen_vl_config(base: PreTrainedConfig, **changes: Any) -> LLMI3DConfig:
    """Return the configuration of a LLMI3D with a Qwen-VL's parts.

    The encoder reads a square of 24 x 24 visual tokens unless `image_size` says otherwise; the high-resolution input
    is at least as large, and at least 768 pixels.

    Args:
        base: configuration of one of `FAMILIES`.
        changes: fields of `LLMI3DConfig`; `high_res_branch=False` also leaves out what depends on the CNN.

    Raises:
        ValueError: another family, quantized weights, or changes that contradict each other.
    """
    refuse_other_bases(base, FAMILIES, OTHER_LAYOUTS)
    vision = copy.deepcopy(base.vision_config)
    side = vision.patch_size * vision.spatial_merge_size
    image_size = changes.get("image_size") or GRID_SIZE * side
    step = math.lcm(32, 4 * max(image_size // side, 1))
    fields = {
        "vision_config": vision,
        "image_size": image_size,
        "high_res_image_size": math.ceil(max(image_size, 768) / step) * step,
    }
    return config_of(base, fields, changes)


def from_qwen_vl(name_or_path: str, tokenizer=None, **kwargs: Any) -> LLMI3DForConditionalGeneration:
    """Return a LLMI3D that starts from a Qwen2.5-VL or Qwen3-VL in transformers' format.

    Args:
        name_or_path: folder or Hub name of a base of one of `FAMILIES`.
        tokenizer: the base's, read from there by default; it receives `<|box_3d|>` if it lacks it.
        kwargs: fields of `LLMI3DConfig` to change, such as `image_size` (24 visual tokens along a side by default) or
            `high_res_branch=False`; all others go to `from_pretrained`.

    Raises:
        ValueError: another family, or weights that do not fit their configuration, by name.
    """
    return load_base(name_or_path, qwen_vl_config, QWEN_IMAGE_TOKEN, KEY_MAPPING, tokenizer, **kwargs)


def qwen_vl_processor(name_or_path: str, config: LLMI3DConfig, tokenizer, **hub: Any) -> LLMI3DProcessor:
    """Return the processor for a Qwen-VL base: LLMI3D's letterbox and camera, the base's turns and normalisation.

    Args:
        name_or_path: folder or Hub name of the base.
        config: configuration of `from_qwen_vl`'s model.
        tokenizer: the tokenizer that `from_qwen_vl` was given.
        hub: options such as `revision`.

    Raises:
        ValueError: no image processor that can be read.
    """
    base = read(AutoImageProcessor, name_or_path, **hub)
    return LLMI3DProcessor.for_model(
        config, tokenizer, image_mean=tuple(base.image_mean), image_std=tuple(base.image_std)
    )
