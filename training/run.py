# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d train`: training in the stages of a file, on one process or many.

    llmi3d train CONFIG.yaml [--FIELD VALUE ...]
    accelerate launch -m llmi3d.training.run CONFIG.yaml ...

    OUT/run.json              the configuration: written first, compared when a run resumes
    OUT/STAGE/checkpoint-N/   the Trainer's
    OUT/STAGE/model/          the stage's result, or adapter/; once it is there the stage is done
    OUT/final/                weights, processor, training_config.yaml, training_log.json, card; written last, whole

The same command again skips finished stages and resumes from the last checkpoint.
"""

import contextlib
import gc
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from peft import PeftModel
from torch import nn
from transformers import EarlyStoppingCallback, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import get_last_checkpoint

from llmi3d.data.outputs import claim_folder, write_whole
from llmi3d.training.feature_cache import CachedViews, build_feature_cache
from llmi3d.training.mixture import EpochSampler
from llmi3d.training.preparation import (
    PreparedRun,
    PreparedStage,
    dense_detector,
    load_model,
    prepare,
    prepare_model,
)
from llmi3d.training.recipe import read_recipe
from llmi3d.training.trainable import unwrapped
from llmi3d.training.trainer import LLMI3DTrainer
from llmi3d.training.training_card import write_training_card

# Fields that may change when a run resumes: they decide what is shown and how fast, not the result.
_FREE = {
    *("stages", "dry_run", "plan", "plan_device", "output_dir", "disable_tqdm", "report_to", "run_name"),
    *("log_level", "log_level_replica", "log_on_each_node"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Wrong fields or data end it with one line; errors of training are raised."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        prepared = prepare(read_recipe(argv))
        check_feature_cache(prepared)
        if prepared.recipe.values["plan"]:
            PartialState().print(prepared.plan(prepared.recipe.values["plan_device"]))
            return
        if prepared.recipe.values["dry_run"]:
            PartialState().print(prepared.describe())
            return
        claim(prepared)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    run(prepared, shlex.join(["llmi3d", "train", *argv]))


def check_feature_cache(prepared: PreparedRun) -> None:
    """Refuse `feature_cache` where it cannot be.

    Raises:
        ValueError: a stage that trains a tower whose features are kept, augments without several views, or shards its
            weights.
    """
    for one in prepared.stages:
        cache = one.stage.data.cache()
        if cache is None:
            continue
        where = f"feature_cache: got {cache.folder!r} for '{one.stage.name}', which"
        if trained := sorted(set(cache.towers) & set(one.parameters)):
            raise ValueError(f"{where} trains the {trained[0]}; want frozen towers: features would be stale.")
        if one.stage.data.augment and cache.views == 1:
            raise ValueError(f"{where} has augment; want more than one of its views.")
        launched = any(parse_flag_from_env(f"ACCELERATE_USE_{engine}") for engine in ("FSDP", "DEEPSPEED"))
        if launched or one.arguments.fsdp or one.arguments.deepspeed:
            raise ValueError(f"{where} shards weights; want neither FSDP nor DeepSpeed, where all look at once.")


def claim(prepared: PreparedRun) -> None:
    """Make the output folder this run's, or find that it is already.

    Raises:
        ValueError: the folder holds something else, or a run of other fields, data or number of processes.
    """
    settings = json.loads(json.dumps(_record(prepared), default=str))
    claim_folder(
        prepared.recipe.output_dir, "run.json", settings, kind="a run", field="output_dir", state=PartialState()
    )


def _record(prepared: PreparedRun) -> dict[str, Any]:
    record = {"processes": prepared.stages[0].arguments.world_size}
    for one in prepared.stages:
        name = one.stage.name
        record |= {f"{name}.{key}": value for key, value in one.stage.values.items() if key not in _FREE}
        record[f"{name}.rows"] = one.training.sizes
        record[f"{name}.eval_rows"] = one.evaluation and one.evaluation.sizes
    return record


# ------------------------------------------------------------------------------------------------------------ training


def run(prepared: PreparedRun, command: str) -> Path:
    """Train what is not trained yet and write the final checkpoint.

    Args:
        prepared: the run, whose folder was claimed.
        command: for the card.

    Returns:
        OUT/final.
    """
    state = PartialState()
    if prepared.final.is_dir():
        state.print(f"{prepared.final} is there already; nothing to do.")
        return prepared.final
    start = prepared.base
    for one in prepared.stages:
        before = start
        if one.result.is_dir():
            state.print(f"{one.stage.name}: done already, skipped.")
        else:
            state.print(one.describe())
            train_stage(prepared, one, start)
        start = str(one.result)
    with whole_folder(prepared.final) as draft:
        if state.is_main_process:
            _write_final(prepared, before, draft, command)
    state.print(f"{prepared.final}: load it by pipeline('image-3d-grounding', model={str(prepared.final)!r}).")
    return prepared.final


class StageTrainer(LLMI3DTrainer):
    """Train on `TrainingRows`. Batches by length (`train_sampling_strategy`) know what an epoch draws of them."""

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        by_length, group = self.args.train_sampling_strategy == "group_by_length", self.args.train_batch_size
        group *= self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSampler(
            self.train_dataset if train_dataset is None else train_dataset, group if by_length else None
        )

    def _get_eval_sampler(self, eval_dataset):
        return None  # in order; by length, `Trainer` would want a column of lengths


def train_stage(prepared: PreparedRun, one: PreparedStage, start: str) -> None:
    """Train a stage from a checkpoint, or resume from its own last one, and keep result, log and evaluation."""
    stage, arguments = one.stage, one.arguments
    set_seed(arguments.seed)
    model = prepare_model(load_model(prepared, start, stage.model.attn_implementation), stage)
    if not stage.run.merge and stage.tuning == "lora":  # it holds all that was learned since
        model.peft_config["default"].base_model_name_or_path = prepared.base
    views = cached_views(prepared, one, model)
    patience = stage.run.early_stopping_patience
    trainer = StageTrainer(
        dense_detector(model, one) if stage.tuning == "dense" else model,
        arguments,
        train_dataset=one.training_rows(views),
        eval_dataset=one.evaluation and one.evaluation.rows,
        data_collator=one.collator(prepared.processor, unwrapped(model).config),
        processing_class=prepared.processor,
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )
    folder = Path(arguments.output_dir)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
    if one.evaluation is not None:
        trainer.save_metrics("eval", trainer.evaluate(), combined=False)
    trainer.save_state()
    if trainer.is_fsdp_enabled:  # its shards belong to these processes alone
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    with whole_folder(one.result) as draft:
        if stage.tuning == "dense":
            if trainer.is_world_process_zero():
                model.save_pretrained(draft)
        else:
            trainer.save_model(str(draft))
            (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle
    trainer.accelerator.free_memory()
    del trainer, model
    gc.collect()


def cached_views(prepared: PreparedRun, one: PreparedStage, model: nn.Module) -> CachedViews | None:
    """Return the cached views of a stage's rows, computed here where they are missing; None without a cache."""
    cache, state = one.stage.data.cache(), PartialState()
    if cache is None:
        return None
    arguments = (model, prepared.processor, one.training.rows, cache, one.augment if cache.views > 1 else None)
    with state.main_process_first():  # the others find it whole
        return CachedViews(build_feature_cache(*arguments), cache.views)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write to beside `path`, which gets its name once it is complete, on all processes together."""
    state, draft = PartialState(), path.with_name(f".{path.name}.part")
    if state.is_main_process:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    state.wait_for_everyone()
    yield draft
    state.wait_for_everyone()
    if state.is_main_process:
        draft.replace(path)
    state.wait_for_everyone()


def _write_final(prepared: PreparedRun, start: str, draft: Path, command: str) -> None:
    unset_hf_deepspeed_config()  # this process loads alone; ZeRO-3 would wait for the others
    last = prepared.stages[-1]
    if last.stage.tuning == "lora" and not last.stage.run.merge:
        shutil.copytree(last.result, draft, dirs_exist_ok=True)
    else:
        model = load_model(prepared, start if last.stage.tuning == "lora" else str(last.result))
        if last.stage.tuning == "lora":
            model = PeftModel.from_pretrained(model, str(last.result)).merge_and_unload()
        dtype = last.stage.run.final_dtype
        (model if dtype is None else model.to(getattr(torch, dtype))).save_pretrained(draft)
    prepared.processor.save_pretrained(draft)
    log = {one.stage.name: _read_json(one, "trainer_state.json")["log_history"] for one in prepared.stages}
    write_whole(draft / "training_log.json", json.dumps(log, indent=1))
    write_whole(draft / "training_config.yaml", prepared.recipe.to_yaml())
    metrics = None if last.evaluation is None else _read_json(last, "eval_results.json")
    write_training_card(draft / "README.md", prepared, log, metrics, command)


def _read_json(one: PreparedStage, name: str) -> dict[str, Any]:
    return json.loads((Path(one.arguments.output_dir) / name).read_text())


if __name__ == "__main__":
    main()
