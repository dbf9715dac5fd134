# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Output classes of the model.

Shapes: B samples, I images, N visual tokens of an image, T tokens of a sequence, C channels, D depth bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .box_heads_llmi3d import Box3DHeadOutput
from .pointing_llmi3d import Sight


@dataclass
class LLMI3DImageFeatures(BaseModelOutputWithPooling):
    """Visual tokens of a batch of images.

    Attributes:
        pooler_output: [I, N, C], mined and projected into the language model.
        depth_logits: [I, D + 1, H, W], object-level depth map; None without depth branch.
        deepstack_features: Qwen3-VL only: for each of the language model's first layers [I, N, C], or a list of I, to
            add to its visual tokens.
        grid: [2], rows and columns of the visual tokens if they are not the whole square.
        tokens: [I, rows, columns, C_v], mined tokens before the projector; None without pointing.
        cells: [I, C_c, H, W], merged CNN stages; None without pointing or CNN.
    """

    tokens: Tensor | None = None
    cells: Tensor | None = None
    depth_logits: Tensor | None = None
    deepstack_features: list | None = None
    grid: Tensor | None = None

    @property
    def sight(self) -> Sight:
        """The features that the 3D heads read."""
        return Sight(self.depth_logits, self.tokens, self.cells)

    def of_images(self, index: Tensor) -> "LLMI3DImageFeatures":
        """Select what a language model and the heads need of the images `index` [B], one for each sequence."""
        sight = self.sight.of_images(index)
        return LLMI3DImageFeatures(
            pooler_output=self.pooler_output[index],
            deepstack_features=self.deepstack_features
            and [torch.stack(tuple(features))[index] for features in self.deepstack_features],
            grid=self.grid,
            **sight._asdict(),
        )


@dataclass
class LLMI3DModelOutputWithPast(BaseModelOutputWithPast):
    """`BaseModelOutputWithPast` with visual features.

    Attributes:
        image_hidden_states: [I, N, C], visual tokens as the language model saw them.
        depth_logits: [I, D + 1, H, W], object-level depth map.
        image_outputs: result of `get_image_features`.
    """

    image_hidden_states: Tensor | None = None
    depth_logits: Tensor | None = None
    image_outputs: LLMI3DImageFeatures | None = None


@dataclass
class LLMI3DCausalLMOutputWithPast(ModelOutput):
    """Language and 3D outputs.

    Attributes:
        loss: language-modelling loss, when `labels` are given. The 3D loss belongs to `llmi3d.training.losses`.
        logits: [B, T, vocabulary].
        boxes_3d: raw outputs of the 3D heads at the query tokens of `input_ids`, in network units.
        cache, hidden_states, attentions: as in every causal language model.
        image_hidden_states: [I, N, C].
        depth_logits: [I, D + 1, H, W], object-level depth map.
        image_outputs: result of `get_image_features`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    depth_logits: Tensor | None = None
    boxes_3d: Box3DHeadOutput | None = None
    image_outputs: LLMI3DImageFeatures | None = None


@dataclass
class LLMI3DGenerateOutput(ModelOutput):
    """Output of `generate_boxes`.

    Attributes:
        sequences: [B, T], prompt and answer.
        boxes_3d: raw outputs of the 3D heads at the query tokens of the answer, in order.
    """

    sequences: Tensor | None = None
    boxes_3d: Box3DHeadOutput | None = None
