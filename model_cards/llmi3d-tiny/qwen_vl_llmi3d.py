# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Inputs that Qwen-VL's encoder and language model need beside pixels and words: patches, grids and positions.

All images of a batch have one size, so everything follows from that size and from where the placeholders are.

Shapes: I images, N = rows x columns visual tokens of an image, T tokens of a sequence, H x W the low-resolution input.
"""

import torch
from torch import Tensor

from .configuration_llmi3d import LLMI3DConfig


def patches_of(pixel_values: Tensor, config: LLMI3DConfig) -> tuple[Tensor, Tensor]:
    """Cut images into the layout of Qwen-VL's encoders.

    Patches that will be merged lie side by side, and each is repeated along time, like a video of one frame.

    Args:
        pixel_values: [I, 3, H, W].

    Returns:
        (patches [I * H * W / patch^2, 3 * frames * patch^2], grids [I, 3]: frames, rows and columns of patches.)
    """
    vision = config.vision_config
    patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    images, channels = pixel_values.shape[:2]
    rows, columns = (side // config.visual_token_side for side in pixel_values.shape[-2:])
    cut = pixel_values.reshape(images, channels, rows, merge, patch, columns, merge, patch)
    # To image, row and column of the merged token, row and column in it, channel, y and x in the patch.
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(*(-1,) * 6, frames, -1, -1)
    grids = torch.tensor([[1, rows * merge, columns * merge]], device=pixel_values.device).expand(images, -1)
    return cut.reshape(-1, channels * frames * patch**2), grids


def rope_positions(is_image: Tensor, position_ids: Tensor, grid: Tensor) -> Tensor:
    """Return positions in time, down and across.

    Visual tokens lie on a grid that starts where the words before it end. Words continue after the grid's longer side,
    not after its many tokens.

    Args:
        is_image: bool [B, T], which tokens are visual ones.
        position_ids: [B, T], as counted along the sequence, every visual token by itself; several turns about
            one image may each start right after it.
        grid: [2], rows and columns of visual tokens.

    Returns:
        [3, B, T].
    """
    tokens, longer, columns = grid.prod(), grid.max(), grid[1]
    seen = is_image.cumsum(-1)
    images_before = torch.where(is_image, seen - 1, seen) // tokens
    within = torch.where(is_image, (seen - 1) % tokens, 0)
    start = position_ids - images_before * (tokens - longer) - within
    return start + torch.stack((torch.zeros_like(within), within // columns, within % columns))
