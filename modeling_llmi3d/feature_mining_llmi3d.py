# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Spatial-Enhanced Local Feature Mining: depth predictor and cross-branch attention.

The low-resolution ViT's tokens query the high-resolution CNN's cells, each token in its own window, as in
Mini-Gemini's patch info mining. An object-level depth map (as in MonoDETR) is predicted from the CNN and its embedding
enters keys and values, so that attention sees where in depth a cell lies.

Shapes: B images, N tokens = windows (grid x grid), P cells in a window, C channels of a token, M channels of a cell
(all CNN stages concatenated), E channels of the depth embedding, D depth bins.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_llmi3d import LLMI3DConfig


def depth_bin_edges(config: LLMI3DConfig, device: torch.device | None = None) -> Tensor:
    """Edges of the depth bins: float32 [D + 1], log virtual metres, equally spaced."""
    low, high = math.log(config.depth_min_virtual), math.log(config.depth_max_virtual)
    return torch.linspace(low, high, config.num_depth_bins + 1, device=device)


def depth_bin_centers(config: LLMI3DConfig, device: torch.device | None = None) -> Tensor:
    """Centres of the depth bins: float32 [D], log virtual metres."""
    edges = depth_bin_edges(config, device)
    return (edges[1:] + edges[:-1]) / 2


def gather_windows(feature_map: Tensor, grid_size: int) -> Tensor:
    """Cuts a map [B, C, H, W] into grid_size x grid_size windows [B, N, P, C], windows and cells in row-major order.

    Raises:
        ValueError: a map that the grid does not divide.
    """
    batch, channels, height, width = feature_map.shape
    if height % grid_size or width % grid_size:
        raise ValueError(
            f"feature_map: got {height}x{width} cells, want multiples of the {grid_size} tokens of a side."
        )
    rows, columns = height // grid_size, width // grid_size
    windows = feature_map.reshape(batch, channels, grid_size, rows, grid_size, columns)
    return windows.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid_size**2, rows * columns, channels)


