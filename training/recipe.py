# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Configuration of `llmi3d train`: a YAML file of fields, each of them a flag too.

    model_name_or_path: base                    # checkpoint to start from
    output_dir: outputs/run
    datasets:                                   # data to learn, drawn in proportion to the weights
      - {data: ig3d_kitti, split: training, weight: 2}
      - {data: ig3d_own, weight: 1}
    eval_datasets: [{data: ig3d_kitti, split: validation}]
    stages:                                     # by default the paper's two
      - {name: align, num_train_epochs: 1, learning_rate: 1.0e-3}
      - {name: tune, num_train_epochs: 3, learning_rate: 2.0e-4, new_parts_learning_rate: 1.0e-4}
    per_device_train_batch_size: 4              # any field of `LLMI3DTrainingArguments`

Precedence: flag > stage > file > default.

A stage trains, by its `tuning`,

    dense    `train_parts` on dense labels, without the language model
    parts    `train_parts` with the language model frozen; a stage called `align` always does
    lora     `train_parts`, and LoRA on the language model
    full     `train_parts`, and all weights of the language model

and the towers with them where `freeze_towers` is false.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from transformers import HfArgumentParser

from llmi3d.data.dataset import Part
from llmi3d.training.arguments import LLMI3DTrainingArguments
from llmi3d.training.feature_cache import FeatureCacheArguments
from llmi3d.training.lora import NEW_PARTS
from llmi3d.training.plan import DEVICES

STAGES = ("align", "tune")
TUNINGS = ("dense", "parts", "lora", "full")
TURNS = ("rows", "first_words")
BEST = "eval_acc@0.25"
_STAGE_NAME = re.compile(r"\w+")


@dataclass
class ModelArguments:
    """Model and trained parts.

    Raises:
        ValueError: an unknown `tuning` or `dtype`.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or Hub name. With an adapter, its base."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a checkpoint on the Hub."})
    adapter_name_or_path: str | None = field(
        default=None, metadata={"help": "PEFT adapter to continue from, in a single stage with LoRA."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that a checkpoint brings along."})
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={"help": "Of frozen weights; trained ones are float32. bfloat16 needs --bf16."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention, such as 'eager' or 'sdpa'. By default the model's own choice."}
    )
    tuning: Literal[TUNINGS] = field(
        default="lora",
        metadata={
            "help": "What a stage trains: train_parts on 'dense' labels without the language model, the 'parts' with "
            "it frozen (as 'align' always does), or the language model with them, by 'lora' or in 'full'."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of LoRA."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of LoRA; twice the rank by default."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on LoRA's input."})
    train_parts: list[str] = field(
        default_factory=lambda: list(NEW_PARTS), metadata={"help": "Modules that are trained in full."}
    )
    freeze_towers: bool = field(default=True, metadata={"help": "Keep ViT and CNN frozen; 'parts' always does."})

    def __post_init__(self):
        _one_of("tuning", self.tuning, TUNINGS)
        _one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if isinstance(self.train_parts, str):
            self.train_parts = [self.train_parts]
        if self.lora_r < 1:
            raise ValueError(f"lora_r: got {self.lora_r}, want at least 1.")


@dataclass
class DataArguments:
    """Data to train and evaluate on, and how rows become batches.

    Raises:
        ValueError: entries that are no data sets, weights that are not positive or not given for all, counts out of
            range, a section of augmentation or features that is none.
    """

    datasets: list | str | None = field(
        default=None,
        metadata={
            "help": "Data sets to learn: a list of {data: folder or Hub name, split: train, weight: 1}, or of names. "
            "With weights rows are drawn in proportion to them until each is used up once; without, each row comes "
            "once an epoch."
        },
    )
    eval_datasets: list | str | None = field(
        default=None, metadata={"help": "Data sets to evaluate on, as `datasets`, without weights. Together one set."}
    )
    max_train_rows: int | None = field(
        default=None, metadata={"help": "Images of each data set at most, spread evenly over it."}
    )
    max_eval_rows: int | None = field(default=None, metadata={"help": "The same for evaluation."})
    max_turns: int | None = field(
        default=None,
        metadata={"help": "Turns of an image that are learned each time it comes, drawn anew each epoch."},
    )
    turns: Literal[TURNS] = field(
        default="rows",
        metadata={
            "help": "Turns to learn: the 'rows' own, or their 'first_words', questions, captions and places in words "
            "without boxes, made from instance maps."
        },
    )
    pack_turns: bool = field(
        default=False,
        metadata={"help": "Put the turns of an image into one sequence in which they do not see one another."},
    )
    dense_cells: int = field(
        default=0, metadata={"help": "Places of each image with an instance map that dense labels ask about."}
    )
    dense_names: list[str] = field(
        default_factory=lambda: ["category", "color", "material"],
        metadata={"help": "What stages of dense labels learn to name: 'category' or attributes of objects."},
    )
    crop_padding: bool | None = field(
        default=None, metadata={"help": "Leave padding of images out of batches. By default as the processor does."}
    )
    symmetric_categories: list[str] = field(
        default_factory=list, metadata={"help": "Categories whose rotation is judged up to symmetry."}
    )
    augment: dict | str | None = field(
        default=None, metadata={"help": "Camera-aware augmentation, as `llmi3d.training.augment` reads it."}
    )
    feature_cache: dict | str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps what frozen towers see in a few views of each image, or the section that "
            "`llmi3d.training.feature_cache` reads. Not with trained towers or sharded weights."
        },
    )

    def __post_init__(self):
        self.datasets = _parts("datasets", self.datasets, weighted=True)
        self.eval_datasets = _parts("eval_datasets", self.eval_datasets, weighted=False)
        for name, least in (("max_train_rows", 1), ("max_eval_rows", 1), ("max_turns", 1), ("dense_cells", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, want at least {least}.")
        _one_of("turns", self.turns, TURNS)
        for name in ("symmetric_categories", "dense_names"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if isinstance(self.augment, str):
            self.augment = _read_yaml("augment", self.augment)
        if self.augment is not None and not isinstance(self.augment, dict):
            raise ValueError(f"augment: got {self.augment!r}, want a mapping such as {{flip: 0.5}}.")
        if isinstance(self.feature_cache, str):
            self.feature_cache = _read_yaml("feature_cache", self.feature_cache)
        if self.feature_cache is not None:
            self.cache()

    def cache(self) -> FeatureCacheArguments | None:
        """Section `feature_cache`."""
        return None if self.feature_cache is None else FeatureCacheArguments.from_config(self.feature_cache)

    @property
    def maps(self) -> bool:
        """Whether instance maps are read."""
        return self.dense_cells > 0 or self.turns == "first_words"


@dataclass
class RunArguments:
    """Course of the run."""

    stages: list | str | None = field(
        default=None,
        metadata={
            "help": "Stages in order, by name or as {name: align, FIELD: VALUE} with other values than the file's. "
            "By default align, tune."
        },
    )
    merge: bool = field(
        default=True, metadata={"help": "Merge LoRA into the final weights; otherwise the adapter is kept apart."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop a stage after so many evaluations without a better one."}
    )
    final_dtype: Literal["float32", "bfloat16"] | None = field(
        default=None, metadata={"help": "Of the weights in OUT/final. By default as they were trained."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Print what would be trained and write nothing."})
    plan: bool = field(
        default=False, metadata={"help": "The same, with the memory and time that each stage takes on a device."}
    )
    plan_device: Literal[tuple(DEVICES)] = field(default="a100-80gb", metadata={"help": "The device to plan for."})


ARGUMENTS = (ModelArguments, DataArguments, RunArguments, LLMI3DTrainingArguments)
# Fields of the whole run, not of a stage.
_OF_THE_RUN = {
    "output_dir",
    "model_name_or_path",
    "model_revision",
    "adapter_name_or_path",
    "trust_remote_code",
    "dtype",
    *(one.name for one in dataclasses.fields(RunArguments)),
} - {"early_stopping_patience"}


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its folder.
        values: of every field, as read.
        model, data, run: the same, parsed.
    """

    name: str
    values: dict[str, Any]
    model: ModelArguments
    data: DataArguments
    run: RunArguments

    @property
    def tuning(self) -> str:
        """One of `TUNINGS`."""
        return "parts" if self.name == "align" else self.model.tuning

    def training_arguments(self) -> LLMI3DTrainingArguments:
        """Return its `LLMI3DTrainingArguments`, in a folder of its own.

        With data to evaluate on, the stage is evaluated whenever a checkpoint is saved, and the best by Acc@0.25 is
        kept at the end, unless the fields say otherwise. Stages of dense labels answer no question and are not
        evaluated.
        """
        given = {name: self.values[name] for name in _names(LLMI3DTrainingArguments)}
        given["output_dir"] = str(Path(given["output_dir"]) / self.name)
        if self.tuning == "dense":
            given |= {"eval_strategy": "no", "load_best_model_at_end": False}
        if given["eval_strategy"] is None:
            saving = "steps" if given["save_strategy"] == "best" else given["save_strategy"]
            given["eval_strategy"] = saving if self.data.eval_datasets else "no"
            given["eval_steps"] = given["eval_steps"] or given["save_steps"]
        evaluated = given["eval_strategy"] != "no"
        if evaluated and not self.data.eval_datasets:
            raise ValueError(f"eval_strategy: got '{given['eval_strategy']}' without eval_datasets to evaluate on.")
        if given["load_best_model_at_end"] is None:
            given["load_best_model_at_end"] = evaluated and given["save_strategy"] in (given["eval_strategy"], "best")
        if given["metric_for_best_model"] is None and evaluated:
            given["metric_for_best_model"] = BEST
        if self.run.early_stopping_patience is not None and not given["load_best_model_at_end"]:
            raise ValueError(
                f"early_stopping_patience: got {self.run.early_stopping_patience} for '{self.name}', which is not "
                "evaluated as often as it is saved; want eval_datasets, and eval_strategy and save_strategy alike."
            )
        arguments = LLMI3DTrainingArguments(**given)
        if arguments.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                "train_sampling_strategy: got 'batch_rebalance', which does not know the drawn turns; want "
                "'group_by_length', 'random' or 'sequential'."
            )
        if arguments.train_sampling_strategy == "group_by_length" and self.data.turns != "rows":
            raise ValueError(
                f"train_sampling_strategy: got 'group_by_length' with turns: {self.data.turns}; want 'random'."
            )
        if self.model.dtype != "float32" and not (arguments.bf16 or arguments.fp16):
            raise ValueError(f"dtype: got {self.model.dtype} without bf16, want both or neither.")
        if arguments.dataloader_persistent_workers and (self.data.max_turns or self.data.augment):
            raise ValueError("dataloader_persistent_workers: got true; its workers would draw every epoch alike.")
        return arguments


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        values: of every field, without the stages' own.
        stages: in order.
    """

    values: dict[str, Any]
    stages: tuple[Stage, ...]

    @property
    def output_dir(self) -> Path:
        return Path(self.values["output_dir"])

    @property
    def last(self) -> Stage:
        return self.stages[-1]

    def to_yaml(self) -> str:
        """Return the file that, given alone, is this recipe: all that is not a default."""
        defaults = _parse({}, [])
        top = {name: value for name, value in self.values.items() if value != defaults[name]}
        top["stages"] = [
            {"name": one.name, **{key: value for key, value in one.values.items() if value != self.values[key]}}
            for one in self.stages
        ]
        return yaml.safe_dump(top, sort_keys=False)


def read_recipe(argv: Sequence[str]) -> Recipe:
    """Read `[CONFIG.yaml] [--FIELD VALUE ...]`.

    Raises:
        ValueError: unknown fields, values of another type, stages or data sets that cannot be.
        OSError: a file that cannot be read.
    """
    flags = _parse({}, argv)
    config = {}
    if flags["config"] is not None:
        config = _read_yaml(flags["config"], Path(flags["config"]).read_text())
        if not isinstance(config, dict):
            raise ValueError(f"{flags['config']}: got {type(config).__name__}, want a mapping of fields.")
    values = _parse(config, argv)
    for name, wanted in (("output_dir", "a folder to write to"), ("datasets", "data sets to learn")):
        if not values[name]:
            raise ValueError(f"{name}: got none, want {wanted}.")
    stages = []
    for name, own in _stages(values["stages"]):
        kept = sorted(set(own) & _OF_THE_RUN)
        if kept:
            raise ValueError(f"stages: '{name}' has {kept[0]}, which is the whole run's; give it outside the stages.")
        stages.append(_stage(name, _parse({**config, **own}, argv, where=f"stages: '{name}'")))
    recipe = Recipe({key: value for key, value in values.items() if key != "config"}, tuple(stages))
    _check(recipe)
    return recipe


def build_parser() -> HfArgumentParser:
    """Return the parser of flags: every field of `ARGUMENTS`, and the file's name."""

    class Parser(HfArgumentParser):
        def error(self, message):
            raise ValueError(message.removeprefix("argument "))

    parser = Parser(
        ARGUMENTS,
        prog="llmi3d train",
        allow_abbrev=False,
        description="Train from a YAML file; flags take precedence. The same command again resumes where it was "
        "interrupted. Several processes: accelerate launch -m llmi3d.training.run CONFIG.yaml ...",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="File of these fields.")
    # None: decided by the data (see `Stage.training_arguments`).
    parser.set_defaults(output_dir=None, eval_strategy=None, load_best_model_at_end=None)
    return parser


def _parse(config: dict[str, Any], argv: Sequence[str], where: str = "config") -> dict[str, Any]:
    """Return the values of all fields; those of `config` are read as flags would be."""
    known = [name for kind in ARGUMENTS for name in _names(kind)]
    for name in config:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; `llmi3d train --help` lists all."
            raise ValueError(f"{where}: got the unknown field '{name}'{hint}")
    parser = build_parser()
    # argparse reads text alone by its types; YAML's 1e-3 is text already.
    parser.set_defaults(
        **{
            name: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
            for name, value in config.items()
        }
    )
    return vars(parser.parse_args(list(argv)))


def _stage(name: str, values: dict[str, Any]) -> Stage:
    values = {key: value for key, value in values.items() if key != "config"}
    kinds = (ModelArguments, DataArguments, RunArguments)
    return Stage(name, values, *(kind(**{key: values[key] for key in _names(kind)}) for kind in kinds))


def _stages(given: Any) -> list[tuple[str, dict[str, Any]]]:
    stages = []
    for entry in _entries("stages", STAGES if given is None else given, "name"):
        own = dict(entry)
        name = own.pop("name", None)
        if not isinstance(name, str) or not _STAGE_NAME.fullmatch(name) or name == "final":
            raise ValueError(f"stages: got the name {name!r}, want letters, digits and _, and not 'final'.")
        if name in (other for other, _ in stages):
            raise ValueError(f"stages: got '{name}' twice.")
        stages.append((name, own))
    return stages


def _check(recipe: Recipe) -> None:
    """Refuse fields that contradict one another."""
    first, last = recipe.stages[0], recipe.last
    if first.model.adapter_name_or_path is not None:
        if len(recipe.stages) > 1 or last.tuning != "lora":
            raise ValueError("adapter_name_or_path: want stages: [tune] and tuning: lora to continue from an adapter.")
        plain = ModelArguments()
        for name in ("lora_r", "lora_alpha", "lora_dropout", "train_parts", "freeze_towers"):
            given = getattr(last.model, name)
            if given != getattr(plain, name):
                raise ValueError(f"{name}: got {given}, but the adapter decides that; leave it out.")
    elif first.model.model_name_or_path is None:
        raise ValueError("model_name_or_path: got none, want a checkpoint to start from.")
    for stage in recipe.stages:
        given, data = f"for '{stage.name}'", stage.data
        if stage.tuning == "parts" and not stage.model.train_parts:
            raise ValueError(f"train_parts: got none {given}, want modules to train.")
        if stage.tuning == "dense" and not data.dense_cells:
            raise ValueError(f"dense_cells: got 0 {given}, which learns dense labels; want at least 1.")
        if stage.tuning == "lora" and stage is not last:
            raise ValueError(f"tuning: got lora {given}, want it in the last stage, after which it is merged.")
        if stage.values["gaze_loss_weight"]:
            needed = {"pack_turns": data.pack_turns, "dense_cells": data.dense_cells}
            needed["attn_implementation: eager"] = stage.model.attn_implementation == "eager"
            if lacking := [name for name, there in needed.items() if not there and stage.tuning != "dense"]:
                raise ValueError(f"gaze_loss_weight: got it {given} without {lacking[0]}, which it needs.")
    if not last.run.merge:
        if last.tuning != "lora":
            raise ValueError("merge: got false without LoRA in the last stage, want true.")
        if lost := sorted(set(first.model.train_parts) - set(last.model.train_parts)):
            raise ValueError(
                f"merge: got false, but '{last.name}' does not train {', '.join(lost)}, unlike '{first.name}'; want "
                "it among its train_parts, so that the adapter holds all that was learned."
            )
    for name, instead in (
        ("resume_from_checkpoint", "the same command again, which resumes from the last checkpoint"),
        ("push_to_hub", "false, and `hf upload` of OUT/final"),
    ):
        if recipe.values[name]:
            raise ValueError(f"{name}: got {recipe.values[name]!r}, want {instead}.")


