# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Collator, trainer and LoRA: what moves, what is counted, what survives saving."""

import copy
import json

import pytest
import torch
from peft import PeftModel, get_peft_model

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.ig3d.schema import grounding_conversation
from llmi3d.training.lora import lora_config
from llmi3d.training.losses import Box3DTargets


@pytest.fixture
def rows(row):
    """Four rows with 2, 1, 0 and 2 boxes."""
    one = {**row, "messages": grounding_conversation(["the cone"]), "targets": ["b"], "task": ["grounding"]}
    talk = [{"role": "user", "content": "<image>\nHow many dogs?"}, {"role": "assistant", "content": "None."}]
    none = {**row, "messages": talk, "targets": [], "task": ["vqa"]}
    return [row, one, none, copy.deepcopy(row)]


def train(model, processor, rows, out, **kwargs):
    """Trains from a copy of the model; gives it and the log."""
    model = copy.deepcopy(model)
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
    trainer = LLMI3DTrainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=LLMI3DDataCollator(processor)
    )
    trainer.train()
    return model, trainer


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
        *("loss_depth_uncertainty", "loss_box_2d", "loss_depth_map", "loss_score"),
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
    weights = {name: 0.0 for name in ("center", "depth", "size", "rotation", "joint", "box_2d", "depth_map", "score")}
    _, trainer = train(
        *chain, rows, tmp_path, max_steps=1, lm_loss_weight=2.0, box_loss_weights={**weights, "depth_uncertainty": 0.0}
    )
    (log,) = (entry for entry in trainer.state.log_history if "loss" in entry)
    _, plain = train(*chain, rows, tmp_path, max_steps=1)
    assert log["loss"] == pytest.approx(2 * plain.state.log_history[0]["loss_lm"], rel=1e-4)


def test_unknown_loss_weight_is_refused(tmp_path):
    with pytest.raises(ValueError, match="box_loss_weights: got 'centre', want some of center, depth"):
        LLMI3DTrainingArguments(output_dir=str(tmp_path), box_loss_weights={"centre": 1.0})


def test_evaluation_gives_the_loss(chain, rows, tmp_path):
    _, trainer = train(*chain, rows, tmp_path, max_steps=1)
    assert trainer.evaluate()["eval_loss"] > 0


def test_resumed_is_uninterrupted(chain, rows, tmp_path):
    whole, _ = train(*chain, rows, tmp_path / "a", max_steps=4)
    train(*chain, rows, tmp_path / "b", max_steps=2, save_strategy="steps", save_steps=2)
    model, processor = chain
    resumed = copy.deepcopy(model)
    arguments = LLMI3DTrainingArguments(
        output_dir=str(tmp_path / "b"),
        per_device_train_batch_size=4,
        max_steps=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = LLMI3DTrainer(resumed, arguments, train_dataset=rows, data_collator=LLMI3DDataCollator(processor))
    trainer.train(resume_from_checkpoint=True)
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


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
