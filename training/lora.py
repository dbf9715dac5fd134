# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LoRA on the language model; what is new in LLMI3D is trained in full."""

import re

from peft import LoraConfig
from torch import nn


def lora_config(
    model: nn.Module, rank: int = 16, alpha: int | None = None, dropout: float = 0.0, from_scratch: bool = False
) -> LoraConfig:
    """A `peft.LoraConfig` for a `LLMI3DForConditionalGeneration`; use it with `peft.get_peft_model`.

    Adapters go on every linear layer inside the language model's blocks. Projector, feature mining and 3D heads are
    trained in full and saved with the adapter; so are the rows of the 3D query token in the embeddings.

    Args:
        model: the model that will be wrapped; it is only read.
        rank: of the adapters.
        alpha: scale of the adapters, twice the rank by default.
        dropout: on the adapters' input.
        from_scratch: train both vision towers and the output embeddings in full too, for models never pre-trained.
    """
    blocks = re.compile(r"model\.language_model\.(?:.*\.)?layers\.\d+\.")
    leaves = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and blocks.match(name)
    }
    # Bare suffixes would also match the vision towers, the projector and the heads.
    target_modules = rf".*language_model\.(?:.*\.)?layers\.\d+\..*\b({'|'.join(sorted(leaves))})"
    trained = ["feature_mining", "multi_modal_projector", "box_head"]
    if from_scratch:
        tower = model.model.vision_tower
        parts = {f"encoder.layers.{i}": layer for i, layer in enumerate(tower.encoder.layers)}
        parts |= {name: part for name, part in tower.named_children() if name != "encoder"}
        # Not the layers behind the one that is read: they never get a gradient.
        used = [name for name, part in parts.items() if any(weight.requires_grad for weight in part.parameters())]
        trained += ["lm_head", "high_res_tower", *(f"vision_tower.{name}" for name in used)]
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        modules_to_save=trained,
        trainable_token_indices={"embed_tokens": [model.config.box_3d_token_id]},
        task_type="CAUSAL_LM",
    )