def _parts(name: str, given: Any, weighted: bool) -> list[Part]:
    """Return `Part`s; their weight is None where none is given at all."""
    entries = [{"split": "train", "weight": None, **entry} for entry in _entries(name, given, "data")]
    for entry in entries:
        texts = all(isinstance(entry.get(key), str) for key in ("data", "split"))
        if set(entry) != {"data", "split", "weight"} or not texts:
            raise ValueError(f"{name}: got {entry}, want {{data: folder or Hub name, split: name, weight: number}}.")
        weight = entry["weight"]
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < float("inf")
        if weight is not None and not (weighted and number):
            wanted = "a number above 0" if weighted else "none: each row is judged once"
            raise ValueError(f"{name}: got the weight {weight!r} for {entry['data']}, want {wanted}.")
    if len({entry["weight"] is None for entry in entries}) > 1:
        raise ValueError(f"{name}: got weights for some data sets, want them for all or for none.")
    return [Part(**entry) for entry in entries]


def _entries(name: str, given: Any, key: str) -> list[dict[str, Any]]:
    """Return a list of mappings; text is YAML, and a name alone stands for {key: name}."""
    if isinstance(given, str):
        read = _read_yaml(name, given)
        given = read if isinstance(read, list | dict) else given
    given = [given] if isinstance(given, str | dict) else given or []
    if not isinstance(given, Iterable) or not all(isinstance(entry, str | dict) for entry in given):
        raise ValueError(f"{name}: got {given!r}, want a list of names or of mappings with {key}.")
    return [{key: entry} if isinstance(entry, str) else entry for entry in given]


def _read_yaml(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: got no valid YAML ({' '.join(str(error).split())}).") from None


def _names(kind: type) -> list[str]:
    return [one.name for one in dataclasses.fields(kind) if one.init]


def _one_of(name: str, value: Any, wanted: Sequence[str]) -> None:
    if value not in wanted:
        raise ValueError(f"{name}: got {value!r}, want one of {', '.join(wanted)}.")
