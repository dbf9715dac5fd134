# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DTrainer: transformers' Trainer with the 3D criterion beside the language-modelling loss.

Shapes: B samples, Q query tokens of a sample (padded), K boxes of a batch.
"""

import contextlib
import math
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from llmi3d.evaluation.grounding import THRESHOLDS
from llmi3d.evaluation.iou3d import box3d_iou
from llmi3d.processing.geometry_llmi3d import box_corners, decode_boxes, rotation_6d_to_matrix
from llmi3d.training.arguments import LLMI3DTrainingArguments
from llmi3d.training.lora import NEW_PARTS
from llmi3d.training.losses import Box3DCriterion, Box3DLossWeights, Box3DTargets

logger = logging.get_logger(__name__)

# Names of the loss's parts, in logs after `loss_`.
COMPONENTS = ("lm", *Box3DLossWeights.__dataclass_fields__)
# Half-written checkpoints lie here; uploads to the Hub leave out what starts with "_".
_STAGING = "_incomplete"


class LLMI3DTrainer(Trainer):
    """Trains `LLMI3DForConditionalGeneration`, plain or wrapped by PEFT, on what `LLMI3DDataCollator` makes.

    The loss is that of the whole optimisation step: language loss by the step's tokens, box losses by its boxes,
    depth-map loss by its images, whatever the split into accumulated batches and processes. Each component is logged,
    and the mean 3D IoU that the training boxes achieved (`box_iou`).

    `evaluate` gives `eval_loss` and its components over the whole data set, and of the boxes at the query tokens of
    the *true* answers `eval_acc@0.25`, `eval_acc@0.5`, `eval_mean_iou` (exact oriented 3D IoU) and the mean absolute
    `eval_depth_error`, `eval_length_error`, `eval_width_error`, `eval_height_error` (metres; as `metrics.grounding`
    defines them without symmetry), with `eval_num_boxes`. Without a box in the data they are left out. This costs
    little more than the loss and serves to choose a checkpoint; `llmi3d evaluate` asks phrase by phrase without
    showing the answer, and its numbers are those to report.

    A loss or gradient that is not finite stops the training with its components or parameters and the rows named, or
    its step is passed over by all processes (`args.nonfinite`). An evaluation always stops.

    A checkpoint gets its name only when it is whole, so the last `checkpoint-*` is one to resume from however the run
    was interrupted. With FSDP2, mixed precision is autocast as on one process: parameters keep their own dtype, and
    the 3D heads stay in float32.

    Raises:
        ValueError: `compute_metrics`, whose place the metrics above have; `new_parts_learning_rate` with an optimizer
            made elsewhere; `nonfinite="skip"` with DeepSpeed, which steps by itself.

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
        if self.optimizer is not None and self.args.new_parts_learning_rate is not None:
            raise ValueError("new_parts_learning_rate: got it with `optimizers`, whose groups have their own rates.")
        if self.args.nonfinite == "skip" and self.is_deepspeed_enabled:
            raise ValueError("nonfinite: got 'skip' with DeepSpeed, want 'raise': DeepSpeed steps by itself.")
        self.criterion = Box3DCriterion(self._config(), self.args.loss_weights())
        self._counts: dict[str, Tensor | None] = {"num_boxes": None, "num_images": None}
        # Of the step under way, ...
        self._step_loss: Tensor | float = 0.0
        self._step_sums: dict[str, Tensor] = defaultdict(float)
        self._step_rows: list[str] = []
        self._step_faults: list[str] = []
        # ... of the steps since the last log, and of the evaluation.
        self._component_sums: dict[str, Tensor] = defaultdict(float)
        self._steps_taken = self._steps_skipped = 0
        self._evaluation_sums: dict[str, float] = defaultdict(float)
        self._staging: str | None = None

    def _config(self):
        return self.accelerator.unwrap_model(self.model).config

    # ------------------------------------------------------------------------------------------------------- engines

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            # accelerate's policy would cast all parameters and outputs, the 3D heads' too; see `compute_loss`.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `Trainer`; with `new_parts_learning_rate` each group is split into what is new and the rest."""
        rate, made_here = self.args.new_parts_learning_rate, self.optimizer is None
        optimizer = super().create_optimizer(model)
        if rate is None:
            return optimizer
        if not made_here:
            if self.is_deepspeed_enabled:
                raise ValueError("new_parts_learning_rate: got it with an optimizer in DeepSpeed's configuration.")
            return optimizer  # of an earlier call
        trained = {
            name: p for name, p in (self.model if model is None else model).named_parameters() if p.requires_grad
        }
        has_adapters = any("lora_" in name for name in trained)
        new = {
            id(parameter)
            for name, parameter in trained.items()
            if ("lora_" not in name if has_adapters else not set(NEW_PARTS).isdisjoint(name.split(".")))
        }
        split = [
            {**group, "params": chosen, "lr": rate}
            for group in optimizer.param_groups
            if (chosen := [parameter for parameter in group["params"] if id(parameter) in new])
        ]
        if not split:
            raise ValueError(f"new_parts_learning_rate: got {rate}, but no such parameter is trained.")
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in new]
        for group in split:
            optimizer.add_param_group(group)
        return optimizer

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # Apart: DeepSpeed's inputs are cast to the model's dtype, and cameras and boxes would be rounded.
        targets = {name: value.to(self.args.device) for name, value in inputs["targets_3d"].items()}
        return {**super()._prepare_inputs({**inputs, "targets_3d": {}}), "targets_3d": targets}

    # ---------------------------------------------------------------------------------------------------------- loss

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
        return batches, None if num_items is None else torch.clamp(num_items, min=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        rows = inputs.pop("image_id", None) or ["(no image_id)"]
        targets = Box3DTargets(**inputs.pop("targets_3d"))
        counted = num_items_in_batch is not None
        # Elsewhere accelerate has put autocast into the model's forward.
        with self.accelerator.autocast() if self.is_fsdp_enabled else contextlib.nullcontext():
            outputs = model(**inputs, **({"num_items_in_batch": num_items_in_batch} if counted else {}))
        truth = {f"targets_3d.{name}": getattr(targets, name) for name in ("center", "size", "rotation", "intrinsics")}
        answers = _answers(outputs)
        faults = _not_finite({**answers, **truth})
        components, iou = {}, None
        if not faults:
            counts = self._counts if counted else {}
            boxes = self.criterion(outputs.boxes_3d, outputs.depth_logits, targets, **counts)
            language = self.args.lm_loss_weight * outputs.loss
            loss, iou = language + boxes.total, boxes.iou
            components = {"lm": language.detach(), **boxes.components}
            faults = _not_finite(components)
        if faults:
            spoiled = _rows_not_finite({**answers, **truth, "lm": outputs.logits}, rows)
            fault = f"{', '.join(faults)} of {', '.join(spoiled)}"
            if not model.training or self.args.nonfinite == "raise":
                where = f"Step {self.state.global_step + 1}" if model.training else "Evaluation"
                raise FloatingPointError(f"{where}: not finite: {fault}.")
            self._step_faults.append(fault)
            components, iou = {}, None
            # To be dropped where all processes meet, at the end of the step; till then they wait for all gradients.
            loss = torch.zeros((), device=self.args.device, requires_grad=True)
            if self.args.world_size > 1:
                loss = loss + sum(value.sum() for value in answers.values())
        for name, value in components.items():
            self._step_sums[name] += value
        if model.training:
            self._step_rows += rows
            if iou is not None:
                self._step_sums["iou"] += iou.sum() / (self._counts["num_boxes"] if counted else len(iou))
            # Gradients are averaged over processes, while the counts are those of all of them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As `Trainer`; the last batch of a step brings the whole step's loss, or 0 if the step is passed over."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss = self._step_loss + loss
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        total, sums = self._step_loss, self._step_sums
        finite = self._judge_step()
        self._step_loss, self._step_sums, self._step_rows, self._step_faults = 0.0, defaultdict(float), [], []
        if not finite:
            self._steps_skipped += 1
            return torch.zeros_like(loss)
        self._steps_taken += 1
        for name, value in sums.items():
            self._component_sums[name] += value
        return total

    def _judge_step(self) -> bool:
        """Whether losses and gradients of all processes are finite; else, if it does not raise, no gradient is left.

        Raises:
            FloatingPointError: they are not, and `args.nonfinite` is "raise".
        """
        wild = [] if self._step_faults else _wild_gradients(self.model)
        faulty = torch.tensor(float(bool(self._step_faults or wild)), device=self.args.device)
        if self.args.world_size > 1:
            faulty = self.accelerator.reduce(faulty, "sum")
        if not faulty:
            return True
        faults = gather_object(self._step_faults)
        wild, rows = gather_object(wild), gather_object(self._step_rows)
        scaler = self.accelerator.scaler
        if scaler is not None and not faults:
            return False  # a part of its search for a scale: it passes over the step by itself
        if not faults:
            some = [*dict.fromkeys(wild)]
            more = f" and {len(some) - 3} more" if len(some) > 3 else ""
            faults = [f"the gradients of {', '.join(some[:3])}{more}, after {', '.join(dict.fromkeys(rows))}"]
        message = f"Step {self.state.global_step + 1}: not finite: {'; '.join(faults)}."
        if self.args.nonfinite == "raise":
            raise FloatingPointError(message)
        if self.is_world_process_zero():
            logger.warning(f"{message} The step is passed over.")
        if scaler is None:  # optimizers leave alone what has no gradient, moments included
            self.model.zero_grad(set_to_none=True)
        return False

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # The same names on every process, whatever its batches held.
            names = [*COMPONENTS, "iou"]
            sums = torch.tensor([float(self._component_sums[name]) for name in names], device=self.args.device)
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            taken, skipped = self._steps_taken, self._steps_skipped
            means = dict(zip(names, (sums / (taken or math.nan)).tolist(), strict=True))
            logs = {**logs, "box_iou": means.pop("iou"), **{f"loss_{name}": value for name, value in means.items()}}
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
        self._evaluation_sums.clear()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        totals = defaultdict(float)
        for sums in gather_object([dict(self._evaluation_sums)]):
            for name, value in sums.items():
                totals[name] += value
        num_boxes = totals.pop("num_boxes")
        per = defaultdict(lambda: num_boxes, lm=totals.pop("num_tokens"), depth_map=totals.pop("num_images"))
        losses = {name: totals.pop(name, 0.0) / (per[name] or 1) for name in COMPONENTS}
        metrics = {"loss": sum(losses.values()), **{f"loss_{name}": value for name, value in losses.items()}}
        metrics |= {name: value / num_boxes for name, value in totals.items() if num_boxes}
        metrics["num_boxes"] = int(num_boxes)
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
        """Adds up what `evaluation_loop` divides; nothing is handed on, as boxes are ragged and do not gather."""
        inputs = self._prepare_inputs(inputs)
        size = len(inputs["input_ids"])
        own = self._rows_of_own(size)
        if own < size:
            inputs = _first_rows(inputs, max(own, 1), size)
        one = torch.ones((), device=self.args.device)
        self._counts, self._step_sums = {"num_boxes": one, "num_images": one}, defaultdict(float)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=one)
        sums, self._step_sums = self._step_sums, defaultdict(float)
        if own:
            targets = Box3DTargets(**inputs["targets_3d"])
            sums |= _box_sums(outputs.boxes_3d, targets, self._config().virtual_focal_length)
            sums["num_images"] = own
            sums["num_tokens"] = (inputs["labels"][..., 1:] != -100).sum()
            for name, value in sums.items():
                self._evaluation_sums[name] += float(value)
        return loss.detach(), None, None

    def _rows_of_own(self, size: int) -> int:
        """How many of a batch's rows, the first ones, no other batch has: accelerate fills up the last batch of a data
        set with its first rows, so that every process has one."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return size
        return min(max(state.remainder - self.accelerator.process_index * size, 0), size)

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _get_output_dir(self, trial) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model, trial) -> None:
        """As `Trainer`, but beside the other checkpoints, and renamed when every process has written its part."""
        folder = Path(self._get_output_dir(trial))
        staging, final = folder / _STAGING, folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        except Exception:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self._staging = None
        if self.state.best_model_checkpoint == str(staging / final.name):
            self.state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staging / final.name / TRAINER_STATE_NAME))
            _publish(staging / final.name, final)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))


def _publish(staged: Path, final: Path) -> None:
    """Gives a checkpoint its name, once it is on the disk; one that has the name stays until then."""
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if final.exists():
        final.rename(staged.with_name("replaced"))
    staged.rename(final)
    shutil.rmtree(staged.parent)


def _answers(outputs) -> dict[str, Tensor]:
    """What the loss is made of, by name: `lm`, `depth_map` and the fields of `Box3DHeadOutput`."""
    depth = {} if outputs.depth_logits is None else {"depth_map": outputs.depth_logits}
    boxes = {name: value for name, value in outputs.boxes_3d.items() if value.is_floating_point()}
    return {"lm": outputs.loss, **depth, **boxes}


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of those that are not finite throughout."""
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]


