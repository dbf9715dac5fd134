# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DProcessor: pictures, cameras and words in; metric boxes out."""

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
from .image_processing_llmi3d import CameraBatchFeature, LLMI3DImageProcessor

IMAGE_TOKEN = "<image>"
# Qwen-VL's own placeholder; its chat template sets it between two marks.
QWEN_IMAGE_TOKEN = "<|image_pad|>"
BOX_3D_TOKEN = "<|box_3d|>"
# How a phrase becomes a request, in training and in use.
GROUNDING_PROMPT = "Locate {phrase} in 3D."

# LLaVA-1.5's turns. The generation block tells which tokens are learned: the assistant's words and its end of turn.
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

# Qwen-VL's turns, with the generation block likewise.
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
    Bundles the image processor, the tokenizer, the chat template and the way from the network's answer to metric
    boxes.

    Args:
        image_processor: a `LLMI3DImageProcessor`.
        tokenizer: any tokenizer with the special tokens `image_token` and `<|box_3d|>`.
        patch_size: side of the square behind a visual token, low-resolution pixels: the ViT's patch, or as many as
            are merged.
        virtual_focal_length: of the virtual camera, network pixels, as in the model's configuration.
        chat_template: `CHAT_TEMPLATE` by default.
        image_token: placeholder of the picture, and of one visual token.
        score_temperature, score_bias: of the weights: a score is sigmoid(score_logits / temperature + bias). With 1
            and 0 it is what the network is trained to predict, the 3D IoU; with what `llmi3d calibrate` fits, the
            probability that the IoU is above a threshold, 0.25 as a rule.
        score_threshold: below this score a box is better left out, as that command found; used where it is asked for.

    Raises:
        ValueError: a tokenizer without the special tokens; a calibration that is none.

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
        """Sets what becomes of the network's scores (see the class); without arguments, they are taken as they are.

        Raises:
            ValueError: a temperature that is not above 0, a bias that is not finite, a threshold outside 0 to 1.
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
        """A processor whose sizes, virtual camera and turns are those of a model's configuration.

        Args:
            config: a `LLMI3DConfig`.
            tokenizer: the language model's.
            image_kwargs: anything else of the image processor, such as `image_mean`.
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
        """Refuses a model whose configuration disagrees with this processor.

        Raises:
            ValueError: the first disagreement, with both values.
        """
        pairs = {
            "virtual_focal_length": (self.virtual_focal_length, config.virtual_focal_length),
            "patch_size": (self.patch_size, config.visual_token_side),
            "image size": (self.image_processor.size["height"], config.image_size),
            "high-resolution image size": (self.image_processor.high_res_size["height"], config.high_res_image_size),
            "id of " + self.image_token: (self.image_token_id, config.image_token_id),
            "id of " + BOX_3D_TOKEN: (self.box_3d_token_id, config.box_3d_token_id),
        }
        for name, (mine, its) in pairs.items():
            if mine != its:
                raise ValueError(
                    f"processor: its {name} is {mine}, the model's is {its}; load both from one checkpoint."
                )

    def save_pretrained(self, save_directory, **kwargs):
        """As every processor; the pipeline's code goes along, for loading with `trust_remote_code=True`."""
        from .pipeline_llmi3d import Image3DGroundingPipeline

        files = super().save_pretrained(save_directory, **kwargs)
        if self._auto_class is not None:
            custom_object_save(Image3DGroundingPipeline, save_directory)
        return files

    # ------------------------------------------------------------------------------------------------ into the network

    def __call__(
        self, images: ImageInput | None = None, text: str | list[str] | None = None, **kwargs
    ) -> CameraBatchFeature:
        """Pictures and complete prompts to network inputs.

        Args:
            images: paths, URLs, PIL images, arrays or tensors; one for each `<image>` in the texts, in order.
            text: prompts with their special tokens, as `apply_chat_template` writes them. For text typed by users
                call `grounding_inputs`, which keeps special tokens out of it.
            intrinsics, fov_deg: see `LLMI3DImageProcessorKwargs`.
            kwargs: anything that the image processor or the tokenizer takes.

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
        """Visual tokens of a low-resolution picture."""
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
        # Token types mean nothing to the language models behind LLMI3D.
        return ["token_type_ids"]

    def refuse_special_tokens(self, text: str) -> str:
        """Returns `text` unchanged if it holds no special token.

        Raises:
            ValueError: a special token typed into text that should be words.
        """
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        for token in {self.image_token, self.box_3d_token, *self.tokenizer.all_special_tokens, *added}:
            if token in text:
                raise ValueError(f"prompt: got the special token '{token}' in {text!r}, want words only.")
        return text

    def grounding_prompt(self, phrase: str, mode: str = "direct") -> str:
        """The complete prompt that asks for what `phrase` means.

        Args:
            phrase: what to find ("the nearest car"); words only.
            mode: `direct` ends in the query token, so that one forward pass answers; `generate` leaves the answer
            open.

        Raises:
            ValueError: an empty phrase, special tokens in it, or an unknown mode.
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
        share_pictures: bool = False,
        crop_padding: bool | None = None,
    ) -> CameraBatchFeature:
        """Network inputs for any number of phrases for each of any number of pictures.

        Args:
            images: one picture or a list.
            prompts: for one picture a phrase or a list of phrases; for a list of pictures a list with a phrase or a
                list of phrases for each.
            intrinsics, fov_deg: cameras, as in `LLMI3DImageProcessorKwargs`.
            mode: see `grounding_prompt`.
            share_pictures: whether phrases about one picture share what is computed of it.
            crop_padding: as in `LLMI3DImageProcessorKwargs`; by default as the image processor has it.

        Returns:
            One sequence a phrase, in order, each with its own copy of its picture's pixels, for `model(**inputs)`.
            With `share_pictures` the pixels of each picture come once: in mode `direct` for `model.ground(**inputs)`,
            the phrases about a picture in one sequence (`phrase_ids`, `position_ids`); in mode `generate` for
            `model.generate_boxes(**inputs)`, with a sequence a phrase (`image_index`). `cameras` has one entry a
            phrase in any case.

        Raises:
            ValueError: another number of prompts than of pictures, no phrase at all, or bad phrases or pictures; with
                `share_pictures` in mode `direct`, a chat template that writes words before the picture.
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
        if share_pictures and several and mode == "direct":
            rest = iter(ids)
            shared = [[next(rest) for _ in group] for group in phrases if group]
            asked = [index for index, group in enumerate(phrases) if group]
            data = {**self._share_sequences(shared), **{key: value[asked] for key, value in pixels.items()}}
            return CameraBatchFeature(data, cameras)
        data = {
            "input_ids": _pad(ids, self.tokenizer.pad_token_id, "left"),
            "attention_mask": _pad([[1] * len(one) for one in ids], 0, "left"),
        }
        if share_pictures and several:
            return CameraBatchFeature({**data, **pixels, "image_index": torch.tensor(owners)}, cameras)
        data.update({key: value[owners] for key, value in pixels.items()})
        return CameraBatchFeature(data, cameras)

    def _tokenize(self, texts: list[str], num_image_tokens: int) -> list[list[int]]:
        """The tokens of each text, in which a picture's placeholder becomes as many as its visual tokens.

        It is the tokens that multiply: to read hundreds of placeholders takes the tokenizer longer than all words.
        """
        visual = [self.image_token_id] * num_image_tokens
        return [
            [token for one in ids for token in (visual if one == self.image_token_id else (one,))]
            for ids in self.tokenizer(texts)["input_ids"]
        ]

    def _share_sequences(self, prompts: list[list[list[int]]]) -> dict[str, torch.Tensor]:
        """The prompts about each picture, token by token, as one sequence behind what they share: the picture.

        Returns:
            `input_ids`, `position_ids` and `phrase_ids` [I, T]; the last: 0 for padding, 1 for what is shared, from 2
            on for each phrase.
        """
        parts = {"input_ids": [], "position_ids": [], "phrase_ids": []}
        for group in prompts:
            end = len(group[0]) - group[0][::-1].index(self.image_token_id)
            if any(prompt[:end] != group[0][:end] for prompt in group):
                raise ValueError("chat_template: it writes words before the picture, want the picture first.")
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
        """Raw network answers to metric boxes, in the original picture (see `geometry_llmi3d.decode_boxes`).

        Args:
            outputs: what the model or `generate_boxes` returned (anything with `boxes_3d`).
            cameras: one for each sample (`inputs.cameras`).
            labels: for each sample the name of each of its boxes; one name alone serves all of a sample's boxes.
            threshold: boxes of a lower score are left out; None takes `score_threshold`.

        Returns:
            For each sample a dictionary of CPU tensors, in the frame of the original, upright picture:
            `labels` (list of str or None), `scores` [Q] (predicted 3D IoU, or as calibrated: see the class),
            `centers` [Q, 3], `sizes` [Q, 3] (length, height, width), `corners` [Q, 8, 3], all metres in the camera
            frame, `rotations` [Q, 3, 3] box to camera, `boxes_2d` [Q, 4] (xyxy) and `centers_2d` [Q, 2] pixels,
            `depth_weights` [Q, 3] (shares of regression, height and map), `intrinsics` [3, 3] the K used, and
            `intrinsics_source`.

        Raises:
            ValueError: numbers of samples, cameras and labels that differ.
        """
        boxes = outputs.boxes_3d
        if boxes is None:
            raise ValueError("outputs: got no boxes_3d; call the model with images and output_boxes=True.")
        if len(cameras) != len(boxes.mask):
            raise ValueError(f"cameras: got {len(cameras)} for {len(boxes.mask)} samples, want one for each.")
        if labels is not None and len(labels) != len(boxes.mask):
            raise ValueError(f"labels: got {len(labels)} for {len(boxes.mask)} samples, want one list for each.")
        # All boxes of the batch in one go.
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
        parts = {key: value.split(counts) for key, value in values.items()}
        keeps = kept.split(mask.sum(1).tolist())
        answers = []
        for index, camera in enumerate(cameras):
            answer = {key: value[index] for key, value in parts.items()}
            keep = keeps[index].tolist()
            names = self._names_of_boxes(labels[index] if labels is not None else None, len(keep))
            answer["labels"] = [name for name, stays in zip(names, keep, strict=True) if stays]
            answer["intrinsics"] = camera.intrinsics_tensor()
            answer["intrinsics_source"] = camera.source
            answers.append(answer)
        return answers

    @staticmethod
    def _names_of_boxes(names: list[str] | None, count: int) -> list[str | None]:
        if names is None:
            return [None] * count
        names = [names] if isinstance(names, str) else list(names)
        if len(names) == 1:
            return names * count
        if len(names) != count:
            raise ValueError(f"labels: got {len(names)} for {count} boxes, want one for each or one for all.")
        return names


def _pad(rows: list[list[int]], value: int, side: str) -> torch.Tensor:
    """Rows of several lengths as one tensor."""
    rows = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)


__all__ = ["LLMI3DProcessor"]
