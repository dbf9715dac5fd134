# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Pointing: a 3D query token chooses a place in the image, and its box is read there.

The query token says *what* it means; its last hidden state is compared with every place, which gives a distribution
over them. Places are the CNN's cells where there is a CNN, else the visual tokens. Sight is so learned like a dense
detector (every place is asked for the object that it shows), and language only has to choose.

Shapes: B samples, Q query tokens of a sample (padded), R x K rows and columns of visual tokens, H x W cells, P places
(H * W cells, or R * K tokens without CNN), C channels.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_llmi3d import LLMI3DConfig


class Sight(NamedTuple):
    """What the 3D heads read of the images, beside the hidden states of query tokens.

    Attributes:
        depth_logits: [B, D + 1, H, W], the object-level depth map; None without depth branch.
        tokens: [B, R, K, C_v], mined visual tokens; None without pointing.
        cells: [B, C_c, H, W], merged CNN stages; None without pointing or CNN.
    """

    depth_logits: Tensor | None = None
    tokens: Tensor | None = None
    cells: Tensor | None = None

    def of_images(self, index: Tensor) -> "Sight":
        """Select the images `index` [B]."""
        return Sight(*(None if value is None else value[index] for value in self))

    def repeated(self, times: int) -> "Sight":
        """Repeat each image for several answers to it."""
        return Sight(*(None if value is None else value.repeat_interleave(times, 0) for value in self))


class Pointed(NamedTuple):
    """Where query tokens point, and what is there.

    Attributes:
        log_probs: [B, Q, H, W], log-probability of each place.
        tokens: [B, Q, R, K], probability of each visual token.
        place_px: [B, Q, 2], expected place, network pixels.
        spread_px: [B, Q], standard deviation of the distribution, network pixels.
        token_features: [B, Q, C_v], visual tokens averaged by the distribution.
        cell_features: [B, Q, C_c], cells likewise; None without CNN.
    """

    log_probs: Tensor
    tokens: Tensor
    place_px: Tensor
    spread_px: Tensor
    token_features: Tensor
    cell_features: Tensor | None


def place_centers(rows: int, columns: int, cell_px: float, image_size: int, device: torch.device) -> Tensor:
    """Return the centres of places [rows, columns, 2] = (x, y), network pixels.

    Args:
        cell_px: side of a place, network pixels.
        image_size: side of the network frame, pixels; the places are its middle (see `token_grid`).
    """
    x = (torch.arange(columns, device=device) + 0.5) * cell_px + (image_size - columns * cell_px) / 2
    y = (torch.arange(rows, device=device) + 0.5) * cell_px + (image_size - rows * cell_px) / 2
    return torch.stack((x[None].expand(rows, -1), y[:, None].expand(-1, columns)), -1)


class Pointer(nn.Module):
    """Compare query tokens with places."""

    def __init__(self, config: LLMI3DConfig):
        super().__init__()
        self.config = config
        dim = config.pointing_dim
        self.query = nn.Sequential(
            nn.LayerNorm(config.text_config.hidden_size), nn.Linear(config.text_config.hidden_size, dim)
        )
        self.token_key = nn.Sequential(nn.LayerNorm(config.visual_token_dim), nn.Linear(config.visual_token_dim, dim))
        self.cell_key = None
        if config.high_res_branch:
            channels = config.depth_predictor_dim
            self.cell_key = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, dim))

    def forward(self, states: Tensor, sight: Sight) -> Tensor:
        """
        Args:
            states: [B, Q, C], last hidden states at the query tokens.
            sight: with tokens, and with cells if there is a CNN.

        Returns:
            Log-probabilities [B, Q, H, W].
        """
        query = self.query(states) / math.sqrt(self.config.pointing_dim)
        scores = torch.einsum("bqc,brkc->bqrk", query, self.token_key(sight.tokens))
        if sight.cells is not None:
            size = sight.cells.shape[-2:]
            scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
            scores = scores + torch.einsum("bqc,bhwc->bqhw", query, self.cell_key(sight.cells.permute(0, 2, 3, 1)))
        return scores.flatten(2).log_softmax(-1).view_as(scores)


def one_place(places: Tensor, sight: Sight) -> Tensor:
    """Return the log-probabilities [B, Q, H, W] of distributions that are one place each: dense labels ask so.

    Args:
        places: [B, Q], row-major indices of places.
        sight: as of `Pointer`.
    """
    rows, columns = sight.tokens.shape[1:3] if sight.cells is None else sight.cells.shape[-2:]
    log_probs = sight.tokens.new_full((*places.shape, rows * columns), -math.inf, dtype=torch.float32)
    return log_probs.scatter(-1, places[..., None], 0.0).unflatten(-1, (rows, columns))


def read_places(log_probs: Tensor, sight: Sight, config: LLMI3DConfig) -> Pointed:
    """Read the images where distributions point.

    Args:
        log_probs: [B, Q, H, W].
        sight: as of `Pointer`.
    """
    probs, canvas = log_probs.exp(), config.high_res_image_size
    rows, columns = sight.tokens.shape[1:3]
    height, width = log_probs.shape[-2:]
    tokens = probs
    if (height, width) != (rows, columns):
        tokens = F.adaptive_avg_pool2d(probs, (rows, columns))
        tokens = tokens / tokens.sum((-2, -1), keepdim=True)
    centers = place_centers(height, width, config.place_px, canvas, probs.device)
    place = torch.einsum("bqhw,hwx->bqx", probs, centers)
    squares = torch.einsum("bqhw,hwx->bqx", probs, (centers - canvas / 2).square())
    variance = (squares - (place - canvas / 2).square()).clamp(min=0).sum(-1)
    return Pointed(
        log_probs=log_probs,
        tokens=tokens,
        place_px=place,
        spread_px=(variance + 1e-6).sqrt(),
        token_features=torch.einsum("bqrk,brkc->bqc", tokens, sight.tokens),
        cell_features=None if sight.cells is None else torch.einsum("bqhw,bchw->bqc", probs, sight.cells),
    )