def _rows_not_finite(tensors: dict[str, Tensor], rows: list[str]) -> list[str]:
    """The rows of which some tensor [B, ...] is not finite; all, if that cannot be told."""
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in tensors.values()]).all(0)
    return [row for row, is_finite in zip(rows, finite.tolist(), strict=False) if not is_finite] or rows


def _wild_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient, or this process's part of it, is not finite."""
    largest = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            gradient = gradient.to_local()
        if gradient is not None and gradient.numel():
            largest[name] = torch.linalg.vector_norm(gradient, torch.inf).float()
    return _not_finite(largest) if largest else []


def _first_rows(data: Any, count: int, size: int) -> Any:
    """The first rows of whatever holds `size` of them."""
    if isinstance(data, dict):
        return {name: _first_rows(value, count, size) for name, value in data.items()}
    has_rows = isinstance(data, list) or (isinstance(data, Tensor) and data.ndim > 0)
    return data[:count] if has_rows and len(data) == size else data


def _box_sums(boxes, targets: Box3DTargets, virtual_focal_length: float) -> dict[str, Tensor | int]:
    """Sums over the boxes of a batch of what `LLMI3DTrainer` evaluates, and their number."""
    mask, k = targets.mask, targets.intrinsics[:, None].expand(-1, targets.mask.shape[1], -1, -1)
    found = {name: value[boxes.mask] for name, value in boxes.items()}
    true = [getattr(targets, name)[mask] for name in ("center", "size", "rotation")]
    answer = decode_boxes(
        found["center_2d_px"],
        found["depth_virtual"],
        found["size"],
        rotation_6d_to_matrix(found["rotation_6d"]),
        k[mask],
        virtual_focal_length,
    )
    # In double precision, as in the criterion: early boxes can be a hair wide and far away.
    corners, true_corners = (box_corners(*(value.double() for value in box)) for box in (answer, true))
    iou = box3d_iou(corners, true_corners, paired=True)
    off = (answer[1] - true[1]).abs().sum(0)
    return {
        **{f"acc@{threshold:g}": (iou > threshold).sum() for threshold in THRESHOLDS},
        "mean_iou": iou.sum(),
        "depth_error": (answer[0] - true[0])[:, 2].abs().sum(),
        "length_error": off[0],
        "width_error": off[2],
        "height_error": off[1],
        "num_boxes": len(iou),
    }
