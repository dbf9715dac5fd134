# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The pipeline `image-3d-grounding`: images, cameras and phrases in, plain dictionaries out."""

import itertools
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline

from .image_processing_llmi3d import is_one_camera, upright_size

# Order of the last dimension of `depth_weights` in the outputs of the 3D heads.
DEPTH_SOURCES = ("regression", "height", "map")


class Image3DGroundingPipeline(Pipeline):
    """
    Grounds phrases in images as metric, oriented 3D boxes.

    Example:

    ```python
    >>> import llmi3d
    >>> from transformers import pipeline

    >>> ground = pipeline("image-3d-grounding", model="path/or/hub-name")
    >>> answer = ground("street.jpg", prompt="the nearest car", intrinsics=[721.5, 721.5, 609.6, 172.9])
    >>> answer["boxes"][0]["center"]  # metres: right, down, forward
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.processor.check_model(self.model.config)

    def __call__(self, images: Any, prompt: Any = None, intrinsics: Any = None, fov_deg: Any = None, **kwargs):
        """
        Args:
            images: a path, URL, PIL image, array or tensor; a list of them; or a generator or dataset of them. An item
                may also be a dictionary with the keys `image`, `prompt`, `intrinsics` and `fov_deg`.
            prompt: for one image a phrase that says what to find, or a list of phrases. For a list of images: one
                phrase for all, or a list with a phrase or a list of phrases for each.
            intrinsics: 3x3 or (fx, fy, cx, cy), pixels of the image as stored; for a list of images one for each, or
                one for all. Without it EXIF is read, and without EXIF a default is assumed, with a warning.
            fov_deg: horizontal field of view in degrees, instead of `intrinsics`.
            mode: `direct` (default; one forward pass) or `generate` (the language model writes an answer).
            threshold: lowest score of a box that is kept (default 0); None takes the processor's `score_threshold`.
            pointing: whether boxes carry the distribution `pointing` (default False), if the checkpoint points.
            batch_size: images per forward pass (default 1).
            crop_padding: whether to leave out the visual tokens that show only padding, which makes wide and tall
                images cheaper; the processor's setting by default. Within a batch, images of one shape share a forward
                pass.
            kwargs: generation arguments such as `max_new_tokens`.

        Returns:
            For one image and one phrase a dictionary that `json.dumps` takes:
            `prompt`, `mode`, `text` (the words of the answer), `image_size` (width, height), `intrinsics` (the K
            used), `intrinsics_source` (`given`, `fov`, `exif` or `default`), `found` (false: no box, so the model
            finds nothing in the image) and `boxes`, a list of
            {`label`, `score`, `center`, `size`, `rotation`, `corners`, `box_2d`, `center_2d`, `depth_weights`}, with
            `pointing_spread` if the checkpoint points; units and frames as in
            `LLMI3DProcessor.post_process_grounding_3d`.
            For several phrases a list of dictionaries; for a list of images a list with an entry for each; for a
            generator an iterator.

        Raises:
            ValueError: invalid images, cameras or phrases, or counts that differ; the message names the argument.
        """
        if isinstance(images, list | tuple):
            if not images:
                raise ValueError("images: got an empty list, want at least one image.")
            prompts = _for_each_image("prompt", prompt, len(images), isinstance(prompt, str))
            cameras = _for_each_image("intrinsics", intrinsics, len(images), is_one_camera(intrinsics))
            fovs = _for_each_image("fov_deg", fov_deg, len(images), isinstance(fov_deg, int | float))
            samples = [_sample(image, *rest) for image, *rest in zip(images, prompts, cameras, fovs, strict=True)]
        elif _is_stream(images):
            samples = (_sample(image, prompt, intrinsics, fov_deg) for image in images)
        else:
            samples = _sample(images, prompt, intrinsics, fov_deg)
        return super().__call__(samples, **kwargs)

    def _sanitize_parameters(
        self,
        mode: str = "direct",
        threshold: float | None = 0.0,
        crop_padding: bool | None = None,
        pointing: bool = False,
        **generate_kwargs,
    ):
        if mode not in ("direct", "generate"):
            raise ValueError(f"mode: got '{mode}', want 'direct' or 'generate'.")
        return (
            {"mode": mode, "crop_padding": crop_padding},
            {"mode": mode, **generate_kwargs},
            {"mode": mode, "threshold": threshold, "pointing": pointing},
        )

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        return self._run_group([inputs], preprocess_params, forward_params, postprocess_params)[0]

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # The standard collation keeps only the first entry of ragged values, such as boxes and phrases.
        def stream() -> Iterator:
            items = iter(inputs)
            while group := list(itertools.islice(items, batch_size)):
                yield from self._run_group(group, preprocess_params, forward_params, postprocess_params)

        return stream()

    def _run_group(self, samples: list[dict], preprocess_params, forward_params, postprocess_params) -> list:
        image_processor, crop = self.processor.image_processor, preprocess_params["crop_padding"]
        if len(samples) == 1 or not (image_processor.crop_padding if crop is None else crop):
            return self._run_shape(samples, preprocess_params, forward_params, postprocess_params)
        images = image_processor.fetch_images([sample["image"] for sample in samples])
        shapes = {}
        for index, image in enumerate(images):
            shapes.setdefault(image_processor.empty_tokens(upright_size(image)), []).append(index)
        answers = [None] * len(samples)
        for chosen in shapes.values():
            group = [{**samples[index], "image": images[index]} for index in chosen]
            group = self._run_shape(group, preprocess_params, forward_params, postprocess_params)
            for index, answer in zip(chosen, group, strict=True):
                answers[index] = answer
        return answers

    def _run_shape(self, samples: list[dict], preprocess_params, forward_params, postprocess_params) -> list:
        outputs = self.forward(self.preprocess(samples, **preprocess_params), **forward_params)
        answers = iter(self.postprocess(outputs, **postprocess_params))
        return [
            next(answers)
            if isinstance(sample["prompt"], str)
            else list(itertools.islice(answers, len(sample["prompt"])))
            for sample in samples
        ]

    def preprocess(self, samples: list[dict], mode: str, crop_padding: bool | None = None) -> dict[str, Any]:
        phrases = [[sample["prompt"]] if isinstance(sample["prompt"], str) else sample["prompt"] for sample in samples]
        cameras = {}
        for name in ("intrinsics", "fov_deg"):
            values = [sample[name] for sample in samples]
            cameras[name] = None if all(value is None for value in values) else values
        inputs = self.processor.grounding_inputs(
            [sample["image"] for sample in samples],
            phrases,
            mode=mode,
            share_images=True,
            crop_padding=crop_padding,
            **cameras,
        )
        prompts = [phrase for group in phrases for phrase in group]
        return {"inputs": dict(inputs), "cameras": inputs.cameras, "prompts": prompts}

    def _forward(self, model_inputs: dict[str, Any], mode: str, **generate_kwargs) -> dict[str, Any]:
        inputs = model_inputs.pop("inputs")
        if mode == "direct":
            boxes, sequences = self.model.ground(**inputs).boxes_3d, None
        else:
            outputs = self.model.generate_boxes(**inputs, **self._prepare_generate_kwargs(generate_kwargs))
            boxes, sequences = outputs.boxes_3d, outputs.sequences[:, inputs["input_ids"].shape[1] :]
        return {**model_inputs, "boxes_3d": boxes, "sequences": sequences}

    def postprocess(
        self, model_outputs: dict[str, Any], mode: str, threshold: float | None, pointing: bool = False
    ) -> list[dict[str, Any]]:
        cameras, prompts, sequences = (model_outputs[key] for key in ("cameras", "prompts", "sequences"))
        texts = [""] * len(prompts)
        if sequences is not None:
            texts = [text.strip() for text in self.processor.batch_decode(sequences, skip_special_tokens=True)]
        answers = self.processor.post_process_grounding_3d(
            SimpleNamespace(boxes_3d=model_outputs["boxes_3d"]), cameras, [[prompt] for prompt in prompts], threshold
        )
        return [
            {
                "prompt": prompt,
                "mode": mode,
                "text": text,
                "image_size": list(camera.image_size),
                "intrinsics": [list(row) for row in camera.intrinsics],
                "intrinsics_source": camera.source,
                "found": bool(answer["labels"]),
                "boxes": _boxes_as_dicts(answer, pointing),
            }
            for prompt, text, camera, answer in zip(prompts, texts, cameras, answers, strict=True)
        ]

    def save_pretrained(self, save_directory, **kwargs):
        """Save model, processor and the pipeline's own code."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _sample(image: Any, prompt: Any, intrinsics: Any, fov_deg: Any) -> dict[str, Any]:
    """Return an image with its phrases and camera; entries of an image's own dictionary take precedence."""
    sample = {"prompt": prompt, "intrinsics": intrinsics, "fov_deg": fov_deg}
    if isinstance(image, dict):
        if "image" not in image:
            raise ValueError(
                f"image: got a dictionary with the keys {sorted(image)}, want the key 'image' among them."
            )
        sample.update({key: image[key] for key in sample if image.get(key) is not None})
        image = image["image"]
    if not sample["prompt"]:
        raise ValueError(f"prompt: got {sample['prompt']!r}, want a phrase that says what to find, or a list of them.")
    return {"image": image, **sample}


