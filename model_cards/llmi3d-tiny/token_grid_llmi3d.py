# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The grid of visual tokens, and images cropped of their padding: the middle of the network's square.

A wide image leaves rows above and below it empty, a tall one columns beside it. The image processor can crop them
(`crop_padding`), by whole visual tokens and equally on both sides; the shape then tells which part of the square is
left. All coordinates still refer to the square, and every visual token keeps the position, in the ViT and in the
language model, that it has in the square.

Shapes: B samples, I images, N visual tokens of an image, T tokens of a sequence, C channels.
"""

import math

import torch
from torch import Tensor, nn

from .configuration_llmi3d import CNN_STRIDES, LLMI3DConfig


def token_grid(pixel_values: Tensor, high_res_pixel_values: Tensor | None, config: LLMI3DConfig) -> tuple[int, int]:
    """Return (rows, columns) of visual tokens of images [I, 3, H, W], the square or its middle.

    Args:
        high_res_pixel_values: None without a high-resolution branch.

    Raises:
        ValueError: sizes that are not the middle of the square in whole tokens, or two resolutions that disagree.
    """
    grid, side, large = config.image_grid_size, config.visual_token_side, config.high_res_image_size
    height, width = pixel_values.shape[-2:]
    rows, columns = height // side, width // side
    # At the base's own image size the ViT may ignore a rest that makes no whole token (384 pixels, patches of 14).
    whole = (height, width) == (rows * side, columns * side) or rows == columns == grid
    if not whole or not all(0 < tokens <= grid and (grid - tokens) % 2 == 0 for tokens in (rows, columns)):
        raise ValueError(
            f"pixel_values: got images of {height}x{width} pixels, want {config.image_size}x{config.image_size}, or "
            f"that cropped by equally many whole tokens of {side} pixels on both sides."
        )
    if high_res_pixel_values is not None:
        got, want = tuple(high_res_pixel_values.shape[-2:]), (rows * large // grid, columns * large // grid)
        if got != want or got[0] % CNN_STRIDES[-1] or got[1] % CNN_STRIDES[-1]:
            raise ValueError(
                f"high_res_pixel_values: got images of {got[0]}x{got[1]} pixels beside {height}x{width}, want "
                f"{want[0]}x{want[1]}, multiples of {CNN_STRIDES[-1]}; the processor makes both."
            )
    return rows, columns


def positions_of_the_middle(embeddings: nn.Module, states: Tensor, height: int, width: int) -> Tensor:
    """Return the ViT's position embeddings of the middle of its square, cut out and not stretched.

    Replaces `interpolate_pos_encoding` of CLIP, SigLIP and DINOv2.

    Args:
        embeddings: the ViT's embedding module.
        states: not read.
        height, width: size of the images, pixels.

    Returns:
        [1, N, C], after that of the class token, if there is one.
    """
    table = getattr(embeddings, "position_embeddings", None)  # DINOv2; CLIP and SigLIP have an nn.Embedding
    if table is None:
        table, patch = embeddings.position_embedding.weight[None], embeddings.patch_size
        side = embeddings.image_size // patch
    else:
        patch = embeddings.patch_size
        side = math.isqrt(table.shape[1] - 1)
    rows, columns = height // patch, width // patch
    top, left = (side - rows) // 2, (side - columns) // 2
    before, square = table[:, : -(side**2)], table[:, -(side**2) :].unflatten(1, (side, side))
    return torch.cat((before, square[:, top : top + rows, left : left + columns].flatten(1, 2)), 1)


def positions_in_the_square(is_image: Tensor, position_ids: Tensor, grid: Tensor, side: int) -> Tensor:
    """Return the positions in a sequence as if all visual tokens of the square were there.

    Args:
        is_image: bool [B, T], visual tokens.
        position_ids: [B, T], as counted along the sequence.
        grid: [2], rows and columns of the visual tokens that are there.
        side: visual tokens along a side of the square.

    Returns:
        [B, T].
    """
    (rows, columns), tokens, seen = grid.unbind(), grid.prod(), is_image.cumsum(-1)
    images_before = torch.where(is_image, seen - 1, seen) // tokens
    within = (seen - 1) % tokens
    row, column = within // columns + (side - rows) // 2, within % columns + (side - columns) // 2
    skipped = torch.where(is_image, row * side + column - within, 0)
    return position_ids + images_before * (side**2 - tokens) + skipped
