# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Reinforcement: rewards of known answers, prompts as at inference, and steps that see both resolutions."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOConfig

from llmi3d.data.schema import grounding_conversation
from llmi3d.training.experimental.grpo import (
    LLMI3DGRPOTrainer,
    box_rewards,
    format_reward,
    grounding_prompts,
    iou_reward,
)
from llmi3d.training.experimental.text_baseline import text_lora_config
from llmi3d.training.experimental.text_boxes import BoxText

# The virtual camera itself, so that numbers are pixels and metres.
K = [[64.0, 0.0, 32.0], [0.0, 64.0, 32.0], [0.0, 0.0, 1.0]]
JSON = BoxText("json", 64, 64.0)


def box(x, z=10.0):
    return {"center": [x, 0.0, z], "size": [4.0, 2.0, 2.0], "rotation": np.eye(3).tolist()}


def said(*boxes):
    """Return JSON boxes of unit rotation in the virtual camera, written without the library."""
    entries = [f'{{"bbox_3d": {[*one["center"], *one["size"], 0, 0, 0]}, "label": "car"}}' for one in boxes]
    return f"[{', '.join(entries)}]"


@pytest.mark.parametrize(
    "text, true, form, iou",
    [
        (said(box(0)), [box(0)], 1, 1),
        (said(box(2)), [box(0)], 1, 1 / 3),  # half a length off: 1/2 over 3/2
        (said(box(0), box(20)), [box(0)], 1, 1 / 2),  # one too many
        (said(box(0)), [box(20), box(0)], 1, 1 / 2),  # one too few
        (said(box(2), box(10)), [box(10), box(0)], 1, (1 + 1 / 3) / 2),  # in another order
        (said(box(0), box(2)), [box(2), box(0)], 1, 1),  # each is near both, matched for the best sum
        (said(box(0))[:-1] + ', {"bbox_3d": [1, 2', [box(0)], 0, 1),  # cut off after a good box
        ("It is not there.", [box(0)], 0, 0),
        ("It is not there.", [], 1, 1),
        ("[]", [], 1, 1),
        (said(box(0)), [], 1, 0),
        ("3 4 5", [], 0, 0),
        ("", [box(0)], 0, 0),
        ("", [], 0, 0),
        ('[{"bbox_3d": [0, 0, 5, 1e-5, 9e5, 1, 0, 0, 0], "label": "car"}]', [box(0)], 0, 0),
    ],
)
def test_rewards_of_known_answers(text, true, form, iou):
    arguments = {"targets": [true], "intrinsics": [K], "box_text": JSON, "prompts": [None], "trainer_state": None}
    for completion in (text, [{"role": "assistant", "content": text}]):
        assert format_reward([completion], **arguments) == [form]
        assert iou_reward([completion], **arguments) == pytest.approx([iou])


def test_each_answer_has_its_own_reward():
    texts, true = [said(box(0)), "", said(box(2))], [[box(0)], [box(0)], [box(0)]]
    rewards = [reward(texts, targets=true, intrinsics=[K] * 3) for reward in box_rewards(JSON)]
    assert rewards == [[1, 0, 1], pytest.approx([1, 0, 1 / 3])]


@pytest.fixture
def rows(row):
    talk = grounding_conversation(["everything", "the dog"])
    talk[1]["content"], talk[3]["content"] = "<box_3d><box_3d>", "It is not in the image."
    talk += [{"role": "user", "content": "How many cars?"}, {"role": "assistant", "content": "One."}]
    several = {**row, "messages": talk, "targets": ["b", "a"], "task": ["multi", "absent", "vqa"]}
    return [row, several]


def test_prompts_are_the_questions_that_boxes_answer(chain, rows):
    prompts = grounding_prompts(rows, chain[1])
    asked = [example["prompt"][0]["content"] for example in prompts]
    assert asked == [f"Locate {phrase} in 3D." for phrase in ("the car", "the cone", "everything", "the dog")]
    assert [[true["center"][0] for true in one["targets"]] for one in prompts] == [[0.5], [-1.0], [-1.0, 0.5], []]
    assert prompts[3]["image"].size == rows[1]["image"].size
    # 320x200 lies in the middle of 64x64, a fifth as large.
    np.testing.assert_allclose(prompts[0]["intrinsics"], [[50, 0, 30], [0, 52, 34], [0, 0, 1]])
    text = chain[1].apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked[0]}]}],
        add_generation_prompt=True,
    )
    assert text == chain[1].grounding_prompt("the car", "generate")


