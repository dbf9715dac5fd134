# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Collator, trainer and LoRA: what moves, what is counted, what is judged, what survives saving."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers.trainer_utils import get_last_checkpoint

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.data.schema import grounding_conversation
from llmi3d.evaluation import grounding_metrics, make_record, with_predictions
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.lora import lora_config
from llmi3d.training.losses import Box3DLossWeights, Box3DTargets


@pytest.fixture
def rows(row):
    """Four rows with 2, 1, 0 and 2 boxes."""
    one = {**row, "messages": grounding_conversation(["the cone"]), "targets": ["b"], "task": ["grounding"]}
    talk = [{"role": "user", "content": "<image>\nHow many dogs?"}, {"role": "assistant", "content": "None."}]
    none = {**row, "messages": talk, "targets": [], "task": ["vqa"]}
    return [row, one, none, copy.deepcopy(row)]


def make_trainer(model, processor, rows, out, spoil=None, **kwargs):
    """A trainer of a copy of the model, as accelerate marks what it gets; `spoil` may change its batches."""
    settings = {
        "output_dir": str(out),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
    }
    arguments = LLMI3DTrainingArguments(**{**settings, **kwargs})
    collator = LLMI3DDataCollator(processor)

    def collate(chosen):
        batch = collator(chosen)
        if spoil is not None:
            spoil(batch)
        return batch

    return LLMI3DTrainer(copy.deepcopy(model), arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate)


def train(*args, **kwargs):
    """Trains a copy of the model; gives it and the trainer."""
    trainer = make_trainer(*args, **kwargs)
    trainer.train()
    return trainer.model, trainer


def spoil_second(batch):
    """Pixels of the row "test/1" are not finite."""
    for index, name in enumerate(batch["image_id"]):
        if name == "test/1":
            batch["pixel_values"][index] = torch.nan


def named(rows):
    return [{**row, "image_id": f"test/{index}"} for index, row in enumerate(rows)]


# ------------------------------------------------------------------------------------------------------------ collator


def test_only_the_assistants_words_are_learned(chain, rows):
    processor = chain[1]
    batch = LLMI3DDataCollator(processor)(rows)
    learned = [processor.tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]
    assert learned == ["<|box_3d|></s><|box_3d|></s>", "<|box_3d|></s>", "None.</s>", "<|box_3d|></s><|box_3d|></s>"]
    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])


def test_targets_are_the_rows_boxes(chain, rows):
    targets = Box3DTargets(**LLMI3DDataCollator(chain[1], symmetric_categories=("cone",))(rows)["targets_3d"])
    assert targets.mask.sum(-1).tolist() == [2, 1, 0, 2]
    for wanted, got in zip(rows[0]["objects"], targets.center[0], strict=True):
        torch.testing.assert_close(got, torch.tensor(wanted["center"]))
    assert targets.symmetric.tolist() == [[False, True], [True, False], [False, False], [False, True]]
    # Every object is painted, asked for or not.
    assert targets.painted_mask.sum(-1).tolist() == [2, 2, 2, 2]


def test_user_words_cannot_bring_special_tokens(chain, row):
    row["messages"][2]["content"] = "Locate <|box_3d|> in 3D."
    with pytest.raises(ValueError, match=r"special token '<\|box_3d\|>'"):
        LLMI3DDataCollator(chain[1])([row])


def test_other_counts_of_placeholders_than_targets_are_refused(chain, row):
    row["targets"] = ["a"]
    with pytest.raises(ValueError, match="row 'test/0' has 2 <box_3d> and 1 targets"):
        LLMI3DDataCollator(chain[1])([row])


def test_no_rows_are_refused(chain):
    with pytest.raises(ValueError, match="rows: got an empty list"):
        LLMI3DDataCollator(chain[1])([])


# ------------------------------------------------------------------------------------------------------------- trainer


def test_training_lowers_the_loss_and_moves_what_should_move(chain, rows, tmp_path):
    model, processor = chain
    trained, trainer = train(model, processor, rows, tmp_path, max_steps=25, logging_steps=5)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    before = dict(model.named_parameters())
    for name, after in trained.named_parameters():
        assert torch.equal(after, before[name]) != after.requires_grad, name


