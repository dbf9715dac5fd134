# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""3D Query Token-Derived Info Decoding: the 3D heads, the three sources of depth and their fusion.

All values are in network units: pixels of the network frame and virtual metres. No camera is involved.

Shapes: B samples, Q query tokens of a sample (padded), C channels of the language model, D depth bins.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .configuration_llmi3d import LLMI3DConfig
from .feature_mining_llmi3d import NeutralLinear, depth_bin_centers
from .pointing_llmi3d import Pointed, Pointer, Sight, one_place, read_places

# Frequencies by which the heads know where a place lies: half a wave to four waves over the image.
PLACE_WAVES = 4


@dataclass
class Box3DHeadOutput(ModelOutput):
    """Raw outputs of the 3D heads, float32, in network units.

    Attributes:
        mask: bool [B, Q], False where Q is padding.
        center_2d_px: [B, Q, 2], projected 3D centre, network pixels; may lie outside the image.
        box_2d_px: [B, Q, 4], amodal 2D box (x_min, y_min, x_max, y_max), network pixels.
        log_depths: [B, Q, 3], log virtual depth by regression, by height and by the depth map.
        depth_log_scales: [B, Q, 3], log of the Laplace scale of each source's error in log depth.
        depth_weights: [B, Q, 3], share of each source in the fused depth; 0 for disabled sources.
        depth_virtual: [B, Q], fused depth, virtual metres.
        size: [B, Q, 3] = (length, height, width), metres.
        rotation_6d: [B, Q, 6], rotation as seen along the ray to the centre (allocentric), its first two columns.
        score_logits: [B, Q]; their sigmoid is the predicted 3D IoU.
        pointing: [B, Q, N], probability of each visual token, row-major; None without pointing, and for dense labels.
        pointing_log_probs: [B, Q, H, W], log-probability of each place: of the CNN's cells, or of the visual tokens
            without CNN.
        pointing_spread_px: [B, Q], standard deviation of that distribution, network pixels.
    """

    mask: Tensor | None = None
    center_2d_px: Tensor | None = None
    box_2d_px: Tensor | None = None
    log_depths: Tensor | None = None
    depth_log_scales: Tensor | None = None
    depth_weights: Tensor | None = None
    depth_virtual: Tensor | None = None
    size: Tensor | None = None
    rotation_6d: Tensor | None = None
    score_logits: Tensor | None = None
    pointing: Tensor | None = None
    pointing_log_probs: Tensor | None = None
    pointing_spread_px: Tensor | None = None


def find_queries(is_query: Tensor) -> tuple[Tensor, Tensor]:
    """Find the query tokens of each sample, padded to the largest number in the batch, and to at least 1.

    Args:
        is_query: bool [B, T].

    Returns:
        (positions [B, Q], in order, mask bool [B, Q]).
    """
    counts = is_query.sum(-1)
    num_queries = max(int(counts.max()), 1)
    # A stable sort by "is not a query" puts the positions of the queries first, in order.
    positions = is_query.logical_not().to(torch.uint8).sort(dim=-1, stable=True).indices[:, :num_queries]
    return positions, torch.arange(num_queries, device=counts.device) < counts[:, None]


def states_at(hidden_states: Tensor, positions: Tensor) -> Tensor:
    """Gather the states [B, Q, C] of [B, T, C] at positions [B, Q]."""
    return hidden_states.gather(1, positions[..., None].expand(-1, -1, hidden_states.shape[-1]))