def test_rows_without_such_questions_are_refused(chain, rows):
    rows[1]["messages"], rows[1]["task"], rows[1]["targets"] = rows[1]["messages"][4:], ["vqa"], []
    with pytest.raises(ValueError, match="rows: got 1 without a question that boxes answer"):
        grounding_prompts(rows[1:], chain[1])


def digits(completions, **_):
    """Return rewards that differ even between answers of random weights."""
    return [sum(letter.isdigit() for letter in one[0]["content"]) + len(one[0]["content"]) / 10 for one in completions]


def make_trainer(model, processor, rows, out, **settings):
    args = GRPOConfig(
        str(out),
        per_device_train_batch_size=2,
        steps_per_generation=2,  # the second step learns from answers of before the first
        num_generations=2,
        max_completion_length=8,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **{"max_steps": 2, "save_strategy": "no", **settings},
    )
    return LLMI3DGRPOTrainer(
        model,
        reward_funcs=[*box_rewards(BoxText.for_processor(processor, "numbers")), digits],
        args=args,
        train_dataset=grounding_prompts(rows, processor),
        processing_class=processor,
        peft_config=text_lora_config(model, rank=4, train=()),
    )


@pytest.fixture
def trainer(new_chain, rows, tmp_path):
    return make_trainer(*new_chain, rows, tmp_path)


def test_probabilities_are_those_of_both_resolutions(trainer, caplog):
    dataset = trainer.train_dataset
    trainer.model.train()
    output = trainer._generate_and_score_completions([dataset[0], dataset[0], dataset[3], dataset[3]])
    ids = torch.cat((output["prompt_ids"], output["completion_ids"]), 1)
    mask = torch.cat((output["prompt_mask"], output["completion_mask"]), 1)
    pixels = {name: output[name] for name in ("pixel_values", "high_res_pixel_values")}
    with torch.no_grad():
        logits = trainer.model(input_ids=ids, attention_mask=mask, **pixels).logits
    kept = output["completion_mask"] > 0
    length = kept.shape[1]
    wanted = logits[:, -length - 1 : -1].log_softmax(-1).gather(2, output["completion_ids"][..., None])[..., 0]
    torch.testing.assert_close(output["old_per_token_logps"][kept], wanted[kept], rtol=1e-4, atol=1e-4)
    again, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, length, batch_size=3, num_images=[1] * 4, **pixels
    )
    torch.testing.assert_close(again[kept], wanted[kept], rtol=1e-4, atol=1e-4)
    assert "field of view" not in caplog.text  # no camera was guessed
    assert trainer.processing_class.image_processor.fov_deg is None


def test_steps_move_the_adapters_and_log_the_rewards(trainer):
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)
    log = trainer.state.log_history[0]
    means = [log[f"rewards/{name}/mean"] for name in ("format_reward", "iou_reward", "digits")]
    assert log["reward"] == pytest.approx(sum(means), rel=1e-4) and means[2] > 0


@pytest.mark.slow
def test_interrupted_reinforcement_resumes(chain, rows, tmp_path):
    model, processor = chain
    settings = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(copy.deepcopy(model), processor, rows, tmp_path, **settings).train()
    resumed = make_trainer(copy.deepcopy(model), processor, rows, tmp_path, max_steps=4)
    fresh = {name: value.clone() for name, value in resumed.model.named_parameters() if value.requires_grad}
    resumed.train(resume_from_checkpoint=True)
    steps = [entry["step"] for entry in resumed.state.log_history if "loss" in entry]
    assert steps == [1, 2, 3, 4]
    learned = load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")
    assert len(learned) == len(fresh) and any(value.abs().max() > 0 for name, value in learned.items() if "_B" in name)


@pytest.mark.slow
def test_example_from_end_to_end(tmp_path):
    example = Path(__file__).parents[3] / "examples" / "grpo.py"
    command = [sys.executable, example, "--out", tmp_path, "--text-steps", "2", "--steps", "2"]
    command = [*map(str, command), "--batch-size", "4", "--generations", "2"]
    subprocess.run(command, check=True, cwd=tmp_path)
    curve = json.loads((tmp_path / "rewards.json").read_text())
    assert curve["step"] == [1, 2] and all(0 <= value <= 1 for value in curve["iou_reward"] + curve["format_reward"])
    assert (tmp_path / "rewards.png").stat().st_size > 5000
    assert "after against before" in (tmp_path / "comparison.md").read_text()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    subprocess.run(command, check=True, cwd=tmp_path)  # nothing is trained twice
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
