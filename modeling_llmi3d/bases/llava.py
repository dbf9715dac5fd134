# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D from a checkpoint of the LLaVA family in transformers' format.

LLMI3D has LLaVA's layout, so transformers itself loads the ViT, the projector and the language model key by key, with
its support for shards, layouts of older versions, data types and devices. The new parts start neutral: on images and
text the first forward pass is the base's own.

    family              kept                                left out
    llava               all                                 -
    llava_next          ViT, projector, language model      `image_newline`: LLMI3D sees the base view alone; high
    llava_onevision     ViT, projector, language model      resolution comes from its CNN, not from tiles of the image
"""

import copy
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging

from llmi3d.bases.checkpoint_io import some
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration
from llmi3d.processing.processing_llmi3d import BOX_3D_TOKEN, IMAGE_TOKEN

FAMILIES = ("llava", "llava_next", "llava_onevision")
VISION_TOWERS = ("clip_vision_model", "siglip_vision_model")
# Related families, and the reason why they cannot be used.
OTHER_LAYOUTS = {
    "internvl": "a pixel shuffle and a norm precede its projector, so a token is four of the ViT's, and its InternViT "
    "is no CLIP or SigLIP",
    "llava_next_video": "its visual tokens are pooled over time",
    "video_llava": "it has separate towers for images and videos",
    "vipllava": "its projector reads several layers of the ViT at once, after a norm",
}
# Names of the parts in older versions of transformers, and in LLMI3D.
KEY_MAPPING = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model": "model.language_model",
    r"^vision_tower": "model.vision_tower",
    r"^multi_modal_projector": "model.multi_modal_projector",
    r"^image_newline": "model.image_newline",
}
LEFT_OUT = "model.image_newline"
NEW_PARTS = ("model.high_res_tower.", "model.feature_mining.", "box_head.")
# Vocabularies grow to a multiple of this, which is faster on GPUs.
VOCABULARY_MULTIPLE = 64
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies")


def llava_config(base: PreTrainedConfig, **changes: Any) -> LLMI3DConfig:
    """Return the configuration of a LLMI3D with a LLaVA's parts.

    The high-resolution input is as near to 768 pixels as the ViT's grid allows. A ViT whose image is no whole number
    of patches (SigLIP: 384 pixels in patches of 14) does not see the remainder; here the image shrinks to what it
    sees, so that tokens and windows of the CNN align.

    Args:
        base: configuration of one of `FAMILIES`.
        changes: fields of `LLMI3DConfig`.

    Raises:
        ValueError: another family, or a layout that LLMI3D cannot express.
    """
    refuse_other_bases(base, FAMILIES, OTHER_LAYOUTS)
    vision = copy.deepcopy(base.vision_config)
    if vision.model_type not in VISION_TOWERS:
        raise ValueError(
            f"base: vision_config.model_type is '{vision.model_type}', want one of {', '.join(VISION_TOWERS)}."
        )
    if not isinstance(base.vision_feature_layer, int):
        raise ValueError(f"base: vision_feature_layer is {base.vision_feature_layer}, want a single layer.")
    vision.image_size -= vision.image_size % vision.patch_size
    step = math.lcm(32, 4 * (vision.image_size // vision.patch_size))
    fields = {
        "vision_config": vision,
        "high_res_image_size": max(round(768 / step), 1) * step,
        "vision_feature_layer": base.vision_feature_layer,
        "vision_feature_select_strategy": base.vision_feature_select_strategy,
        "projector_hidden_act": base.projector_hidden_act,
        "multimodal_projector_bias": base.multimodal_projector_bias,
    }
    return config_of(base, fields, changes)


def refuse_other_bases(base: PreTrainedConfig, families: Sequence[str], other_layouts: Mapping[str, str]) -> None:
    """Refuse a base that cannot be used.

    Args:
        base: configuration of the base.
        families: supported families.
        other_layouts: reason why related families are not supported.

    Raises:
        ValueError: another family, or quantized weights.
    """
    if base.model_type not in families:
        reason = other_layouts.get(base.model_type)
        raise ValueError(
            f"base: got the family '{base.model_type}'{f' ({reason})' if reason else ''}, want one of "
            f"{', '.join(families)}."
        )
    if getattr(base, "quantization_config", None) is not None:
        raise ValueError("base: got quantized weights, want the original ones.")


def config_of(base: PreTrainedConfig, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> LLMI3DConfig:
    """Return the configuration of a LLMI3D with a base's language model and placeholder.

    Args:
        base: configuration of the base.
        fields: fields that follow from its family.
        changes: fields that override them; `high_res_branch=False` also switches off what depends on the CNN.

    Raises:
        ValueError: fields that contradict each other.
    """
    text = copy.deepcopy(base.text_config)
    text.tie_word_embeddings = base.tie_word_embeddings
    without_cnn = {"depth_branch": False, "depth_from_map": False} if changes.get("high_res_branch") is False else {}
    given = {
        "text_config": text,
        "tie_word_embeddings": base.tie_word_embeddings,
        "image_token_id": base.image_token_id,
        # Any id but the image's, until the tokenizer gives it.
        "box_3d_token_id": 0 if base.image_token_id else 1,
    }
    try:
        return LLMI3DConfig(**{**given, **fields, **without_cnn, **changes})
    except StrictDataclassError as error:
        raise ValueError(f"base: {error.__cause__ or error}") from error


def read(kind, name_or_path: str, **hub: Any):
    """Return `kind.from_pretrained(name_or_path)` of a base.

    Raises:
        ValueError: files that cannot be read.
    """
    try:
        return kind.from_pretrained(name_or_path, **hub)
    except (OSError, ValueError) as error:
        raise ValueError(f"base: cannot read '{name_or_path}': {error}") from error


def add_box_token(tokenizer, image_token: str = IMAGE_TOKEN) -> bool:
    """Add `<|box_3d|>` to a tokenizer's special tokens; return whether it was missing.

    Raises:
        ValueError: a tokenizer without `image_token`.
    """
    vocabulary = tokenizer.get_vocab()
    if image_token not in vocabulary:
        raise ValueError(f"base: its tokenizer has no '{image_token}', want a base in transformers' own format.")
    if BOX_3D_TOKEN in vocabulary:
        return False
    tokenizer.add_special_tokens({"extra_special_tokens": [BOX_3D_TOKEN]}, replace_extra_special_tokens=False)
    return True


def from_llava(name_or_path: str, tokenizer=None, **kwargs: Any) -> LLMI3DForConditionalGeneration:
    """Return a LLMI3D that starts from a LLaVA in transformers' format.

    The ViT, the projector and the language model are the base's; the new parts start neutral, so on an image and text
    the model first answers as the base does. `llmi3d init` makes a whole checkpoint, with processor and card.

    Args:
        name_or_path: folder or Hub name of a base of one of `FAMILIES`.
        tokenizer: the base's, read from there by default; it receives `<|box_3d|>` if it lacks it.
        kwargs: fields of `LLMI3DConfig` to change; all others go to `from_pretrained`.

    Raises:
        ValueError: another family or layout, or weights that do not fit their configuration, by name.
    """
    return load_base(name_or_path, llava_config, IMAGE_TOKEN, KEY_MAPPING, tokenizer, **kwargs)


def load_base(
    name_or_path: str,
    make_config: Callable[..., LLMI3DConfig],
    image_token: str,
    key_mapping: dict[str, str],
    tokenizer=None,
    **kwargs: Any,
) -> LLMI3DForConditionalGeneration:
    """Return a LLMI3D with the weights of a base of any family; other arguments as of `from_llava`.

    Args:
        make_config: makes LLMI3D's configuration from the base's and from changed fields.
        image_token: the base's placeholder of a visual token.
        key_mapping: patterns of the base's tensor names, and LLMI3D's names.

    Raises:
        ValueError: files that cannot be read, or weights that do not fit the base's own configuration.
    """
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    own = set(LLMI3DConfig.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    changes = {name: kwargs.pop(name) for name in tuple(kwargs) if name in own}
    config = make_config(read(AutoConfig, name_or_path, **hub), **changes)
    tokenizer = tokenizer or read(AutoTokenizer, name_or_path, **hub)
    is_new = add_box_token(tokenizer, image_token)
    image_id, box_id = tokenizer.convert_tokens_to_ids([image_token, BOX_3D_TOKEN])
    if image_id != config.image_token_id:
        raise ValueError(
            f"base: '{image_token}' is {image_id} of its tokenizer, but {config.image_token_id} in its configuration."
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or it would report the new parts as missing
    try:
        model, info = LLMI3DForConditionalGeneration.from_pretrained(
            name_or_path,
            config=config,
            key_mapping=key_mapping,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **kwargs,
        )
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"base: cannot read the weights of '{name_or_path}': {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    _refuse_other_keys(name_or_path, info)
    # It is saved in LLMI3D's own layout, not in the one that it was read from.
    model._weight_conversions = None
    if config.high_res_branch:
        _initialise_cnn(model)
    _set_box_token_rows(model, box_id, is_new)
    model.config.box_3d_token_id = box_id
    model.config.validate()
    # The base may sample its words; a question about an image has one answer.
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return model


def _refuse_other_keys(name_or_path: str, info: dict[str, Any]) -> None:
    """Refuse a checkpoint whose weights do not fit its configuration.

    Raises:
        ValueError: missing, misshapen and unknown weights, by name.
    """
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(NEW_PARTS))
    unknown = sorted(name for name in info["unexpected_keys"] if name != LEFT_OUT)
    shapes = [f"{name} {list(given)} for {list(wanted)}" for name, given, wanted in sorted(info["mismatched_keys"])]
    problems = [
        f"{title}: {some(names, 5)}"
        for title, names in (("missing", missing), ("misshapen", shapes), ("unknown", unknown))
        if names
    ]
    if problems:
        raise ValueError(f"base: the weights of '{name_or_path}' do not fit its config.json: {'; '.join(problems)}.")


def _initialise_cnn(model) -> None:
    """Initialise the CNN as timm does; transformers leaves weights uninitialised that it does not know."""
    tower = model.model.high_res_tower
    new = AutoModel.from_config(model.config.high_res_vision_config).state_dict()
    tower.load_state_dict({name: new[name] for name in tower.state_dict()})


@torch.no_grad()
def _set_box_token_rows(model, box_id: int, is_new: bool) -> None:
    """Set the 3D query token's row in both embeddings to the mean of all tokens, so that it never wins over them.

    Most vocabularies are larger than their tokenizers and already have that row; then nothing else changes.
    """
    old = model.config.text_config.vocab_size
    if box_id >= old:
        model.resize_token_embeddings(box_id + 1, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = embeddings.weight
        mean = weight[: min(box_id, old)].mean(0, dtype=torch.float32).to(weight.dtype)
        weight[old:] = mean
        if is_new:
            weight[box_id] = mean
