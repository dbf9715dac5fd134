# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d init`: a checkpoint that is ready to be trained, from a base that people already have."""

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
    """What was made.

    Attributes:
        base, family, licence: of the base; the licence as its card says.
        parameters: by part.
        high_res_weights: name of the file that the CNN came from, None where it was drawn.
    """

    base: str
    family: str
    licence: str
    parameters: dict[str, int]
    high_res_weights: str | None

    def summary(self) -> str:
        """A few lines for people."""
        tower = "drawn: give --high-res-weights for trained ones" if self.high_res_weights is None else "taken over"
        notes = {name: "new" for name in NEW_PARTS} | {"high_res_tower": tower}
        parts = [
            f"  {name:<22}{count:>14,}  {notes.get(name, 'of the base')}" for name, count in self.parameters.items()
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
    """Makes a LLMI3D checkpoint of a base: weights, processor, special tokens, chat template and card.

    Args:
        base: folder or Hub name, of a family of `llava.FAMILIES` or `qwen_vl.FAMILIES`.
        out: new folder; it appears when all is written.
        high_res_weights: ConvNeXt of OpenCLIP or timm for the high-resolution tower, made for pictures normalised as
            CLIP's: file or folder. It decides which ConvNeXt it is. Without it the CNN is drawn.
        licence: of the base, by default as its card says.
        chat_template: instead of the base's.
        seed: of what is new.
        kwargs: fields of `LLMI3DConfig` to change, such as `high_res_branch=False`; anything else goes to
            `from_pretrained` (`revision`, `dtype`).

    Raises:
        ValueError: an `out` that is there; a base that cannot be read or expressed; other files that cannot be read.
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
        taken = "ViT, projector and language model were taken over; the high-resolution tower is "
        taken += "left out." if not model.config.high_res_branch else "new." if tower is None else f"of `{tower}`."
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
    """The processor of a LLMI3D that took over a LLaVA: LLMI3D's letterbox and camera, the base's turns and colours.

    Args:
        base: folder or Hub name.
        config: of LLMI3D.
        tokenizer: of LLMI3D; the token that ends a turn becomes its end of text.
        chat_template: instead of the base's.
        hub: options such as `revision`.

    Raises:
        ValueError: no image processor, or no chat template that can be used.
    """
    images = llava.read(AutoImageProcessor, base, **hub)
    template = _turns_of(base, tokenizer, IMAGE_TOKEN, chat_template, **hub)
    if template is None and config.text_config.model_type == "llama":
        template = CHAT_TEMPLATE  # LLaVA-1.5's, whose early checkpoints have none
    elif template is None:
        raise ValueError("chat_template: the base has none, want one (--chat-template).")
    processor = LLMI3DProcessor.for_model(
        config, tokenizer, image_mean=tuple(images.image_mean), image_std=tuple(images.image_std)
    )
    processor.chat_template = template
    return processor


def _turns_of(base: str, tokenizer, image_token: str, chat_template: str | None, **hub: Any) -> str | None:
    """`chat_template` or else the base's, with a block that tells which words are learned; None where neither is.

    The token that ends a turn becomes the tokenizer's end of text.
    """
    template = chat_template or _chat_template_of(base, tokenizer, **hub)
    if template is not None and not (chat_template and re.search(r"\{%-?\s*generation", template)):
        turns = read_turns(template, tokenizer, image_token)
        tokenizer.eos_token = turns.end
        template = turns.to_template()
    tokenizer.chat_template = None  # there is one place for it
    return template


def _chat_template_of(base: str, tokenizer, **hub: Any) -> str | None:
    """The base's chat template, wherever its version of transformers kept it."""
    try:
        template = ProcessorMixin.get_processor_dict(base, **hub)[0].get("chat_template")
    except (OSError, ValueError):
        template = None
    template = template or tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def _cnn_of(path: str | Path) -> dict[str, Any]:
    """`high_res_vision_config` of a file of weights."""
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
    """Lets a CNN read pictures that are normalised for the ViT, by its first layer: what it computes stays the same.

    Both branches get one picture, normalised once. The CNN's first layer does not pad, so that a change of scale and
    offset of each channel goes into its weights and bias.

    Args:
        model: a LLMI3D.
        mean, std: of the pictures that it will be given, 3 channels each.
        own_mean, own_std: of those that the CNN was trained on.
    """
    mean, std, own_mean, own_std = (torch.tensor(one, dtype=torch.float64) for one in (mean, std, own_mean, own_std))
    if torch.equal(mean, own_mean) and torch.equal(std, own_std):
        return
    first = model.base_model.high_res_tower.timm_model.stem[0]
    weight = first.weight.double()
    offset = torch.einsum("oihw,i->o", weight, (mean - own_mean) / own_std)
    first.bias.copy_(first.bias.double() + offset)
    first.weight.copy_(weight * (std / own_std)[:, None, None])


def _end_answers(generation_config, tokenizer) -> None:
    """Generation stops at the token that ends a turn, beside those at which the base stops."""
    stops = generation_config.eos_token_id
    stops = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    if tokenizer.eos_token_id not in stops:
        stops.insert(0, tokenizer.eos_token_id)
    generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    if generation_config.pad_token_id is None:
        generation_config.pad_token_id = tokenizer.pad_token_id


def count_parts(model: nn.Module) -> dict[str, int]:
    """Parameters of a LLMI3D by part."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts
