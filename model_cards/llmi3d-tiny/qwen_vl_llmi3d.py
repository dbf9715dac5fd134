# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What Qwen-VL's own encoder and language model read beside pixels and words: patches, grids and positions.

All pictures are squares of one size, so that all of it follows from the configuration and from where the placeholders
are.

Shapes: I images, N = G x G visual tokens of an image, T tokens of a sequence, S side of the low-resolution input.
"""

import torch
from torch import Tensor

from .configuration_llmi3d import LLMI3DConfig


def patches_of(pixel_values: Tensor, config: LLMI3DConfig) -> tuple[Tensor, Tensor]:
    """Pictures in the layout of Qwen-VL's encoders: patches that will be merged lie side by side, and each is repeated
    as the frames of a film that stands still.

    Args:
        pixel_values: [I, 3, S, S].

    Returns:
        (patches [I * (S / patch)^2, 3 * frames * patch^2], grids [I, 3]: frames, rows and columns of patches.)
    """
    vision = config.vision_config
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    images, channels = pixel_values.shape[:2]
    blocks = config.image_grid_size
    if pixel_values.shape[-2:] != (config.image_size, config.image_size):
        raise ValueError(
            f"pixel_values: got pictures of {tuple(pixel_values.shape[-2:])} pixels, want "
            f"{config.image_size}x{config.image_size}."
        )
    cut = pixel_values.reshape(images, channels, blocks, merge, patch, blocks, merge, patch)
    # To: image, row and column of the merged token, row and column in it, channel, y and x in the patch.
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(*(-1,) * 6, frames, -1, -1)
    grids = torch.tensor([[1, blocks * merge, blocks * merge]], device=pixel_values.device).expand(images, -1)
    return cut.reshape(-1, channels * frames * patch**2), grids


def rope_positions(is_image: Tensor, position_ids: Tensor, grid_size: int) -> Tensor:
    """Positions in time, down and across: visual tokens lie on a grid that starts where the words before it end, and
    words go on behind the grid's side rather than behind its many tokens.

    Args:
        is_image: bool [B, T], which tokens are visual ones.
        position_ids: [B, T], as counted along the sequence, every visual token by itself; several turns behind one
            picture may each start again behind it.
        grid_size: G.

    Returns:
        [3, B, T].
    """
    tokens, seen = grid_size**2, is_image.cumsum(-1)
    images_before = torch.where(is_image, seen - 1, seen) // tokens
    within = torch.where(is_image, (seen - 1) % tokens, 0)
    start = position_ids - images_before * (tokens - grid_size) - within
    return start + torch.stack((torch.zeros_like(within), within // grid_size, within % grid_size))
