# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Spatial-Enhanced Local Feature Mining: depth predictor and cross-branch attention.

Tokens of the low-resolution ViT query cells of the high-resolution CNN, each token in its own window, as in
Mini-Gemini's patch info mining. An object-level depth map (as in MonoDETR) is predicted from the CNN; its embedding
enters keys and values, so that attention knows how far away a cell is.

Shapes: B images, N tokens = windows, P cells in a window at the finest CNN stage, S cells in and around it at a
stage's own resolution, C channels of a token, M channels of a cell (all CNN stages concatenated), E channels of the
depth embedding, D depth bins.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_llmi3d import LLMI3DConfig


def depth_bin_edges(config: LLMI3DConfig, device: torch.device | None = None) -> Tensor:
    """Return the edges of the depth bins: float32 [D + 1], log virtual metres, equally spaced."""
    low, high = math.log(config.depth_min_virtual), math.log(config.depth_max_virtual)
    return torch.linspace(low, high, config.num_depth_bins + 1, device=device)


def depth_bin_centers(config: LLMI3DConfig, device: torch.device | None = None) -> Tensor:
    """Return the centres of the depth bins: float32 [D], log virtual metres."""
    edges = depth_bin_edges(config, device)
    return (edges[1:] + edges[:-1]) / 2


class Cells(NamedTuple):
    """Cells of a feature map, window by window, at the map's own resolution.

    Attributes:
        values: [B, N, S, C], the S cells in and around each window.
        weights: float32 [N, P, S], their interpolation to the window's P cells; None if they are those cells (S = P).
    """

    values: Tensor
    weights: Tensor | None = None

    def interpolate(self, values: Tensor) -> Tensor:
        """Interpolate a value of each of the S cells to the window's P cells: [B, N, S] -> [B, N, P]."""
        return values if self.weights is None else torch.einsum("nps,bns->bnp", self.weights, values)

    def squares(self) -> Tensor:
        """Return the sums of squares over the channels of the window's P cells: [B, N, P]."""
        if self.weights is None:
            return torch.linalg.vector_norm(self.values, dim=-1).square()
        products = self.values @ self.values.transpose(-1, -2)
        return (self.weights @ products * self.weights).sum(-1)

    def sum(self, shares: Tensor) -> Tensor:
        """Sum the window's P cells, weighted by their shares: [B, N, P] -> [B, N, C]."""
        if self.weights is not None:
            shares = torch.einsum("nps,bnp->bns", self.weights, shares)
        return (shares[:, :, None] @ self.values).squeeze(2)

    def to(self, dtype: torch.dtype) -> "Cells":
        """Convert to another dtype."""
        return Cells(self.values.to(dtype), None if self.weights is None else self.weights.to(dtype))


