# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reinforcement of a model that writes boxes as text, on rewards that the truth decides: form and exact 3D IoU.

    box_text = BoxText.for_processor(processor, "numbers")
    trainer = LLMI3DGRPOTrainer(
        model,
        reward_funcs=box_rewards(box_text),
        args=GRPOConfig(output_dir="run"),
        train_dataset=grounding_prompts(rows, processor),
        processing_class=processor,
        peft_config=text_lora_config(model, train=()),
    )

Rewards are plain functions of texts and the truth, in the form that `trl.GRPOTrainer` calls.
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
    """`format_reward` and `iou_reward` for the form that a model writes."""
    return [partial(format_reward, box_text=box_text), partial(iou_reward, box_text=box_text)]


def format_reward(
    completions: Sequence, targets: Sequence[list[dict]], intrinsics: Sequence, *, box_text: BoxText, **_
) -> list[float]:
    """1 for an answer that can be read as a whole, 0 for any other.

    Where something is there it has to be a box or several; where nothing is, words that say so will do as well.

    Args:
        completions: texts, or conversations of one turn.
        targets: for each the true boxes {center, size, rotation}, metres, camera frame; none for what is not there.
        intrinsics: for each K of the network frame, [3, 3].
    """
    read = _read(completions, intrinsics, box_text)
    return [
        float(not answer.malformed and bool(answer.boxes or not true))
        for answer, true in zip(read, targets, strict=True)
    ]


def iou_reward(
    completions: Sequence, targets: Sequence[list[dict]], intrinsics: Sequence, *, box_text: BoxText, **_
) -> list[float]:
    """Exact 3D IoU with the truth, 0 to 1.

    Of several boxes the sum over pairs of the best matching, divided by the larger number of boxes, so that missing
    and surplus ones both cost. Where nothing is there, 1 for an answer that says so.

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
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [box_text.read(text, torch.as_tensor(k)) for text, k in zip(texts, intrinsics, strict=True)]


def _corners(boxes: Sequence[dict]) -> Tensor:
    shapes = {"center": (3,), "size": (3,), "rotation": (3, 3)}
    fields = {name: torch.tensor([box[name] for box in boxes], dtype=torch.float64) for name in shapes}
    return box_corners(*(fields[name].reshape(-1, *shape) for name, shape in shapes.items()))


# ------------------------------------------------------------------------------------------------------------- prompts


def grounding_prompts(rows, processor) -> Dataset:
    """One example for each question of IG3D rows that boxes or their absence answer, asked alone as in use.

    Args:
        rows: by index, a `datasets.Dataset` or a list; pictures are read from it when they are needed.
        processor: the model's.

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

    def with_pictures(batch: dict[str, list]) -> dict[str, list]:
        return {**batch, "image": [upright_image(rows[index]["image"]) for index in batch["row"]]}

    return Dataset.from_list(examples).with_transform(with_pictures)


# ------------------------------------------------------------------------------------------------------------- trainer


class LLMI3DGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` for a network with two pixel inputs.

    TRL generates with whatever the processor gives, but learns from the inputs that it knows by name. Here the high
    resolution goes along: one picture a sample, in the order of the samples.
    """

    def _tokenize_prompts(self, prompts: list):
        found = super()._tokenize_prompts(prompts)
        self._high_res = found[-1]["high_res_pixel_values"]
        return found

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._any_camera():
            output = super()._generate_and_score_completions(inputs)
        # Shuffled and split with the rest from here on.
        return {**output, "high_res_pixel_values": self._high_res.to(self.accelerator.device)}

    def _compute_loss(self, model, inputs: dict[str, Any]) -> Tensor:
        return super()._compute_loss(partial(model, high_res_pixel_values=inputs["high_res_pixel_values"]), inputs)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, *args, batch_size: int | None = None, high_res_pixel_values=None, **kwargs
    ):
        if high_res_pixel_values is not None:  # what the processor gave, for probabilities before the step
            parts = iter(high_res_pixel_values.split(batch_size or len(input_ids)))
            whole = model

            def model(**inputs):  # called once a part of the batch, in order
                return whole(**inputs, high_res_pixel_values=next(parts))

        return super()._get_per_token_logps_and_entropies(model, input_ids, *args, batch_size=batch_size, **kwargs)

    @contextmanager
    def _any_camera(self) -> Iterator[None]:
        """Pixels do not depend on K, which TRL does not hand on: without one the processor would warn of its guess."""
        image_processor = self.processing_class.image_processor
        before = getattr(image_processor, "fov_deg", None)
        image_processor.fov_deg = DEFAULT_FOV_DEG
        try:
            yield
        finally:
            image_processor.fov_deg = before
