# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3DTrainingArguments: what `TrainingArguments` has, with the weights of the 3D loss."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from llmi3d.training.losses import Box3DLossWeights


@dataclass
class LLMI3DTrainingArguments(TrainingArguments):
    """
    Arguments of [`LLMI3DTrainer`].

    Parameters that control the loss:
        lm_loss_weight: weight of the language-modelling loss.
        box_loss_weights: weights of the components of the 3D loss, by the names of `Box3DLossWeights`; those not named
            keep their default of 1.

    Defaults that differ from `TrainingArguments`: columns of the data set are kept for the collator, and only
    `labels` is a label (the 3D targets are not).
    """

    lm_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the language-modelling loss."})
    box_loss_weights: dict | str | None = field(
        default=None, metadata={"help": 'Weights of the 3D loss, such as {"score": 0.5}; the others stay 1.'}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs whole rows."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Keys of the inputs that are labels."}
    )

    # Read from the command line as JSON, as transformers does with its own dictionaries.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "box_loss_weights"]

    def __post_init__(self):
        super().__post_init__()
        known = Box3DLossWeights.__dataclass_fields__
        for name in self.box_loss_weights or {}:
            if name not in known:
                raise ValueError(f"box_loss_weights: got '{name}', want some of {', '.join(known)}.")

    def loss_weights(self) -> Box3DLossWeights:
        """The weights of the 3D loss, with the defaults for those not given."""
        return Box3DLossWeights(**(self.box_loss_weights or {}))