def _cells_of_a_side(fine: int, coarse: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute bilinear interpolation along one side, window by window.

    Returns:
        (index [windows, S] of the coarse cells that a window needs, weights [windows, window, S] of its fine cells).
    """
    first, last = (range(at, fine, window) for at in (0, window - 1))
    first, last = ([((2 * i + 1) * coarse - fine) // (2 * fine) for i in cells] for cells in (first, last))
    span = min(max(b - a for a, b in zip(first, last, strict=True)) + 2, coarse)
    place = ((torch.arange(fine, device=device) + 0.5) * (coarse / fine) - 0.5).clamp(0, coarse - 1).view(-1, window)
    index = place[:, :1].long().clamp(max=coarse - span) + torch.arange(span, device=device)
    return index, (1 - (place[..., None] - index[:, None]).abs()).clamp(min=0)


def cells_of(feature_map: Tensor, size: tuple[int, int], window: int) -> Cells:
    """Cut a map [B, C, H, W] into windows as if it were upsampled (bilinear); windows and cells are row-major.

    Args:
        size: (height, width) that it would be upsampled to, cells.
        window: side of a window, cells of that size.

    Raises:
        ValueError: a size that the windows do not divide.
    """
    batch, channels, height, width = feature_map.shape
    if size[0] % window or size[1] % window:
        raise ValueError(f"feature_map: got {size[0]}x{size[1]} cells, want multiples of the {window} of a window.")
    rows, columns = size[0] // window, size[1] // window
    values = feature_map.permute(0, 2, 3, 1)
    if (height, width) == tuple(size):
        values = values.unflatten(2, (columns, window)).unflatten(1, (rows, window)).transpose(2, 3)
        return Cells(values.reshape(batch, rows * columns, window**2, channels))
    (down, down_weights), (across, across_weights) = (
        _cells_of_a_side(fine, coarse, window, feature_map.device)
        for fine, coarse in zip(size, (height, width), strict=True)
    )
    index = (down[:, None, :, None] * width + across[:, None]).flatten()
    values = values.flatten(1, 2).index_select(1, index).view(batch, rows * columns, -1, channels)
    weights = torch.einsum("aps,bqt->abpqst", down_weights, across_weights)
    return Cells(values, weights.reshape(rows * columns, window**2, -1))


def _resize(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    if feature_map.shape[-2:] == size:
        return feature_map
    return F.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)


class DepthPredictor(nn.Module):
    """Merge the CNN's stages into one map of cells, and predict the object-level depth map from it.

    The depth map gives each cell a distribution over bins of virtual depth and a last, background bin. Objects' 2D
    boxes, painted with their virtual depth, supervise it; no depth sensor is needed.

    Args:
        config: sizes.
        stage_channels: channels of each CNN stage.
        predicts_depth: whether there is a depth map; without it the cells serve pointing alone.
    """

    def __init__(self, config: LLMI3DConfig, stage_channels: list[int], predicts_depth: bool = True):
        super().__init__()
        dim = config.depth_predictor_dim
        self.stage = config.depth_map_stage
        self.laterals = nn.ModuleList(nn.Conv2d(channels, dim, 1) for channels in stage_channels)
        self.convs = nn.Sequential(
            *(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(math.gcd(32, dim), dim), nn.GELU()),
            *(nn.Conv2d(dim, dim, 3, padding=1), nn.GroupNorm(math.gcd(32, dim), dim), nn.GELU()),
        )
        self.classifier = nn.Conv2d(dim, config.num_depth_bins + 1, 1) if predicts_depth else None

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            stages: CNN stages, each [B, C_s, H_s, W_s].

        Returns:
            (cells [B, depth_predictor_dim, H, W], depth logits [B, D + 1, H, W]) at the chosen stage's resolution.
        """
        size, merged = stages[self.stage].shape[-2:], 0
        for index, (lateral, stage) in enumerate(zip(self.laterals, stages, strict=True)):
            # A 1x1 convolution and resizing commute: resize first only where that is cheaper.
            merged = merged + (lateral(_resize(stage, size)) if index < self.stage else _resize(lateral(stage), size))
        cells = self.convs(merged)
        return cells, None if self.classifier is None else self.classifier(cells)


def attend(
    query: Tensor, cells: list[Cells], depth_query: Tensor | None, depth: Cells | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """Attend to cells: weights = softmax(query . normalised cells + depth_query . depth), and weighted sums of both.

    In effect, all stages are interpolated to the finest one, concatenated along the channels and layer-normalised
    (without affine parameters). Interpolation, scores and sums are linear, so their order is exchanged: each stage is
    scored and summed at its own resolution, and mean and deviation are divided out afterwards. Neither interpolated
    nor normalised cells are ever stored.

    Args:
        query: [B, N, M].
        cells: cells of each stage, M channels in total.
        depth_query: [B, N, E].
        depth: E channels.
        eps: epsilon of the layer norm.

    Returns:
        ([B, N, M], [B, N, E] or None).
    """
    channels, dots, sums, squares = query.shape[-1], 0, 0, 0
    parts = query.split([each.values.shape[-1] for each in cells], -1)
    for each, part in zip(cells, parts, strict=True):
        # Both products read the cells once.
        products = each.values @ torch.stack((part, torch.ones_like(part)), -1)
        dots = dots + each.interpolate(products[..., 0])
        sums = sums + each.interpolate(products[..., 1])
        squares = squares + each.squares()
    mean = sums / channels
    rstd = ((squares / channels - mean.square()).clamp(min=0) + eps).rsqrt()
    scores = (dots - mean * query.sum(-1, keepdim=True)) * rstd
    if depth is not None:
        scores = scores + depth.interpolate((depth.values @ depth_query[..., None]).squeeze(-1))
    weights = scores.softmax(-1)
    scaled = weights * rstd
    attended = torch.cat([each.sum(scaled) for each in cells], -1) - (scaled * mean).sum(-1, keepdim=True)
    return attended, None if depth is None else depth.sum(weights)


class NeutralLinear(nn.Linear):
    """Linear layer that starts at zero, so that its sum with other terms starts unchanged (see `_init_weights`)."""


class CrossBranchAttention(nn.Module):
    """Attention of each token to the cells of its own window; depth embeddings enter keys and values.

    A window has one query, so the key projection folds into the query, and the value projection follows the weighted
    sum (see `attend`). This equals `reference_forward` with 1/100 of its arithmetic and no [B, N, P, C] keys and
    values.
    """

    def __init__(self, dim: int, cell_dim: int, depth_dim: int | None):
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.query_proj = nn.Linear(dim, dim)
        # No biases on the key side: they would add a constant to the scores of a window, which softmax ignores.
        self.key_norm = nn.LayerNorm(cell_dim, bias=False)
        self.key_proj = nn.Linear(cell_dim, dim, bias=False)
        self.value_norm = nn.LayerNorm(cell_dim)
        self.value_proj = NeutralLinear(cell_dim, dim)
        self.depth_key_proj = NeutralLinear(depth_dim, dim, bias=False) if depth_dim else None
        self.depth_value_proj = NeutralLinear(depth_dim, dim, bias=False) if depth_dim else None

    def forward(self, tokens: Tensor, cells: list[Cells], depth: Cells | None = None) -> Tensor:
        """
        Args:
            tokens: [B, N, C].
            cells: cells of each CNN stage, M channels in total.
            depth: depth embedding of the cells, E channels.

        Returns:
            [B, N, C], mined features, to be added to the tokens.
        """
        query = self.query_proj(self.query_norm(tokens)) / math.sqrt(tokens.shape[-1])
        folded = (query @ self.key_proj.weight) * self.key_norm.weight
        depth_query = None if depth is None else query @ self.depth_key_proj.weight
        # Variances are small differences of large sums: always float32.
        exact, device = torch.promote_types(tokens.dtype, torch.float32), tokens.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            attended, attended_depth = attend(
                folded.to(exact),
                [each.to(exact) for each in cells],
                None if depth is None else depth_query.to(exact),
                None if depth is None else depth.to(exact),
                self.key_norm.eps,
            )
        mined = self.value_proj((attended * self.value_norm.weight + self.value_norm.bias).to(query.dtype))
        if depth is not None:
            mined = mined + self.depth_value_proj(attended_depth.to(query.dtype))
        return mined

    def reference_forward(self, tokens: Tensor, cells: Tensor, depth: Tensor | None = None) -> Tensor:
        """Compute the same by plain attention; slow, for comparison.

        Args:
            tokens: [B, N, C].
            cells: [B, N, P, M], all stages interpolated to the finest one.
            depth: [B, N, P, E], likewise.
        """
        query = self.query_proj(self.query_norm(tokens))[:, :, None]
        keys, values = self.key_proj(self.key_norm(cells)), self.value_proj(self.value_norm(cells))
        if depth is not None:
            keys, values = keys + self.depth_key_proj(depth), values + self.depth_value_proj(depth)
        weights = (query @ keys.transpose(-1, -2) / math.sqrt(tokens.shape[-1])).softmax(-1)
        return (weights @ values).squeeze(-2)


class MinedFeatures(NamedTuple):
    """Output of `FeatureMining`: a tuple, since DeepSpeed's hooks find tensors in nothing else.

    Attributes:
        tokens: [B, N, C], the ViT's tokens with mined features added.
        depth_logits: [B, D + 1, H, W], the object-level depth map (last bin: background), None without depth branch.
        cells: [B, depth_predictor_dim, H, W], merged CNN stages; None without depth branch and pointing.
    """

    tokens: Tensor
    depth_logits: Tensor | None
    cells: Tensor | None


class FeatureMining(nn.Module):
    """Spatial-Enhanced Local Feature Mining: CNN stages and ViT tokens in, enriched tokens out.

    With new weights the tokens are unchanged, since the value path starts at zero.
    """

    def __init__(self, config: LLMI3DConfig, stage_channels: list[int]):
        super().__init__()
        self.window = config.high_res_image_size // (4 * config.image_grid_size)  # cells of the finest stage
        depth_dim = self.depth_predictor = None
        if config.depth_branch or config.pointing:
            self.depth_predictor = DepthPredictor(config, stage_channels, config.depth_branch)
        if config.depth_branch:
            depth_dim = config.depth_embedding_dim
            self.depth_embedding = nn.Embedding(config.num_depth_bins + 1, depth_dim)
        self.attention = CrossBranchAttention(config.visual_token_dim, sum(stage_channels), depth_dim)

    def forward(self, tokens: Tensor, stages: list[Tensor]) -> MinedFeatures:
        """
        Args:
            tokens: [B, N, C], the ViT's tokens, row-major.
            stages: CNN stages [B, C_s, H_s, W_s], finest first.
        """
        size = stages[0].shape[-2:]
        depth_logits = depth = merged = None
        if self.depth_predictor is not None:
            merged, depth_logits = self.depth_predictor(stages)
        if depth_logits is not None:
            # The expected embedding under the predicted distribution.
            probabilities = depth_logits.float().softmax(1).to(tokens.dtype)
            embedded = torch.einsum("bdhw,de->behw", probabilities, self.depth_embedding.weight)
            depth = cells_of(embedded, size, self.window)
        cells = [cells_of(stage, size, self.window) for stage in stages]
        return MinedFeatures(tokens + self.attention(tokens, cells, depth), depth_logits, merged)
