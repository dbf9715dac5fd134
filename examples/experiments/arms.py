# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The arms of experiments 1 to 4 and 7: how each is trained, on which budget, and what it changes.

Two starts. What an arm changes about towers or depth, or which pictures it may see, must have been so from its first
step on: such arms start from nothing, and all of their time goes into seeing,

    towers   dense labels alone, as the stage `sight` of examples/recipes/tiny.yaml

Arms that differ in how the language model answers or is adapted share one base, the model after its stage `words`:

    tune     LoRA (or all weights) on phrases and questions, without dense labels

All arms of a start see as many images, turns and steps. Every stage resumes from its last checkpoint.
"""

import json
import resource
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from answers import under_camera
from peft import get_peft_model
from torch import nn
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor, LLMI3DTrainingArguments
from llmi3d.data.dataset import Part
from llmi3d.processing.geometry_llmi3d import virtual_to_metric_depth
from llmi3d.training.augment import augment_from_config
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.dense import DenseDetector, DenseLabels
from llmi3d.training.experimental.text_boxes import BoxText
from llmi3d.training.lora import NEW_PARTS, lora_config
from llmi3d.training.losses import Box3DLossWeights
from llmi3d.training.mixture import TrainingRows, mix, vocabularies
from llmi3d.training.run import StageTrainer

# After everything else: `evaluate` there must not hide the library of that name.
sys.path.append(str(Path(__file__).parents[1] / "tiny"))
from new_model import build_config, build_model

# As in examples/recipes/tiny.yaml.
BATCH, CELLS = 16, 32
WEIGHTS = {"depth_map": 0.5, "size": 2.0, "rotation": 2.0}
NAMES = ("category", "color", "material")
RANK = 16
# All of a model but its language model.
EYES = (
    "model.vision_tower",
    "model.high_res_tower",
    "model.feature_mining",
    "model.multi_modal_projector",
    "box_head",
)
# Lies in a model's folder, which appears once both are complete.
COST = "training.json"


@dataclass(frozen=True)
class Arm:
    """What is changed.

    Attributes:
        start: `nothing` or `base`.
        without: a part of feature mining that is switched off: `cnn`, `depth` or `attention`.
        metric_depth: trained without virtual depth.
        left_out: a domain whose pictures are not trained on.
        form: how boxes are written (`text_boxes.FORMS`), or "" for the 3D query token.
        new_heads: the 3D heads start anew, as untrained for the answer as a text form is.
        lora: adapters on the language model; else every weight is trained.
    """

    start: str
    without: str = ""
    metric_depth: bool = False
    left_out: str = ""
    form: str = ""
    new_heads: bool = False
    lora: bool = True


ARMS = {
    "full": Arm("nothing"),
    "no_cnn": Arm("nothing", without="cnn"),
    "no_depth": Arm("nothing", without="depth"),
    "no_attention": Arm("nothing", without="attention"),
    "metric_depth": Arm("nothing", metric_depth=True),
    "no_indoor": Arm("nothing", left_out="indoor"),
    "no_driving": Arm("nothing", left_out="driving"),
    "no_surround": Arm("nothing", left_out="surround"),
    "no_objects": Arm("nothing", left_out="objects"),
    "token": Arm("base", new_heads=True),
    "numbers": Arm("base", form="numbers"),
    "json": Arm("base", form="json"),
    "lora": Arm("base"),
    "all_weights": Arm("base", lora=False),
}


@dataclass(frozen=True)
class Budget:
    """What a stage of all arms is trained with.

    Attributes:
        pictures: seen in all, repeats counted.
        learning_rate: at its highest; cosine to a tenth after a short warm-up.
        turns: of a picture that are learned each time it comes.
        seconds: a picture takes on two cores, roughly: for the plan alone.
    """

    pictures: int
    learning_rate: float
    turns: int = 0
    seconds: float = 0.0


STAGES = {
    "towers": Budget(4_096, 2e-3, seconds=0.057),
    "tune": Budget(3_200, 1e-3, turns=4, seconds=0.065),
}
# The stage of each start.
STARTS = {"nothing": "towers", "base": "tune"}


def steps_of(stage: str, scale: float) -> int:
    """Optimisation steps of a stage; `scale` is for trials."""
    return max(round(scale * STAGES[stage].pictures / BATCH), 2)


def train_arm(arm: Arm, seed: int, base: Path, out: Path, scale: float = 1.0) -> dict:
    """Trains an arm, or goes on with it; its model lies in `out/model` afterwards.

    Args:
        base: folder of an `examples/train_tiny.sh` run: `train` (data), `base` (new model and processor), and for
            arms that start from it `run/words/model`.

    Returns:
        What it cost: `trained_parameters`, `seconds_per_step` (median), `steps`, `peak_memory_mb` of the process and
        `memory_before_mb`.
    """
    noted = out / "model" / COST
    if not noted.is_file():
        out.mkdir(parents=True, exist_ok=True)
        workshop = Workshop(arm, seed, base, out, scale)
        workshop.from_nothing() if arm.start == "nothing" else workshop.from_base()
    shutil.rmtree(out / STARTS[arm.start], ignore_errors=True)  # its checkpoints
    return json.loads(noted.read_text())


class Workshop:
    """One arm's training; arguments as of `train_arm`."""

    def __init__(self, arm: Arm, seed: int, base: Path, out: Path, scale: float):
        self.arm, self.seed, self.base, self.out, self.scale = arm, seed, base, out, scale
        self.processor = LLMI3DProcessor.from_pretrained(base / "base")
        self.mixture = mix("base", [Part(str(base / "train"), "train", None)], maps=True)
        self.rows = self.mixture.rows
        if arm.left_out:
            kept = [i for i, name in enumerate(self.rows["image_id"]) if f"/{arm.left_out}-" not in name]
            self.rows = self.rows.select(kept)

    def from_nothing(self) -> None:
        """`towers`."""
        set_seed(self.seed)
        model = for_cpu(build_model(build_config(self.processor.tokenizer)))
        switch_off(model, self.arm.without)
        names = vocabularies(self.mixture, NAMES)
        kind = MetricDepthCollator if self.arm.metric_depth else UnorderedCollator
        self._run(
            "towers",
            model,
            DenseDetector(model, [len(values) for values in names.values()]),
            kind(self.processor, dense=DenseLabels(CELLS, names), words=False, crop_padding=False),
            {"color": 0.2, "flip": 0.5},
        )

    def from_base(self) -> None:
        """`tune`."""
        arm = self.arm
        set_seed(self.seed)
        model = load(self.base / "run" / "words" / "model")
        if arm.new_heads:
            model.box_head.load_state_dict(LLMI3DForConditionalGeneration(model.config).box_head.state_dict())
        if arm.lora:
            model = get_peft_model(model, lora_config(model, rank=RANK, train=(*NEW_PARTS, "lm_head")))
        options = {"pack_turns": True, "crop_padding": False}
        if arm.form:  # the language loss alone
            collator = TextCollator(arm.form, self.processor, **options)
            weights = dict.fromkeys(Box3DLossWeights.__dataclass_fields__, 0.0)
        else:
            collator, weights = LLMI3DDataCollator(self.processor, **options), WEIGHTS
        self._run("tune", model, model, collator, {"color": 0.2}, weights)

    def _arguments(self, name: str) -> dict[str, Any]:
        """What all stages have in common."""
        steps, stage = steps_of(name, self.scale), STAGES[name]
        return {
            "output_dir": str(self.out / name),
            "muon": True,
            "weight_decay": 0.05,
            "adam_beta2": 0.99,
            "per_device_train_batch_size": BATCH,
            "max_steps": steps,
            "learning_rate": stage.learning_rate,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "warmup_steps": min(50, steps // 10),
            "max_grad_norm": 1.0,
            "bf16": True,
            "use_cpu": not torch.accelerator.is_available(),
            "logging_steps": max(steps // 10, 1),
            "save_steps": max(min(100, steps // 4), 1),
            "save_total_limit": 1,
            "seed": self.seed,
            "report_to": "none",
            "dataloader_pin_memory": False,
        }

    def _run(self, name: str, model, trained: nn.Module, collator, augment: dict, weights: dict = WEIGHTS) -> None:
        """Train from the last checkpoint, if there is one, and keep the model with what it cost."""
        trainer = StageTrainer(
            trained,
            LLMI3DTrainingArguments(**self._arguments(name), box_loss_weights=weights),
            train_dataset=TrainingRows(
                self.rows, STAGES[name].turns or None, augment_from_config({**augment, "seed": self.seed}), self.seed
            ),
            data_collator=collator,
        )
        folder, watch, before = self.out / name, Stopwatch(), _peak_memory_mb()
        trainer.add_callback(watch)
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
        cost = {
            "steps": trainer.state.global_step,
            "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "seconds_per_step": statistics.median(watch.seconds) if watch.seconds else None,
            "peak_memory_mb": _peak_memory_mb(),
            "memory_before_mb": before,
            "log": trainer.state.log_history,
        }
        model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        unfinished = self.out / "unfinished"
        model.save_pretrained(unfinished)
        (unfinished / COST).write_text(json.dumps(cost, indent=1))
        unfinished.rename(self.out / "model")


class Stopwatch(TrainerCallback):
    """Seconds of each step of this process."""

    def __init__(self):
        self.seconds, self._started = [], 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self._started)


def _peak_memory_mb() -> float:
    """Of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def budget(arm: Arm, scale: float) -> dict:
    """What an arm is trained with."""
    name = STARTS[arm.start]
    return {"stage": name, **asdict(STAGES[name]), "steps": steps_of(name, scale), "batch": BATCH}


# ---------------------------------------------------------------------------------------------------- what is changed


def load(folder: Path) -> LLMI3DForConditionalGeneration:
    """Load a model of an earlier stage."""
    return for_cpu(LLMI3DForConditionalGeneration.from_pretrained(folder, dtype=torch.float32))


def for_cpu(model: LLMI3DForConditionalGeneration) -> LLMI3DForConditionalGeneration:
    """Return the model with the attention that is a quarter faster on a CPU for so few and narrow heads."""
    if not torch.accelerator.is_available():
        model.set_attn_implementation("eager")
    return model


def new_language_model(checkpoint: Path, processor: Path) -> LLMI3DForConditionalGeneration:
    """A checkpoint's eyes and 3D heads before a language model from nothing, of the processor's words."""
    set_seed(0)
    model = build_model(build_config(LLMI3DProcessor.from_pretrained(processor).tokenizer))
    trained = load(checkpoint)
    for name in EYES:
        model.get_submodule(name).load_state_dict(trained.get_submodule(name).state_dict())
    return model


def switch_off(model: LLMI3DForConditionalGeneration, part: str) -> None:
    """Takes a part out of Spatial-Enhanced Local Feature Mining and keeps it out while the rest is trained.

    Args:
        part: `depth`: no depth map, no depth embedding in keys and values, no depth read from a map. `attention`: the
            query is zero, so that every cell of a window weighs the same. `cnn`: nothing is mined, the ViT's tokens
            are all there is, and the depth map, which is read off the CNN, goes as well. "": nothing.
    """
    mining = model.model.feature_mining
    if part in ("cnn", "depth") and model.config.depth_branch:
        model.config.depth_from_map = False
        model.config.depth_branch = False
        mining.depth_predictor = None
        del mining.depth_embedding
        mining.attention.depth_key_proj = mining.attention.depth_value_proj = None
    zeroed = {"cnn": mining.attention.value_proj, "attention": mining.attention.query_proj}.get(part)
    if zeroed is not None:
        zeroed.requires_grad_(False)
        for parameter in zeroed.parameters():
            parameter.zero_()
    if part == "cnn":  # what never gets a gradient is not counted as trained either
        mining.attention.requires_grad_(False)
        model.model.high_res_tower.requires_grad_(False)


class UnorderedCollator(LLMI3DDataCollator):
    """As `LLMI3DDataCollator`, with half of the corners judged as a set of points, as those of symmetric objects are.

    Which end is the front is the last thing that is learned, and until then it pulls every box both ways.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        targets = batch["targets_3d"]
        targets["symmetric"] |= torch.rand(targets["mask"].shape) < 0.5
        return batch


class MetricDepthCollator(UnorderedCollator):
    """Targets of a network that is to say metres: every image is said to be the virtual camera's.

    K gets the virtual focal length; objects keep their z, their pixels and what is seen of their rotation. Virtual and
    metric depth are then the same number, which the network must guess without knowing the lens. The depth map is
    painted over the pixels that objects really cover; the 2D box beside the 3D one is that of the said camera, or it
    would give away the virtual depth by the object's height.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        targets, focal_length = batch["targets_3d"], self.processor.virtual_focal_length
        old = targets["intrinsics"]
        new = old.clone()
        new[:, 0, 0] = new[:, 1, 1] = focal_length
        cameras = [k[:, None].expand(-1, targets["mask"].shape[1], -1, -1) for k in (old, new)]
        real = targets["mask"]
        center, rotation = under_camera(
            torch.where(real[..., None], targets["center"], targets["center"].new_tensor([0.0, 0.0, 1.0])),
            torch.where(real[..., None, None], targets["rotation"], torch.eye(3)),
            *cameras,
        )
        targets |= {"intrinsics": new, "center": center, "rotation": rotation}
        painted = targets["painted_depths_virtual"]
        targets["painted_depths_virtual"] = virtual_to_metric_depth(painted, old[:, None], focal_length)
        return batch


class TextCollator(LLMI3DDataCollator):
    """As `LLMI3DDataCollator`, with boxes written out instead of 3D query tokens.

    Args:
        form: one of `text_boxes.FORMS`.
        processor, options: of `LLMI3DDataCollator`.
    """

    def __init__(self, form: str, processor, **options):
        super().__init__(processor, **options)
        self.box_text = BoxText.for_processor(processor, form)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__([self.box_text.write_row(row, self.processor) for row in rows])
