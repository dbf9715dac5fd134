# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d train`: fine-tuning from a file, in the paper's stages, on one process or many.

    llmi3d train CONFIG.yaml [--FIELD VALUE ...]
    accelerate launch -m llmi3d.training.run CONFIG.yaml ...

    OUT/run.json              what is trained: written first, compared when a run goes on
    OUT/STAGE/checkpoint-N/   the Trainer's
    OUT/STAGE/model/          the stage's result, or adapter/; once it is there the stage is done
    OUT/final/                weights, processor, training_config.yaml, training_log.json, card; written last, whole

The same command again passes over finished stages and goes on from the last checkpoint.
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

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from peft import PeftModel
from transformers import EarlyStoppingCallback, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import get_last_checkpoint

from llmi3d.data.outputs import claim_folder, write_whole
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.feature_cache import FeatureCache
from llmi3d.training.mixture import EpochSampler
from llmi3d.training.preparation import PreparedRun, PreparedStage, load_model, prepare, prepare_model
from llmi3d.training.recipe import read_recipe
from llmi3d.training.trainable import TOWERS
from llmi3d.training.trainer import LLMI3DTrainer
from llmi3d.training.training_card import write_training_card

# What may change when a run goes on: it decides what is shown and how fast, not what comes out.
_FREE = {
    *(
        "stages",
        "dry_run",
        "plan",
        "plan_device",
        "output_dir",
        "disable_tqdm",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
    ),
    *("report_to", "run_name", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
    *("feature_cache", "feature_cache_limit_gb"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command. What is wrong with fields or data ends it with one line; errors of training are raised."""
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
    """Refuses `feature_cache` where it cannot be.

    Raises:
        ValueError: a stage that trains a tower or augments pictures, or weights that are sharded.
    """
    for one in prepared.stages:
        if one.stage.run.feature_cache is None:
            continue
        where = f"feature_cache: got {one.stage.run.feature_cache!r} for '{one.stage.name}', which"
        if trained := sorted(set(TOWERS) & set(one.parameters)):
            raise ValueError(f"{where} trains the {trained[0]}; want frozen towers: features would be stale.")
        if one.stage.data.augment:
            raise ValueError(f"{where} has augment; want none: augmented pixels hardly ever come again.")
        launched = any(parse_flag_from_env(f"ACCELERATE_USE_{engine}") for engine in ("FSDP", "DEEPSPEED"))
        if launched or one.arguments.fsdp or one.arguments.deepspeed:
            raise ValueError(f"{where} shards weights; want neither FSDP nor DeepSpeed, where all look at once.")


def claim(prepared: PreparedRun) -> None:
    """Makes the output folder this run's, or finds that it is already.

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
    """Trains what is not trained yet and writes the final checkpoint.

    Args:
        prepared: of a folder that was claimed.
        command: that led here, for the card.

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
            state.print(f"{one.stage.name}: done already, passed over.")
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
    """Trains on `TrainingRows`. Batches by length (`train_sampling_strategy`) know what an epoch draws of them."""

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
    """Trains a stage from a checkpoint on, or from its own last one, and keeps result, log and evaluation."""
    stage, arguments = one.stage, one.arguments
    set_seed(arguments.seed)
    model = prepare_model(load_model(prepared, start), stage)
    if not stage.run.merge and stage.tuning == "lora":  # it holds all that was learned since
        model.peft_config["default"].base_model_name_or_path = prepared.base
    patience = stage.run.early_stopping_patience
    trainer = StageTrainer(
        model,
        arguments,
        train_dataset=one.training_rows(),
        eval_dataset=one.evaluation and one.evaluation.rows,
        data_collator=LLMI3DDataCollator(prepared.processor, tuple(stage.data.symmetric_categories)),
        processing_class=prepared.processor,
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )
    folder, kept = Path(arguments.output_dir), stage.run.feature_cache
    with FeatureCache(model, kept, stage.run.feature_cache_limit_gb) if kept else contextlib.nullcontext() as cache:
        trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if folder.is_dir() else None)
        if one.evaluation is not None:
            trainer.save_metrics("eval", trainer.evaluate(), combined=False)
    if cache is not None:
        looks = cache.hits + cache.misses
        PartialState().print(f"{stage.name}: {cache.hits:,} of {looks:,} looks of towers came from {kept}.")
    trainer.save_state()
    if trainer.is_fsdp_enabled:  # its shards belong to these processes alone
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    with whole_folder(one.result) as draft:
        trainer.save_model(str(draft))
        (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle
    trainer.accelerator.free_memory()
    del trainer, model
    gc.collect()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to beside `path`, which gets its name once it is complete. For all processes together."""
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
    if last.stage.tuning != "lora":
        load_model(prepared, str(last.result)).save_pretrained(draft)
    elif last.stage.run.merge:
        adapted = PeftModel.from_pretrained(load_model(prepared, start), str(last.result))
        adapted.merge_and_unload().save_pretrained(draft)
    else:
        shutil.copytree(last.result, draft, dirs_exist_ok=True)
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
