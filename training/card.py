# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The model card that `llmi3d train` writes beside the final checkpoint."""

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from llmi3d import __version__

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

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

Give it one photograph, its camera and a sentence; it answers with metric, oriented 3D boxes and a confidence.
LLMI3D follows "MLLM-based 3D Perception from a Single 2D Image" ([arXiv 2408.07422](https://arxiv.org/abs/2408.07422)).
Trained from `{{ base }}`{{ adapter }}.

## Use

```python
import llmi3d
from transformers import pipeline

ground = pipeline("image-3d-grounding", model="PATH_OR_NAME_OF_THIS_REPOSITORY")
answer = ground("street.jpg", prompt="the nearest car", intrinsics=[fx, fy, cx, cy])
answer["boxes"][0]["center"]  # metres: right, down, forward
```

## Data

{{ data }}

## Evaluation

{{ evaluation }}

## Training

{{ parameters }}

{{ settings }}

`training_config.yaml` is the whole configuration, `training_log.json` the log. The command, on {{ processes }}:

```bash
{{ command }}
```

{{ versions }}

## Limits

What was seen in training is all that can be expected: a camera, scene or category unlike it gives boxes that look sure
and are wrong. Pictures have to be undistorted. Do not rely on it where people could be hurt. The licences of the base
and of the data bind whoever passes these weights on.
"""

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
    """Writes `README.md` of a final checkpoint.

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
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text",
        tags=["llmi3d", "image-3d-grounding", "3d-object-detection", "monocular"],
        base_model=None if Path(prepared.base).exists() else prepared.base,
        datasets=sorted(set(on_the_hub)) or None,
    )
    evaluation = "Not evaluated: no data set was given for it."
    if metrics is not None:
        merged = " LoRA was measured before it was merged." if last.stage.tuning == "lora" and not is_adapter else ""
        rows = [(title, f"{metrics[name]:.4g}") for name, title in METRICS.items() if name in metrics]
        evaluation = PROTOCOL.format(merged=merged, table=_table(("metric", "value"), rows))
    processes = first.arguments.world_size
    ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        title=recipe.output_dir.resolve().name,
        base=prepared.base,
        adapter=f" with the adapter `{adapter}`" if adapter else "",
        data=_data(prepared),
        evaluation=evaluation,
        parameters=_table(("stage", "trained parameters", "frozen"), [_parameters(one) for one in prepared.stages]),
        settings=_settings(prepared, log),
        processes=f"{processes} process{'es' * (processes > 1)}",
        command=command,
        versions=_versions(),
    ).save(path)


def _data(prepared: "PreparedRun") -> str:
    rows = []
    for one in prepared.stages:
        for use, mixture in (("training", one.training), ("evaluation", one.evaluation)):
            if mixture is None:
                continue
            for part, size, drawn in zip(mixture.parts, mixture.sizes, mixture.drawn, strict=True):
                weight = "" if part.weight is None else f"{part.weight:g}"
                rows.append((one.stage.name, use, part.data, part.split, f"{size:,}", weight, f"{drawn:,}"))
    return _table(("stage", "for", "data set", "split", "pictures", "weight", "an epoch"), rows)


def _parameters(one: "PreparedStage") -> tuple[str, str, str]:
    trained = ", ".join(f"{name} {count:,}" for name, count in one.parameters.items() if name != "frozen")
    return one.stage.name, trained, f"{one.parameters['frozen']:,}"


def _settings(prepared: "PreparedRun", log: dict[str, list[dict]]) -> str:
    """One column a stage."""
    columns = []
    for one in prepared.stages:
        arguments, lines = one.arguments, log[one.stage.name]
        losses = [line["loss"] for line in lines if "loss" in line]
        new = arguments.new_parts_learning_rate
        columns.append(
            {
                "steps": f"{max((line.get('step', 0) for line in lines), default=0):,} of {one.steps:,}",
                "pictures a step": one.batch_size,
                "learning rate": f"{arguments.learning_rate:g}",
                "learning rate of new parts": "the same" if new is None else f"{new:g}",
                "schedule": f"{_text(arguments.lr_scheduler_type)}, warm-up {arguments.warmup_steps:g}",
                "optimizer": _text(arguments.optim),
                "weight decay": f"{arguments.weight_decay:g}",
                "order of rows": _text(arguments.train_sampling_strategy).replace("_", " "),
                "precision": "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32",
                "LoRA rank": one.stage.model.lora_r if one.stage.tuning == "lora" else "-",
                "turns of a picture": one.stage.data.max_turns or "all",
                "augmentation": one.stage.data.augment or "none",
                "seed": arguments.seed,
                "loss, first and last logged": f"{losses[0]:.4g}, {losses[-1]:.4g}" if losses else "-",
            }
        )
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return _table(("setting", *(one.stage.name for one in prepared.stages)), rows)


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
