# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d train`: its configuration, what it draws and trains, and what it leaves when it is interrupted."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate.data_loader import prepare_data_loader
from datasets import Features
from huggingface_hub import ModelCard
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import LlamaConfig, pipeline
from typer.testing import CliRunner

from llmi3d import LLMI3DForConditionalGeneration
from llmi3d.cli import app
from llmi3d.data.dataset import DATA_FOLDER, Part, shard_name
from llmi3d.data.schema import IG3D_FEATURES, grounding_conversation, make_object, validate_row
from llmi3d.training import run as command
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.mixture import EpochSampler, TrainingRows, mix, take_turns
from llmi3d.training.preparation import GROUPS, count_parameters, prepare, prepare_model
from llmi3d.training.recipe import ARGUMENTS, read_recipe

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
QUESTION = {"prompt": "the car", "intrinsics": (250, 260, 150, 110)}


@pytest.fixture(scope="module")
def base(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for part in chain:
        part.save_pretrained(folder)
    card = ModelCard.load(folder / "README.md")
    card.data.license, card.data.base_model = "llama2", "some/base"
    card.save(folder / "README.md")
    return folder


@pytest.fixture(scope="module")
def data(photograph, tmp_path_factory):
    """A data set with the splits `train` (6 rows), `other` (2) and `val` (3), each row with three boxes asked for."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "README.md").write_text("---\nlicense: c-uda\n---\n\n# Pictures\n")
    intrinsics = [[250.0, 0.0, 150.0], [0.0, 260.0, 110.0], [0.0, 0.0, 1.0]]
    number = 0
    for split, count in (("train", 6), ("other", 2), ("val", 3)):
        rows = []
        for _ in range(count):
            number += 1
            names = ("car", "cone", "bin")
            objects = [
                make_object(name, name, [k - 1.0, 0.4, 4.0 + number / 2], [1.0 + k, 1.0, 1.5], np.eye(3), intrinsics)
                for k, name in enumerate(names)
            ]
            rows.append(
                {
                    **{"image": photograph.rotate(3 * number), "image_id": f"{split}/{number}", "source": "test"},
                    **{"split": split, "intrinsics": intrinsics, "objects": objects, "targets": list(names)},
                    "messages": grounding_conversation([f"the {name}" for name in names]),
                    **{"task": ["grounding"] * 3, "meanings": None},
                }
            )
        file = folder / DATA_FOLDER / shard_name(split, 0, 1)
        file.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(file)
    return folder


@pytest.fixture
def configured(base, data, tmp_path):
    """Writes a configuration with some changes; gives its path."""

    def write(**changes):
        fields = {
            "model_name_or_path": str(base),
            "output_dir": str(tmp_path / "out"),
            "datasets": [{"data": str(data)}],
            "stages": [{"name": "align", "max_steps": 2}, {"name": "tune", "max_steps": 3}],
            "learning_rate": "1e-3",  # YAML reads 1e-3 as text
            "per_device_train_batch_size": 2,
            "save_steps": 1,
            "logging_steps": 1,
            "lora_r": 4,
            "use_cpu": True,
            "disable_tqdm": True,
            **changes,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in fields.items() if value is not ...}))
        return str(path)

    return write


def files(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def ask(checkpoint, picture):
    return pipeline("image-3d-grounding", model=str(checkpoint), device="cpu")(picture, **QUESTION)["boxes"][0]


# ------------------------------------------------------------------------------------------------------------- recipe


def test_flags_go_before_a_stages_own_values_and_those_before_the_files(configured):
    path = configured(stages=["align", {"name": "tune", "learning_rate": 0.5, "max_steps": 7}], max_steps=9)
    align, tune = read_recipe([path, "--max-steps", "4"]).stages
    assert [align.values["learning_rate"], tune.values["learning_rate"]] == [1e-3, 0.5]
    assert align.values["max_steps"] == tune.values["max_steps"] == 4
    assert [one.values["max_steps"] for one in read_recipe([path]).stages] == [9, 7]
    assert [one.name for one in read_recipe([path, "--stages", "tune"]).stages] == ["tune"]


def test_written_back_it_is_the_same_recipe(configured, tmp_path):
    recipe = read_recipe([configured(box_loss_weights={"score": 0.5}), "--max_turns", "2", "--stages", "[tune]"])
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    again = read_recipe([str(tmp_path / "again.yaml")])
    for one, two in zip(recipe.stages, again.stages, strict=True):
        assert {**one.values, "stages": None} == {**two.values, "stages": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, "got the unknown field 'learning_rat'; did you mean learning_rate?"),
        ({"max_steps": "ten"}, "--max_steps.*invalid int value: 'ten'"),
        ({"max_steps": 1.5}, "--max_steps.*invalid int value: '1.5'"),
        ({"tuning": "qlora"}, "tuning: got 'qlora', want one of dense, parts, lora, full"),
        ({"dtype": "bfloat16"}, "dtype: got bfloat16 without bf16"),
        ({"lora_r": 0}, "lora_r: got 0"),
        ({"output_dir": ...}, "output_dir: got none"),
        ({"model_name_or_path": ...}, "model_name_or_path: got none"),
        ({"datasets": ...}, "datasets: got none"),
        ({"datasets": []}, "datasets: got none"),
        ({"datasets": [{"path": "a"}]}, "datasets: got {.*'path': 'a'.*want {data: folder or Hub name"),
        ({"datasets": [{"data": "a", "weight": 0}]}, "datasets: got the weight 0 for a, want a number above 0"),
        ({"datasets": [{"data": "a", "weight": 1}, "b"]}, "datasets: got weights for some data sets"),
        ({"datasets": [3]}, r"datasets: got \[3\], want a list of names or of mappings with data"),
        ({"eval_datasets": [{"data": "a", "weight": 1}]}, "eval_datasets: got the weight 1 for a, want none"),
        ({"max_turns": 0}, "max_turns: got 0, want at least 1"),
        ({"stages": ["final"]}, "stages: got the name 'final', want letters, digits and _"),
        ({"stages": ["tune", "more"]}, "tuning: got lora for 'tune', want it in the last stage"),
        (
            {"stages": [{"name": "sight", "tuning": "dense"}]},
            "dense_cells: got 0 for 'sight', which learns dense labels",
        ),
        ({"gaze_loss_weight": 1.0}, "gaze_loss_weight: got it for 'align' without pack_turns"),
        ({"turns": "last_words"}, "turns: got 'last_words', want one of rows, first_words"),
        (
            {"turns": "first_words", "train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy: got 'group_by_length' with turns: first_words",
        ),
        ({"stages": ["tune", "tune"]}, "stages: got 'tune' twice"),
        ({"stages": [{"name": "tune", "lr": 1}]}, "stages: 'tune': got the unknown field 'lr'"),
        ({"stages": [{"name": "tune", "output_dir": "x"}]}, "stages: 'tune' has output_dir, which is the whole run's"),
        ({"stages": [{"name": "align", "train_parts": []}]}, "train_parts: got none for 'align'"),
        ({"merge": False, "tuning": "full"}, "merge: got false without LoRA"),
        (
            {"merge": False, "stages": ["align", {"name": "tune", "train_parts": ["box_head"]}]},
            "merge: got false, but 'tune' does not train feature_mining, multi_modal_projector, unlike 'align'",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience: got 2 for 'align', which is not evaluated"),
        ({"eval_strategy": "epoch"}, "eval_strategy: got 'epoch' without eval_datasets"),
        ({"adapter_name_or_path": "a"}, r"adapter_name_or_path: want stages: \[tune\]"),
        ({"adapter_name_or_path": "a", "stages": ["tune"]}, "lora_r: got 4, but the adapter decides that"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint: got 'x', want the same command again"),
        ({"augment": [1]}, r"augment: got \[1\], want a mapping"),
        ({"feature_cache": {"views": 2}}, "feature_cache: got {'views': 2}, want a folder, or a mapping with one"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy: got 'batch_rebalance'.*by_length"),
    ],
)
def test_bad_fields_are_named(configured, changes, message):
    with pytest.raises(ValueError, match=message):
        for stage in read_recipe([configured(**changes)]).stages:
            stage.training_arguments()


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="got list, want a mapping of fields"):
        read_recipe([str(tmp_path / "a.yaml")])
    (tmp_path / "a.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="got no valid YAML"):
        read_recipe([str(tmp_path / "a.yaml")])


def test_with_data_to_evaluate_on_the_best_by_accuracy_is_kept(configured):
    path = configured(eval_datasets=["x"])
    judged = read_recipe([path]).last.training_arguments()
    assert (judged.eval_strategy, judged.eval_steps) == ("steps", 1)
    assert (judged.load_best_model_at_end, judged.metric_for_best_model) == (True, "eval_acc@0.25")
    assert judged.greater_is_better
    error = read_recipe([path, "--metric_for_best_model", "eval_depth_error"]).last.training_arguments()
    assert error.load_best_model_at_end and not error.greater_is_better
    plain = read_recipe([configured()]).last.training_arguments()
    assert (plain.eval_strategy, plain.load_best_model_at_end) == ("no", False)


@pytest.mark.parametrize("name", ["own_pictures", "kitti"])
def test_example_recipes_are_sound(name):
    recipe = read_recipe([str(RECIPES / f"{name}.yaml"), "--model_name_or_path", "base", "--use_cpu"])
    assert all(stage.training_arguments().load_best_model_at_end for stage in recipe.stages)


def test_help_lists_every_field():
    shown = CliRunner().invoke(app, ["train", "--help"])
    assert shown.exit_code == 0
    for kind in ARGUMENTS:
        for one in fields(kind):
            assert not one.init or f"--{one.name}" in shown.output, one.name


# --------------------------------------------------------------------------------------------------------------- data


def test_rows_are_drawn_by_weight(data):
    parts = [Part(str(data), "train", 1.0), Part(str(data), "other", 3.0)]
    mixture = mix("datasets", parts, seed=1)
    ids = mixture.rows["image_id"][:]
    assert mixture.sizes == (6, 2)
    assert mixture.drawn == tuple(sum(name.startswith(split) for name in ids) for split in ("train", "other"))
    assert len(set(ids)) == 8 and len(ids) > 8  # every row came, and some again
    assert 1.5 < mixture.drawn[1] / mixture.drawn[0] < 6
    assert mix("datasets", parts, seed=1).rows["image_id"][:] == ids
    assert mix("datasets", parts, seed=2).rows["image_id"][:] != ids


def test_without_weights_every_row_comes_once(data):
    mixture = mix("datasets", [Part(str(data), split, None) for split in ("train", "other")])
    assert mixture.drawn == mixture.sizes == (6, 2)
    assert len(set(mixture.rows["image_id"])) == 8


def test_a_limit_of_rows_is_spread_evenly(data):
    assert mix("datasets", [Part(str(data), "train", None)], max_rows=3).rows["image_id"][:] == [
        *("train/1", "train/3", "train/5"),
    ]


def test_data_that_is_missing_or_empty_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"datasets: cannot read .* got 'test', want one of other, train, val"):
        mix("datasets", [Part(str(data), "test", None)])
    file = tmp_path / DATA_FOLDER / shard_name("train", 0, 1)
    file.parent.mkdir()
    datasets.Dataset.from_dict({name: [] for name in IG3D_FEATURES}, features=IG3D_FEATURES).to_parquet(file)
    with pytest.raises(ValueError, match=r"datasets: cannot read .*\"train\" corresponds to no data"):
        mix("datasets", [Part(str(tmp_path), "train", None)])


def test_turns_are_drawn_anew_each_epoch_and_alike_in_the_same(row):
    rows, turns = TrainingRows([row], max_turns=1, seed=3), []
    for epoch in (*range(8), 0, 7):
        rows.set_epoch(epoch)
        turn = rows[0]
        validate_row(turn)
        turns.append((turn["messages"][0]["content"], turn["targets"]))
    assert {targets[0] for _, targets in turns} == {"a", "b"}
    assert all(("the car" in text) == (targets == ["a"]) for text, targets in turns)
    assert turns[-2:] == [turns[0], turns[7]]
    assert TrainingRows([row], max_turns=2)[0] is row


def test_turns_keep_their_system_words_boxes_and_meanings(row):
    row["messages"][3]["content"] = "<box_3d> and <box_3d>"
    row = {**row, "messages": [{"role": "system", "content": "Be brief."}, *row["messages"]]}
    row |= {"targets": ["a", "b", "a"], "task": ["grounding", "multi"], "meanings": [{"kind": "x"}, {"kind": "y"}]}
    taken = take_turns(row, [1])
    validate_row(taken)
    assert [message["role"] for message in taken["messages"]] == ["system", "user", "assistant"]
    assert (taken["targets"], taken["task"], taken["meanings"]) == (["b", "a"], ["multi"], [{"kind": "y"}])


def of_lengths(row, *counts):
    """Rows of so many turns each."""
    rows = []
    for number, count in enumerate(counts):
        phrases = [f"the car number {i}" for i in range(count)]
        fields = {"messages": grounding_conversation(phrases), "targets": ["a"] * count, "task": ["grounding"] * count}
        rows.append({**row, **fields, "image_id": str(number)})
    return rows


class Sealed(dict):
    """A row whose picture must not be looked at."""

    def __getitem__(self, name):
        assert name != "image"
        return super().__getitem__(name)


def words(row):
    return sum(len(message["content"].replace("<image>", "").strip()) for message in row["messages"])


@pytest.mark.parametrize("max_turns", [None, 2])
def test_lengths_are_those_of_the_turns_that_come(row, data, max_turns):
    brief = [{"role": "system", "content": "Be brief."}, *row["messages"]]
    rows = [*of_lengths(row, 1, 5, 3), {**row, "messages": brief}]
    sealed = TrainingRows([Sealed(one) for one in rows], max_turns)
    for epoch in range(4):
        sealed.set_epoch(epoch)
        drawn = TrainingRows(rows, max_turns)
        drawn.set_epoch(epoch)
        assert sealed.lengths() == [words(drawn[i]) for i in range(4)]
    stored = mix("datasets", [Part(str(data), "train", None)]).rows
    assert TrainingRows(stored).lengths() == [words(one) for one in stored]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_order_is_drawn_anew_each_epoch_and_each_row_comes_once(row, processes):
    """On several processes too, which accelerate does not tell the rows' epoch by itself."""

    def epochs(seed=0, group=None):
        found, given = [], of_lengths(row, *range(1, 9))
        rows = [TrainingRows(given, max_turns=1, seed=seed) for _ in range(processes)]
        loaders = [
            prepare_data_loader(
                DataLoader(one, batch_size=2, sampler=EpochSampler(one, group), collate_fn=list),
                num_processes=processes,
                process_index=number,
                put_on_device=False,
                use_seedable_sampler=True,
            )
            for number, one in enumerate(rows)
        ]
        for epoch in range(3):
            for loader in loaders:
                loader.set_epoch(epoch)
            batches = [[one for batch in loader for one in batch] for loader in loaders]
            assert {one.epoch for one in rows} == {epoch}
            found.append([(one["image_id"], one["messages"][0]["content"]) for batch in batches for one in batch])
            assert sorted(name for name, _ in found[-1]) == [str(i) for i in range(8)]
        return found

    for group in (None, 2):
        first = epochs(group=group)
        assert first == epochs(group=group) and first != epochs(seed=1, group=group)
        assert len({tuple(name for name, _ in epoch) for epoch in first}) == 3
        assert len({frozenset(epoch) for epoch in first}) == 3, "turns are drawn anew"


def test_batches_by_length_need_less_padding(row):
    rows = TrainingRows(of_lengths(row, *range(1, 65)))

    def padding(group):
        lengths, order = rows.lengths(), list(EpochSampler(rows, group))
        batches = [[lengths[i] for i in order[k : k + 4]] for k in range(0, 64, 4)]
        return sum(4 * max(batch) - sum(batch) for batch in batches) / sum(lengths)

    assert padding(4) < 0.3 * padding(None)


def test_labels_are_those_that_transformers_marks(chain, row):
    """The collator has its batch as lists for speed; here is the same asked for as tensors."""
    processor, rows = chain[1], of_lengths(row, 3, 1)
    collator = LLMI3DDataCollator(processor)
    batch = collator(rows)
    marked = processor.apply_chat_template(
        [collator._conversation(one) for one in rows],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"intrinsics": [one["intrinsics"] for one in rows], "padding_side": "right"},
    )
    learned = torch.as_tensor(marked["assistant_masks"]).bool()
    assert 0 < learned.sum() < learned.numel()
    assert torch.equal(batch["labels"], marked["input_ids"].masked_fill(~learned, -100))
    for name in ("input_ids", "attention_mask", "pixel_values", "high_res_pixel_values"):
        assert batch[name].dtype == marked[name].dtype and torch.equal(batch[name], marked[name])


