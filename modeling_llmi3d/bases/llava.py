# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D from a checkpoint of the LLaVA family in transformers' format.

LLMI3D is laid out as LLaVA is, so the ViT, the projector and the language model are taken over key by key, by
transformers' own loading: shards, layouts of older versions, data types and devices are its business. What is new in
LLMI3D starts neutral: on pictures and text the first forward pass is the base's own.

    family              taken over                          left out
    llava               all                                 -
    llava_next          ViT, projector, language model      `image_newline`: LLMI3D sees the base view alone, at the
    llava_onevision     ViT, projector, language model      high resolution by its CNN, and not by tiles of the picture
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
# Relatives that people will try, and why they cannot be taken over as they are.
OTHER_LAYOUTS = {
    "internvl": "a pixel shuffle and a norm stand before its projector, and its InternViT is no CLIP or SigLIP, so "
    "that a token is four of the ViT's",
    "llava_next_video": "its visual tokens are pooled over time",
    "video_llava": "it has one tower for pictures and another for videos",
    "vipllava": "its projector reads several layers of the ViT at once, behind a norm",
}
# Where older versions of transformers kept the parts, and where LLMI3D has them.
KEY_MAPPING = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model": "model.language_model",
    r"^vision_tower": "model.vision_tower",
    r"^multi_modal_projector": "model.multi_modal_projector",
    r"^image_newline": "model.image_newline",
}
LEFT_OUT = "model.image_newline"
NEW_PARTS = ("model.high_res_tower.", "model.feature_mining.", "box_head.")
# Vocabularies that must grow do so to a multiple of it, which GPUs like.
VOCABULARY_MULTIPLE = 64
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies")


def llava_config(base: PreTrainedConfig, **changes: Any) -> LLMI3DConfig:
    """The configuration of a LLMI3D that takes over a LLaVA.

    The high-resolution input is as near to 768 pixels as the ViT's grid allows. A ViT whose picture is no whole number
    of patches (SigLIP: 384 pixels in patches of 14) never sees the rest of it; here its picture is as large as what it
    sees, so that tokens and windows of the CNN meet.

    Args:
        base: of one of `FAMILIES`.
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
        raise ValueError(
            f"base: vision_feature_layer is {base.vision_feature_layer}, want one layer: LLMI3D mines for the tokens "
            "of one."
        )
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
    """Refuses what cannot be taken over.

    Args:
        base: configuration of the base.
        families: that can.
        other_layouts: why relatives of them cannot.

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
        raise ValueError("base: got quantized weights, want those that they were made of.")


def config_of(base: PreTrainedConfig, fields: Mapping[str, Any], changes: Mapping[str, Any]) -> LLMI3DConfig:
    """The configuration of a LLMI3D with a base's language model and placeholder.

    Args:
        base: configuration of the base.
        fields: what follows from its family.
        changes: fields that are wanted otherwise; `high_res_branch=False` takes with it what looks at the CNN.

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
        # Until the tokenizer says which: any other than the picture's.
        "box_3d_token_id": 0 if base.image_token_id else 1,
    }
    try:
        return LLMI3DConfig(**{**given, **fields, **without_cnn, **changes})
    except StrictDataclassError as error:
        raise ValueError(f"base: {error.__cause__ or error}") from error


def read(kind, name_or_path: str, **hub: Any):
    """`kind.from_pretrained(name_or_path)` of a base.

    Raises:
        ValueError: nothing there that can be read.
    """
    try:
        return kind.from_pretrained(name_or_path, **hub)
    except (OSError, ValueError) as error:
        raise ValueError(f"base: cannot read '{name_or_path}': {error}") from error


def add_box_token(tokenizer, image_token: str = IMAGE_TOKEN) -> bool:
    """Gives a tokenizer `<|box_3d|>` beside the special tokens that it has; whether that was needed.

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
    logging.set_verbosity_error()  # what is new would be told as what is missing
    try:
        model, info = LLMI3DForConditionalGeneration.from_pretrained(
            name_or_path,
            config=config,
            key_mapping=key_mapping,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **kwargs,
        )
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
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
    # A base's own settings may draw its words; a question about a picture has one answer.
    model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    return model


def _refuse_other_keys(name_or_path: str, info: dict[str, Any]) -> None:
    """Refuses a checkpoint whose weights are not those of its configuration.

    Raises:
        ValueError: missing, misshapen and unknown weights, by name.
    """
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(NEW_PARTS))
    unknown = sorted(name for name in info["unexpected_keys"] if name != LEFT_OUT)
    shapes = [f"{name} {list(given)} for {list(wanted)}" for name, given, wanted in sorted(info["mismatched_keys"])]
    problems = [
        f"{title} {some(names, 5)}"
        for title, names in (("it lacks", missing), ("misshapen are", shapes), ("unknown are", unknown))
        if names
    ]
    if problems:
        raise ValueError(f"base: the weights of '{name_or_path}' do not fit its config.json: {'; '.join(problems)}.")


def _draw_cnn(model) -> None:
    """Draws the CNN anew as timm does: transformers leaves those of its weights that it does not know as they are."""
    tower = model.model.high_res_tower
    drawn = AutoModel.from_config(model.config.high_res_vision_config).state_dict()
    tower.load_state_dict({name: drawn[name] for name in tower.state_dict()})


@torch.no_grad()
def _make_room(model, box_id: int, is_new: bool) -> None:
    """A row for the 3D query token in both embeddings, the mean of the tokens that there are: it never wins over them.

    Vocabularies are larger than their tokenizers, mostly: then the row is there already, and nothing else changes.
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
