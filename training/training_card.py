# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The model card that `llmi3d train` writes beside the final checkpoint."""

import importlib.metadata
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import DatasetCard, EvalResult, ModelCardData
from transformers import AutoConfig, AutoModelForImageTextToText

from llmi3d.bases.base_card import BaseInCard
from llmi3d.evaluation.model_index import TASK, TASK_NAME
from llmi3d.model_card_llmi3d import PIPELINE_TAG, TAGS, describe_architecture, fill_card
from llmi3d.version import __version__

if TYPE_CHECKING:
    from llmi3d.training.preparation import PreparedRun, PreparedStage

METRICS = {
    "eval_acc@0.25": "Acc@0.25",
    "eval_acc@0.5": "Acc@0.5",
    "eval_mean_iou": "mean IoU",
    "eval_depth_error": "depth error, m",
    "eval_length_error": "length error, m",
    "eval_width_error": "width error, m",
    "eval_height_error": "height error, m",
    "eval_num_boxes": "boxes",
    "eval_loss": "loss",
}

TRAINING = """{parameters}

{settings}

`training_config.yaml` is the whole configuration, `training_log.json` the log. Time is that of the last start of each
stage; energy was not measured. Ran on {processes}: {machine}. The command:

```bash
{command}
```

{versions}"""

LICENCES = """{table}

They bind whoever passes these weights on; the strictest counts."""

PROTOCOL = """Measured at the end of training, on the rows named above: the boxes at the query tokens of the true
answers, given the true words before them, with exact oriented 3D IoU; Acc counts IoU strictly above its threshold,
errors are mean absolute values. `llmi3d evaluate`, which asks phrase by phrase, compares models.{merged}

{table}"""


def write_training_card(
    path: str | Path,
    prepared: "PreparedRun",
    log: dict[str, list[dict]],
    metrics: dict[str, float] | None,
    command: str,
) -> None:
    """Write `README.md` of a final checkpoint.

    Args:
        path: of the card.
        prepared: of the run.
        log: of each stage, the Trainer's `log_history`.
        metrics: of the last evaluation; None where there was none.
        command: that trained it.
    """
    recipe, first, last = prepared.recipe, prepared.stages[0], prepared.stages[-1]
    is_adapter = last.stage.tuning == "lora" and not last.stage.run.merge
    adapter = first.stage.model.adapter_name_or_path
    on_the_hub = [part.data for one in prepared.stages for part in one.training.parts if not Path(part.data).exists()]
    base = BaseInCard(prepared.base, "LLMI3D", "")
    title = recipe.output_dir.resolve().name
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        base_model=prepared.base if base.on_hub else base.metadata.get("base_model"),
        datasets=sorted(set(on_the_hub)) or None,
        model_name=title,
        eval_results=_eval_results(last, metrics or {}) or None,
        **{
            name: base.metadata[name]
            for name in ("license", "license_name", "license_link")
            if base.metadata.get(name)
        },
    )
    evaluation = "Not evaluated: no data set was given for it."
    if metrics is not None:
        merged = " LoRA was measured before it was merged." if last.stage.tuning == "lora" and not is_adapter else ""
        rows = [(name, f"{metrics[key]:.4g}") for key, name in METRICS.items() if key in metrics]
        evaluation = PROTOCOL.format(merged=merged, table=_table(("metric", "value"), rows))
    count = first.arguments.world_size
    remote = {"trust_remote_code": first.stage.model.trust_remote_code}
    config = AutoConfig.from_pretrained(prepared.base, **remote)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, **remote)
    fill_card(
        data,
        title=title,
        made_of=f"Trained from `{base.name}`" + (f" with the adapter `{adapter}`." if adapter else "."),
        architecture=describe_architecture(config, model.num_parameters()),
        training_data=_data(prepared),
        evaluation=evaluation,
        training=TRAINING.format(
            parameters=_table(
                ("stage", "trained parameters", "frozen"), [_parameters(one) for one in prepared.stages]
            ),
            settings=_settings(prepared, log),
            processes=f"{count} process{'es' * (count > 1)}",
            machine=_machine(first),
            command=command,
            versions=_versions(),
        ),
        licences=LICENCES.format(table=_licences(prepared, base)),
    ).save(path)