def test_every_component_is_logged(chain, rows, tmp_path):
    _, trainer = train(*chain, rows, tmp_path, max_steps=1)
    (log,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    components = {name: value for name, value in log.items() if name.startswith("loss_")}
    assert set(components) == {
        *("loss_lm", "loss_center", "loss_depth", "loss_size", "loss_rotation", "loss_joint"),
        *("loss_depth_uncertainty", "loss_box_2d", "loss_depth_map", "loss_score", "loss_pointing"),
    }
    assert sum(components.values()) == pytest.approx(log["loss"], rel=1e-4)
    assert 0 <= log["box_iou"] <= 1


@pytest.mark.parametrize(("batch", "accumulated"), [(2, 2), (1, 4)])
def test_accumulated_batches_are_one_batch(chain, rows, tmp_path, batch, accumulated):
    """Samples hold 2, 1, 0 and 2 boxes and different numbers of words: a mean of means would differ."""
    whole, trainer = train(*chain, rows, tmp_path, optim="sgd")
    parts, other = train(
        *chain,
        rows,
        tmp_path,
        optim="sgd",
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulated,
    )
    for (name, one), (_, two) in zip(whole.named_parameters(), parts.named_parameters(), strict=True):
        torch.testing.assert_close(two, one, atol=2e-6, rtol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    for one, two in zip(trainer.state.log_history, other.state.log_history, strict=True):
        assert one.get("loss", 0) == pytest.approx(two.get("loss", 0), rel=1e-4)


def test_loss_weights(chain, rows, tmp_path):
    weights = {name: 0.0 for name in Box3DLossWeights.__dataclass_fields__}
    _, trainer = train(*chain, rows, tmp_path, max_steps=1, lm_loss_weight=2.0, box_loss_weights=weights)
    (log,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    _, plain = train(*chain, rows, tmp_path, max_steps=1)
    assert log["loss"] == pytest.approx(2 * plain.state.log_history[0]["loss_lm"], rel=1e-4)


def test_unknown_loss_weight_is_refused(tmp_path):
    with pytest.raises(ValueError, match="box_loss_weights: got 'centre', want some of center, depth"):
        LLMI3DTrainingArguments(output_dir=str(tmp_path), box_loss_weights={"centre": 1.0})


@pytest.fixture
def answered(new_chain, rows):
    """Model, processor, rows whose truth is the model's own answer, changed, and what a perfect judge says of it.

    Three rows are about one, no and two boxes: the first a third as large in volume, the others untouched and 100 m
    behind its answer.
    """
    model, processor = new_chain
    rows = [copy.deepcopy(rows[index]) for index in (1, 2, 0)]
    batch = LLMI3DDataCollator(processor)(rows)
    cameras = processor.image_processor(
        [row["image"] for row in rows], intrinsics=[row["intrinsics"] for row in rows], return_tensors="pt"
    ).cameras
    batch.pop("targets_3d")
    with torch.no_grad():
        answers = processor.post_process_grounding_3d(model(**batch), cameras)
    predicted, changed = [], iter(((3.0 ** (1 / 3), 0.0), (1.0, 0.0), (1.0, 100.0)))
    for row, answer in zip(rows, answers, strict=True):
        row["objects"] = copy.deepcopy(row["objects"])
        objects = {entry["id"]: entry for entry in row["objects"]}
        for index, target in enumerate(row["targets"]):
            box = {name: answer[f"{name}s"][index].tolist() for name in ("center", "size", "rotation")}
            predicted.append(box)
            scale, shift = next(changed)
            size = [side * scale for side in box["size"]]
            center = [*box["center"][:2], box["center"][2] + shift]
            objects[target].update(center=center, size=size, rotation=box["rotation"])
    true = [next(o for o in row["objects"] if o["id"] == target) for row in rows for target in row["targets"]]
    records = [make_record(str(i), "grounding", [box]) for i, box in enumerate(true)]
    records = with_predictions(records, [{"id": str(i), "boxes": [box]} for i, box in enumerate(predicted)])
    return model, processor, rows, grounding_metrics(records)


def test_evaluation_judges_the_boxes_of_the_whole_data_set(answered, tmp_path):
    model, processor, rows, judged = answered
    found = make_trainer(model, processor, rows, tmp_path, per_device_eval_batch_size=2).evaluate()
    assert found["eval_num_boxes"] == 3
    assert found["eval_acc@0.25"] == pytest.approx(2 / 3) and found["eval_acc@0.5"] == pytest.approx(1 / 3)
    assert found["eval_mean_iou"] == pytest.approx(4 / 9, abs=1e-4)
    assert found["eval_depth_error"] == pytest.approx(100 / 3, rel=1e-4)
    names = ("acc@0.25", "acc@0.5", "mean_iou", "depth_error", "length_error", "width_error", "height_error")
    assert {name: found[f"eval_{name}"] for name in names} == pytest.approx(
        {name: judged[name] for name in names}, rel=1e-4, abs=1e-4
    )
    # One batch of all three is no mean of means.
    whole = make_trainer(model, processor, rows, tmp_path).evaluate()
    losses = {name: value for name, value in whole.items() if name.startswith("eval_loss")}
    assert {name: found[name] for name in losses} == pytest.approx(losses, rel=1e-5, abs=1e-6)
    assert len(losses) == 12
    assert losses.pop("eval_loss") == pytest.approx(sum(losses.values()), rel=1e-5)


def test_evaluation_without_boxes_has_losses_alone(chain, rows, tmp_path):
    found = make_trainer(*chain, [rows[2]], tmp_path).evaluate()
    assert found["eval_num_boxes"] == 0 and found["eval_loss_lm"] > 0
    assert "eval_acc@0.25" not in found


def test_the_best_checkpoint_is_chosen_by_accuracy_and_smaller_errors_are_better(tmp_path):
    for name, greater in (("eval_acc@0.25", True), ("eval_depth_error", False), ("eval_loss", False)):
        arguments = LLMI3DTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=name)
        assert arguments.greater_is_better == greater


def test_own_metrics_are_refused(chain, tmp_path):
    with pytest.raises(ValueError, match="compute_metrics: got a function"):
        LLMI3DTrainer(chain[0], LLMI3DTrainingArguments(output_dir=str(tmp_path)), compute_metrics=lambda _: {})


# -------------------------------------------------------------------------------------------------- what is not finite


def test_a_loss_that_is_not_finite_stops_with_component_and_row(chain, rows, tmp_path):
    with pytest.raises(FloatingPointError, match=r"Step 1: not finite: lm, .*depth_virtual.* of test/1\."):
        train(*chain, named(rows), tmp_path, spoil=spoil_second)


def test_a_gradient_that_is_not_finite_stops_with_parameter_and_rows(chain, rows, tmp_path):
    trainer = make_trainer(*chain, named(rows[:2]), tmp_path)
    trainer.model.box_head.trunk[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match=r"the gradients of box_head.trunk.1.weight, after test/0, test/1\."):
        trainer.train()


def test_a_step_that_is_not_finite_is_passed_over_and_counted(chain, rows, tmp_path):
    """Two steps of which the second is spoiled are the first; the optimizer's momentum is untouched too."""
    settings = {"per_device_train_batch_size": 1, "optim": "sgd", "optim_args": "momentum=0.9"}
    rows = named(rows[:2])
    once, first = train(*chain, rows, tmp_path, max_steps=1, **settings)
    both, trainer = train(*chain, rows, tmp_path, max_steps=2, spoil=spoil_second, nonfinite="skip", **settings)
    for (name, one), (_, two) in zip(once.named_parameters(), both.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    assert [log.get("skipped_steps", 0) for log in trainer.state.log_history if "loss" in log] == [0, 1]
    momenta = [list(one.optimizer.optimizer.state.values()) for one in (first, trainer)]
    for one, two in zip(*momenta, strict=True):
        assert torch.equal(one["momentum_buffer"], two["momentum_buffer"])


def test_an_evaluation_that_is_not_finite_stops(chain, rows, tmp_path):
    with pytest.raises(FloatingPointError, match=r"Evaluation: not finite: lm, .* of test/1\."):
        make_trainer(*chain, named(rows), tmp_path, spoil=spoil_second, nonfinite="skip").evaluate()


# ----------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"nonfinite": "ignore"}, "nonfinite: got 'ignore', want one of raise, skip"),
        ({"new_parts_learning_rate": 0.0}, "new_parts_learning_rate: got 0.0, want more than 0"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices: got False, want True"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(given, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        LLMI3DTrainingArguments(output_dir=str(tmp_path), **given)


@pytest.mark.parametrize("adapted", [True, False])
def test_new_parts_have_their_own_learning_rate(new_chain, rows, tmp_path, adapted):
    model, processor = new_chain
    if adapted:
        model = get_peft_model(model, lora_config(model, rank=4))
    trainer = make_trainer(
        model, processor, rows, tmp_path, weight_decay=0.1, learning_rate=1e-4, new_parts_learning_rate=1e-3
    )
    groups = trainer.create_optimizer().param_groups
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    for name, parameter in trainer.model.named_parameters():
        if not parameter.requires_grad:
            continue
        new = (
            "lora_" not in name
            if adapted
            else name.startswith(("box_head.", "model.feature_mining.", "model.multi_modal_projector."))
        )
        assert settings.pop(id(parameter)) == (1e-3 if new else 1e-4, 0.1 if name in decayed else 0.0), name
    assert not settings


def test_an_optimizer_made_elsewhere_has_its_own_rates(chain, tmp_path):
    optimizer = torch.optim.SGD(chain[0].parameters(), lr=1.0)
    arguments = LLMI3DTrainingArguments(output_dir=str(tmp_path), new_parts_learning_rate=1e-3)
    with pytest.raises(ValueError, match="new_parts_learning_rate: got it with `optimizers`"):
        LLMI3DTrainer(chain[0], arguments, optimizers=(optimizer, None))


def test_deepspeed_does_not_round_cameras_and_boxes(chain, rows, tmp_path, monkeypatch):
    trainer = make_trainer(*chain, rows, tmp_path)
    half = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", half)
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    batch = trainer.data_collator(rows)
    prepared = trainer._prepare_inputs(batch)
    assert prepared["pixel_values"].dtype == torch.bfloat16
    for name, value in batch["targets_3d"].items():
        assert torch.equal(prepared["targets_3d"][name], value), name


def test_heads_stay_in_float32_under_autocast(chain, rows, tmp_path):
    seen = set()
    trainer = make_trainer(*chain, rows[:1], tmp_path, max_steps=1, bf16=True)
    head, first = trainer.model.box_head, trainer.model.model.language_model.layers[0].mlp.down_proj
    head.register_forward_hook(lambda _, __, answer: seen.update(one.dtype for one in answer.values()))
    first.register_forward_hook(lambda _, __, answer: seen.add(("layer", answer.dtype)))
    trainer.train()
    assert seen == {torch.float32, torch.bool, ("layer", torch.bfloat16)}


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_resumed_is_uninterrupted(chain, rows, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    whole, _ = train(*chain, rows, tmp_path / "a", max_steps=4)
    train(*chain, rows, tmp_path / "b", max_steps=2, **settings)
    trainer = make_trainer(*chain, rows, tmp_path / "b", max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    for one, two in zip(whole.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_full_disk_leaves_the_last_good_checkpoint(chain, rows, tmp_path, monkeypatch):
    """Also one of the same name, which a run that was resumed earlier is about to replace."""
    settings = {"per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}

    def go_on(checkpoint=None, **changed):
        trainer = make_trainer(*chain, rows[:1], tmp_path, **{**settings, **changed})
        trainer.train(resume_from_checkpoint=checkpoint)

    go_on()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    first, last = (tmp_path / name for name in ("checkpoint-2", "checkpoint-3"))
    before = {path: path.read_bytes() for path in last.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(LLMI3DTrainer, "_save_rng_state", full)
        with pytest.raises(OSError, match="No space left"):
            go_on(str(first), learning_rate=1e-2)
    assert {path: path.read_bytes() for path in last.iterdir()} == before
    assert sorted(tmp_path.iterdir()) == [first, last]
    go_on(str(first), seed=1, max_grad_norm=1.0)
    assert (last / "model.safetensors").read_bytes() != before[last / "model.safetensors"]
    assert sorted(tmp_path.iterdir()) == [first, last] and get_last_checkpoint(str(tmp_path)) == str(last)


# ---------------------------------------------------------------------------------------------------------------- LoRA


@pytest.fixture
def lora(new_chain, rows, tmp_path):
    """A LoRA-wrapped model after three steps, its processor, and the weights of its base before them."""
    model, processor = new_chain
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped = get_peft_model(model, lora_config(model, rank=4))
    start = {name: value.clone() for name, value in wrapped.named_parameters()}
    trained, _ = train(wrapped, processor, rows, tmp_path / "run", max_steps=4, learning_rate=1e-2)
    return trained, processor, before, start


def test_lora_moves_adapters_and_what_is_new(lora):
    trained, _, _, start = lora
    for name, after in trained.named_parameters():
        assert torch.equal(after, start[name]) != after.requires_grad, name
    learned = {name for name, value in trained.named_parameters() if value.requires_grad}
    for part in ("lora_A", "feature_mining", "multi_modal_projector", "box_head", "trainable_tokens"):
        assert any(part in name for name in learned), part
    assert not any(part in name for name in learned for part in ("vision_tower", "high_res_tower"))


def test_adapter_is_loaded_and_merged(lora, photograph, tmp_path):
    trained, processor, before, _ = lora
    trained = trained.eval()
    inputs = processor.grounding_inputs(photograph, "the car", intrinsics=(250, 260, 150, 110))
    with torch.no_grad():
        wanted = trained(**inputs)
    trained.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert "adapter_model.safetensors" in files and not any(name.endswith(".bin") for name in files)

    base = LLMI3DForConditionalGeneration(trained.config).eval()
    base.load_state_dict(before)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        got = loaded(**inputs)
        merged_model = loaded.merge_and_unload()
        merged = merged_model(**inputs)
    merged_model.save_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"] == [
        "LLMI3DForConditionalGeneration"
    ]
    reloaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        again = reloaded(**inputs)
    for other in (got, merged, again):
        torch.testing.assert_close(other.logits, wanted.logits, atol=1e-4, rtol=1e-4)
        for name, value in wanted.boxes_3d.items():
            torch.testing.assert_close(other.boxes_3d[name], value, atol=1e-3, rtol=1e-4)