def gather_queries(hidden_states: Tensor, is_query: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the states at the query tokens (see `find_queries`).

    A batch without queries has one padded row, which keeps the heads in the graph: otherwise a process of a
    distributed run would wait for gradients that never come.

    Args:
        hidden_states: [B, T, C].
        is_query: bool [B, T].

    Returns:
        (states [B, Q, C], mask bool [B, Q]).
    """
    positions, mask = find_queries(is_query)
    return states_at(hidden_states, positions), mask


def read_depth_map(
    depth_logits: Tensor, center_2d_px: Tensor, bin_centers: Tensor, image_size: int, cell_size: int
) -> Tensor:
    """Read the expected log virtual depth from the object-level depth map at the projected centres.

    Args:
        depth_logits: [B, D + 1, H, W], of the network frame or its middle; the last bin, background, is ignored.
        center_2d_px: [B, Q, 2], network pixels; centres outside the map read its border.
        bin_centers: [D], log virtual metres.
        image_size: side of the network frame, pixels.
        cell_size: side of a cell of the map, network pixels.

    Returns:
        [B, Q], log virtual metres.
    """
    height, width = depth_logits.shape[-2:]
    extent = torch.tensor([width * cell_size, height * cell_size], device=center_2d_px.device)
    grid = ((2 * center_2d_px - image_size) / extent)[:, :, None]
    # Interpolate logits, not expected depths: across an object's border an average depth belongs to neither side.
    logits = F.grid_sample(depth_logits[:, :-1], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.einsum("bdq,d->bq", logits.squeeze(-1).softmax(1), bin_centers)


def fuse_depths(log_depths: Tensor, log_scales: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
    """Average log depths by inverse variance; return (log depth [...], weights [..., 3]).

    Args:
        log_depths, log_scales: [..., 3].
        available: bool [3]; unavailable sources get no weight.
    """
    weights = (-2 * log_scales).masked_fill(~available, -math.inf).softmax(-1)
    return (weights * log_depths).sum(-1), weights


def place_waves(place: Tensor) -> Tensor:
    """Sines and cosines of a place (x, y) in shares of the image, [..., 2] -> [..., 4 * PLACE_WAVES]."""
    angles = place[..., None] * (math.pi * 2.0 ** torch.arange(PLACE_WAVES, device=place.device))
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(-2)


class TrunkLinear(nn.Linear):
    """Hidden layer of the heads, initialised by its width (see `_init_weights`)."""


class AnswerLinear(nn.Linear):
    """Last layer of a head; its bias starts at a sensible output (see `_init_weights`)."""

    def __init__(self, dim: int, initial_bias: list[float]):
        super().__init__(dim, len(initial_bias))
        self.initial_bias = initial_bias


class Box3DHead(nn.Module):
    """Turn the hidden state at a 3D query token into a box. Float32 whatever the model's dtype, autocast or not.

    With pointing, the box is read at the place that the query token points at; its own state starts as a correction of
    zero. A dense label asks the same heads at one place, without a query token.
    """

    def __init__(self, config: LLMI3DConfig):
        super().__init__()
        self.config = config
        state_dim, dim = config.text_config.hidden_size, config.box_head_dim
        if config.pointing:
            self.pointer = Pointer(config)
            self.token_proj = nn.Sequential(
                nn.LayerNorm(config.visual_token_dim), TrunkLinear(config.visual_token_dim, dim)
            )
            self.cell_proj = None
            if config.high_res_branch:
                channels = config.depth_predictor_dim
                self.cell_proj = nn.Sequential(nn.LayerNorm(channels), TrunkLinear(channels, dim))
            self.place_proj = TrunkLinear(2 * 2 * PLACE_WAVES, dim)
            self.state_proj = nn.Sequential(nn.LayerNorm(state_dim), NeutralLinear(state_dim, dim, bias=False))
            self.score_of_spread = NeutralLinear(2, 1, bias=False)
            self.trunk = nn.Sequential(nn.GELU(), TrunkLinear(dim, dim), nn.GELU())
        else:
            self.trunk = nn.Sequential(
                nn.LayerNorm(state_dim), TrunkLinear(state_dim, dim), nn.GELU(), TrunkLinear(dim, dim), nn.GELU()
            )
        # Before training: an upright metre cube in the middle of the image, or at the place pointed at, a fifth of the
        # image's side, at middle depth.
        middle_depth = 0.5 * (math.log(config.depth_min_virtual) + math.log(config.depth_max_virtual))
        initial = {
            "center": [0.0, 0.0] if config.pointing else [0.5, 0.5],
            "sides": [math.log(0.1)] * 4,
            "depth": [middle_depth],
            "log_scales": [0.0] * 3,
            "size": [0.0] * 3,
            "rotation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "score": [0.0],
        }
        self.outputs = nn.ModuleDict({name: AnswerLinear(dim, bias) for name, bias in initial.items()})
        self.float()  # even if the current default dtype is a half

    def _apply(self, fn, recurse=True):
        """Keep the head in float32 when the whole model is cast (`.to(torch.bfloat16)`, `.half()`), but move it."""

        def in_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == torch.float32:
                return moved
            return tensor.to(moved.device) if tensor.dtype == torch.float32 else moved.float()

        return super()._apply(in_float32, recurse)

    def forward(
        self,
        states: Tensor | None,
        mask: Tensor,
        depth_logits: Tensor | None = None,
        tokens: Tensor | None = None,
        cells: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Box3DHeadOutput:
        """
        Args:
            states: [B, Q, C], last hidden states at the query tokens; None where `places` ask alone.
            mask: bool [B, Q], False where Q is padding.
            depth_logits: [B, D + 1, H, W], the object-level depth map; without it that source gets no weight.
            tokens, cells: as of `Sight`, read with pointing only.
            places: [B, Q], row-major indices of the places to read, instead of those that the states point at.

        Raises:
            ValueError: no tokens with pointing; places without pointing; neither states nor places.
        """
        if self.config.pointing and tokens is None:
            raise ValueError("tokens: got None with config.pointing=True, want the visual tokens [B, R, K, C].")
        if (places is not None and not self.config.pointing) or (places is None and states is None):
            raise ValueError("places, states: want states, or with config.pointing=True places.")
        device = mask.device.type
        # The meta device has no autocast to disable.
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            sight = Sight(*(None if value is None else value.float() for value in (depth_logits, tokens, cells)))
            return self._decode(None if states is None else states.float(), mask, sight, places)

    def _features(self, states: Tensor | None, sight: Sight, places: Tensor | None) -> tuple[Tensor, Pointed | None]:
        """Return what the last layers read, [B, Q, box_head_dim], and where it was read."""
        if not self.config.pointing:
            return self.trunk(states), None
        log_probs = self.pointer(states, sight) if places is None else one_place(places, sight)
        pointed = read_places(log_probs, sight, self.config)
        features = self.token_proj(pointed.token_features)
        features = features + self.place_proj(place_waves(pointed.place_px / self.config.high_res_image_size))
        if pointed.cell_features is not None:
            features = features + self.cell_proj(pointed.cell_features)
        if states is not None:
            features = features + self.state_proj(states)
        return self.trunk(features), pointed

    def _decode(self, states: Tensor | None, mask: Tensor, sight: Sight, places: Tensor | None) -> Box3DHeadOutput:
        config, canvas, depth_logits = self.config, self.config.high_res_image_size, sight.depth_logits
        features, pointed = self._features(states, sight, places)
        raw = {name: layer(features) for name, layer in self.outputs.items()}

        score, pointing = raw["score"].squeeze(-1), {}
        if pointed is None:
            center = raw["center"] * canvas
        else:
            # Offsets are counted in visual tokens: a place of the image says the same wherever it lies.
            center = pointed.place_px + raw["center"] * (canvas / config.image_grid_size)
            peak = pointed.log_probs.flatten(2).amax(-1)
            spread = torch.stack(((pointed.spread_px.clamp(min=config.place_px / 2) / canvas).log(), peak), -1)
            score = score + self.score_of_spread(spread).squeeze(-1)
            if places is None:
                pointing = {
                    "pointing": pointed.tokens.flatten(2),
                    "pointing_log_probs": pointed.log_probs,
                    "pointing_spread_px": pointed.spread_px,
                }
        # Distances from the centre to the sides of the 2D box, which always encloses it; clamped against overflow.
        sides = raw["sides"].clamp(-8, 4).exp() * canvas
        size = raw["size"].clamp(-7, 6).exp()
        height_2d = sides[..., 1] + sides[..., 3]
        from_height = math.log(config.virtual_focal_length) + size[..., 1].log() - height_2d.log()
        regressed = raw["depth"].squeeze(-1)
        if depth_logits is None:
            from_map = torch.zeros_like(regressed)
        else:
            # The centre decides where to read, but gets no gradient from what is read (as in MonoDETR). With a NaN
            # centre, the backward pass of grid_sample would read out of bounds.
            bins = depth_bin_centers(config, mask.device)
            cell = 4 * 2**config.depth_map_stage
            from_map = read_depth_map(depth_logits, center.detach().nan_to_num(), bins, canvas, cell)
        switches = (
            config.depth_from_regression,
            config.depth_from_height,
            config.depth_from_map and depth_logits is not None,
        )
        if not any(switches):
            raise ValueError("depth_logits: got none, but the configuration reads depth from the depth map alone.")
        available = torch.tensor(switches, device=mask.device)
        log_depths = torch.stack((regressed, from_height, from_map), -1)
        # At least 2 % of the distance: no single image is more precise, and the loss of an overconfident source would
        # dominate all others.
        log_scales = raw["log_scales"].clamp(-4, 4)
        log_depth, weights = fuse_depths(log_depths, log_scales, available)
        return Box3DHeadOutput(
            mask=mask,
            center_2d_px=center,
            box_2d_px=torch.cat((center - sides[..., :2], center + sides[..., 2:]), -1),
            log_depths=log_depths,
            depth_log_scales=log_scales,
            depth_weights=weights,
            depth_virtual=log_depth.clamp(-12, 12).exp(),
            size=size,
            rotation_6d=raw["rotation"],
            score_logits=score,
            **pointing,
        )
