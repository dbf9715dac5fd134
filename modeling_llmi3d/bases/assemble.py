# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d init`: a checkpoint ready for training, from a LLaVA or Qwen-VL."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, ProcessorMixin
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from llmi3d.bases import llava, qwen_vl
from llmi3d.bases.base_card import BaseInCard
from llmi3d.bases.chat_template import read_turns
from llmi3d.bases.checkpoint_io import CheckpointReader, new_folder
from llmi3d.bases.convnext import RENAMES, convnext_config, load_convnext
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.processing.processing_llmi3d import CHAT_TEMPLATE, IMAGE_TOKEN, QWEN_IMAGE_TOKEN, LLMI3DProcessor

NEW_PARTS = ("high_res_tower", "feature_mining", "box_head")


@dataclass(frozen=True)
class InitReport:
    """Record of a new checkpoint.

    Attributes:
        base, family, licence: of the base.
        parameters: number of parameters of each part.
        high_res_weights: name of the file with the CNN's weights, None if they are random.
    """

    base: str
    family: str
    licence: str
    parameters: dict[str, int]
    high_res_weights: str | None

    def summary(self) -> str:
        """Return a summary of a few lines."""
        tower = "random; --high-res-weights gives trained ones" if self.high_res_weights is None else "from a file"
        notes = {name: "new" for name in NEW_PARTS} | {"high_res_tower": tower}
        parts = [
            f"  {name:<22}{count:>14,}  {notes.get(name, 'from the base')}" for name, count in self.parameters.items()
        ]
        total = f"{sum(self.parameters.values()):,} parameters"
        return "\n".join([f"{self.base} ({self.family}; licence {self.licence}), {total}", *parts])