def test_rows_are_augmented(configured):
    pytest.importorskip("llmi3d.training.augment")
    stage = prepare(read_recipe([configured(augment={"flip": 1.0}, stages=["tune"])])).stages[0]
    plain, flipped = stage.training.rows[0], stage.training_rows()[0]
    assert flipped["objects"][0]["center"][0] == pytest.approx(-plain["objects"][0]["center"][0])


# --------------------------------------------------------------------------------------------------------- preparation


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        (["--stages", "align"], {"feature_mining", "multi_modal_projector", "box_head"}),
        (["--stages", "tune"], {"feature_mining", "multi_modal_projector", "box_head", "LoRA", "query token"}),
        (["--stages", "tune", "--train_parts", "box_head"], {"box_head", "LoRA", "query token"}),
        (
            ["--stages", "tune", "--freeze_towers", "false"],
            {"vision_tower", "high_res_tower", "feature_mining", "multi_modal_projector", "box_head", "LoRA"}
            | {"query token"},
        ),
        (["--stages", "tune", "--tuning", "full"], set(GROUPS) - {"vision_tower", "high_res_tower"}),
        (["--stages", "tune", "--tuning", "full", "--freeze_towers", "false"], set(GROUPS)),
    ],
)
def test_what_is_trained_is_counted(configured, chain, flags, trained):
    stage, model = read_recipe([configured(), *flags]).last, copy.deepcopy(chain[0])
    unused = {name for name, one in model.named_parameters() if not one.requires_grad}
    counts, total = count_parameters(model.config, stage), sum(one.numel() for one in model.parameters())
    assert set(counts) - {"frozen"} == trained
    prepared = prepare_model(model, stage)
    wanted = [(name, one.numel()) for name, one in prepared.named_parameters() if one.requires_grad]
    assert sum(count for name, count in counts.items() if name != "frozen") == sum(count for _, count in wanted)
    added = counts.get("LoRA", 0) + counts.get("query token", 0)
    assert sum(counts.values()) - added == total
    # What no gradient ever reaches stays frozen: it would stop several processes.
    names = {name.replace(".modules_to_save.default", "").removeprefix("base_model.model.") for name, _ in wanted}
    assert not names & unused


