# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DModel and LLMI3DForConditionalGeneration: a LLaVA or Qwen-VL with a high-resolution branch and 3D heads.

The network works inside one virtual camera and never sees intrinsics.

Shapes: B samples, I images, N visual tokens of an image, T tokens of a sequence, Q 3D query tokens of a sample
(padded), C channels, D depth bins.
"""

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import maybe_install_capturing_hooks, select_hidden_states

from .box_heads_llmi3d import Box3DHead, Box3DHeadOutput, find_queries, gather_queries, states_at
from .configuration_llmi3d import LLMI3DConfig
from .feature_mining_llmi3d import FeatureMining
from .generation_llmi3d import LLMI3DGenerationMixin
from .outputs_llmi3d import LLMI3DCausalLMOutputWithPast, LLMI3DImageFeatures, LLMI3DModelOutputWithPast
from .phrases_llmi3d import ANY_MASK, phrase_mask, split_phrases
from .pretrained_llmi3d import LLMI3DPreTrainedModel
from .qwen_vl_llmi3d import patches_of, rope_positions
from .token_grid_llmi3d import positions_in_the_square, token_grid
from .vision_towers_llmi3d import (
    build_cnn,
    build_vit,
    cnn_feature_maps,
    keep_frozen_batch_norms,
    stage_channels,
    unused_vit_parts,
    vit_tokens,
)

# ViTs whose position embeddings follow the image's size only when asked to; DINOv2's always do.
INTERPOLATES_ON_REQUEST = ("clip_vision_model", "siglip_vision_model")


class LLMI3DMultiModalProjector(nn.Module):
    """Two-layer projection of visual tokens into the language model, as in LLaVA-1.5."""

    def __init__(self, config: LLMI3DConfig):
        super().__init__()
        dim, bias = config.text_config.hidden_size, config.multimodal_projector_bias
        self.linear_1 = nn.Linear(config.visual_token_dim, dim, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(dim, dim, bias=bias)

    def forward(self, image_features: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(image_features)))


class LLMI3DModel(LLMI3DPreTrainedModel):
    """Both vision branches, feature mining, projector and language model, without heads.

    Unused parts are `nn.Identity`: CNN and mining without a high-resolution branch, the projector with Qwen-VL's
    encoder, which projects its own tokens.
    """

    def __init__(self, config: LLMI3DConfig):
        super().__init__(config)
        self.vision_tower = build_vit(config)
        self.high_res_tower, self.feature_mining, self.multi_modal_projector = (nn.Identity() for _ in range(3))
        if config.high_res_branch:
            self.high_res_tower = build_cnn(config.high_res_vision_config)
            self.feature_mining = FeatureMining(config, stage_channels(self.high_res_tower))
        if not config.has_qwen_vision:
            self.multi_modal_projector = LLMI3DMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self._freeze_unused_vision_layers()
        self.post_init()

    def _freeze_unused_vision_layers(self):
        """Freeze what no visual token depends on: it never gets a gradient."""
        if not self.config.has_qwen_vision:  # there every layer is read
            for module in unused_vit_parts(self.vision_tower, self.config):
                module.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        keep_frozen_batch_norms(self.high_res_tower)
        return self

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | LLMI3DImageFeatures:
        """Encode images, from pixels or from what frozen towers saw in them before.

        Args:
            pixel_values: [I, 3, image_size, image_size], or the middle of that (see `token_grid`).
            high_res_pixel_values: [I, 3, high_res_image_size, high_res_image_size], or the same part of that; not read
                without high-resolution branch.
            vision_features: [I, R, K, C], rows and columns of the ViT's tokens (see `vit_tokens`), instead of
                `pixel_values`.
            high_res_features: the CNN's four feature maps [I, C_s, H_s, W_s], instead of `high_res_pixel_values`.

        Raises:
            ValueError: one resolution where two are read, both pixels and features, or images of another size.
        """
        config = self.config
        for name, pixels, features in (
            ("pixel_values", pixel_values, vision_features),
            ("high_res_pixel_values", high_res_pixel_values, high_res_features),
        ):
            if pixels is not None and features is not None:
                raise ValueError(f"{name}: got both pixels and features of the same images, want one of them.")
            if pixels is None and features is None and (config.high_res_branch or name == "pixel_values"):
                raise ValueError(f"{name}: got None, want images; the processor makes both resolutions.")
        self._follow_device()
        low, deepstack = LLMI3DImageFeatures(), None
        if vision_features is not None:
            tokens, (rows, columns) = vision_features.flatten(1, 2), vision_features.shape[1:3]
            tokens = tokens.to(self.dtype)
        else:
            high = high_res_pixel_values if config.high_res_branch else None
            rows, columns = token_grid(pixel_values, high, config)
            if config.has_qwen_vision:
                patches, grids = patches_of(pixel_values, config)
                low = self.vision_tower(patches, grid_thw=grids, return_dict=True, **kwargs)
                # The encoder has no batch dimension: patches and tokens of all images are concatenated.
                low.last_hidden_state, tokens, *deepstack = (
                    states.unflatten(0, (len(pixel_values), -1))
                    for states in (low.last_hidden_state, low.pooler_output, *(low.get("deepstack_features") or ()))
                )
            else:
                if (
                    rows * columns < config.image_seq_length
                    and config.vision_config.model_type in INTERPOLATES_ON_REQUEST
                ):
                    kwargs["interpolate_pos_encoding"] = True
                low = self._look(pixel_values, **kwargs)
                tokens = vit_tokens(low, config)
        depth_logits = cells = None
        if config.high_res_branch:
            if high_res_features is None:
                high_res_features = cnn_feature_maps(self.high_res_tower, high_res_pixel_values)
            mined = self.feature_mining(tokens, [stage.to(tokens.dtype) for stage in high_res_features])
            tokens, depth_logits, cells = mined
        in_part = rows * columns < config.image_seq_length
        return LLMI3DImageFeatures(
            last_hidden_state=low.last_hidden_state,
            pooler_output=self.multi_modal_projector(tokens),
            hidden_states=low.hidden_states,
            attentions=low.attentions,
            depth_logits=depth_logits,
            deepstack_features=deepstack or None,
            grid=torch.tensor((rows, columns), device=tokens.device) if in_part else None,
            tokens=tokens.unflatten(1, (rows, columns)) if config.pointing else None,
            cells=cells if config.pointing else None,
        )

    @select_hidden_states(lambda self: self.config.vision_feature_layers)
    def _look(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Run the ViT, keeping the hidden states that are read."""
        return self.vision_tower(pixel_values, return_dict=True, **kwargs)

    def is_placeholder(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Find the placeholders of visual tokens, by ids or else by embeddings: bool [B, T]."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id
        image_id = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(image_id)).all(-1)

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        """Find the positions of visual tokens: bool [B, T, 1].

        Raises:
            ValueError: the numbers of placeholders and of visual tokens differ.
        """
        mask = self.is_placeholder(input_ids, inputs_embeds)
        if not torch.compiler.is_compiling():  # a compiled graph cannot check data: `ground` checks before
            self.check_placeholders(mask, *image_features.shape[:2])
        return mask[..., None]

    @staticmethod
    def check_placeholders(mask: Tensor, images: int, tokens: int) -> None:
        """Raise a ValueError if the placeholders, bool [B, T], are not as many as the visual tokens."""
        wanted = mask.sum()
        torch_compilable_check(
            wanted == images * tokens,
            f"Image features and image tokens do not match, tokens: {wanted}, features: {images * tokens} "
            f"({images} images of {tokens} tokens)",
        )

    def get_rope_positions(
        self,
        is_image: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        grid: Tensor | None = None,
    ) -> Tensor:
        """Return the positions [3, B, T] of Qwen-VL's language model (see `rope_positions`).

        Args:
            is_image: bool [B, T].
            position_ids: [B, T], counted along the sequence; by default from the attention mask, or else from 0.
            grid: [2], rows and columns of an image's tokens, the square's by default.

        Raises:
            ValueError: a filled cache: where its images lie is not known.
        """
        if cache is not None and cache.get_seq_length() > 0:
            given = "none" if position_ids is None else "[B, T]"
            raise ValueError(
                f"position_ids: got {given} with a filled cache, want [3, B, T] that follow those of the cached "
                "tokens, as `generate` counts them."
            )
        if position_ids is None:
            if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            else:
                position_ids = torch.arange(is_image.shape[-1], device=is_image.device)[None]
        if grid is None:
            grid = torch.tensor([self.config.image_grid_size] * 2, device=is_image.device)
        return rope_positions(is_image, position_ids, grid)

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as transformers' own models, for as long
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        vision_features: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | LLMI3DModelOutputWithPast:
        """
        Args:
            input_ids, attention_mask: [B, T].
            position_ids: [B, T], by default counted along the sequence as if cropped padding were still there;
                Qwen-VL's positions [3, B, T] are derived from counted ones unless they are given.
            pixel_values, high_res_pixel_values: as in `get_image_features`; both or neither.
            vision_features, high_res_features: as in `get_image_features`, instead of pixels.
            mm_encoder_outputs: `{"image": ...}`, what `get_image_features` returned, instead of pixels.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids and inputs_embeds: want exactly one of them.")
        low, high = (
            next((value for value in values if value is not None), None)
            for values in ((pixel_values, vision_features), (high_res_pixel_values, high_res_features))
        )
        if self.config.high_res_branch and (low is None) != (high is None):
            missing = "pixel_values" if low is None else "high_res_pixel_values"
            raise ValueError(f"{missing}: got None, but the other resolution is given; the processor makes both.")
        if low is not None and mm_encoder_outputs:
            raise ValueError("pixel_values and mm_encoder_outputs: got both, want one of them.")
        self._follow_device()

        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        image = (mm_encoder_outputs or {}).get("image")
        if image is None and low is not None:
            image = self.get_image_features(
                pixel_values, high_res_pixel_values, vision_features, high_res_features, return_dict=True
            )
        grid = getattr(image, "grid", None)
        if self.config.has_qwen_vision and (position_ids is None or position_ids.ndim == 2):
            is_image = self.is_placeholder(input_ids, inputs_embeds)
            position_ids = self.get_rope_positions(is_image, position_ids, attention_mask, cache, grid)
        elif grid is not None and position_ids is None:
            past, length = 0 if cache is None else cache.get_seq_length(), inputs_embeds.shape[1]
            position_ids = torch.arange(past, past + length, device=inputs_embeds.device)[None]
            is_image = self.is_placeholder(input_ids, inputs_embeds)
            position_ids = positions_in_the_square(is_image, position_ids, grid, self.config.image_grid_size)
            if attention_mask is None:  # without a mask, gaps in the positions would mean several packed sequences
                attention_mask = inputs_embeds.new_ones(len(inputs_embeds), past + length, dtype=torch.long)
        image_features = None
        if image is not None:
            image_features = image.pooler_output.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, image_features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)
            if image.deepstack_features is not None:
                features = [torch.cat(tuple(each)) for each in image.deepstack_features]
                kwargs |= {"visual_pos_masks": mask[..., 0], "deepstack_visual_embeds": features}

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return LLMI3DModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_features,
            depth_logits=getattr(image, "depth_logits", None),
            image_outputs=image,
        )


class LLMI3DForConditionalGeneration(LLMI3DPreTrainedModel, LLMI3DGenerationMixin):
    """LLMI3D: answers in words, and in 3D at every query token.

    It answers in two ways:
        direct: the prompt ends in the query token, and one forward pass gives `boxes_3d`;
        generate: `generate_boxes` lets the language model write, and decodes a box at every query token it emits.

    Example:

    ```python
    >>> inputs = processor.grounding_inputs(image, "the red car", intrinsics=intrinsics)
    >>> outputs = model(**inputs, logits_to_keep=1)
    >>> answer = processor.post_process_grounding_3d(outputs, inputs.cameras)
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _keep_in_fp32_modules_strict = ["box_head"]

    def __init__(self, config: LLMI3DConfig):
        super().__init__(config)
        self.model = LLMI3DModel(config)
        self.model._attention_was_chosen = self._attention_was_chosen  # the part cannot tell any more
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.box_head = Box3DHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
        **kwargs,
    ):
        """See `LLMI3DModel.get_image_features`."""
        return self.model.get_image_features(
            pixel_values, high_res_pixel_values, vision_features, high_res_features, **kwargs
        )

    @can_return_tuple
    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as transformers' own models, for as long
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        output_boxes: bool = True,
        vision_features: Tensor | None = None,
        high_res_features: list[Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | LLMI3DCausalLMOutputWithPast:
        """
        Args:
            input_ids, attention_mask, labels: [B, T].
            pixel_values, high_res_pixel_values, vision_features, high_res_features, mm_encoder_outputs: one image a
                sample, as in `LLMI3DModel`.
            position_ids: as in `LLMI3DModel`.
            logits_to_keep: the last positions to compute logits for (0: all); 1 where only boxes are wanted.
            output_boxes: whether the 3D heads run at the query tokens of `input_ids`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            high_res_pixel_values=high_res_pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            vision_features=vision_features,
            high_res_features=high_res_features,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        boxes = None
        if output_boxes and input_ids is not None and outputs.image_hidden_states is not None:
            states, mask = gather_queries(hidden_states, input_ids == self.config.box_3d_token_id)
            boxes = self.box_head(states, mask, **outputs.image_outputs.sight._asdict())
        return LLMI3DCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            depth_logits=outputs.depth_logits,
            boxes_3d=boxes,
            image_outputs=outputs.image_outputs,
        )

    @torch.no_grad()
    def ground(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        phrase_ids: Tensor | None = None,
    ) -> LLMI3DCausalLMOutputWithPast:
        """Return the boxes at the query tokens of prompts in one pass, without logits or cache.

        Args:
            input_ids: [B, T], one image a sample.
            pixel_values, high_res_pixel_values: as in `LLMI3DModel.get_image_features`.
            attention_mask, position_ids: [B, T], the latter counted along the sequence.
            phrase_ids: [B, T], for several phrases about one image in one sequence (see `phrase_mask`); each ends in
                one query token. Image and shared words are then computed once. Attention that accepts no such mask
                (flash, flex) gets one sequence a phrase, but still encodes each image once.

        Returns:
            `boxes_3d`, one row a sequence, or a row a phrase in order; `depth_logits`.
        """
        self._follow_device()
        image_index = None
        if phrase_ids is not None:
            if self.config.text_config._attn_implementation in ANY_MASK:
                attention_mask = phrase_mask(phrase_ids, self.dtype)
            else:
                input_ids, attention_mask, image_index = split_phrases(input_ids, phrase_ids)
                position_ids = None
        rows, columns = token_grid(pixel_values, None, self.config)
        self.model.check_placeholders(input_ids == self.config.image_token_id, len(input_ids), rows * columns)
        positions, mask = find_queries(input_ids == self.config.box_3d_token_id)
        outputs = self.ground_at(
            input_ids=input_ids,
            query_positions=positions,
            query_mask=mask,
            pixel_values=pixel_values,
            high_res_pixel_values=high_res_pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            image_index=image_index,
        )
        if phrase_ids is not None:
            outputs.boxes_3d = Box3DHeadOutput(
                **{name: value[mask][:, None] for name, value in outputs.boxes_3d.items()}
            )
        return outputs

    @torch.no_grad()
    def ground_at(
        self,
        input_ids: Tensor,
        query_positions: Tensor,
        query_mask: Tensor,
        pixel_values: Tensor,
        high_res_pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> LLMI3DCausalLMOutputWithPast:
        """Run the network's part of `ground`: no shape depends on data, so it compiles and exports as one graph.

        Args:
            input_ids, position_ids: [B, T], the latter counted along the sequence.
            query_positions, query_mask: [B, Q], from `find_queries`.
            pixel_values, high_res_pixel_values: as in `LLMI3DModel.get_image_features`.
            attention_mask: [B, T], or from `phrase_mask`.
            image_index: [B], which image each sequence is about; by default each about its own.

        Returns:
            `boxes_3d`, one row a sequence; `depth_logits`.
        """
        image = self.get_image_features(pixel_values, high_res_pixel_values, return_dict=True)
        if image_index is not None:
            image = image.of_images(image_index)
        if position_ids is not None and image.grid is not None and not self.config.has_qwen_vision:
            is_image = input_ids == self.config.image_token_id
            position_ids = positions_in_the_square(is_image, position_ids, image.grid, self.config.image_grid_size)
        hidden_states = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            mm_encoder_outputs={"image": image},
            use_cache=False,
        ).last_hidden_state
        boxes = self.box_head(states_at(hidden_states, query_positions), query_mask, **image.sight._asdict())
        return LLMI3DCausalLMOutputWithPast(depth_logits=image.depth_logits, boxes_3d=boxes)

    def compile_grounding(self, **kwargs) -> None:
        """Compile the network's part of `ground` for all further calls; docs/speed.md says what recompiles.

        Args:
            kwargs: arguments of `torch.compile`, such as `mode="max-autotune"`.
        """
        # transformers installs these hooks on first use, under a lock that cannot be traced.
        maybe_install_capturing_hooks(self.model.vision_tower)
        self._follow_device()
        self.ground_at = torch.compile(self.ground_at, **{"fullgraph": True, **kwargs})


__all__ = ["LLMI3DForConditionalGeneration", "LLMI3DModel", "LLMI3DPreTrainedModel"]