def init_checkpoint(
    base: str | Path,
    out: str | Path,
    high_res_weights: str | Path | None = None,
    licence: str | None = None,
    chat_template: str | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> InitReport:
    """Make a LLMI3D checkpoint from a base: weights, processor, special tokens, chat template and card.

    Args:
        base: folder or Hub name of a family of `llava.FAMILIES` or `qwen_vl.FAMILIES`.
        out: new folder; it appears once it is complete.
        high_res_weights: ConvNeXt of OpenCLIP or timm for the high-resolution tower, file or folder; it must expect
            images normalised as for CLIP. Its shapes set the architecture. Without it the CNN starts randomly.
        licence: of the base; by default the one on its card.
        chat_template: replaces the base's.
        seed: of the new weights.
        kwargs: fields of `LLMI3DConfig` to change, such as `high_res_branch=False`; all others go to
            `from_pretrained` (`revision`, `dtype`).

    Raises:
        ValueError: an existing `out`; a base that cannot be read or expressed; other unreadable files.
    """
    if high_res_weights is not None and kwargs.get("high_res_branch") is False:
        raise ValueError("high_res_weights: got a file with high_res_branch=False, want one or the other.")
    base = str(base)
    hub = {name: kwargs[name] for name in llava.HUB_OPTIONS if name in kwargs}
    with new_folder(out) as folder:
        family = llava.read(AutoConfig, base, **hub).model_type
        of_qwen = family in qwen_vl.FAMILIES
        tokenizer = llava.read(AutoTokenizer, base, **hub)
        if high_res_weights is not None:
            kwargs.setdefault("high_res_vision_config", _cnn_of(high_res_weights))
        load = qwen_vl.from_qwen_vl if of_qwen else llava.from_llava
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = load(base, tokenizer, **kwargs)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        if of_qwen:
            processor = qwen_vl.qwen_vl_processor(base, model.config, tokenizer, **hub)
            own = _turns_of(base, tokenizer, QWEN_IMAGE_TOKEN, chat_template, **hub)
            processor.chat_template = own or processor.chat_template
        else:
            processor = llava_processor(base, model.config, tokenizer, chat_template, **hub)
        if high_res_weights is not None:
            load_convnext(model, high_res_weights)
            images = processor.image_processor
            normalise_for_cnn(model, images.image_mean, images.image_std)
        _end_answers(model.generation_config, tokenizer)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        tower = None if high_res_weights is None else Path(high_res_weights).name
        taken = "ViT, projector and language model come from it; the high-resolution tower is "
        taken += "left out." if not model.config.high_res_branch else "new." if tower is None else f"from `{tower}`."
        made_of = BaseInCard(base, family, taken, **hub)
        report = InitReport(
            base=made_of.name,
            family=family,
            licence=made_of.write(folder / "README.md", licence),
            parameters=count_parts(model),
            high_res_weights=tower,
        )
    return report


def llava_processor(
    base: str, config: LLMI3DConfig, tokenizer, chat_template: str | None = None, **hub: Any
) -> LLMI3DProcessor:
    """Return the processor for a LLaVA base: LLMI3D's letterbox and camera, the base's turns and normalisation.

    Args:
        base: folder or Hub name.
        config: LLMI3D's configuration.
        tokenizer: LLMI3D's tokenizer; the token that ends a turn becomes its end of text.
        chat_template: replaces the base's.
        hub: options such as `revision`.

    Raises:
        ValueError: no image processor, or no usable chat template.
    """
    images = llava.read(AutoImageProcessor, base, **hub)
    template = _turns_of(base, tokenizer, IMAGE_TOKEN, chat_template, **hub)
    if template is None and config.text_config.model_type == "llama":
        template = CHAT_TEMPLATE  # that of LLaVA-1.5, whose early checkpoints have none
    elif template is None:
        raise ValueError("chat_template: the base has none, want one (--chat-template).")
    processor = LLMI3DProcessor.for_model(
        config, tokenizer, image_mean=tuple(images.image_mean), image_std=tuple(images.image_std)
    )
    processor.chat_template = template
    return processor


def _turns_of(base: str, tokenizer, image_token: str, chat_template: str | None, **hub: Any) -> str | None:
    """Return `chat_template` or else the base's, with a generation block; None if there is neither.

    The token that ends a turn becomes the tokenizer's end of text.
    """
    template = chat_template or _chat_template_of(base, tokenizer, **hub)
    if template is not None and not (chat_template and re.search(r"\{%-?\s*generation", template)):
        turns = read_turns(template, tokenizer, image_token)
        tokenizer.eos_token = turns.end
        template = turns.to_template()
    tokenizer.chat_template = None  # the processor holds it
    return template


def _chat_template_of(base: str, tokenizer, **hub: Any) -> str | None:
    """Return the base's chat template, wherever its version of transformers stored it."""
    try:
        template = ProcessorMixin.get_processor_dict(base, **hub)[0].get("chat_template")
    except (OSError, ValueError):
        template = None
    template = template or tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def _cnn_of(path: str | Path) -> dict[str, Any]:
    """Return `high_res_vision_config` for a file of weights."""
    pattern, replacement = RENAMES[0]
    tensors = CheckpointReader(path).tensors
    return convnext_config({re.sub(pattern, replacement, name): info.shape for name, info in tensors.items()})


@torch.no_grad()
def normalise_for_cnn(
    model: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
    own_mean: Sequence[float] = OPENAI_CLIP_MEAN,
    own_std: Sequence[float] = OPENAI_CLIP_STD,
) -> None:
    """Change the CNN's first layer to take images normalised for the ViT; its features stay the same.

    Both branches get the image normalised once. The first layer does not pad, so its weights and bias can absorb a
    scale and offset of each channel.

    Args:
        model: a LLMI3D.
        mean, std: of the images that it will be given, 3 channels each.
        own_mean, own_std: of the images that the CNN was trained on.
    """
    mean, std, own_mean, own_std = (
        torch.tensor(values, dtype=torch.float64) for values in (mean, std, own_mean, own_std)
    )
    if torch.equal(mean, own_mean) and torch.equal(std, own_std):
        return
    first = model.base_model.high_res_tower.timm_model.stem[0]
    weight = first.weight.double()
    offset = torch.einsum("oihw,i->o", weight, (mean - own_mean) / own_std)
    first.bias.copy_(first.bias.double() + offset)
    first.weight.copy_(weight * (std / own_std)[:, None, None])


def _end_answers(generation_config, tokenizer) -> None:
    """Make generation stop at the token that ends a turn, as well as where the base stops."""
    stops = generation_config.eos_token_id
    stops = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    if tokenizer.eos_token_id not in stops:
        stops.insert(0, tokenizer.eos_token_id)
    generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    if generation_config.pad_token_id is None:
        generation_config.pad_token_id = tokenizer.pad_token_id


def count_parts(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each part of a LLMI3D."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