def _eval_results(one: "PreparedStage", metrics: dict[str, float]) -> list[EvalResult]:
    """Return what was measured at the end of training, in the Hub's form and under its own name."""
    if one.evaluation is None:
        return []
    parts = one.evaluation.parts
    named = ", ".join(dict.fromkeys(_name(part.data) for part in parts))
    return [
        EvalResult(
            task_type=TASK,
            task_name=TASK_NAME,
            dataset_type="ig3d",
            dataset_name=f"IG3D rows: {named}",
            dataset_config="boxes at the query tokens of the true answers",
            dataset_split=", ".join(dict.fromkeys(part.split for part in parts)),
            metric_type=key.removeprefix("eval_"),
            metric_name=name,
            metric_value=round(metrics[key], 4),
        )
        for key, name in METRICS.items()
        if key in metrics and key not in ("eval_num_boxes", "eval_loss") and math.isfinite(metrics[key])
    ]


def _licences(prepared: "PreparedRun", base: BaseInCard) -> str:
    """Return what the weights started from and were trained on, each with the licence that its card states."""
    own = base.metadata.get("license_name") or base.metadata.get("license")
    rows = [("all weights, before training", f"`{base.name}`", own or "not stated by its card")]
    if base.metadata.get("base_model"):
        rows.append(("of these, those of the base", f"`{base.metadata['base_model']}`", "see its card"))
    for part in dict.fromkeys(part.data for one in prepared.stages for part in one.training.parts):
        rows.append(("training data", f"`{_name(part)}`", _licence_of_data(part)))
    return _table(("what", "from", "licence"), rows)


def _licence_of_data(data: str) -> str:
    card = Path(data) / "README.md"
    if not Path(data).exists():
        return "see its card"
    found = DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict() if card.is_file() else {}
    return found.get("license_name") or found.get("license") or "not stated by its card"


def _name(data: str) -> str:
    """Return the name of a data set; of a folder only its last part."""
    return Path(data).resolve().name if Path(data).exists() else data


def _machine(one: "PreparedStage") -> str:
    device = one.arguments.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{name}, {os.cpu_count()} CPU cores, threads a process: {torch.get_num_threads()}"


def _data(prepared: "PreparedRun") -> str:
    rows = []
    for one in prepared.stages:
        for use, mixture in (("training", one.training), ("evaluation", one.evaluation)):
            if mixture is None:
                continue
            for part, size, drawn in zip(mixture.parts, mixture.sizes, mixture.drawn, strict=True):
                weight = "" if part.weight is None else f"{part.weight:g}"
                rows.append((one.stage.name, use, part.data, part.split, f"{size:,}", weight, f"{drawn:,}"))
    return _table(("stage", "for", "data set", "split", "images", "weight", "an epoch"), rows)


def _parameters(one: "PreparedStage") -> tuple[str, str, str]:
    trained = ", ".join(f"{name} {count:,}" for name, count in one.parameters.items() if name != "frozen")
    return one.stage.name, trained, f"{one.parameters['frozen']:,}"


def _settings(prepared: "PreparedRun", log: dict[str, list[dict]]) -> str:
    """Return the table of settings, one column a stage."""
    columns = []
    for one in prepared.stages:
        arguments, lines = one.arguments, log[one.stage.name]
        losses = [line["loss"] for line in lines if "loss" in line]
        new = arguments.new_parts_learning_rate
        columns.append(
            {
                "steps": f"{max((line.get('step', 0) for line in lines), default=0):,} of {one.steps:,}",
                "images a step": one.batch_size,
                "learning rate": f"{arguments.learning_rate:g}",
                "learning rate of new parts": "the same" if new is None else f"{new:g}",
                "schedule": f"{_text(arguments.lr_scheduler_type)}, warm-up {arguments.warmup_steps:g}",
                "optimizer": _text(arguments.optim),
                "weight decay": f"{arguments.weight_decay:g}",
                "order of rows": _text(arguments.train_sampling_strategy).replace("_", " "),
                "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32",
                "LoRA rank": one.stage.model.lora_r if one.stage.tuning == "lora" else "-",
                "turns of an image": one.stage.data.max_turns or "all",
                "augmentation": one.stage.data.augment or "none",
                "seed": arguments.seed,
                "time": _time(lines),
                "loss, first and last logged": f"{losses[0]:.4g}, {losses[-1]:.4g}" if losses else "-",
            }
        )
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return _table(("setting", *(one.stage.name for one in prepared.stages)), rows)


def _time(lines: list[dict]) -> str:
    seconds = [line["train_runtime"] for line in lines if "train_runtime" in line]
    return f"{seconds[-1]:,.0f} s" if seconds else "-"


def _versions() -> str:
    names = ("torch", "transformers", "peft", "accelerate", "datasets", "timm")
    return (
        ", ".join([f"llmi3d {__version__}", *(f"{name} {importlib.metadata.version(name)}" for name in names)]) + "."
    )


def _table(head: tuple, rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))
