# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Optimizers of a run: groups with a learning rate of their own, and Muon."""

from collections.abc import Sequence

import torch
from timm.optim import Muon
from torch import nn

from llmi3d.training.lora import NEW_PARTS


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that get gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def split_new_parts(optimizer: torch.optim.Optimizer, model: nn.Module, rate: float) -> None:
    """Give what is new a learning rate of its own, by splitting each group of the optimizer.

    Args:
        model: with LoRA all that is trained besides adapters is new; without, `lora.NEW_PARTS`.
        rate: of the new groups.

    Raises:
        ValueError: no such parameter is trained.
    """
    trained = trained_parameters(model)
    has_adapters = any("lora_" in name for name in trained)
    new = {
        id(parameter)
        for name, parameter in trained.items()
        if ("lora_" not in name if has_adapters else not set(NEW_PARTS).isdisjoint(name.split(".")))
    }
    split = [
        {**group, "params": chosen, "lr": rate}
        for group in optimizer.param_groups
        if (chosen := [parameter for parameter in group["params"] if id(parameter) in new])
    ]
    if not split:
        raise ValueError(f"new_parts_learning_rate: got {rate}, but no such parameter is trained.")
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in new]
    for group in split:
        optimizer.add_param_group(group)


def muon(model: nn.Module, rate: float, weight_decay: float, betas: Sequence[float]) -> Muon:
    """Return timm's Muon: Muon on matrices, AdamW with steps as large on the rest.

    Rows of embeddings are words; a word that the batch lacks has no gradient that could be made as large as the
    others', so they stay with AdamW. The small checkpoint came to the same loss in two thirds of AdamW's steps.

    Args:
        rate: learning rate.
        weight_decay: of all but vectors.
        betas: of AdamW.
    """
    trained = trained_parameters(model)
    words = {name for name in trained if "embed_tokens" in name or "lm_head" in name}
    groups = [
        {"params": [parameter for name, parameter in trained.items() if parameter.ndim >= 2 and name not in words]},
        {"params": [trained[name] for name in trained if name in words], "use_fallback": True},
        {"params": [parameter for parameter in trained.values() if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return Muon(groups, lr=rate, weight_decay=weight_decay, nesterov=True, betas=tuple(betas))
