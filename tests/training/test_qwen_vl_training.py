# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Training a LLMI3D on Qwen-VL: the same collator, Trainer, LoRA, packed turns and planner."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.data.schema import turns_of, with_turns
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.feature_cache import FeatureCacheArguments, cache_settings
from llmi3d.training.lora import lora_config
from llmi3d.training.plan import count_step, plan_training


@pytest.fixture(params=[True, False], ids=["mining", "no CNN"])
def new_chain(request, qwen_base, new_qwen_chain):
    """(model, processor) that took over a tiny Qwen-VL, new parts neutral."""
    return new_qwen_chain(qwen_base[0], high_res_branch=request.param)


def train(model, processor, rows, out, **settings):
    arguments = LLMI3DTrainingArguments(
        output_dir=str(out),
        **{
            **{"per_device_train_batch_size": 2, "max_steps": 1, "learning_rate": 1e-2, "save_strategy": "no"},
            **{"report_to": "none", "use_cpu": True, "disable_tqdm": True, **settings},
        },
    )
    trainer = LLMI3DTrainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=LLMI3DDataCollator(processor)
    )
    trainer.train()
    return trainer


def test_only_the_assistants_words_are_learned(qwen_chain, row):
    processor = qwen_chain[1]
    batch = LLMI3DDataCollator(processor)([row])
    learned = batch["labels"][0][batch["labels"][0] != -100]
    assert processor.tokenizer.decode(learned) == "<|box_3d|><|im_end|><|box_3d|><|im_end|>"
    assert (batch["input_ids"] == processor.image_token_id).sum() == 16
    assert batch["targets_3d"]["mask"].sum() == 2


def test_one_step_of_lora_moves_adapters_and_what_is_new(new_chain, row, tmp_path):
    model, processor = new_chain
    branch = model.config.high_res_branch
    wrapped = get_peft_model(model, lora_config(model, rank=4))
    start = {name: value.clone() for name, value in wrapped.named_parameters()}
    # Of a product of two adapters that starts at zero only one moves in the first step.
    trained = train(wrapped, processor, [row] * 4, tmp_path, max_steps=2).model
    still = {name for name, value in trained.named_parameters() if torch.equal(value, start[name])}
    moving = {name for name, value in trained.named_parameters() if value.requires_grad}
    assert still == set(start) - moving
    parts = {"lora_": 0, "feature_mining": 0, "box_head": 0, "trainable_tokens": 0}
    for name in moving:
        (part,) = [part for part in parts if part in name]
        parts[part] += 1
    assert parts.pop("feature_mining") > 0 if branch else parts.pop("feature_mining") == 0
    assert all(parts.values()) and parts["lora_"] == 3 * 7 * 2
    assert not any("vision_tower" in name or "high_res_tower" in name for name in moving)


def test_an_adapter_is_loaded_and_merged(qwen_base, new_qwen_chain, row, photograph, tmp_path):
    model, processor = new_qwen_chain(qwen_base[0])
    base = copy.deepcopy(model)
    trained = train(get_peft_model(model, lora_config(model, rank=4)), processor, [row] * 2, tmp_path / "run").model
    trained = trained.eval()
    inputs = processor.grounding_inputs(photograph, "the car", intrinsics=(250, 260, 150, 110))
    with torch.no_grad():
        want = trained(**inputs)
        trained.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        merged = loaded.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        whole = LLMI3DForConditionalGeneration.from_pretrained(tmp_path / "merged")
        for one in (merged, whole):
            got = one(**inputs)
            torch.testing.assert_close(got.logits, want.logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(got.boxes_3d.size, want.boxes_3d.size, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss_and_evaluation_judges_boxes(qwen_base, new_qwen_chain, row, tmp_path):
    model, processor = new_qwen_chain(qwen_base[0])
    trainer = train(
        model, processor, [row] * 4, tmp_path, max_steps=8, learning_rate=3e-3, logging_steps=1, max_grad_norm=1.0
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert trainer.evaluate()["eval_num_boxes"] == 8


# ------------------------------------------------------------------------------------------------------- packed turns


@pytest.fixture
def turns(row):
    """A row of three turns, and one of one."""
    talk = [{"role": "user", "content": "How many cars?"}, {"role": "assistant", "content": "One."}]
    first = {**row, "messages": [*row["messages"], *talk], "task": ["grounding", "grounding", "vqa"]}
    ask = [{"role": "user", "content": "<image>\nHow many dogs?"}, {"role": "assistant", "content": "None."}]
    return [first, {**row, "messages": ask, "targets": [], "task": ["vqa"]}]


def test_packed_turns_are_what_each_would_be_alone(qwen_chain, turns):
    model, processor = qwen_chain
    batch = LLMI3DDataCollator(processor, pack_turns=True)(turns)
    targets = batch.pop("targets_3d")
    del batch["image_id"]
    with torch.no_grad():
        together = model(**batch)
    losses, counts, boxes = [], [], []
    for row in turns:
        for turn in turns_of(row):
            alone = LLMI3DDataCollator(processor)([with_turns(row, [turn])])
            truth = alone.pop("targets_3d")
            del alone["image_id"]
            with torch.no_grad():
                out = model(**alone)
            counts.append((alone["labels"] != -100).sum())
            losses.append(out.loss * counts[-1])
            boxes += [(*pair,) for pair in zip(truth["center"][0], out.boxes_3d.size[0], strict=False)]
    torch.testing.assert_close(together.loss, sum(losses) / sum(counts), rtol=1e-4, atol=1e-5)
    assert len(boxes) == targets["mask"].sum() == 2
    for center, size in zip(targets["center"][0], together.boxes_3d.size[0], strict=True):
        (want,) = [one for place, one in boxes if torch.allclose(place, center)]
        torch.testing.assert_close(size, want, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ planning


def test_what_is_planned_on_the_meta_device_is_what_a_step_saves(qwen_chain):
    config = qwen_chain[0].config
    real = count_step(copy.deepcopy(qwen_chain[0]).train(), 2, 20, 3)
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(config).train()
    planned = count_step(model, 2, 20, 3)
    assert planned.operations == real.operations
    assert planned.saved == pytest.approx(real.saved, rel=0.01)


@pytest.mark.parametrize("tuning", ["lora", "full", "new_parts"])
def test_runs_are_planned(new_chain, tuning):
    plan = plan_training(new_chain[0].config, tuning=tuning, train_towers=tuning == "full", rank=4)
    own = sum(one.numel() for one in new_chain[0].parameters())
    assert plan.parameters >= own and plan.fits and plan.tera_operations > 0
    assert (plan.trained_parameters == own) == (tuning == "full")


def test_features_of_its_encoder_are_not_kept(qwen_chain):
    with pytest.raises(ValueError, match=r"feature_cache: got a 'qwen.*_vision', want a ViT"):
        cache_settings(*qwen_chain, None, FeatureCacheArguments("features"))
