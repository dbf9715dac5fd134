# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Losses and gradients that are not finite: found, named, and raised or skipped by all processes together."""

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.utils import logging

logger = logging.get_logger(__name__)


class FiniteSteps:
    """Judge the optimisation steps of a trainer.

    Args:
        trainer: a `Trainer` whose arguments are `LLMI3DTrainingArguments`.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.rows: list[str] = []
        self.faults: list[str] = []

    def fault(self, faults: list[str], tensors: dict[str, Tensor], rows: list[str], training: bool) -> None:
        """Note what is not finite, or raise it in an evaluation and with `nonfinite="raise"`.

        Args:
            faults: names of what is not finite.
            tensors: [B, ...] each, which tell the rows at fault.
            rows: names of the B rows.
            training: whether this is a training step.

        Raises:
            FloatingPointError: see above.
        """
        found = f"{', '.join(faults)} of {', '.join(rows_not_finite(tensors, rows))}"
        if not training or self.trainer.args.nonfinite == "raise":
            where = f"Step {self.trainer.state.global_step + 1}" if training else "Evaluation"
            raise FloatingPointError(f"{where}: not finite: {found}.")
        self.faults.append(found)

    def judge(self) -> bool:
        """Return whether losses and gradients of the step are finite on all processes; if not, leave no gradient.

        Raises:
            FloatingPointError: they are not, and `nonfinite` is "raise".
        """
        trainer, step_faults, step_rows = self.trainer, self.faults, self.rows
        accelerator, model = trainer.accelerator, trainer.model
        self.rows, self.faults = [], []
        wild = [] if step_faults else wild_gradients(model)
        faulty = torch.tensor(float(bool(step_faults or wild)), device=trainer.args.device)
        if trainer.args.world_size > 1:
            faulty = accelerator.reduce(faulty, "sum")
        if not faulty:
            return True
        faults = gather_object(step_faults)
        wild, rows = gather_object(wild), gather_object(step_rows)
        if accelerator.scaler is not None and not faults:
            return False  # a part of its search for a scale: it skips the step by itself
        if not faults:
            names = [*dict.fromkeys(wild)]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            faults = [f"the gradients of {', '.join(names[:3])}{more}, after {', '.join(dict.fromkeys(rows))}"]
        message = f"Step {trainer.state.global_step + 1}: not finite: {'; '.join(faults)}."
        if trainer.args.nonfinite == "raise":
            raise FloatingPointError(message)
        if trainer.is_world_process_zero():
            logger.warning(f"{message} The step is skipped.")
        if accelerator.scaler is None:  # optimizers leave alone what has no gradient, moments included
            model.zero_grad(set_to_none=True)
        return False


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of those that are not finite throughout."""
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]


def rows_not_finite(tensors: dict[str, Tensor], rows: list[str]) -> list[str]:
    """Return the rows of which some tensor [B, ...] is not finite; all, if that cannot be told."""
    finite = torch.stack([value.isfinite().flatten(1).all(1) for value in tensors.values()]).all(0)
    return [row for row, is_finite in zip(rows, finite.tolist(), strict=False) if not is_finite] or rows


def wild_gradients(model: nn.Module) -> list[str]:
    """Return the names of the parameters whose gradient, or this process's part of it, is not finite."""
    largest = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            gradient = gradient.to_local()
        if gradient is not None and gradient.numel():
            largest[name] = torch.linalg.vector_norm(gradient, torch.inf).float()
    return not_finite(largest) if largest else []
