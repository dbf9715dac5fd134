# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Vision towers: any ViT of transformers (CLIP, SigLIP, DINOv2) and any timm CNN with stages at strides 4 to 32.

Shapes: I images, N visual tokens of an image, C channels.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_llmi3d import CNN_STRIDES, LLMI3DConfig
from .token_grid_llmi3d import positions_of_the_middle


def build_vit(config: LLMI3DConfig) -> nn.Module:
    """Build the low-resolution ViT. Its position embeddings follow crops of the padding (see `token_grid`)."""
    tower = AutoModel.from_config(config.vision_config)
    if not config.has_qwen_vision:
        tower.embeddings.interpolate_pos_encoding = partial(positions_of_the_middle, tower.embeddings)
    return tower


def vit_layers(tower: nn.Module) -> nn.ModuleList:
    """Return the layers of a ViT: `encoder.layers` in CLIP and SigLIP, `encoder.layer` in DINOv2."""
    return tower.encoder.layers if hasattr(tower.encoder, "layers") else tower.encoder.layer


def unused_vit_parts(tower: nn.Module, config: LLMI3DConfig) -> list[nn.Module]:
    """Return the modules of a ViT that no visual token depends on: they never get a gradient."""
    unused = list(vit_layers(tower)[max(config.vision_feature_layers) :])
    unused += [getattr(tower, name) for name in ("post_layernorm", "layernorm", "head") if hasattr(tower, name)]
    return [module for module in unused if module is not None]


def vit_tokens(output: BaseModelOutputWithPooling, config: LLMI3DConfig) -> Tensor:
    """Select visual tokens from the hidden states of a ViT.

    Several layers are normalised (layer norm without weights, so that none outweighs the others) and concatenated.

    Returns:
        [I, N, C], without class and register tokens.
    """
    states = [output.hidden_states[layer] for layer in config.vision_feature_layers]
    if isinstance(config.vision_feature_layer, list):
        states = [F.layer_norm(state, state.shape[-1:]) for state in states]
    return torch.cat(states, -1)[:, config.num_prefix_tokens :]


def build_cnn(config: PreTrainedConfig) -> nn.Module:
    """Build the high-resolution CNN without its classifier, whose weights would never get a gradient.

    Raises:
        ValueError: a network that has no stages at strides 4, 8, 16 and 32.
    """
    # timm resolves its own attention and declares eager and sdpa alone.
    attention = "eager" if config._attn_implementation == "eager" else "sdpa"
    tower = AutoModel.from_config(config, attn_implementation=attention)
    indices = cnn_stages(tower)
    if hasattr(tower.timm_model, "head"):
        tower.timm_model.head = nn.Identity()
    else:
        tower.timm_model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    return tower


def cnn_stages(tower: nn.Module) -> list[int]:
    """Return the indices of a timm CNN's feature maps at strides 4, 8, 16 and 32.

    Raises:
        ValueError: a stride that is missing.
    """
    reductions = [stage["reduction"] for stage in tower.timm_model.feature_info]
    if not set(CNN_STRIDES) <= set(reductions):
        raise ValueError(
            f"high_res_vision_config: '{tower.config.architecture}' has feature maps at strides {reductions}, "
            f"want {list(CNN_STRIDES)} among them."
        )
    return [reductions.index(stride) for stride in CNN_STRIDES]


def stage_channels(tower: nn.Module) -> list[int]:
    """Return the channels of the four feature maps."""
    return [tower.timm_model.feature_info[index]["num_chs"] for index in cnn_stages(tower)]


def cnn_feature_maps(tower: nn.Module, pixel_values: Tensor) -> list[Tensor]:
    """Return the CNN's feature maps [I, C_s, H_s, W_s] at strides 4, 8, 16 and 32."""
    output = tower(
        pixel_values,
        output_hidden_states=cnn_stages(tower),
        output_attentions=False,
        do_pooling=False,
        return_dict=True,
    )
    return list(output.hidden_states)


def keep_frozen_batch_norms(tower: nn.Module) -> None:
    """Keep the batch norms of a frozen CNN in eval mode: their running statistics belong to the frozen weights."""
    for module in tower.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
            parameter.requires_grad for parameter in module.parameters()
        ):
            module.eval()
