# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""ConvNeXt weights of OpenCLIP and timm for the high-resolution tower."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmi3d.bases.checkpoint_io import CheckpointReader, Matching, match_tensors

# timm's names by (depths, channels); they also set details such as the epsilon of the norms.
ARCHITECTURES = {
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "convnext_base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "convnext_large_mlp",
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): "convnext_xxlarge",
}
# OpenCLIP stores timm's model under `visual.trunk.`.
RENAMES = ((r"(?:visual\.trunk\.)?((?:stem|stages)\..+)", r"\1"),)
UNUSED = (
    (r"(?:visual\.trunk\.)?head\..+", "of the classifier; LLMI3D reads the stages"),
    (r"visual\.head\..+", "the projection into CLIP's common space; LLMI3D reads the stages"),
    (
        r"(?:text|transformer|token_embedding|ln_final)\..+|positional_embedding|text_projection|logit_(?:scale|bias)"
        r"|attn_mask",
        "CLIP's text tower",
    ),
)


def convnext_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return `high_res_vision_config` from the shapes of a ConvNeXt's weights (`stem.*`, `stages.*`).

    Raises:
        ValueError: no ConvNeXt with four stages.
    """
    depths, channels = [], []
    for stage in range(4):
        blocks = {int(found[1]) for name in shapes if (found := re.match(rf"stages\.{stage}\.blocks\.(\d+)\.", name))}
        shape = shapes.get(f"stages.{stage}.blocks.0.conv_dw.weight")
        if shape is None or len(shape) != 4:
            missing = f"stages.{stage}.blocks.0.conv_dw.weight"
            raise ValueError(f"high-resolution tower: misses {missing}, want a ConvNeXt with four stages.")
        depths.append(max(blocks) + 1)
        channels.append(shape[0])
    architecture = ARCHITECTURES.get((tuple(depths), tuple(channels)))
    config = {"model_type": "timm_wrapper", "architecture": architecture or "convnext_large_mlp", "do_pooling": False}
    if architecture is None:
        config["model_args"] = {"depths": depths, "dims": channels}
    return config


def match_convnext(reader: CheckpointReader, targets: Mapping[str, tuple[int, ...]]) -> Matching:
    """Match a file of OpenCLIP or timm with the shapes of a headless ConvNeXt (see `match_tensors`)."""
    return match_tensors(reader.tensors, targets, RENAMES, UNUSED, where=str(reader.path))


def load_convnext(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load ConvNeXt weights into a model's high-resolution tower, all of them or none.

    Args:
        model: a `LLMI3DModel` or `LLMI3DForConditionalGeneration`.
        path: file or folder of OpenCLIP (`visual.trunk.*`) or timm (`stem.*`, `stages.*`), safetensors or PyTorch.
            The tower gets images as the processor normalises them, by default with CLIP's mean and deviation.

    Returns:
        The reason why a tensor of the file is not used, by name.

    Raises:
        ValueError: unreadable files, or weights of another model (see `match_tensors`).
    """
    tower = model.base_model.high_res_tower.timm_model.state_dict()
    reader = CheckpointReader(path)
    matching = match_convnext(reader, {name: tuple(weight.shape) for name, weight in tower.items()})
    with torch.no_grad():
        for target, source in matching.source_of.items():
            tower[target].copy_(reader.read(source))
    return matching.unused
