# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Select the weights that a run trains, and their dtype, with weights and on the meta device."""

from collections.abc import Sequence

from peft import PeftModel
from torch import nn

# Modules of the model: the ViT and the CNN.
TOWERS = ("vision_tower", "high_res_tower")


def make_trainable(model: nn.Module, parts: Sequence[str], full: bool = False) -> nn.Module:
    """Return the model as it is trained: trained weights require gradients, in float32; the rest keeps its dtype.

    Args:
        model: a `LLMI3DForConditionalGeneration`, or a `PeftModel` of one, whose adapter says what is trained; it is
            changed.
        parts: names of modules trained in full. Towers are left as they are unless they are among them.
        full: whether the language model is trained as well, all of its weights.
    """
    network = unwrapped(model).model
    towers = [getattr(network, name) for name in TOWERS]
    if not isinstance(model, PeftModel):
        model.requires_grad_(full)
        for tower in towers:
            tower.requires_grad_(False)
        for name, module in model.named_modules():
            if is_part(name, parts):
                module.requires_grad_(True)
    network._freeze_unused_vision_layers()
    for tower in towers:
        if any(one.requires_grad for one in tower.parameters()):
            tower.float()  # its frozen layers too: one dtype runs through a tower
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def is_part(module: str, parts: Sequence[str]) -> bool:
    """Return whether a module is one of the parts, which may be given by the end of their names."""
    return any(module == part or module.endswith(f".{part}") for part in parts)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model without adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
