# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DTrainer: transformers' Trainer with the 3D criterion beside the language-modelling loss.

Shapes: B samples, Q query tokens of a sample (padded), K boxes of a batch.
"""

import contextlib
import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from llmi3d.training.arguments import LLMI3DTrainingArguments
from llmi3d.training.checkpoints import AtomicCheckpoints
from llmi3d.training.dense import dense_boxes, gaze_loss, naming_losses
from llmi3d.training.evaluation_sums import EvaluationSums, box_sums, first_rows
from llmi3d.training.finiteness import FiniteSteps, not_finite
from llmi3d.training.losses import Box3DCriterion, Box3DLossWeights, Box3DTargets
from llmi3d.training.parameter_groups import muon, split_new_parts
from llmi3d.training.trainable import unwrapped

# Parts of the loss beside those of `Box3DLossWeights`, which a batch with dense labels has.
DENSE_COMPONENTS = ("names", "objectness", "dense", "gaze")


class LLMI3DTrainer(AtomicCheckpoints):
    """Train `LLMI3DForConditionalGeneration`, plain or wrapped by PEFT, on what `LLMI3DDataCollator` makes.

    The loss is that of the whole optimisation step: language loss by the step's tokens, box losses by its boxes,
    depth-map loss by its images, whatever the split into accumulated batches and processes. Each component is logged,
    and the mean 3D IoU that the training boxes achieved (`box_iou`).

    Where the collator draws dense labels, the boxes at their places are judged by the same criterion
    (`args.dense_loss_weight`), and with `args.gaze_loss_weight` so is where words look. The model may also be
    `DenseDetector`, which learns from dense labels alone.

    `evaluate` gives `eval_loss` and its components over the whole data set, and of the boxes at the query tokens of
    the *true* answers `eval_acc@0.25`, `eval_acc@0.5`, `eval_mean_iou` (exact oriented 3D IoU) and the mean absolute
    `eval_depth_error`, `eval_length_error`, `eval_width_error`, `eval_height_error` (metres; as
    `evaluation.grounding` defines them without symmetry), with `eval_num_boxes`. Without a box in the data they are
    left out. This costs little more than the loss and serves to choose a checkpoint; `llmi3d evaluate` asks phrase by
    phrase without showing the answer, and its numbers are those to report.

    A loss or gradient that is not finite stops the training with its components or parameters and the rows named, or
    its step is skipped by all processes (`args.nonfinite`). An evaluation always stops.

    A checkpoint gets its name only when it is whole, so the last `checkpoint-*` is one to resume from however the run
    was interrupted. With FSDP2, mixed precision is autocast as on one process: parameters keep their own dtype, and
    the 3D heads stay in float32.

    Raises:
        ValueError: `compute_metrics`, whose place the metrics above have; `new_parts_learning_rate` or `muon` with an
            optimizer made elsewhere; `nonfinite="skip"` with DeepSpeed, which steps by itself; dense labels with
            sharded weights.

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
        if self.compute_metrics is not None:
            raise ValueError("compute_metrics: got a function, want None: boxes are judged as they are decoded.")
        for name in ("new_parts_learning_rate", "muon"):
            if self.optimizer is not None and getattr(self.args, name):
                raise ValueError(f"{name}: got it with `optimizers`, whose groups have their own rates.")
        if self.args.nonfinite == "skip" and self.is_deepspeed_enabled:
            raise ValueError("nonfinite: got 'skip' with DeepSpeed, want 'raise': DeepSpeed steps by itself.")
        config = self._config()
        self.criterion = Box3DCriterion(config, self.args.loss_weights())
        boxes = [name for name in Box3DLossWeights.__dataclass_fields__ if config.pointing or name != "pointing"]
        self._components = ("lm", *boxes)
        self._dense_components: tuple[str, ...] = ()
        # Of the whole step under way: what sums are divided by, ...
        self._counts: dict[str, Tensor] = {}
        self._step_loss: Tensor | float = 0.0
        self._step_sums: dict[str, Tensor] = defaultdict(float)
        self._finite_steps = FiniteSteps(self)
        # ... and of the steps since the last log.
        self._component_sums: dict[str, Tensor] = defaultdict(float)
        self._steps_taken = self._steps_skipped = 0
        self._evaluation = EvaluationSums(self._components)

    def _config(self):
        return self.accelerator.unwrap_model(self.model).config

    # ------------------------------------------------------------------------------------------------------- engines

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            # accelerate's policy would cast all parameters and outputs, the 3D heads' too; see `compute_loss`.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `Trainer`; Muon with `muon`, and new parts apart with `new_parts_learning_rate`."""
        args, made_here = self.args, self.optimizer is None
        if made_here and args.muon:
            betas = (args.adam_beta1, args.adam_beta2)
            self.optimizer = muon(model or self.model, args.learning_rate, args.weight_decay, betas)
        optimizer = super().create_optimizer(model)
        if args.new_parts_learning_rate is not None:
            if made_here:
                split_new_parts(optimizer, model or self.model, args.new_parts_learning_rate)
            elif self.is_deepspeed_enabled:
                raise ValueError("new_parts_learning_rate: got it with an optimizer in DeepSpeed's configuration.")
        return optimizer

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # Apart: DeepSpeed's inputs are cast to the model's dtype, and cameras and boxes would be rounded.
        targets = {name: value.to(self.args.device) for name, value in inputs["targets_3d"].items()}
        return {**super()._prepare_inputs({**inputs, "targets_3d": {}}), "targets_3d": targets}

    # ---------------------------------------------------------------------------------------------------------- loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = _count(batches)
        flat = torch.cat([value.to(device).reshape(-1) for value in counts.values()])
        if self.args.world_size > 1:
            flat = self.accelerator.reduce(flat, "sum")
        parts = flat.clamp(min=1).split([value.numel() for value in counts.values()])
        self._counts = {name: part.view_as(counts[name]) for name, part in zip(counts, parts, strict=True)}
        if batches and "dense" in batches[0]:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("dense labels: got them with sharded weights, want neither FSDP nor DeepSpeed.")
            self._dense_components = DENSE_COMPONENTS[2:] if "labels" in batches[0] else DENSE_COMPONENTS[:2]
        return batches, None if num_items is None else torch.clamp(num_items, min=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        rows = inputs.pop("image_id", None) or ["(no image_id)"]
        targets = Box3DTargets(**inputs.pop("targets_3d"))
        has_words, dense, gaze = "labels" in inputs, inputs.get("dense"), inputs.pop("gaze", None)
        # Without words the Trainer counts nothing by itself.
        counts = self._counts if num_items_in_batch is not None or not has_words else {}
        if num_items_in_batch is not None:
            inputs["num_items_in_batch"] = num_items_in_batch
        if dense is not None and has_words:
            del inputs["dense"]
            inputs["output_hidden_states"] = not self._config().pointing  # see `dense_boxes`
            inputs["output_attentions"] = self.args.gaze_loss_weight > 0
        # Elsewhere accelerate has put autocast into the model's forward.
        with self.accelerator.autocast() if self.is_fsdp_enabled else contextlib.nullcontext():
            outputs = model(**inputs)
        truth = {f"targets_3d.{name}": getattr(targets, name) for name in ("center", "size", "rotation", "intrinsics")}
        answers = _answers(outputs)
        faults = not_finite({**answers, **truth})
        components, iou = {}, None
        if not faults:
            loss, components, iou = self._losses(outputs, targets, counts)
            if dense is not None:
                aids = self._dense_losses(model, inputs, outputs, dense, gaze, counts)
                loss, components = loss + sum(aids.values()), components | aids
            components = {name: value.detach() for name, value in components.items()}
            faults = not_finite(components)
        if faults:
            told = {**answers, **truth, **({"lm": outputs.logits} if has_words else {})}
            self._finite_steps.fault(faults, told, rows, model.training)
            components, iou = {}, None
            # To be dropped where all processes meet, at the end of the step; till then they wait for all gradients.
            loss = torch.zeros((), device=self.args.device, requires_grad=True)
            if self.args.world_size > 1:
                loss = loss + sum(value.sum() for value in answers.values())
        for name, value in components.items():
            self._step_sums[name] += value
        if model.training:
            self._finite_steps.rows += rows
            if iou is not None:
                self._step_sums["iou"] += iou.sum() / counts.get("num_boxes", len(iou))
                self._step_sums["acc_25"] += (iou > 0.25).sum() / counts.get("num_boxes", len(iou))
            # Gradients are averaged over processes, while the counts are those of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _losses(self, outputs, targets: Box3DTargets, counts: dict[str, Tensor]):
        """Return the loss of words and boxes, its components and the achieved IoU."""
        per = {name: counts.get(name) for name in ("num_boxes", "num_images")}
        boxes = self.criterion(outputs.boxes_3d, outputs.depth_logits, targets, **per)
        if outputs.get("loss") is None:
            return boxes.total, boxes.components, boxes.iou
        language = self.args.lm_loss_weight * outputs.loss
        return language + boxes.total, {"lm": language, **boxes.components}, boxes.iou

    def _dense_losses(self, model, inputs, outputs, dense, gaze, counts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted losses of dense labels, beside the boxes that `DenseDetector` answers with."""
        if "labels" not in inputs:
            losses = naming_losses(outputs, dense, counts)
            return {name: self.args.name_loss_weight * value for name, value in losses.items()}
        losses, network = {}, unwrapped(self.accelerator.unwrap_model(model))
        is_image = inputs["input_ids"] == network.config.image_token_id
        if self.args.gaze_loss_weight and gaze is not None:
            first = int(is_image[0].nonzero()[0])
            looked = gaze_loss(outputs.attentions, gaze, first, counts.get("gazes"))
            losses["gaze"] = self.args.gaze_loss_weight * looked
        if self.args.dense_loss_weight:
            states = None
            if not network.config.pointing:
                states = outputs.hidden_states[-1]
                states = states[is_image].view(len(states), -1, states.shape[-1])
            boxes = dense_boxes(network.box_head, outputs.image_outputs, states, dense)
            # The depth map is judged with the query tokens' boxes already.
            judged = self.criterion(boxes, None, Box3DTargets(**dense["targets"]), counts.get("dense"))
            losses["dense"] = self.args.dense_loss_weight * judged.total
        return losses

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As `Trainer`; the last batch of a step brings the whole step's loss, or 0 if the step is skipped."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss = self._step_loss + loss
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        total, sums = self._step_loss, self._step_sums
        finite = self._finite_steps.judge()
        self._step_loss, self._step_sums = 0.0, defaultdict(float)
        if not finite:
            self._steps_skipped += 1
            return torch.zeros_like(loss)
        self._steps_taken += 1
        for name, value in sums.items():
            self._component_sums[name] += value
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # The same names on every process, whatever its batches held.
            components = (*self._components, *self._dense_components)
            names = [*components, "iou", "acc_25"]
            sums = torch.tensor([float(self._component_sums[name]) for name in names], device=self.args.device)
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            taken, skipped = self._steps_taken, self._steps_skipped
            means = dict(zip(names, (sums / (taken or math.nan)).tolist(), strict=True))
            logs = {**logs, "box_iou": means["iou"], "box_acc_25": means["acc_25"]}
            logs |= {f"loss_{name}": means[name] for name in components}
            if skipped:
                logs |= {"loss": logs["loss"] * (taken + skipped) / (taken or math.nan), "skipped_steps": skipped}
            self._component_sums.clear()
            self._steps_taken = self._steps_skipped = 0
        super().log(logs, start_time)

    # ---------------------------------------------------------------------------------------------------- evaluation

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As `Trainer`, with the metrics of this class (see there) beside the loss."""
        self._evaluation = EvaluationSums((*self._components, *self._dense_components))
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = self._evaluation.metrics()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ):
        """Add up what `evaluation_loop` divides; nothing is handed on, as boxes are ragged and do not gather."""
        inputs = self._prepare_inputs(inputs)
        size = len(inputs["input_ids"])
        own = self._rows_of_own(size)
        if own < size:
            inputs = first_rows(inputs, max(own, 1), size)
        for name in ("dense", "gaze"):  # aids of training
            inputs.pop(name, None)
        one = torch.ones((), device=self.args.device)
        self._counts, self._step_sums = {"num_boxes": one, "num_images": one}, defaultdict(float)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=one)
        sums, self._step_sums = self._step_sums, defaultdict(float)
        if own:
            sums |= box_sums(
                outputs.boxes_3d, Box3DTargets(**inputs["targets_3d"]), self._config().virtual_focal_length
            )
            sums |= {"num_images": own, "num_tokens": (inputs["labels"][..., 1:] != -100).sum()}
            self._evaluation.add(sums)
        return loss.detach(), None, None

    def _rows_of_own(self, size: int) -> int:
        """Return how many of a batch's rows, the first ones, no other batch has: accelerate fills up the last batch of
        a data set with its first rows, so that every process has one."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return size
        return min(max(state.remainder - self.accelerator.process_index * size, 0), size)


def _count(batches: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return what the losses of some batches are divided by, float32."""

    def add(values) -> Tensor:
        return torch.as_tensor(sum(values), dtype=torch.float32)

    counts = {
        "num_boxes": add(batch["targets_3d"]["mask"].sum() for batch in batches),
        "num_images": add(len(batch["targets_3d"]["intrinsics"]) for batch in batches),
    }
    if batches and (dense := [batch["dense"] for batch in batches if "dense" in batch]):
        counts |= {
            "dense": add(labels["mask"].sum() for labels in dense),
            "names": add((labels["names"] >= 0).sum((0, 1)) for labels in dense),
            "maps": add(labels["has_map"].sum() for labels in dense),
            "gazes": add(len(batch["gaze"]["samples"]) for batch in batches if "gaze" in batch),
        }
    return counts


def _answers(outputs) -> dict[str, Tensor]:
    """Return what the loss is made of, by name: `lm`, `depth_map` and the fields of `Box3DHeadOutput`."""
    answers = {"lm": outputs.get("loss"), "depth_map": outputs.depth_logits}
    answers |= {name: value for name, value in outputs.boxes_3d.items() if value.is_floating_point()}
    return {name: value for name, value in answers.items() if value is not None}