def test_in_half_precision_what_is_trained_is_float32(configured, chain):
    stage = read_recipe([configured(dtype="bfloat16", bf16=True), "--stages", "tune", "--freeze_towers", "false"]).last
    model = prepare_model(copy.deepcopy(chain[0]).to(torch.bfloat16), stage)
    kinds = {(one.requires_grad, one.dtype) for name, one in model.named_parameters() if "language_model" in name}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    # One tower, one dtype, its frozen layers too.
    tower = model.get_base_model().model.vision_tower
    assert {one.dtype for one in tower.modules_to_save.parameters()} == {torch.float32}


def test_a_dry_run_tells_and_writes_nothing(configured, data, tmp_path):
    path = configured(eval_datasets=[{"data": str(data), "split": "val"}], gradient_accumulation_steps=2)
    done = CliRunner().invoke(app, ["train", path, "--dry-run", "--num_train_epochs", "3", "--max_steps", "-1"])
    assert done.exit_code == 0, done.output
    assert "align (parts)" in done.output and "tune (lora)" in done.output
    assert f"{data} (train): 6 rows" in done.output and f"{data} (val): 3 rows" in done.output
    assert "steps       6 of 4 images (2 x 2 accumulated x 1 processes)" in done.output  # 3 batches: 2 steps an epoch
    assert not (tmp_path / "out").exists()