def _is_stream(images: Any) -> bool:
    """Tell whether `images` is a generator or dataset rather than one image."""
    if isinstance(images, str | dict | Image.Image | np.ndarray | torch.Tensor):
        return False
    return isinstance(images, Iterable) or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))


def _for_each_image(name: str, value: Any, count: int, is_one: bool) -> list:
    if value is None or is_one:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}: got {len(value)} for {count} images, want one for each.")
    return list(value)


def _boxes_as_dicts(answer: dict[str, Any], pointing: bool) -> list[dict[str, Any]]:
    """Convert the tensors of `post_process_grounding_3d` to one dictionary of plain values per box."""
    names = {
        "score": "scores",
        "center": "centers",
        "size": "sizes",
        "rotation": "rotations",
        "corners": "corners",
        "box_2d": "boxes_2d",
        "center_2d": "centers_2d",
    }
    if "pointing" in answer:
        names["pointing_spread"] = "pointing_spread"
        if pointing:
            names["pointing"] = "pointing"
    values = {name: answer[key].tolist() for name, key in names.items()}
    weights = answer["depth_weights"].tolist()
    return [
        {
            "label": label,
            **{name: value[index] for name, value in values.items()},
            "depth_weights": dict(zip(DEPTH_SOURCES, weights[index], strict=True)),
        }
        for index, label in enumerate(answer["labels"])
    ]


__all__ = ["Image3DGroundingPipeline"]
