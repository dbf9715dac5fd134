# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Generation: the language model writes an answer, and every 3D query token in it becomes a box.

Shapes: B samples, I images, T tokens of a sequence.
"""

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import DynamicCache
from transformers.utils import logging

from .box_heads_llmi3d import gather_queries
from .outputs_llmi3d import LLMI3DGenerateOutput, LLMI3DImageFeatures
from .phrases_llmi3d import pad_after, shared_start
from .token_grid_llmi3d import positions_in_the_square, token_grid

logger = logging.get_logger(__name__)

# Arguments of `generate` that bring their own cache or positions, so that a shared prefix cache cannot be used.
OWN_CACHE = (
    *("cache", "past_key_values", "cache_implementation", "position_ids"),
    *("assistant_model", "prompt_lookup_num_tokens", "custom_generate"),
)


class LLMI3DGenerationMixin(GenerationMixin):
    """`generate` of a model with 3D heads, and `generate_boxes`."""

    def prepare_inputs_for_generation(self, *args, inputs_embeds=None, **kwargs):  # named, or `generate` refuses it
        model_inputs = super().prepare_inputs_for_generation(*args, inputs_embeds=inputs_embeds, **kwargs)
        model_inputs["output_boxes"] = False  # the prompt's queries are not the answer's
        return model_inputs

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        position_ids = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        grid = getattr((model_kwargs.get("mm_encoder_outputs") or {}).get("image"), "grid", None)
        if grid is None and model_kwargs.get("pixel_values") is not None:
            grid = torch.tensor(token_grid(model_kwargs["pixel_values"], None, self.config), device=self.device)
        if not self.config.has_qwen_vision and grid is None:
            return position_ids
        input_ids, embeddings = model_kwargs.get("input_ids"), model_kwargs.get("inputs_embeds")
        if not inputs_tensor.is_floating_point():
            input_ids = inputs_tensor
        elif input_ids is None or not input_ids.shape[1]:
            input_ids, embeddings = None, inputs_tensor
        is_image = self.model.is_placeholder(input_ids, embeddings)
        if self.config.has_qwen_vision:
            return self.model.get_rope_positions(is_image, position_ids, grid=grid)
        return positions_in_the_square(is_image, position_ids, grid, self.config.image_grid_size)

    @torch.no_grad()
    def generate_boxes(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        high_res_pixel_values: Tensor | None = None,
        image_index: Tensor | None = None,
        **generate_kwargs,
    ) -> LLMI3DGenerateOutput:
        """Generate an answer and decode a box at every query token in it, with one pass over the image.

        The hidden states are those that decoding computed anyway. If the length limit cuts the answer off right after
        a query token, that token has no hidden state and gives no box (with a warning).

        Args:
            input_ids: [B, T].
            pixel_values, high_res_pixel_values: one image a sample, or those that `image_index` names.
            image_index: [B], which image each sample is about; by default each about its own.
            generate_kwargs: anything that `generate` takes (`attention_mask`, `max_new_tokens`, `num_beams`, ...).
        """
        image = self.get_image_features(pixel_values, high_res_pixel_values, return_dict=True)
        start, sight = None, image.sight
        if image_index is not None:
            start = self._shared_prefix(input_ids, image, image_index, generate_kwargs)
            if start is None:
                image = image.of_images(image_index)
            sight = sight.of_images(image_index)
        start = start or {"input_ids": input_ids, "mm_encoder_outputs": {"image": image}}
        generated = self.generate(
            **{**generate_kwargs, **start, "return_dict_in_generate": True, "output_hidden_states": True}
        )
        answer = generated.sequences[:, input_ids.shape[1] :]
        is_query = answer == self.config.box_3d_token_id
        # The state of a token is computed by the step after the one that chose it, in the row of that step's beam.
        states = [step[-1][:, -1] for step in generated.hidden_states[1:]]
        if states:
            states = torch.stack(states, 1)
            if (beam_indices := getattr(generated, "beam_indices", None)) is not None:
                rows = beam_indices[:, 1 : states.shape[1] + 1].clamp(min=0)
                states = states[rows, torch.arange(rows.shape[1], device=rows.device)]
        else:
            states = self.lm_head.weight.new_zeros(len(answer), 1, self.config.text_config.hidden_size)
        steps = min(len(generated.hidden_states) - 1, answer.shape[1])
        if is_query[:, steps:].any():
            logger.warning("generate_boxes: the answer was cut off right after a 3D query token, which gives no box.")
        usable = torch.zeros(states.shape[:2], dtype=torch.bool, device=is_query.device)
        usable[:, :steps] = is_query[:, :steps]
        states, mask = gather_queries(states, usable)
        sight = sight.repeated(len(answer) // len(input_ids))  # several answers to one sample share its image
        # The prompts as given: with a shared prefix, padding lies elsewhere.
        prompts = input_ids.repeat_interleave(len(answer) // len(input_ids), 0)
        sequences = torch.cat((prompts, answer), 1)
        return LLMI3DGenerateOutput(sequences=sequences, boxes_3d=self.box_head(states, mask, **sight._asdict()))

    def _shared_prefix(
        self, input_ids: Tensor, image: LLMI3DImageFeatures, image_index: Tensor, generate_kwargs: dict
    ) -> dict | None:
        """Compute the tokens that phrases about an image share once for each image, and branch the cache from there.

        Args:
            input_ids: [B, T].
            image: features of the images [I].
            image_index: [B].
            generate_kwargs: as in `generate_boxes`.

        Returns:
            Arguments that `generate` starts from; None if nothing is shared, or if `generate` must make its own cache.
        """
        config = generate_kwargs.get("generation_config") or self.generation_config

        def chosen(name):
            return generate_kwargs.get(name, getattr(config, name, None))

        mask = generate_kwargs.get("attention_mask")
        if mask is None or chosen("use_cache") is False or any(chosen(name) is not None for name in OWN_CACHE):
            return None
        length = shared_start(input_ids, mask, self.model.is_placeholder(input_ids, None), image_index)
        if not length:
            return None
        input_ids, mask = (pad_after(rows, mask, length) for rows in (input_ids, mask))
        inputs = {"attention_mask": mask, "mm_encoder_outputs": {"image": image}}
        position_ids = self._prepare_position_ids_for_generation(input_ids, inputs)
        images, branches = image_index.unique(return_inverse=True)
        firsts = torch.stack([(image_index == index).long().argmax() for index in images])
        cache = DynamicCache(config=self.config.get_text_config(decoder=True))
        self.model(
            input_ids=input_ids[firsts, :length],
            attention_mask=mask[firsts, :length],
            position_ids=position_ids[..., firsts, :length],
            mm_encoder_outputs={"image": image.of_images(images)},
            cache=cache,
            use_cache=True,
        )
        copies = max(chosen("num_beams") or 1, chosen("num_return_sequences") or 1)
        cache.batch_select_indices(branches.repeat_interleave(copies))
        return {"input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids, "cache": cache}
