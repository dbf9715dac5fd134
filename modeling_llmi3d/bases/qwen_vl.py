# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D from a Qwen2.5-VL or Qwen3-VL in transformers' format.

Vision encoder, its merger and language model are taken over key by key; no projector is needed. What is new in LLMI3D
starts neutral: on a picture of LLMI3D's size and text the first forward pass is the base's own, DeepStack and the
positions of visual tokens included.

    family              visual tokens       published sizes (vision encoder + language model)
    qwen2_5_vl          of 28 x 28 pixels   3B, 7B, 72B
    qwen3_vl            of 32 x 32 pixels   2B, 4B, 8B, 32B
"""

import copy
import math
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging

from llmi3d.bases.llava import HUB_OPTIONS, _draw_cnn, _make_room, _refuse_other_keys
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.processing.processing_llmi3d import BOX_3D_TOKEN, QWEN_IMAGE_TOKEN, LLMI3DProcessor

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# Relatives that people will try, and why they cannot be taken over as they are.
OTHER_LAYOUTS = {
    "qwen2_vl": "its vision encoder is another, older one",
    "qwen3_vl_moe": "its language model is a mixture of experts",
}
# Visual tokens along a side, as many as the paper's ViT has.
GRID_SIZE = 24
# Where older versions of transformers kept the parts, or keep them now, and where LLMI3D has them.
KEY_MAPPING = {
    r"^(?:model\.)?visual\.": "model.vision_tower.",
    r"^model\.(?!language_model\.|vision_tower\.)": "model.language_model.",
}


def qwen_vl_config(base: PreTrainedConfig, **changes: Any) -> LLMI3DConfig:
    """The configuration of a LLMI3D that takes over a Qwen-VL.

    Its encoder reads a square of 24 x 24 visual tokens, unless `image_size` says otherwise; the high-resolution input
    is as large or larger, 768 pixels at least.

    Args:
        base: of one of `FAMILIES`.
        changes: fields of `LLMI3DConfig`; `high_res_branch=False` leaves the CNN out, and what needs it.

    Raises:
        ValueError: another family, quantized weights, or changes that contradict each other.
    """
    if base.model_type not in FAMILIES:
        reason = OTHER_LAYOUTS.get(base.model_type)
        raise ValueError(
            f"base: got the family '{base.model_type}'{f' ({reason})' if reason else ''}, want one of "
            f"{', '.join(FAMILIES)}."
        )
    if getattr(base, "quantization_config", None) is not None:
        raise ValueError("base: got quantized weights, want those that they were made of.")
    text, vision = copy.deepcopy(base.text_config), copy.deepcopy(base.vision_config)
    text.tie_word_embeddings = base.tie_word_embeddings
    side = vision.patch_size * vision.spatial_merge_size
    image_size = changes.get("image_size") or GRID_SIZE * side
    step = math.lcm(32, 4 * max(image_size // side, 1))
    fields = {
        "text_config": text,
        "vision_config": vision,
        "image_size": image_size,
        "high_res_image_size": math.ceil(max(image_size, 768) / step) * step,
        "tie_word_embeddings": base.tie_word_embeddings,
        "image_token_id": base.image_token_id,
        # Until the tokenizer says which: any other than the picture's.
        "box_3d_token_id": 0 if base.image_token_id else 1,
    }
    if changes.get("high_res_branch") is False:
        fields |= {"depth_branch": False, "depth_from_map": False}
    try:
        return LLMI3DConfig(**{**fields, **changes})
    except StrictDataclassError as error:
        raise ValueError(f"base: {error.__cause__ or error}") from error


def load_qwen_vl(cls, name_or_path: str, tokenizer=None, **kwargs: Any):
    """Body of `LLMI3DForConditionalGeneration.from_qwen_vl`, which see.

    Args:
        cls: the class to make.
        name_or_path: folder or Hub name of the base.
        tokenizer: of the base, read from there by default; it is given `<|box_3d|>`, if it has none.
        kwargs: fields of `LLMI3DConfig` to change; anything else goes to `from_pretrained`.
    """
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    own = set(LLMI3DConfig.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    changes = {name: kwargs.pop(name) for name in tuple(kwargs) if name in own}
    try:
        base = AutoConfig.from_pretrained(name_or_path, **hub)
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(name_or_path, **hub)
    except (OSError, ValueError) as error:
        raise ValueError(f"base: cannot read '{name_or_path}': {error}") from error
    config = qwen_vl_config(base, **changes)
    is_new = BOX_3D_TOKEN not in tokenizer.get_vocab()
    if is_new:
        tokenizer.add_special_tokens({"extra_special_tokens": [BOX_3D_TOKEN]}, replace_extra_special_tokens=False)
    image_id, box_id = tokenizer.convert_tokens_to_ids([QWEN_IMAGE_TOKEN, BOX_3D_TOKEN])
    if image_id != config.image_token_id:
        raise ValueError(
            f"base: '{QWEN_IMAGE_TOKEN}' is {image_id} of its tokenizer, but {config.image_token_id} in its "
            "configuration."
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is new would be told as what is missing
    try:
        model, info = cls.from_pretrained(
            name_or_path,
            config=config,
            key_mapping=KEY_MAPPING,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **kwargs,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"base: cannot read the weights of '{name_or_path}': {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    _refuse_other_keys(name_or_path, info)
    # Saved, it is LLMI3D's own layout, not the one that it was read from.
    model._weight_conversions = None
    if config.high_res_branch:
        _draw_cnn(model)
    _make_room(model, box_id, is_new)
    model.config.box_3d_token_id = box_id
    model.config.validate()
    # Qwen-VL's own settings draw its words; a question about a picture has one answer.
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return model


def qwen_vl_processor(name_or_path: str, config: LLMI3DConfig, tokenizer, **hub: Any) -> LLMI3DProcessor:
    """The processor of a LLMI3D that took over a Qwen-VL: LLMI3D's letterbox and camera, the base's turns, mean and
    deviation.

    Args:
        name_or_path: folder or Hub name of the base.
        config: of `load_qwen_vl`'s model.
        tokenizer: that `load_qwen_vl` was given.
        hub: options such as `revision`.

    Raises:
        ValueError: no image processor there.
    """
    try:
        base = AutoImageProcessor.from_pretrained(name_or_path, **hub)
    except (OSError, ValueError) as error:
        raise ValueError(f"base: cannot read the image processor of '{name_or_path}': {error}") from error
    return LLMI3DProcessor.for_model(
        config, tokenizer, image_mean=tuple(base.image_mean), image_std=tuple(base.image_std)
    )
