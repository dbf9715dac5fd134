# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DTrainingArguments: `TrainingArguments` with weights of the 3D loss and rates of the new parts."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from llmi3d.training.losses import Box3DLossWeights

NONFINITE = ["raise", "skip"]


@dataclass
class LLMI3DTrainingArguments(TrainingArguments):
    """
    Arguments of [`LLMI3DTrainer`].

    Parameters that control the loss:
        lm_loss_weight: weight of the language-modelling loss.
        box_loss_weights: weights of the components of the 3D loss, by the names of `Box3DLossWeights`; those not named
            keep their default of 1.
        dense_loss_weight: weight of the same loss at the places of dense labels, where the collator draws them.
        gaze_loss_weight: weight of the loss of attending to what words speak of; needs dense labels and the eager
            attention, as others do not tell where they look.
        name_loss_weight: weight of the classifiers of `DenseDetector`.

    Parameters that control the optimisation:
        muon: train matrices by Muon (of timm) and the rest by AdamW, instead of by `optim`.
        new_parts_learning_rate: learning rate of all that is trained besides LoRA adapters; without adapters, of
            `lora.NEW_PARTS` alone. By default they share `learning_rate`.
        nonfinite: what a loss or gradient that is not finite does: "raise" stops the training, "skip" skips the step
            on all processes and logs how many there were (`skipped_steps`).

    Defaults that differ from `TrainingArguments`: columns of the data set are kept for the collator; only `labels` is
    a label (the 3D targets are not); losses that are not finite are not filtered out of the logs; every process reads
    its own batches of a stream, as batches differ in shape; and of metrics that end in `_error` the smaller is better.

    Raises:
        ValueError: an unknown loss weight or `nonfinite`, a learning rate that is not positive, or
            `average_tokens_across_devices=False`, which would not be the loss of the whole step.
    """

    lm_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the language-modelling loss."})
    box_loss_weights: dict | str | None = field(
        default=None, metadata={"help": 'Weights of the 3D loss, such as {"score": 0.5}; the others stay 1.'}
    )
    dense_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the 3D loss at dense labels."})
    gaze_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the loss of attending to what words speak of; eager attention only."}
    )
    name_loss_weight: float = field(default=1.0, metadata={"help": "Weight of naming objects by dense labels."})
    muon: bool = field(default=False, metadata={"help": "Muon on matrices and AdamW on the rest, instead of `optim`."})
    new_parts_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of all that is trained besides LoRA adapters."}
    )
    nonfinite: str = field(
        default="raise",
        metadata={"help": "A loss or gradient that is not finite: stop, or skip the step.", "choices": NONFINITE},
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "See `nonfinite`."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs whole rows."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Keys of the inputs that are labels."}
    )

    # Read from the command line as JSON, as transformers does with its own dictionaries.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "box_loss_weights"]

    def __post_init__(self):
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith("_error"):
            self.greater_is_better = False
        if self.accelerator_config is None:
            self.accelerator_config = {"dispatch_batches": False}
        super().__post_init__()
        if self.nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite: got {self.nonfinite!r}, want one of {', '.join(NONFINITE)}.")
        if self.new_parts_learning_rate is not None and self.new_parts_learning_rate <= 0:
            raise ValueError(f"new_parts_learning_rate: got {self.new_parts_learning_rate}, want more than 0.")
        if not self.average_tokens_across_devices:
            raise ValueError("average_tokens_across_devices: got False, want True: the loss is the whole step's.")
        known = Box3DLossWeights.__dataclass_fields__
        for name in self.box_loss_weights or {}:
            if name not in known:
                raise ValueError(f"box_loss_weights: got '{name}', want some of {', '.join(known)}.")

    def loss_weights(self) -> Box3DLossWeights:
        """The weights of the 3D loss, with the defaults for those not given."""
        return Box3DLossWeights(**(self.box_loss_weights or {}))
