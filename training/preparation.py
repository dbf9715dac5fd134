# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Validate and resolve a training run before weights are loaded or anything is written."""

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import str_to_bool
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llmi3d.training.arguments import LLMI3DTrainingArguments
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.dense import DenseDetector, DenseLabels
from llmi3d.training.feature_cache import undecoded
from llmi3d.training.first_words import first_words
from llmi3d.training.lora import lora_config
from llmi3d.training.mixture import MAP, Mixture, TrainingRows, mix, vocabularies
from llmi3d.training.plan import plan_model
from llmi3d.training.recipe import DataArguments, Recipe, Stage
from llmi3d.training.trainable import TOWERS, is_part, make_trainable

# Rows that are searched for the longest when a run is planned.
PLANNED_ROWS = 32
# Groups in which parameters are counted, by the name of the module that holds them.
GROUPS = (*TOWERS, "feature_mining", "multi_modal_projector", "language_model", "lm_head", "box_head")


@dataclass(frozen=True)
class PreparedStage:
    """A stage that can start.

    Attributes:
        stage: its configuration.
        arguments: its training arguments.
        training, evaluation: its rows.
        parameters: trained ones by group, and `frozen`.
        vocabularies: names of the objects of its rows, where dense labels name them (see `DenseLabels`).
    """

    stage: Stage
    arguments: LLMI3DTrainingArguments
    training: Mixture
    evaluation: Mixture | None
    parameters: dict[str, int]
    vocabularies: dict[str, list[str]]

    @property
    def batch_size(self) -> int:
        """Images per optimisation step, over all processes."""
        return self.arguments.train_batch_size * self.arguments.gradient_accumulation_steps * self.arguments.world_size

    @property
    def steps(self) -> int:
        """Optimisation steps, counted as the Trainer does."""
        if self.arguments.max_steps > 0:
            return self.arguments.max_steps
        rounded = math.floor if self.arguments.dataloader_drop_last else math.ceil
        batches = rounded(len(self.training.rows) / (self.arguments.train_batch_size * self.arguments.world_size))
        an_epoch = max(math.ceil(batches / self.arguments.gradient_accumulation_steps), 1)
        return math.ceil(self.arguments.num_train_epochs * an_epoch)

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn from the data."""
        return _data_seed(self.arguments)

    @property
    def augment(self) -> Callable | None:
        """Augmentation of its rows."""
        return _augment(self.stage.data, self.seed)

    def training_rows(self, views: Callable | None = None) -> TrainingRows:
        """Return the rows as they are learned; `views` (cached ones) instead of the augmentation."""
        data = self.stage.data
        converse = first_words if data.turns == "first_words" else None
        rows = self.training.rows if views is None else undecoded(self.training.rows)
        return TrainingRows(rows, data.max_turns, views or self.augment, self.seed, converse)

    def collator(self, processor, config) -> LLMI3DDataCollator:
        """Return the collator of its rows, for a model of this configuration."""
        data = self.stage.data
        return LLMI3DDataCollator(
            processor,
            tuple(data.symmetric_categories),
            pack_turns=data.pack_turns,
            crop_padding=data.crop_padding,
            place_px=config.place_px if config.pointing else None,
            dense=DenseLabels(data.dense_cells, self.vocabularies) if data.dense_cells else None,
            words=self.stage.tuning != "dense",
        )

    @property
    def result(self) -> Path:
        """Folder of its result, which is there once the stage is done."""
        return Path(self.arguments.output_dir) / ("adapter" if self.stage.tuning == "lora" else "model")

    def describe(self) -> str:
        """Return what it would train, on what, for how long."""
        trained = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items() if name != "frozen")
        arguments = self.arguments
        lines = [
            f"{self.stage.name} ({self.stage.tuning})",
            f"  trained     {trained}",
            f"  frozen      {self.parameters['frozen']:,}",
            *_describe_rows("data", self.training),
            *(() if self.evaluation is None else _describe_rows("evaluation", self.evaluation)),
            f"  steps       {self.steps:,} of {self.batch_size} images ({arguments.train_batch_size} x "
            f"{arguments.gradient_accumulation_steps} accumulated x {arguments.world_size} processes)",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class PreparedRun:
    """A run that has been checked and can start.

    Attributes:
        recipe: its configuration.
        base: checkpoint it starts from.
        processor: of the base.
        stages: in order.
    """

    recipe: Recipe
    base: str
    processor: Any
    stages: tuple[PreparedStage, ...]

    @property
    def final(self) -> Path:
        return self.recipe.output_dir / "final"

    def describe(self) -> str:
        """See `PreparedStage.describe`."""
        return "\n".join(one.describe() for one in self.stages)

    def plan(self, device: str) -> str:
        """Return the same, with what each stage takes on a device (see `llmi3d.training.plan`)."""
        return "\n\n".join(f"{one.describe()}\n\n{self._plan(one, device)}" for one in self.stages)

    def _plan(self, one: PreparedStage, device: str) -> str:
        model, arguments = self.recipe.stages[0].model, one.arguments
        config = AutoConfig.from_pretrained(self.base, **_loading(self.recipe))
        weights = getattr(torch, model.dtype)
        with torch.device("meta"):
            new = AutoModelForImageTextToText.from_config(config, trust_remote_code=model.trust_remote_code)
            prepared = prepare_model(new.to(weights), one.stage)
        collate, rows = LLMI3DDataCollator(self.processor), one.training_rows()
        tokens, queries = 1, 1
        for index in range(0, len(rows), max(len(rows) // PLANNED_ROWS, 1)):
            ids = collate([rows[index]])["input_ids"]
            tokens = max(tokens, ids.shape[1] - config.image_seq_length)
            queries = max(queries, int((ids == config.box_3d_token_id).sum()))
        found = plan_model(
            prepared,
            batch_size=arguments.train_batch_size,
            text_tokens=tokens,
            queries=queries,
            dtype=torch.bfloat16 if arguments.bf16 else weights,
            gradient_checkpointing=arguments.activation_checkpointing,
            sharding=sharding_of(arguments),
            devices=arguments.world_size,
            device=device,
        )
        steps = arguments.gradient_accumulation_steps
        batch = f"{arguments.train_batch_size} images of up to {tokens} tokens of text"
        hours = one.steps * steps * found.seconds_per_step / 3600
        return f"{found.to_markdown(f'{device}, {batch}')} {hours:.2g} h in all."


def prepare(recipe: Recipe) -> PreparedRun:
    """Check everything that can be checked without weights, and write nothing.

    Raises:
        ValueError: fields or data that cannot be trained on; a base that is no LLMI3D; an adapter of another base.
    """
    model = recipe.stages[0].model
    base = base_of(recipe)
    try:
        config = AutoConfig.from_pretrained(base, **_loading(recipe))
        processor = AutoProcessor.from_pretrained(base, **_loading(recipe)) if config.model_type == "llmi3d" else None
    except (ValueError, OSError) as error:
        raise ValueError(f"model_name_or_path: cannot read {base!r}: {error}") from error
    if processor is None:
        raise ValueError(f"model_name_or_path: got a '{config.model_type}' in {base!r}, want a LLMI3D checkpoint.")
    processor.check_model(config)
    processor.calibrate()  # what was fitted for the base's weights does not hold for others
    # Before the arguments are made: from then on ZeRO-3 would spread what is built here.
    counts = [count_parameters(config, stage, model.trust_remote_code) for stage in recipe.stages]
    stages = []
    for stage, count in zip(recipe.stages, counts, strict=True):
        arguments, data = stage.training_arguments(), stage.data
        if arguments.n_gpu > 1:
            raise ValueError(
                f"devices: got {arguments.n_gpu} in one process, want one each: accelerate launch -m "
                "llmi3d.training.run ..., or set CUDA_VISIBLE_DEVICES."
            )
        _augment(data, 0)
        training = mix("datasets", data.datasets, data.max_train_rows, _data_seed(arguments), maps=True)
        if data.maps and MAP not in training.rows.features:
            needing = "dense_cells" if data.dense_cells else "turns"
            raise ValueError(f"{needing}: got it for '{stage.name}', but no data set has the column {MAP} it needs.")
        evaluation = None
        if data.eval_datasets and stage.tuning != "dense":
            evaluation = mix("eval_datasets", data.eval_datasets, data.max_eval_rows)
        names = vocabularies(training, data.dense_names) if stage.tuning == "dense" else {}
        stages.append(PreparedStage(stage, arguments, training, evaluation, count, names))
    return PreparedRun(recipe, base, processor, tuple(stages))


def base_of(recipe: Recipe) -> str:
    """Return the checkpoint to start from; with an adapter, the one it was trained on.

    Raises:
        ValueError: no adapter, or one of another base.
    """
    model = recipe.stages[0].model
    if model.adapter_name_or_path is None:
        return model.model_name_or_path
    try:
        own = PeftConfig.from_pretrained(model.adapter_name_or_path).base_model_name_or_path
    except ValueError as error:
        raise ValueError(f"adapter_name_or_path: cannot read {model.adapter_name_or_path!r}: {error}") from error
    given = model.model_name_or_path or own
    same = given == own or (Path(given).exists() and Path(own).exists() and os.path.samefile(given, own))
    if not same:
        raise ValueError(
            f"adapter_name_or_path: {model.adapter_name_or_path!r} was trained on {own!r}, but model_name_or_path is "
            f"{given!r}; want the same (where the base was moved, say so in its adapter_config.json)."
        )
    return given


def prepare_model(model: nn.Module, stage: Stage) -> nn.Module:
    """Return the model as the stage trains it: with LoRA where it is wanted, then as `make_trainable` has it.

    Args:
        model: a `LLMI3DForConditionalGeneration`; it is changed.

    Raises:
        ValueError: a module to train that does not exist.
    """
    given, names = stage.model, [name for name, _ in model.named_modules()]
    for part in given.train_parts:
        if not any(is_part(name, [part]) for name in names):
            raise ValueError(f"train_parts: the model has no '{part}', want modules such as {', '.join(GROUPS)}.")
    towers = () if given.freeze_towers or stage.tuning == "parts" else TOWERS
    parts = (*given.train_parts, *towers)
    if stage.tuning == "lora":
        on_meta = next(model.parameters()).is_meta
        if given.adapter_name_or_path is None:
            wanted = lora_config(model, given.lora_r, given.lora_alpha, given.lora_dropout, parts)
            model = get_peft_model(model, wanted, low_cpu_mem_usage=on_meta)
        elif on_meta:
            held = PeftConfig.from_pretrained(given.adapter_name_or_path)
            held.inference_mode = False
            model = get_peft_model(model, held, low_cpu_mem_usage=True)
        else:
            model = PeftModel.from_pretrained(model, given.adapter_name_or_path, is_trainable=True)
    return make_trainable(model, parts, full=stage.tuning == "full")


def count_parameters(config, stage: Stage, trust_remote_code: bool = False) -> dict[str, int]:
    """Count the trained parameters of the stage by group, and `frozen` ones, without weights in memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
        left = sum(one.numel() for one in model.parameters())
        counts: dict[str, int] = {}
        for name, parameter in prepare_model(model, stage).named_parameters():
            if not parameter.requires_grad:
                continue
            added = "LoRA" if ".lora_" in name else "query token" if "trainable_tokens_delta" in name else None
            left -= 0 if added else parameter.numel()
            group = added or next((one for one in GROUPS if one in name.split(".")), "other")
            counts[group] = counts.get(group, 0) + parameter.numel()
    return {**counts, "frozen": left}