def test_a_plan_tells_memory_and_time_and_writes_nothing(configured, tmp_path):
    done = CliRunner().invoke(app, ["train", configured(), "--plan", "--plan_device", "l40s"])
    assert done.exit_code == 0, done.output
    for stage, steps in (("align (parts)", 2), ("tune (lora)", 3)):
        assert stage in done.output and f"steps       {steps} of 2 images" in done.output
    assert done.output.count("(fits 48 GiB)") == done.output.count("h in all.") == 2
    assert not (tmp_path / "out").exists()


def test_a_module_that_is_not_there_is_refused(configured):
    with pytest.raises(ValueError, match="train_parts: the model has no 'depth_head', want modules such as"):
        prepare(read_recipe([configured(train_parts=["depth_head"])]))


def test_another_kind_of_base_is_refused(configured, tmp_path):
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match=r"model_name_or_path: got a 'llama' in .* want a LLMI3D checkpoint"):
        prepare(read_recipe([configured(model_name_or_path=str(tmp_path / "llama"))]))


def test_a_folder_that_holds_something_else_is_left_alone(configured, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        command.main([configured()])
    assert "holds something else; choose a new folder" in capsys.readouterr().err
    assert list(files(tmp_path / "out")) == ["thesis.txt"]


# ---------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_leaves_a_checkpoint_that_grounds(configured, data, photograph, chain, base, tmp_path, monkeypatch):
    """Both stages, evaluated; given again it does nothing; given otherwise it is refused."""
    path, out = configured(eval_datasets=[{"data": str(data), "split": "val"}]), tmp_path / "out"
    command.main([path])
    assert ask(out / "final", photograph)["score"] > 0
    before, after = load_file(base / "model.safetensors"), load_file(out / "align" / "model" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(part not in name for name in moved for part in ("language_model", "tower", "lm_head"))
    # Steps are those foretold; components and metrics are logged.
    log = json.loads((out / "final" / "training_log.json").read_text())
    assert [max(line["step"] for line in log[name]) for name in ("align", "tune")] == [2, 3]
    assert any("loss_depth" in line for line in log["align"])
    # The card says what was measured, and on what.
    card = (out / "final" / "README.md").read_text()
    judged = json.loads((out / "tune" / "eval_results.json").read_text())
    assert f"| Acc@0.25 | {judged['eval_acc@0.25']:.4g} |" in card
    assert f"| depth error, m | {judged['eval_depth_error']:.4g} |" in card
    assert f"| tune | evaluation | {data} | val | 3 |" in card
    assert f"llmi3d train {path}" in card and "| learning rate | 0.001 | 0.001 |" in card
    assert "llama, 2 layers of 32" in card and f"| parameters | {chain[0].num_parameters():,} |" in card
    assert "CPU, " in card and "| time | " in card
    front = ModelCard.load(out / "final" / "README.md").data
    assert {one.metric_type: one.metric_value for one in front.eval_results}["acc@0.25"] == judged["eval_acc@0.25"]
    assert (front.license, front.base_model) == ("llama2", "some/base")
    assert f"| all weights, before training | `{base.name}` | llama2 |" in card
    assert "`some/base`" in card and f"| training data | `{data.name}` | c-uda |" in card
    assert front.model_name == "out" and front.eval_results[0].dataset_split == "val"
    assert not [name for name in files(out / "final") if name.endswith((".bin", ".pt", ".pth"))]

    written = files(out)
    monkeypatch.setattr(command, "StageTrainer", None)  # would fail if anything were trained
    command.main([path])
    with pytest.raises(SystemExit):
        command.main([path, "--learning_rate", "0.5"])
    assert files(out) == written


def test_a_run_with_a_feature_cache_ends_as_one_without(configured, base, tmp_path):
    flags = ["--stages", "[tune]", "--max_steps", "4", "--save_strategy", "no"]
    flags += ["--optim", "sgd", "--learning_rate", "0.1"]  # AdamW makes much of what was rounded
    command.main([configured(), *flags])
    cached = ["--output_dir", str(tmp_path / "cached"), "--feature_cache", str(tmp_path / "features")]
    command.main([configured(), *flags, *cached])
    written = {name: time for name, time in files(tmp_path / "features").items() if name != ".lock"}
    before, plain, same = (
        load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out/final", tmp_path / "cached/final")
    )
    assert written and max((plain[name] - before[name]).abs().max() for name in plain) > 1e-2
    for name, value in plain.items():  # features are kept in half precision
        torch.testing.assert_close(same[name], value, rtol=2e-2, atol=2e-3)
    views = ["--feature_cache", str({"folder": str(tmp_path / "features"), "views": 2}), "--augment", "{color: 0.2}"]
    with pytest.raises(ValueError, match=r"feature_cache: .* was built with the augment None"):
        command.main([configured(), *flags, *views, "--output_dir", str(tmp_path / "views")])
    assert files(tmp_path / "features").items() >= written.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze_towers": False}, "for 'tune', which trains the high_res_tower; want frozen towers"),
        ({"train_parts": ["box_head", "vision_tower"]}, "for 'align', which trains the vision_tower"),
        ({"augment": {"flip": 0.5}}, "for 'align', which has augment; want more than one of its views"),
    ],
)
def test_a_feature_cache_is_refused_where_features_would_be_stale(configured, tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit):
        command.main([configured(feature_cache=str(tmp_path / "features"), **changes)])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "features").exists()


