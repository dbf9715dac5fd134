# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LoRA on the language model; what is new in LLMI3D is trained in full."""

import re

from peft import LoraConfig
from torch import nn

from llmi3d.training.trainable import is_part

NEW_PARTS = ("feature_mining", "multi_modal_projector", "box_head")


def lora_config(
    model: nn.Module,
    rank: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    train: tuple[str, ...] = NEW_PARTS,
) -> LoraConfig:
    """Return a `peft.LoraConfig` for a `LLMI3DForConditionalGeneration`; use it with `peft.get_peft_model`.

    Adapters go on every linear layer inside the language model's blocks. What is new in LLMI3D (`NEW_PARTS`) is
    trained in full and saved with the adapter; so is the row of the 3D query token in the embeddings.

    Args:
        model: the model that will be wrapped; it is only read.
        rank: rank of the adapters.
        alpha: scale of the adapters, twice the rank by default.
        dropout: on the adapters' input.
        train: modules to train in full. Those that are empty are left out, as the projector is where the vision
            encoder projects by itself.
    """
    blocks = re.compile(r"model\.language_model\.(?:.*\.)?layers\.\d+\.")
    leaves = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and blocks.match(name)
    }
    # Bare suffixes would also match the vision towers, the projector and the heads.
    target_modules = rf".*language_model\.(?:.*\.)?layers\.\d+\..*\b({'|'.join(sorted(leaves))})"
    modules = dict(model.named_modules())
    empty = {
        part
        for part in train
        if (meant := [one for name, one in modules.items() if is_part(name, (part,))])
        and not any(list(one.parameters()) for one in meant)
    }
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        modules_to_save=[part for part in train if part not in empty],
        trainable_token_indices={"embed_tokens": [model.config.box_3d_token_id]},
        task_type="CAUSAL_LM",
    )