def load_model(prepared: PreparedRun, checkpoint: str, attention: str | None = None) -> nn.Module:
    """Load the base, or a model of an earlier stage, in the recipe's dtype."""
    given = {} if attention is None else {"attn_implementation": attention}
    return AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=getattr(torch, prepared.recipe.stages[0].model.dtype), **given, **_loading(prepared.recipe)
    )


def dense_detector(model: nn.Module, one: PreparedStage) -> DenseDetector:
    """Wrap a prepared model for a stage of dense labels."""
    return DenseDetector(model, [len(values) for values in one.vocabularies.values()])


def sharding_of(arguments: LLMI3DTrainingArguments) -> str:
    """Return the sharding that fields or `accelerate launch` ask for, as `plan_model` calls it."""
    if arguments.deepspeed_plugin is not None:
        return {2: "zero2", 3: "fsdp"}.get(arguments.deepspeed_plugin.zero_stage, "none")
    launched = str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
    return "fsdp" if arguments.fsdp or launched else "none"


def _loading(recipe: Recipe) -> dict[str, Any]:
    model = recipe.stages[0].model
    return {"revision": model.model_revision, "trust_remote_code": model.trust_remote_code}


def _data_seed(arguments: LLMI3DTrainingArguments) -> int:
    return arguments.seed if arguments.data_seed is None else arguments.data_seed


def _augment(data: DataArguments, seed: int) -> Callable | None:
    if data.augment is None:
        return None
    from llmi3d.training.augment import augment_from_config

    return augment_from_config({"seed": seed, **data.augment})


def _describe_rows(title: str, mixture: Mixture) -> list[str]:
    return [
        f"  {title:<11} {part.data} ({part.split}): {size:,} rows"
        + ("" if part.weight is None else f", weight {part.weight:g}, {drawn:,} an epoch")
        for part, size, drawn in zip(mixture.parts, mixture.sizes, mixture.drawn, strict=True)
    ]
