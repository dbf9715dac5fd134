# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DTrainer: transformers' Trainer with the 3D criterion beside the language-modelling loss."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from llmi3d.training.arguments import LLMI3DTrainingArguments
from llmi3d.training.losses import Box3DCriterion, Box3DLossWeights, Box3DTargets


class LLMI3DTrainer(Trainer):
    """Trains `LLMI3DForConditionalGeneration`, plain or wrapped by PEFT, on what `LLMI3DDataCollator` makes.

    The loss is that of the whole optimisation step: language loss by the step's tokens, box losses by its boxes,
    depth-map loss by its images, whatever the split into accumulated batches and processes. Each component is logged,
    and the mean 3D IoU that the training boxes achieved (`box_iou`).

    Example:

    ```python
    >>> trainer = LLMI3DTrainer(model, args, train_dataset=rows, data_collator=LLMI3DDataCollator(processor))
    >>> trainer.train()
    ```
    """

    # Every part of `compute_loss` is divided by counts over the whole accumulated batch (see `get_batch_samples`).
    loss_is_scaled_for_ga = True

    def __init__(self, model=None, args: LLMI3DTrainingArguments | None = None, **kwargs):
        super().__init__(model, args or LLMI3DTrainingArguments(), **kwargs)
        self.criterion = Box3DCriterion(self._config(), self.args.loss_weights())
        self._counts: dict[str, Tensor | None] = {"num_boxes": None, "num_images": None}
        self._component_sums: dict[str, Tensor] = defaultdict(float)
        self._steps_at_last_log = 0

    def _config(self):
        return self.accelerator.unwrap_model(self.model).config

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.tensor(
            [
                sum(int(batch["targets_3d"]["mask"].sum()) for batch in batches),
                sum(len(batch["input_ids"]) for batch in batches),
            ],
            dtype=torch.float32,
            device=device,
        )
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        num_boxes, num_images = counts.clamp(min=1)
        self._counts = {"num_boxes": num_boxes, "num_images": num_images}
        return batches, num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        targets = Box3DTargets(**inputs.pop("targets_3d"))
        outputs = model(**inputs, **({} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}))
        counts = self._counts if model.training else {}
        boxes = self.criterion(outputs.boxes_3d, outputs.depth_logits, targets, **counts)
        language = self.args.lm_loss_weight * outputs.loss
        loss = language + boxes.total
        if model.training:
            for name, value in {"lm": language.detach(), **boxes.components}.items():
                self._component_sums[name] += value
            if boxes.iou is not None:
                self._component_sums["iou"] += boxes.iou.sum() / (counts["num_boxes"] or len(boxes.iou))
            # Gradients are averaged over processes, while the counts are those of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._component_sums and "loss" in logs:
            # The same names on every process, whatever its batches held.
            names = ["lm", *Box3DLossWeights.__dataclass_fields__, "iou"]
            sums = torch.tensor([float(self._component_sums[name]) for name in names], device=self.args.device)
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            steps = max(self.state.global_step - self._steps_at_last_log, 1)
            means = dict(zip(names, (sums / steps).tolist(), strict=True))
            logs = {**logs, "box_iou": means.pop("iou"), **{f"loss_{name}": value for name, value in means.items()}}
            self._component_sums.clear()
            self._steps_at_last_log = self.state.global_step
        super().log(logs, start_time)

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ):
        """Loss alone: boxes are ragged over samples and do not gather. `llmi3d.training.metrics` judges them."""
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None
