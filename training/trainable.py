# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Which weights a run trains, and in which dtype; for models with weights and on the meta device alike."""

from collections.abc import Sequence

from peft import PeftModel
from torch import nn

# Of the model: the ViT and the CNN.
TOWERS = ("vision_tower", "high_res_tower")


def make_trainable(model: nn.Module, parts: Sequence[str], full: bool = False) -> nn.Module:
    """The model as it is trained: what is trained requires gradients, in float32; the rest keeps its dtype.

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
    """Whether a module's full name is that of one of the parts, which may be given by the end of theirs."""
    return any(module == part or module.endswith(f".{part}") for part in parts)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that adapters were put on, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