class DepthPredictor(nn.Module):
    """Object-level depth map: for each cell a distribution over bins of virtual depth and a last, background bin.

    It is supervised by the 2D boxes of objects painted with their virtual depth; no depth sensor is needed.
    """

    def __init__(self, config: LLMI3DConfig, stage_channels: list[int]):
        super().__init__()
        dim = config.depth_predictor_dim
        self.stage = config.depth_map_stage
        self.laterals = nn.ModuleList(nn.Conv2d(channels, dim, 1) for channels in stage_channels)
        self.convs = nn.Sequential(
            *(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(math.gcd(32, dim), dim), nn.GELU()),
            *(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(math.gcd(32, dim), dim), nn.GELU()),
        )
        self.classifier = nn.Conv2d(dim, config.num_depth_bins + 1, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """CNN stages, each [B, C_s, H_s, W_s] -> depth logits [B, D + 1, H, W] at the chosen stage's resolution."""
        size = stages[self.stage].shape[-2:]
        merged = sum(
            F.interpolate(lateral(stage), size=size, mode="bilinear", align_corners=False)
            for lateral, stage in zip(self.laterals, stages, strict=True)
        )
        return self.classifier(self.convs(merged))


class _WindowAttend(torch.autograd.Function):
    """weights = softmax(query . normalised cells + depth_query . depth); the weighted sums of both.

    The cells are layer-normalised (without affine part) only in effect: their means and deviations are divided out of
    scores and sums, so that neither the normalised cells nor their gradient's intermediate terms are ever stored.
    """

    @staticmethod
    def forward(
        ctx, query: Tensor, cells: Tensor, depth_query: Tensor | None, depth: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor | None]:
        # query [K, M], cells [K, P, M], depth_query [K, E], depth [K, P, E]. What has no M or E is at least float32.
        exact = torch.promote_types(cells.dtype, torch.float32)
        # In parts, so that half-precision cells are never held in float32 as a whole. Of the layer norm only the
        # statistics are wanted: on a CPU it computes them several times faster than `torch.var_mean`.
        statistics = [
            torch.native_layer_norm(part.to(exact), part.shape[-1:], None, None, eps) for part in cells.chunk(8)
        ]
        mean, rstd = (torch.cat([part[i].squeeze(-1) for part in statistics]) for i in (1, 2))  # [K, P]
        query = query.to(cells.dtype)
        dots = torch.bmm(cells, query[..., None]).squeeze(-1).to(exact)
        scores = (dots - mean * query.sum(-1, keepdim=True, dtype=exact)) * rstd
        weights = scores
        if depth is not None:
            depth_query = depth_query.to(depth.dtype)
            weights = scores + torch.bmm(depth, depth_query[..., None]).squeeze(-1).to(exact)
        weights = weights.softmax(-1)
        scaled = weights * rstd
        attended = torch.bmm(scaled[:, None].to(cells.dtype), cells).squeeze(1).to(exact)
        attended = attended - (scaled * mean).sum(-1, keepdim=True)
        attended_depth = None
        if depth is not None:
            attended_depth = torch.bmm(weights[:, None].to(depth.dtype), depth).squeeze(1).to(depth.dtype)
        ctx.save_for_backward(query, cells, depth_query, depth, mean, rstd, scores, weights)
        return attended.to(cells.dtype), attended_depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_attended: Tensor, grad_attended_depth: Tensor | None):
        query, cells, depth_query, depth, mean, rstd, scores, weights = ctx.saved_tensors
        exact, channels = scores.dtype, cells.shape[-1]
        grad = grad_attended.to(cells.dtype)
        grad_sum, query_sum = (x.sum(-1, keepdim=True, dtype=exact) for x in (grad, query))
        # With n_p the normalised cell, attended = sum_p weights_p n_p and scores_p = query . n_p: every term below is
        # a combination of query, grad and the raw cell with one scalar a cell.
        along = (torch.bmm(cells, grad[..., None]).squeeze(-1).to(exact) - mean * grad_sum) * rstd
        grad_weights = along
        if depth is not None:
            grad_depth_sum = grad_attended_depth.to(depth.dtype)
            grad_weights = along + torch.bmm(depth, grad_depth_sum[..., None]).squeeze(-1).to(exact)
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
        scaled = grad_scores * rstd
        grad_query = torch.bmm(scaled[:, None].to(cells.dtype), cells).squeeze(1).to(exact)
        grad_query = grad_query - (scaled * mean).sum(-1, keepdim=True)
        grad_cells = grad_depth_query = grad_depth = None
        if ctx.needs_input_grad[1]:
            grad_mean = (weights * grad_sum + grad_scores * query_sum) / channels
            grad_along = (weights * along + grad_scores * scores) / channels
            left = torch.stack((weights * rstd, scaled), -1).to(cells.dtype)  # [K, P, 2]
            grad_cells = torch.bmm(left, torch.stack((grad, query), 1))
            # In place: these two would otherwise be the only tensors of the cells' size besides the gradient itself.
            grad_cells.addcmul_(cells, (grad_along * rstd * rstd)[..., None].to(cells.dtype), value=-1)
            grad_cells.sub_(((grad_mean - grad_along * mean * rstd) * rstd)[..., None].to(cells.dtype))
        if depth is not None:
            grad_depth_query = torch.bmm(grad_scores[:, None].to(depth.dtype), depth).squeeze(1)
            left = torch.stack((weights, grad_scores), -1).to(depth.dtype)
            grad_depth = torch.bmm(left, torch.stack((grad_depth_sum, depth_query), 1))
        return grad_query, grad_cells, grad_depth_query, grad_depth, None


class NeutralLinear(nn.Linear):
    """A linear layer that starts at zero, so that what it feeds starts unchanged (see `_init_weights`)."""


