# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Assemble an MLLM from parts, as LLaVA was: a ViT, a CNN and a language model; what joins them is new."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from llmi3d.bases.assemble import InitReport, count_parts
from llmi3d.bases.base_card import UNKNOWN_LICENCE, BaseInCard
from llmi3d.bases.checkpoint_io import new_folder
from llmi3d.bases.llava import read
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.model_card_llmi3d import UNSTATED
from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration
from llmi3d.processing.processing_llmi3d import BOX_3D_TOKEN, CHAT_TEMPLATE, IMAGE_TOKEN, LLMI3DProcessor
from llmi3d.vision_towers_llmi3d import vit_layers

VISION_TOWERS = ("clip_vision_model", "siglip_vision_model", "dinov2", "dinov2_with_registers")


def assemble(
    vision: str | Path,
    language: str | Path,
    high_res: str = "convnext_tiny",
    *,
    high_res_weights: str | Path | None = None,
    vision_layers: list[int] | None = None,
    image_size: int | None = None,
    language_layers: int | None = None,
    vocabulary: Iterable[str] | None = None,
    seed: int = 0,
    **fields: Any,
) -> tuple[LLMI3DForConditionalGeneration, LLMI3DProcessor]:
    """Assemble a model and its processor from pre-trained parts.

    Args:
        vision: folder or Hub name of a ViT: CLIP, SigLIP or DINOv2, alone or within a model of words and images.
        language: folder or Hub name of a causal language model, or a `.gguf` file of one.
        high_res: name of a timm CNN with stages at strides 4 to 32.
        high_res_weights: safetensors file of its weights, as timm names them; without it timm loads its own
            pre-trained weights from the Hub.
        vision_layers: hidden states of the ViT to read, counted from 0 (the embeddings); by default the last but one
            of CLIP and SigLIP, and three evenly spaced ones of DINOv2. Later layers are dropped.
        image_size: side of the ViT's input, pixels: position embeddings are resampled. Its own by default.
        language_layers: first layers of the language model to keep; all by default.
        vocabulary: texts; tokens that none of them needs are dropped (byte-level BPE only).
        seed: of what is new.
        fields: fields of `LLMI3DConfig`, such as `high_res_image_size` or `pointing` (on unless it is switched off).

    Raises:
        ValueError: a part that cannot be read or used, by name.
    """
    vit, mean, std = _read_vit(vision)
    layers = vision_layers or _default_layers(vit.config)
    _keep_layers(vit, layers if isinstance(layers, list) else [layers % (vit.config.num_hidden_layers + 1)])
    resample_positions(vit, image_size or vit.config.image_size)
    tokenizer, words = _read_language(language, language_layers)
    if vocabulary is not None:
        cut_vocabulary(tokenizer, words, vocabulary)
    new = [token for token in (IMAGE_TOKEN, BOX_3D_TOKEN) if token not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    _make_room(words, len(tokenizer), len(new))
    config = LLMI3DConfig(
        vision_config=vit.config.to_dict(),
        vision_feature_layer=layers,
        vision_feature_select_strategy="full" if vit.config.model_type.startswith("siglip") else "default",
        text_config=words.config.to_dict(),
        high_res_vision_config={"model_type": "timm_wrapper", "architecture": high_res, "do_pooling": False},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        box_3d_token_id=tokenizer.convert_tokens_to_ids(BOX_3D_TOKEN),
        **{"pointing": True, "high_res_image_size": 2 * vit.config.image_size, **fields},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LLMI3DForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vit.state_dict())
    model.model.language_model.load_state_dict(words.base_model.state_dict())
    model.lm_head.load_state_dict(words.get_output_embeddings().state_dict())
    images: dict[str, Any] = {"image_mean": mean, "image_std": std}
    if config.high_res_branch:
        _load_cnn(model, high_res, high_res_weights)
        pretrained = timm.get_pretrained_cfg(high_res)
        if pretrained is not None:
            images |= {"high_res_image_mean": tuple(pretrained.mean), "high_res_image_std": tuple(pretrained.std)}
    processor = LLMI3DProcessor.for_model(config, tokenizer, **images)
    processor.chat_template = CHAT_TEMPLATE
    tokenizer.chat_template = None  # there is one place for it
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def init_from_parts(
    vision: str | Path, language: str | Path, out: str | Path, *, licence: str | None = None, **options: Any
) -> InitReport:
    """Write a checkpoint assembled from parts: weights, processor and card.

    Args:
        vision, language: as in `assemble`.
        out: new folder; it appears once everything is written.
        licence: licence of the whole; by default the card lists that of each part.
        options: other arguments of `assemble`.

    Raises:
        ValueError: an `out` that exists, or a part that cannot be used, by name.
    """
    with new_folder(out) as folder:
        model, processor = assemble(vision, language, **options)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        weights = options.get("high_res_weights")
        parts = {"ViT": BaseInCard(vision, "", ""), "language model": BaseInCard(language, "", "")}
        licences = {f"{kind}, `{part.name}`": part.licence for kind, part in parts.items()}
        if model.config.high_res_branch:
            name = Path(weights).name if weights else f"timm/{model.config.high_res_vision_config.architecture}"
            licences[f"CNN, `{name}`"] = UNKNOWN_LICENCE
        rows = "\n".join(f"| {name} | {found} |" for name, found in licences.items())
        card = ModelCard.load(folder / "README.md")
        card.data["license"] = licence or "unknown"
        card.text = card.text.replace(
            f"## Licences\n\n{UNSTATED}\n", f"## Licences\n\n| weights | licence |\n| --- | --- |\n{rows}\n", 1
        )
        card.save(folder / "README.md")
        return InitReport(
            base=" + ".join(part.name for part in parts.values()),
            family=f"{model.config.vision_config.model_type} + {model.config.text_config.model_type}",
            licence=licence or "as its card lists",
            parameters=count_parts(model),
            high_res_weights=None if not model.config.high_res_branch else str(weights or "timm's"),
        )


def _read_vit(vision: str | Path) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """Read a ViT in float32, and the mean and deviation of the images that it was trained on."""
    config = read(AutoConfig, str(vision))
    config = getattr(config, "vision_config", config)
    if config.model_type not in VISION_TOWERS:
        raise ValueError(f"vision: '{vision}' is a '{config.model_type}', want one of {', '.join(VISION_TOWERS)}.")
    vit = AutoModel.from_config(config)
    vit = read(type(vit), str(vision), dtype=torch.float32)
    try:
        images = AutoImageProcessor.from_pretrained(vision)
        mean, std = images.image_mean, images.image_std
    except (OSError, ValueError):  # DINOv2's are ImageNet's; CLIP and SigLIP bring theirs along
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return vit, tuple(mean), tuple(std)


def _default_layers(config: PreTrainedConfig) -> int | list[int]:
    if not config.model_type.startswith("dinov2"):
        return -2
    count = config.num_hidden_layers
    return [count // 3, 2 * count // 3, count]


def _keep_layers(vit: nn.Module, layers: list[int]) -> None:
    """Drop the layers after the last one that is read."""
    last = max(layers)
    if not 0 <= min(layers) <= last <= vit.config.num_hidden_layers:
        raise ValueError(f"vision_layers: got {layers}, but the ViT has {vit.config.num_hidden_layers} layers.")
    if last == vit.config.num_hidden_layers - 1 and vit.config.model_type not in ("dinov2", "dinov2_with_registers"):
        return  # `-2` names it by its distance from the end
    del vit_layers(vit)[last:]
    vit.config.num_hidden_layers = last
    for name in ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices"):
        vit.config.__dict__.pop(name, None)


@torch.no_grad()
def resample_positions(vit: nn.Module, image_size: int) -> None:
    """Resample a ViT's position embeddings for images of another size (bicubic, as DINOv2 does it), once.

    Raises:
        ValueError: a size that is no multiple of the patch.
    """
    embeddings, patch = vit.embeddings, vit.config.patch_size
    if image_size % patch:
        raise ValueError(f"image_size: got {image_size}, want a multiple of the ViT's patch of {patch} pixels.")
    if image_size == vit.config.image_size:
        return
    side = image_size // patch
    if hasattr(embeddings, "position_embeddings"):  # DINOv2
        embeddings.position_embeddings = nn.Parameter(_resampled(embeddings.position_embeddings[0], side)[None])
    else:
        table = _resampled(embeddings.position_embedding.weight, side)
        embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        embeddings.register_buffer("position_ids", torch.arange(len(table))[None], persistent=False)
        embeddings.image_size, embeddings.num_patches = image_size, side**2
    vit.config.image_size = image_size


def _resampled(table: Tensor, side: int) -> Tensor:
    """Return position embeddings [P + N, C] for side * side patches; the first P of other tokens stay."""
    old = int(len(table) ** 0.5)
    before, grid = table[: len(table) - old**2], table[len(table) - old**2 :]
    grid = grid.T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat((before, grid.flatten(2)[0].T))


def _read_language(language: str | Path, layers: int | None) -> tuple[Any, nn.Module]:
    """Read tokenizer and language model in float32, with its first layers alone."""
    options: dict[str, Any] = {}
    if str(language).endswith(".gguf"):
        options["gguf_file"], language = Path(language).name, Path(language).parent
    config = read(AutoConfig, str(language), **options)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise ValueError(f"language_layers: got {layers}, but '{language}' has {config.num_hidden_layers}.")
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    tokenizer = read(AutoTokenizer, str(language), **options)
    return tokenizer, read(AutoModelForCausalLM, str(language), config=config, dtype=torch.float32, **options)


@torch.no_grad()
def _make_room(words: nn.Module, size: int, new: int) -> None:
    """Give the last `new` of `size` tokens embeddings: the mean of the others, so that they never win over them."""
    words.resize_token_embeddings(max(size, words.config.vocab_size), mean_resizing=False)
    for embeddings in (words.get_input_embeddings(), words.get_output_embeddings()):
        embeddings.weight[size - new : size] = embeddings.weight[: size - new].mean(0)


def _load_cnn(model: nn.Module, architecture: str, weights: str | Path | None) -> None:
    tower = model.model.high_res_tower.timm_model
    found = load_file(weights) if weights else timm.create_model(architecture, pretrained=True).state_dict()
    own = tower.state_dict()
    missing = sorted(set(own) - set(found))
    if missing:
        raise ValueError(
            f"high_res_weights: {weights or architecture} lacks {missing[0]} and {len(missing) - 1} more."
        )
    tower.load_state_dict({name: found[name] for name in own})


def cut_vocabulary(tokenizer: Any, model: nn.Module, texts: Iterable[str]) -> None:
    """Drop the tokens that no text needs from a byte-level BPE tokenizer and its language model, in place.

    Bytes, special tokens, and the tokens that kept ones are merged from stay, so that any text can still be written.

    Raises:
        ValueError: a tokenizer of another kind.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    if described["model"]["type"] != "BPE" or described["model"].get("byte_fallback"):
        raise ValueError(f"vocabulary: the tokenizer is a {described['model']['type']}, want a byte-level BPE.")
    old = described["model"]["vocab"]
    names = {index: token for token, index in old.items()}
    kept = {token for token in old if len(token) == 1}
    for text in texts:
        kept |= {names[index] for index in tokenizer(text, add_special_tokens=False).input_ids if index in names}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in described["model"]["merges"]]
    origin = {left + right: (left, right) for left, right in merges}
    waiting = list(kept)
    while waiting:
        for part in origin.get(waiting.pop(), ()):
            if part not in kept:
                kept.add(part)
                waiting.append(part)
    special = described["added_tokens"]
    kept |= {added["content"] for added in special if added["content"] in old}
    order = sorted(kept, key=old.__getitem__)
    rows = [old[token] for token in order]
    new = {token: index for index, token in enumerate(order)}
    described["model"]["vocab"] = new
    described["model"]["merges"] = [[left, right] for left, right in merges if {left, right, left + right} <= kept]
    for added in special:
        if added["content"] not in new:
            rows.append(added["id"])
            new[added["content"]] = len(rows) - 1
        added["id"] = new[added["content"]]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(described))
    with torch.no_grad():
        weight = model.get_input_embeddings().weight[rows].clone()
        head = model.get_output_embeddings().weight[rows].clone()
    model.resize_token_embeddings(len(rows), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(weight)
        model.get_output_embeddings().weight.copy_(head)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(tokenizer, name.removesuffix("_id"))
        setattr(model.config, name, None if token is None else new.get(token))
