# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DProcessor: images, cameras and text in; metric boxes out."""

import math
from typing import Any

import torch
from transformers.dynamic_module_utils import custom_object_save
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .geometry_llmi3d import (
    Camera,
    box_corners,
    decode_boxes,
    network_to_image,
    rotation_6d_to_matrix,
    transform_intrinsics,
)
from .image_processing_llmi3d import CameraBatchFeature, LLMI3DImageProcessor, cells_to_image

IMAGE_TOKEN = "<image>"
# Qwen-VL's own placeholder; its chat template puts it between two marks.
QWEN_IMAGE_TOKEN = "<|image_pad|>"
BOX_3D_TOKEN = "<|box_3d|>"
# Turns a phrase into a request, in training and at inference.
GROUNDING_PROMPT = "Locate {phrase} in 3D."

# LLaVA-1.5's turns. The generation block marks the tokens to learn: the assistant's words and its end of turn.
CHAT_TEMPLATE = """{% for message in messages -%}
{% if message['role'] == 'system' %}{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{% for block in message['content'] %}{{ block['text'] }}{% endfor %}{% endif %}{{ ' ' }}{% endif -%}
{% if message['role'] == 'user' %}{{ 'USER: ' }}{% endif -%}
{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% endif -%}
{% if message['role'] == 'assistant' -%}
{% generation %}{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{% for block in message['content'] %}{{ block['text'] }}{% endfor %}{% endif %}{{ eos_token }}{% endgeneration -%}
{% elif message['role'] == 'user' -%}
{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else -%}
{% for block in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor -%}
{% for block in message['content'] | selectattr('type', 'equalto', 'text') %}{{ block['text'] + ' ' }}{% endfor -%}
{% endif %}{% endif %}{% endfor -%}
{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif -%}"""

# Qwen-VL's turns, with the same generation block.
QWEN_CHAT_TEMPLATE = """{% for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' -%}
{% generation %}{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{% for block in message['content'] %}{{ block['text'] }}{% endfor %}{% endif %}{{ eos_token }}{% endgeneration -%}
{{ '\n' }}{% else -%}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for block in message['content'] -%}
{% if block['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ block['text'] -}}
{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endif %}{% endfor -%}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"""