class CrossBranchAttention(nn.Module):
    """Each token attends to the cells of its own window; depth embeddings enter keys and values.

    A window has one query, so the key projection folds into the query and the value projection follows the weighted
    sum: exactly `reference_forward`, with 1/50 of its arithmetic and no [B, N, P, C] keys and values.
    """

    def __init__(self, dim: int, cell_dim: int, depth_dim: int | None):
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.query_proj = nn.Linear(dim, dim)
        # No biases on the key side: within a window they add the same to every score, and softmax forgets it.
        self.key_norm = nn.LayerNorm(cell_dim, bias=False)
        self.key_proj = nn.Linear(cell_dim, dim, bias=False)
        self.value_norm = nn.LayerNorm(cell_dim)
        self.value_proj = NeutralLinear(cell_dim, dim)
        self.depth_key_proj = NeutralLinear(depth_dim, dim, bias=False) if depth_dim else None
        self.depth_value_proj = NeutralLinear(depth_dim, dim, bias=False) if depth_dim else None

    def forward(self, tokens: Tensor, cells: Tensor, depth: Tensor | None = None) -> Tensor:
        """
        Args:
            tokens: [B, N, C].
            cells: [B, N, P, M].
            depth: [B, N, P, E], depth embedding of each cell.

        Returns:
            [B, N, C], what the tokens found (to be added to them).
        """
        query = self.query_proj(self.query_norm(tokens)) / math.sqrt(tokens.shape[-1])
        folded = (query @ self.key_proj.weight) * self.key_norm.weight
        depth_query = None if depth is None else (query @ self.depth_key_proj.weight).flatten(0, 1)
        attended, attended_depth = _WindowAttend.apply(
            folded.flatten(0, 1),
            cells.flatten(0, 1),
            depth_query,
            None if depth is None else depth.flatten(0, 1),
            self.key_norm.eps,
        )
        mined = self.value_proj(attended * self.value_norm.weight + self.value_norm.bias)
        if depth is not None:
            mined = mined + self.depth_value_proj(attended_depth)
        return mined.view(tokens.shape)

    def reference_forward(self, tokens: Tensor, cells: Tensor, depth: Tensor | None = None) -> Tensor:
        """The same by the plain arithmetic of attention, with every cell projected; slow, for comparison."""
        query = self.query_proj(self.query_norm(tokens))[:, :, None]
        keys, values = self.key_proj(self.key_norm(cells)), self.value_proj(self.value_norm(cells))
        if depth is not None:
            keys, values = keys + self.depth_key_proj(depth), values + self.depth_value_proj(depth)
        weights = (query @ keys.transpose(-1, -2) / math.sqrt(tokens.shape[-1])).softmax(-1)
        return (weights @ values).squeeze(-2)


class MinedFeatures(NamedTuple):
    """Result of `FeatureMining`. A tuple, since DeepSpeed's hooks look for tensors in nothing else.

    Attributes:
        tokens: [B, N, C], the ViT's tokens enriched by what they found.
        depth_logits: [B, D + 1, H, W], the object-level depth map (last bin: background), None without depth branch.
    """

    tokens: Tensor
    depth_logits: Tensor | None


class FeatureMining(nn.Module):
    """Spatial-Enhanced Local Feature Mining as a whole: CNN stages and ViT tokens in, enriched tokens out.

    New weights leave the tokens as they are: the value path starts at zero.
    """

    def __init__(self, config: LLMI3DConfig, stage_channels: list[int]):
        super().__init__()
        self.grid_size = config.image_grid_size
        depth_dim = None
        if config.depth_branch:
            depth_dim = config.depth_embedding_dim
            self.depth_predictor = DepthPredictor(config, stage_channels)
            self.depth_embedding = nn.Embedding(config.num_depth_bins + 1, depth_dim)
        else:
            self.depth_predictor = None
        self.attention = CrossBranchAttention(config.visual_token_dim, sum(stage_channels), depth_dim)

    def forward(self, tokens: Tensor, stages: list[Tensor]) -> MinedFeatures:
        """
        Args:
            tokens: [B, N, C] of the ViT, row-major.
            stages: CNN stages [B, C_s, H_s, W_s], finest first.
        """
        size = stages[0].shape[-2:]
        upsampled = (F.interpolate(stage, size=size, mode="bilinear", align_corners=False) for stage in stages[1:])
        cells = torch.cat([gather_windows(stage, self.grid_size) for stage in (stages[0], *upsampled)], -1)
        depth_logits = depth = None
        if self.depth_predictor is not None:
            depth_logits = self.depth_predictor(stages)
            # The expected embedding under the predicted distribution.
            probabilities = depth_logits.float().softmax(1).to(tokens.dtype)
            embedded = torch.einsum("bdhw,de->behw", probabilities, self.depth_embedding.weight)
            embedded = F.interpolate(embedded, size=size, mode="bilinear", align_corners=False)
            depth = gather_windows(embedded, self.grid_size)
        return MinedFeatures(tokens + self.attention(tokens, cells, depth), depth_logits)
