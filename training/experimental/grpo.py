# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reinforcement learning for a model that writes boxes as text; format and exact 3D IoU are the rewards.

    box_text = BoxText.for_processor(processor, "numbers")
    trainer = LLMI3DGRPOTrainer(
        model,
        reward_funcs=box_rewards(box_text),
        args=GRPOConfig(output_dir="run"),
        train_dataset=grounding_prompts(rows, processor),
        processing_class=processor,
        peft_config=text_lora_config(model, train=()),
    )

Rewards are plain functions of texts and ground truth, with the signature that `trl.GRPOTrainer` expects.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from trl import GRPOTrainer

from llmi3d.data.schema import turns_of, upright_image
from llmi3d.evaluation.overlaps import group_ious
from llmi3d.evaluation.records import QUESTION_TASKS
from llmi3d.processing.cameras_llmi3d import DEFAULT_FOV_DEG
from llmi3d.processing.geometry_llmi3d import box_corners
from llmi3d.training.experimental.text_boxes import BoxText, network_intrinsics

# ------------------------------------------------------------------------------------------------------------- rewards


def box_rewards(box_text: BoxText) -> list[Callable]:
    """Return `format_reward` and `iou_reward` for the form in which a model writes boxes."""
    return [partial(format_reward, box_text=box_text), partial(iou_reward, box_text=box_text)]


def format_reward(
    completions: Sequence, targets: Sequence[list[dict]], intrinsics: Sequence, *, box_text: BoxText, **_
) -> list[float]:
    """Return 1 for each answer that can be read completely, else 0.

    If there are objects, the answer must have at least one box; if there are none, words that say so are enough.

    Args:
        completions: texts, or conversations of one turn.
        targets: true boxes {center, size, rotation} of each, metres, camera frame; an empty list for none.
        intrinsics: K of each in the network frame, [3, 3].
    """
    read = _read(completions, intrinsics, box_text)
    return [
        float(not answer.malformed and bool(answer.boxes or not true))
        for answer, true in zip(read, targets, strict=True)
    ]


def iou_reward(
    completions: Sequence, targets: Sequence[list[dict]], intrinsics: Sequence, *, box_text: BoxText, **_
) -> list[float]:
    """Return the exact 3D IoU of each answer with the truth, 0 to 1.

    For several boxes, it is the sum over the best one-to-one matching divided by the larger number of boxes, so
    missing and surplus boxes both cost. If nothing is there, an answer that says so gets 1.

    Args:
        completions, targets, intrinsics: as in `format_reward`.
    """
    read = _read(completions, intrinsics, box_text)
    ious = group_ious([(_corners(answer.boxes), _corners(true)) for answer, true in zip(read, targets, strict=True)])
    rewards = []
    for answer, iou in zip(read, ious, strict=True):
        if not iou.shape[1]:
            rewards.append(float(answer.abstains))
            continue
        predicted, matched = linear_sum_assignment(iou.numpy(), maximize=True)
        rewards.append(iou[torch.from_numpy(predicted), torch.from_numpy(matched)].sum().item() / max(iou.shape))
    return rewards


def _read(completions: Sequence, intrinsics: Sequence, box_text: BoxText) -> list:
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [box_text.read(text, torch.as_tensor(k)) for text, k in zip(texts, intrinsics, strict=True)]


def _corners(boxes: Sequence[dict]) -> Tensor:
    shapes = {"center": (3,), "size": (3,), "rotation": (3, 3)}
    fields = {name: torch.tensor([box[name] for box in boxes], dtype=torch.float64) for name in shapes}
    return box_corners(*(fields[name].reshape(-1, *shape) for name, shape in shapes.items()))


# ------------------------------------------------------------------------------------------------------------- prompts


def grounding_prompts(rows, processor) -> Dataset:
    """Return one prompt for each question of IG3D rows that boxes, or their absence, answer.

    Args:
        rows: a `datasets.Dataset` or a list; images are read from it when they are needed.
        processor: the model's processor.

    Returns:
        `prompt` (a conversation), `image`, and for the rewards `targets` and `intrinsics` (of the network frame).

    Raises:
        ValueError: no such question in any row.
    """
    examples = []
    for index in range(len(rows)):
        row = rows[index]
        k = network_intrinsics(processor, upright_image(row["image"]).size, row["intrinsics"]).tolist()
        objects = {entry["id"]: entry for entry in row["objects"]}
        for turn in turns_of(row):
            if turn.task not in QUESTION_TASKS:
                continue
            true = [{name: objects[i][name] for name in ("center", "size", "rotation")} for i in turn.targets]
            question = processor.refuse_special_tokens(turn.question)
            examples.append(
                {
                    "row": index,
                    "prompt": [{"role": "user", "content": question}],
                    "targets": true,
                    "intrinsics": k,
                }
            )
    if not examples:
        raise ValueError(f"rows: got {len(rows)} without a question that boxes answer, want at least one.")

    def with_images(batch: dict[str, list]) -> dict[str, list]:
        return {**batch, "image": [upright_image(rows[index]["image"]) for index in batch["row"]]}

    return Dataset.from_list(examples).with_transform(with_images)


# ------------------------------------------------------------------------------------------------------------- trainer


class LLMI3DGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` for a network with two pixel inputs.

    TRL generates with everything that the processor returns, but learns only from inputs that it knows by name. This
    class passes the high-resolution input along: one image per sample, in the order of the samples.
    """

    def _tokenize_prompts(self, prompts: list):
        tokenized = super()._tokenize_prompts(prompts)
        self._high_res = tokenized[-1]["high_res_pixel_values"]
        return tokenized

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._any_camera():
            output = super()._generate_and_score_completions(inputs)
        # From here on it is shuffled and split with the other inputs.
        return {**output, "high_res_pixel_values": self._high_res.to(self.accelerator.device)}

    def _compute_loss(self, model, inputs: dict[str, Any]) -> Tensor:
        return super()._compute_loss(partial(model, high_res_pixel_values=inputs["high_res_pixel_values"]), inputs)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, *args, batch_size: int | None = None, high_res_pixel_values=None, **kwargs
    ):
        if high_res_pixel_values is not None:  # the processor's output, for the log-probabilities before the step
            parts = iter(high_res_pixel_values.split(batch_size or len(input_ids)))
            whole = model

            def model(**inputs):  # called once per part of the batch, in order
                return whole(**inputs, high_res_pixel_values=next(parts))

        return super()._get_per_token_logps_and_entropies(model, input_ids, *args, batch_size=batch_size, **kwargs)

    @contextmanager
    def _any_camera(self) -> Iterator[None]:
        """Set a field of view: TRL does not pass K on, and without one the processor would warn of its guess."""
        image_processor = self.processing_class.image_processor
        before = getattr(image_processor, "fov_deg", None)
        image_processor.fov_deg = DEFAULT_FOV_DEG
        try:
            yield
        finally:
            image_processor.fov_deg = before