class LLMI3DProcessor(ProcessorMixin):
    r"""
    Bundles image processor, tokenizer and chat template, and decodes the network's outputs into metric boxes.

    Args:
        image_processor: a `LLMI3DImageProcessor`.
        tokenizer: any tokenizer with the special tokens `image_token` and `<|box_3d|>`.
        patch_size: side of a visual token in low-resolution pixels: the ViT's patch, or several merged patches.
        virtual_focal_length: of the virtual camera, network pixels, as in the model's configuration.
        chat_template: `CHAT_TEMPLATE` by default.
        image_token: placeholder of the image in prompts, and of each visual token in `input_ids`.
        score_temperature, score_bias: calibration: a score is sigmoid(score_logits / temperature + bias). With 1 and 0
            it is the 3D IoU that the network predicts; with the values that `llmi3d calibrate` fits, the probability
            that the IoU exceeds a threshold (0.25 by default).
        score_threshold: best threshold on the score found by that command; used on request.

    Raises:
        ValueError: the tokenizer lacks a special token, or the calibration is out of range.

    Example:

    ```python
    >>> inputs = processor.grounding_inputs(image, "the nearest car", intrinsics=[721.5, 721.5, 609.6, 172.9])
    >>> outputs = model(**inputs, logits_to_keep=1)
    >>> answer = processor.post_process_grounding_3d(outputs, inputs.cameras, labels=[["the nearest car"]])[0]
    >>> answer["centers"]  # [Q, 3], metres, camera frame
    ```
    """

    skip_tensor_conversion = [*ProcessorMixin.skip_tensor_conversion, "cameras"]
    text_kwargs = {"padding": True, "padding_side": "left"}

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        patch_size: int = 14,
        virtual_focal_length: float = 768.0,
        chat_template: str | None = None,
        image_token: str = IMAGE_TOKEN,
        score_temperature: float = 1.0,
        score_bias: float = 0.0,
        score_threshold: float = 0.0,
        **kwargs,
    ):
        self.calibrate(score_temperature, score_bias, score_threshold)
        self.patch_size = patch_size
        self.virtual_focal_length = virtual_focal_length
        self.image_token, self.box_3d_token = image_token, BOX_3D_TOKEN
        for token in (image_token, BOX_3D_TOKEN):
            if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
                raise ValueError(
                    f"tokenizer: '{token}' is not one token of it; add it with "
                    "tokenizer.add_special_tokens({'additional_special_tokens': [...]}) and resize the model's "
                    "embeddings."
                )
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.box_3d_token_id = tokenizer.convert_tokens_to_ids(BOX_3D_TOKEN)
        if image_processor is not None:
            image_processor.token_size = patch_size
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    def calibrate(self, temperature: float = 1.0, bias: float = 0.0, threshold: float = 0.0) -> None:
        """Set the calibration of scores (see the class); without arguments, reset it.

        Raises:
            ValueError: the temperature is not above 0, the bias is not finite, or the threshold is outside 0 to 1.
        """
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"score_temperature: got {temperature}, want a number above 0.")
        if not math.isfinite(bias):
            raise ValueError(f"score_bias: got {bias}, want a finite number.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"score_threshold: got {threshold}, want a score within 0 to 1.")
        self.score_temperature, self.score_bias, self.score_threshold = temperature, bias, threshold

    @classmethod
    def for_model(cls, config, tokenizer, **image_kwargs) -> "LLMI3DProcessor":
        """Make the processor that fits a model's configuration.

        Args:
            config: a `LLMI3DConfig`.
            tokenizer: the language model's.
            image_kwargs: further arguments of the image processor, such as `image_mean` and `high_res_image_mean`.
        """
        low, high = config.image_size, config.high_res_image_size
        image_processor = LLMI3DImageProcessor(
            size={"height": low, "width": low}, high_res_size={"height": high, "width": high}, **image_kwargs
        )
        turns = {}
        if config.has_qwen_vision:
            turns = {"image_token": QWEN_IMAGE_TOKEN, "chat_template": QWEN_CHAT_TEMPLATE}
        processor = cls(
            image_processor,
            tokenizer,
            patch_size=config.visual_token_side,
            virtual_focal_length=config.virtual_focal_length,
            **turns,
        )
        processor.check_model(config)
        return processor

    def check_model(self, config) -> None:
        """Check that a model's configuration agrees with this processor.

        Raises:
            ValueError: they disagree; the message gives both values.
        """
        pairs = {
            "virtual_focal_length": (self.virtual_focal_length, config.virtual_focal_length),
            "patch_size": (self.patch_size, config.visual_token_side),
            "image size": (self.image_processor.size["height"], config.image_size),
            "high-resolution image size": (self.image_processor.high_res_size["height"], config.high_res_image_size),
            "id of " + self.image_token: (self.image_token_id, config.image_token_id),
            "id of " + BOX_3D_TOKEN: (self.box_3d_token_id, config.box_3d_token_id),
        }
        for name, (own, models) in pairs.items():
            if own != models:
                raise ValueError(
                    f"processor: its {name} is {own}, the model's is {models}; load both from one checkpoint."
                )

    def save_pretrained(self, save_directory, **kwargs):
        """Save the processor, with the pipeline's code if the checkpoint carries its code."""
        from .pipeline_llmi3d import Image3DGroundingPipeline

        files = super().save_pretrained(save_directory, **kwargs)
        if self._auto_class is not None:
            custom_object_save(Image3DGroundingPipeline, save_directory)
        return files

    # ------------------------------------------------------------------------------------------------ into the network

    def __call__(
        self, images: ImageInput | None = None, text: str | list[str] | None = None, **kwargs
    ) -> CameraBatchFeature:
        """Turn images and complete prompts into network inputs.

        Args:
            images: paths, URLs, PIL images, arrays or tensors; one for each `<image>` in the texts, in order.
            text: prompts with special tokens, as `apply_chat_template` writes them. For text typed by users call
                `grounding_inputs`, which refuses special tokens.
            intrinsics, fov_deg: see `LLMI3DImageProcessorKwargs`.
            kwargs: further arguments of the image processor and the tokenizer.

        Returns:
            `pixel_values`, `high_res_pixel_values`, `input_ids`, `attention_mask`, and the attribute `cameras`.
        """
        batch = super().__call__(images=images, text=text, **kwargs)
        cameras = batch.data.pop("cameras", [])
        return CameraBatchFeature(batch.data, cameras)

    def _process_images(self, images, **kwargs):
        processed, replacements = super()._process_images(images, **kwargs)
        return {**processed, "cameras": processed.cameras}, replacements

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        height, width = image_inputs["pixel_values"][image_idx].shape[-2:]
        return self.image_token * self._num_tokens(height, width)

    def _num_tokens(self, height: int, width: int) -> int:
        """Return the number of visual tokens of a low-resolution image."""
        return (height // self.patch_size) * (width // self.patch_size)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        if image_sizes is None:
            return MultiModalData()
        size, crop = self.image_processor.size, kwargs.get("crop_padding", self.image_processor.crop_padding)
        grid, counts = [size[side] // self.patch_size for side in ("height", "width")], []
        for height, width in image_sizes:
            empty = self.image_processor.empty_tokens((width, height)) if crop else (0, 0)
            counts.append((grid[0] - 2 * empty[0]) * (grid[1] - 2 * empty[1]))
        return MultiModalData(num_image_tokens=counts, num_image_patches=[1] * len(image_sizes))

    @property
    def unused_input_names(self) -> list[str]:
        # The language models of LLMI3D use no token types.
        return ["token_type_ids"]

    def refuse_special_tokens(self, text: str) -> str:
        """Return `text` unchanged if it holds no special token.

        Raises:
            ValueError: a special token in the text.
        """
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        for token in {self.image_token, self.box_3d_token, *self.tokenizer.all_special_tokens, *added}:
            if token in text:
                raise ValueError(f"prompt: got the special token '{token}' in {text!r}, want words only.")
        return text

    def grounding_prompt(self, phrase: str, mode: str = "direct") -> str:
        """Return the complete prompt that asks for a phrase.

        Args:
            phrase: what to find, such as "the nearest car", without special tokens.
            mode: `direct` ends in the query token, so that one forward pass answers; `generate` lets the model write.

        Raises:
            ValueError: an empty phrase, a special token in it, or an unknown mode.
        """
        if not isinstance(phrase, str) or not phrase.strip():
            raise ValueError(f"prompt: got {phrase!r}, want a phrase that says what to find.")
        if mode not in ("direct", "generate"):
            raise ValueError(f"mode: got '{mode}', want 'direct' or 'generate'.")
        text = GROUNDING_PROMPT.format(phrase=self.refuse_special_tokens(phrase.strip()))
        conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        prompt = self.apply_chat_template(conversation, add_generation_prompt=True)
        return prompt + self.box_3d_token if mode == "direct" else prompt

    def grounding_inputs(
        self,
        images: Any,
        prompts: str | list[str] | list[list[str]],
        intrinsics: Any = None,
        fov_deg: Any = None,
        mode: str = "direct",
        share_images: bool = False,
        crop_padding: bool | None = None,
    ) -> CameraBatchFeature:
        """Make network inputs for several phrases about each of several images.

        Args:
            images: one image or a list.
            prompts: for one image a phrase or a list of phrases; for a list of images a phrase or a list of phrases
                for each.
            intrinsics, fov_deg: cameras, as in `LLMI3DImageProcessorKwargs`.
            mode: see `grounding_prompt`.
            share_images: whether the phrases about an image share its visual tokens and what is computed from them.
            crop_padding: as in `LLMI3DImageProcessorKwargs`; the image processor's setting by default.

        Returns:
            One sequence per phrase, in order, each with a copy of its image's pixels, for `model(**inputs)`. With
            `share_images` the pixels of each image come once. In mode `direct` all phrases about an image then share a
            sequence (`phrase_ids`, `position_ids`), for `model.ground(**inputs)`; in mode `generate` each phrase has
            its sequence (`image_index`), for `model.generate_boxes(**inputs)`. `cameras` always has one entry per
            phrase.

        Raises:
            ValueError: the numbers of prompts and images differ, there is no phrase, a phrase or an image is invalid,
                or with `share_images` in mode `direct` the chat template puts text before the image.
        """
        if not isinstance(images, list | tuple):
            images, prompts = [images], [prompts]
        elif isinstance(prompts, str) or len(prompts) != len(images):
            given = "one phrase" if isinstance(prompts, str) else f"{len(prompts)} prompts"
            raise ValueError(
                f"prompts: got {given} for {len(images)} images, want a phrase or list of phrases for each."
            )
        phrases = [[item] if isinstance(item, str) else list(item) for item in prompts]
        if not any(phrases):
            raise ValueError("prompts: got no phrase, want at least one.")
        texts = [self.grounding_prompt(phrase, mode) for group in phrases for phrase in group]
        if crop_padding is None:
            crop_padding = self.image_processor.crop_padding
        pixels = self.image_processor(
            list(images), intrinsics=intrinsics, fov_deg=fov_deg, crop_padding=crop_padding, return_tensors="pt"
        )
        owners = [index for index, group in enumerate(phrases) for _ in group]
        ids = self._tokenize(texts, self._num_tokens(*pixels["pixel_values"].shape[-2:]))
        cameras = [pixels.cameras[owner] for owner in owners]
        several = len(set(owners)) < len(owners)
        if share_images and several and mode == "direct":
            rest = iter(ids)
            shared = [[next(rest) for _ in group] for group in phrases if group]
            asked = [index for index, group in enumerate(phrases) if group]
            data = {**self._share_sequences(shared), **{key: value[asked] for key, value in pixels.items()}}
            return CameraBatchFeature(data, cameras)
        data = {
            "input_ids": _pad(ids, self.tokenizer.pad_token_id, "left"),
            "attention_mask": _pad([[1] * len(row) for row in ids], 0, "left"),
        }
        if share_images and several:
            return CameraBatchFeature({**data, **pixels, "image_index": torch.tensor(owners)}, cameras)
        data.update({key: value[owners] for key, value in pixels.items()})
        return CameraBatchFeature(data, cameras)

    def _tokenize(self, texts: list[str], num_image_tokens: int) -> list[list[int]]:
        """Tokenize texts, then repeat each image placeholder for every visual token.

        Tokens are repeated instead of text: tokenizing hundreds of placeholders takes longer than all words.
        """
        visual = [self.image_token_id] * num_image_tokens
        return [
            [copy for token in ids for copy in (visual if token == self.image_token_id else (token,))]
            for ids in self.tokenizer(texts)["input_ids"]
        ]

    def _share_sequences(self, prompts: list[list[list[int]]]) -> dict[str, torch.Tensor]:
        """Join the tokenized prompts about each image into one sequence that holds the image once.

        Returns:
            `input_ids`, `position_ids` and `phrase_ids` [I, T]; `phrase_ids` is 0 for padding, 1 for the shared start
            and 2, 3, ... for the phrases.
        """
        parts = {"input_ids": [], "position_ids": [], "phrase_ids": []}
        for group in prompts:
            end = len(group[0]) - group[0][::-1].index(self.image_token_id)
            if any(prompt[:end] != group[0][:end] for prompt in group):
                raise ValueError("chat_template: it writes text before the image, want the image first.")
            tails = [prompt[end:] for prompt in group]
            parts["input_ids"].append([*group[0][:end], *(token for tail in tails for token in tail)])
            parts["position_ids"].append([*range(end), *(end + i for tail in tails for i in range(len(tail)))])
            parts["phrase_ids"].append([*[1] * end, *(i for i, tail in enumerate(tails, 2) for _ in tail)])
        padding = {"input_ids": self.tokenizer.pad_token_id, "position_ids": 0, "phrase_ids": 0}
        return {name: _pad(rows, padding[name], "right") for name, rows in parts.items()}

    # ---------------------------------------------------------------------------------------------- out of the network

    @torch.no_grad()
    def post_process_grounding_3d(
        self,
        outputs: Any,
        cameras: list[Camera],
        labels: list[list[str]] | None = None,
        threshold: float | None = 0.0,
    ) -> list[dict[str, Any]]:
        """Decode raw network outputs into metric boxes (see `geometry_llmi3d.decode_boxes`).

        Args:
            outputs: of the model or `generate_boxes` (any object with `boxes_3d`).
            cameras: one for each sample (`inputs.cameras`).
            labels: for each sample the label of each of its boxes, or one label for all of them.
            threshold: lowest score of a box that is kept; None takes `score_threshold`.

        Returns:
            For each sample a dictionary of CPU tensors, in the frame of the original, upright image:
            `labels` (list of str or None), `scores` [Q] (predicted 3D IoU, or calibrated: see the class),
            `centers` [Q, 3], `sizes` [Q, 3] (length, height, width), `corners` [Q, 8, 3], all metres in the camera
            frame, `rotations` [Q, 3, 3] box to camera, `boxes_2d` [Q, 4] (xyxy) and `centers_2d` [Q, 2] pixels,
            `depth_weights` [Q, 3] (shares of regression, height and map), `intrinsics` [3, 3] the K used, and
            `intrinsics_source`.

            Where the network points: `pointing` float32 [Q, rows, columns], the probability that the query token
            points at each cell of an even grid over the image (what points at the padding is missing from the sum),
            and `pointing_spread` [Q], the standard deviation of the distribution in pixels.

        Raises:
            ValueError: the numbers of samples, cameras and labels differ, or there are no boxes.
        """
        boxes = outputs.boxes_3d
        if boxes is None:
            raise ValueError("outputs: got no boxes_3d; call the model with images and output_boxes=True.")
        if len(cameras) != len(boxes.mask):
            raise ValueError(f"cameras: got {len(cameras)} for {len(boxes.mask)} samples, want one for each.")
        if labels is not None and len(labels) != len(boxes.mask):
            raise ValueError(f"labels: got {len(labels)} for {len(boxes.mask)} samples, want one list for each.")
        # All boxes of the batch at once.
        mask = boxes.mask.cpu()
        logits = boxes.score_logits.detach().cpu()[mask].double()
        scores = (logits / self.score_temperature + self.score_bias).sigmoid()
        kept = scores >= (self.score_threshold if threshold is None else threshold)
        owners = mask.nonzero()[:, 0][kept]
        scale, offset, given = (
            torch.tensor([getattr(camera, name) for camera in cameras], dtype=torch.float64)[owners]
            for name in ("scale", "offset", "intrinsics")
        )

        def pick(name):
            return getattr(boxes, name).detach().cpu()[mask][kept].double()

        centers_2d_px = pick("center_2d_px")
        centers, sizes, rotations = decode_boxes(
            centers_2d_px,
            pick("depth_virtual"),
            pick("size"),
            rotation_6d_to_matrix(pick("rotation_6d")),
            transform_intrinsics(given, scale, offset),
            self.virtual_focal_length,
        )
        values = {
            "scores": scores[kept],
            "centers": centers,
            "sizes": sizes,
            "rotations": rotations,
            "corners": box_corners(centers, sizes, rotations),
            "boxes_2d": network_to_image(pick("box_2d_px"), scale, offset),
            "centers_2d": network_to_image(centers_2d_px, scale, offset),
            "depth_weights": pick("depth_weights"),
        }
        counts = owners.bincount(minlength=len(cameras)).tolist()
        points = getattr(boxes, "pointing", None) is not None
        if points:
            values["pointing_spread"] = pick("pointing_spread_px") / scale.prod(-1).sqrt()
        parts = {key: value.split(counts) for key, value in values.items()}
        if points:
            cells = pick("pointing_log_probs").exp()
            cell_px = self._cell_px(boxes.pointing.shape[-1], boxes.pointing_log_probs.shape[-2:].numel())
            parts["pointing"] = [
                cells_to_image(part, cell_px, self._network_size, camera).float()
                for part, camera in zip(cells.split(counts), cameras, strict=True)
            ]
        keeps = kept.split(mask.sum(1).tolist())
        answers = []
        for index, camera in enumerate(cameras):
            answer = {key: value[index] for key, value in parts.items()}
            keep = keeps[index].tolist()
            names = self._labels_of_boxes(labels[index] if labels is not None else None, len(keep))
            answer["labels"] = [name for name, stays in zip(names, keep, strict=True) if stays]
            answer["intrinsics"] = camera.intrinsics_tensor()
            answer["intrinsics_source"] = camera.source
            answers.append(answer)
        return answers

    @property
    def _network_size(self) -> tuple[int, int]:
        """(width, height) of the network frame, pixels."""
        return self.image_processor.high_res_size["width"], self.image_processor.high_res_size["height"]

    def _cell_px(self, num_tokens: int, num_cells: int) -> float:
        """Return the side of a cell in network pixels, given how many tokens and cells cover the same area."""
        token_px = self.patch_size * self._network_size[0] / self.image_processor.size["width"]
        return token_px * math.sqrt(num_tokens / num_cells)

    @staticmethod
    def _labels_of_boxes(names: list[str] | None, count: int) -> list[str | None]:
        if names is None:
            return [None] * count
        names = [names] if isinstance(names, str) else list(names)
        if len(names) == 1:
            return names * count
        if len(names) != count:
            raise ValueError(f"labels: got {len(names)} for {count} boxes, want one for each or one for all.")
        return names


def _pad(rows: list[list[int]], value: int, side: str) -> torch.Tensor:
    """Pad rows of several lengths into one tensor."""
    rows = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


__all__ = ["LLMI3DProcessor"]