def test_a_stage_may_have_a_feature_cache_alone(configured):
    stages = [
        {"name": "align", "feature_cache": {"folder": "features", "views": 2}, "augment": {"color": 0.1}},
        "tune",
    ]
    prepared = prepare(read_recipe([configured(stages=stages, freeze_towers=False)]))
    command.check_feature_cache(prepared)
    cache = prepared.stages[0].stage.data.cache()
    assert (cache.folder, cache.views) == ("features", 2)
    assert prepared.stages[1].stage.data.cache() is None


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_a_feature_cache_is_refused_with_sharded_weights(configured, monkeypatch, engine):
    prepared = prepare(read_recipe([configured(feature_cache="features")]))
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ValueError, match="for 'align', which shards weights; want neither FSDP nor DeepSpeed"):
        command.check_feature_cache(prepared)


def test_dense_labels_want_maps(configured):
    path = configured(stages=[{"name": "sight", "tuning": "dense", "dense_cells": 4}])
    with pytest.raises(
        ValueError, match="dense_cells: got it for 'sight', but no data set has the column instance_map"
    ):
        prepare(read_recipe([path]))


def test_a_model_from_nothing_sees_then_speaks_then_grounds(configured, data, base, photograph, tmp_path):
    """Every kind of stage, from one file, on rows with instance maps."""
    rows = datasets.load_dataset(
        "parquet", data_files=str(data / DATA_FOLDER / shard_name("train", 0, 1)), split="train"
    )
    maps = np.repeat(np.arange(4, dtype=np.uint8), 80)[None].repeat(200, 0)
    rows = rows.map(
        lambda _: {"instance_map": Image.fromarray(maps)},
        features=Features({**rows.features, "instance_map": datasets.Image()}),
    )
    mapped = tmp_path / "mapped" / DATA_FOLDER / shard_name("train", 0, 1)
    mapped.parent.mkdir(parents=True)
    rows.to_parquet(mapped)
    words = {"pack_turns": True, "max_turns": 2, "dense_cells": 4, "gaze_loss_weight": 1.0, "max_steps": 2}
    stages = [
        {"name": "sight", "tuning": "dense", "dense_cells": 4, "max_steps": 2, "augment": {"flip": 0.5, "color": 0.2}},
        {"name": "words", "tuning": "full", "turns": "first_words", **words},
        {"name": "tune", **words},
    ]
    command.main(
        [
            configured(
                stages=stages,
                datasets=[{"data": str(tmp_path / "mapped")}, {"data": str(data), "split": "other"}][:1],
                eval_datasets=[{"data": str(data), "split": "val"}],
                **{"freeze_towers": False, "attn_implementation": "eager", "muon": True, "final_dtype": "bfloat16"},
            )
        ]
    )
    out = tmp_path / "out"
    first, seen, told = (load_file(f / "model.safetensors") for f in (base, out / "sight/model", out / "words/model"))
    language = "model.language_model.layers.0.mlp.up_proj.weight"
    tower = next(name for name in first if name.startswith("model.high_res_tower") and name.endswith("weight"))
    assert torch.equal(first[language], seen[language]) and not torch.equal(first[tower], seen[tower])
    assert not torch.equal(seen[language], told[language])
    assert {value.dtype for value in load_file(out / "final/model.safetensors").values()} <= {
        torch.bfloat16,
        torch.float32,
    }
    assert ask(out / "final", photograph)["score"] > 0
    log = json.loads((out / "final" / "training_log.json").read_text())
    assert log["sight"][0]["loss_names"] > 0 and log["tune"][0]["loss_gaze"] > 0 and log["tune"][0]["loss_dense"] > 0


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one(configured, tmp_path, monkeypatch, capsys):
    path, other = configured(), tmp_path / "other"
    command.main([path])

    step, count = command.LLMI3DTrainer.training_step, iter(range(100))

    def interrupted(self, *args, **kwargs):
        if next(count) == 4:  # align takes two steps, tune three
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(command.LLMI3DTrainer, "training_step", interrupted)
        command.main([path, "--output_dir", str(other)])
    assert (other / "align" / "model").is_dir() and not (other / "tune" / "adapter").exists()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(command, "write_training_card", full)
        command.main([path, "--output_dir", str(other)])
    assert not (other / "final").exists()
    capsys.readouterr()
    command.main([path, "--output_dir", str(other)])
    printed = capsys.readouterr().out
    assert "align: done already, skipped." in printed and "tune: done already, skipped." in printed
    assert {entry.name for entry in other.iterdir()} == {"run.json", "align", "tune", "final"}
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (tmp_path / "out", other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_an_adapter_is_kept_apart_and_gone_on_from(configured, base, chain, photograph, tmp_path, capsys):
    command.main([configured(merge=False)])
    adapter = tmp_path / "out" / "final"
    assert "adapter_model.safetensors" in files(adapter) and "model.safetensors" not in files(adapter)
    merged = PeftModel.from_pretrained(LLMI3DForConditionalGeneration.from_pretrained(base), adapter)
    merged = merged.merge_and_unload().eval()
    wanted = pipeline("image-3d-grounding", model=merged, processor=chain[1], device="cpu")(photograph, **QUESTION)
    got = ask(adapter, photograph)
    assert got["center"] == pytest.approx(wanted["boxes"][0]["center"], rel=1e-4)

    more = {"adapter_name_or_path": str(adapter), "stages": [{"name": "tune", "max_steps": 1}], "lora_r": ...}
    command.main([configured(**more, output_dir=str(tmp_path / "more"), model_name_or_path=...)])
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "more/tune/adapter")
    )
    assert set(before) == set(after) and any(not torch.equal(before[name], after[name]) for name in before)

    chain[1].save_pretrained(tmp_path / "base")
    chain[0].save_pretrained(tmp_path / "base")
    with pytest.raises(SystemExit):
        command.main([configured(**more, output_dir=str(tmp_path / "no"), model_name_or_path=str(tmp_path / "base"))])
    assert f"was trained on '{base}', but model_name_or_path is" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stage_that_does_not_improve_stops_early(configured, data, tmp_path):
    path = configured(eval_datasets=[{"data": str(data), "split": "val"}], early_stopping_patience=1)
    command.main([path, "--stages", "{name: tune, max_steps: 6, learning_rate: 0.0}"])
    assert json.loads((tmp_path / "out" / "tune" / "trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.slow
def test_full_tuning_in_half_precision(configured, photograph, tmp_path):
    path = configured(tuning="full", freeze_towers=False, dtype="bfloat16", bf16=True)
    command.main([path, "--stages", "{name: tune, max_steps: 2}"])
    assert ask(tmp_path / "out" / "final", photograph)["score"] > 0
    saved = load_file(tmp_path / "out" / "final" / "model.safetensors")
    assert {one.dtype for name, one in saved.items() if name.startswith("model.")} == {torch.bfloat16}


@pytest.mark.slow
def test_two_processes_train_one_model(configured, base, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    flags = ["--per_device_train_batch_size", "1", "--output_dir", str(tmp_path / "two"), "--stages", "tune"]
    steps = ["--max_steps", "2", "--optim", "sgd", "--learning_rate", "0.1"]
    path = configured()
    done = subprocess.run(
        [*launch, "-m", "llmi3d.training.run", path, *flags, *steps, "--ddp_backend", "gloo"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    command.main([path, "--stages", "tune", *steps])
    two, one = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("two", "out"))
    before = load_file(base / "model.safetensors")
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-2
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)
