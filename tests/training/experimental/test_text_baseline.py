# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Text baseline: boxes as words, how they are learned, read and scored."""

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from llmi3d.data.schema import IG3D_FEATURES, grounding_conversation
from llmi3d.evaluation.protocols import get_protocol
from llmi3d.evaluation.records import records_from_row
from llmi3d.evaluation.runner import Question, evaluate
from llmi3d.training.experimental.text_baseline import TextCollator, TextPredictor, text_lora_config, text_trainer
from llmi3d.training.experimental.text_boxes import BoxText, network_intrinsics

# --------------------------------------------------------------------------------------------------------------- words


@pytest.fixture
def several(row):
    """Return the row with a question about both objects, one about an absent object, and one answered in words."""
    talk = grounding_conversation(["everything", "the dog"])
    talk[1]["content"], talk[3]["content"] = "<box_3d><box_3d>", "It is not in the image."
    talk += [{"role": "user", "content": "How many cars?"}, {"role": "assistant", "content": "One."}]
    return {**row, "messages": talk, "targets": ["b", "a"], "task": ["multi", "absent", "vqa"]}


def test_words_say_what_the_virtual_camera_sees(chain, row):
    """By hand: K 250, 260, 150, 110 in 320x200 is 50, 52, 30, 34 in the middle of 64x64; its virtual focal is 64."""
    batch = TextCollator(chain[1], "numbers")([row])
    learned = batch["labels"][0]
    first, second, _ = chain[1].tokenizer.decode(learned[learned != -100]).split("</s>")
    x, y, z = 0.5 * 50 / 6 + 30, 0.4 * 52 / 6 + 34, 6 * 64 / 52
    assert first.split()[:6] == [f"{x:.0f}", f"{y:.0f}", f"{z:.2f}", "4.00", "1.50", "1.80"]
    x, y, z = -1 * 50 / 4 + 30, 0.6 * 52 / 4 + 34, 4 * 64 / 52
    assert second.split()[:6] == [f"{x:.0f}", f"{y:.0f}", f"{z:.2f}", "0.400", "0.800", "0.400"]
    assert "targets_3d" not in batch and not (batch["input_ids"] == chain[1].box_3d_token_id).any()
    kept = learned != -100
    assert torch.equal(learned[kept], batch["input_ids"][0][kept])


@pytest.mark.parametrize("form", ["numbers", "json"])
def test_only_answers_with_boxes_are_rewritten(chain, several, form):
    box_text = BoxText.for_processor(chain[1], form)
    written = box_text.write_row(several, chain[1])
    answers = [message["content"] for message in written["messages"][1::2]]
    assert answers[1:] == ["It is not in the image.", "One."] and written["targets"] == []
    assert written["messages"][::2] == several["messages"][::2]
    k = network_intrinsics(chain[1], several["image"].size, several["intrinsics"])
    found = box_text.read(answers[0], k).boxes
    for box, wanted in zip(found, reversed(several["objects"]), strict=True):
        torch.testing.assert_close(torch.tensor(box["center"]), torch.tensor(wanted["center"]), atol=0.1, rtol=0.02)
        torch.testing.assert_close(torch.tensor(box["size"]), torch.tensor(wanted["size"]), atol=0.01, rtol=0.01)
        angle = torch.tensor(box["rotation"]).T @ torch.tensor(wanted["rotation"])
        assert angle.trace() > 1 + 2 * 0.999  # within 2.6 degrees


@pytest.mark.parametrize(
    "form, text, boxes, malformed, answer_is",
    [
        ("numbers", "30 30 5.0 4 1 2 10 0 0", 1, 0, "boxes"),
        ("numbers", "30 30 5.0 4 1 2 10 0 0; 30 30", 1, 1, "boxes"),
        ("numbers", "It is not there.", 0, 0, "abstention"),
        ("numbers", "", 0, 1, None),
        ("numbers", "30 30 5.0 4 1", 0, 1, None),
        ("numbers", "30 30 90000 4 1 2 0 0 0", 0, 1, None),  # out of sight
        ("numbers", f"30 30 5 4 1 2 {'9' * 400} 0 0", 0, 1, None),  # infinite
        ("numbers", "30 30 5 0.0001 1 2 0 0 0", 0, 1, None),
        ("json", '[{"bbox_3d": [0, 0, 5, 1, 1, 1, 0, 0, 0], "label": "car"}]', 1, 0, "boxes"),
        ("json", "[]", 0, 0, "abstention"),
        ("json", "I cannot see it.", 0, 0, "abstention"),
        ("json", '[{"bbox_3d": [0, 0', 0, 1, None),
    ],
)
def test_boxes_abstentions_and_malformed_answers_are_told_apart(chain, form, text, boxes, malformed, answer_is):
    k = torch.tensor([[50.0, 0, 32], [0, 50, 32], [0, 0, 1]])
    read = BoxText.for_processor(chain[1], form).read(text, k)
    assert (len(read.boxes), read.malformed) == (boxes, malformed)
    assert read.answer == {"boxes": read.boxes, "abstention": [], None: None}[answer_is]


def test_unknown_form_is_refused(chain):
    with pytest.raises(ValueError, match="form: got 'xml', want one of numbers, json"):
        TextCollator(chain[1], "xml")


# ------------------------------------------------------------------------------------------------------------ training


def test_words_are_learned_by_lora_alone(new_chain, row, several, tmp_path):
    from trl import SFTConfig

    model, processor = new_chain
    rows = Dataset.from_list([row, several], features=IG3D_FEATURES)
    batch = TextCollator(processor, "numbers")([row, several])
    start = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        before = model(**batch).loss.item()
    settings = {"per_device_train_batch_size": 2, "max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1}
    settings |= {"lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, **settings)
    trainer = text_trainer(model, processor, rows, args, "numbers", text_lora_config(model, rank=4))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(before, rel=1e-3)  # the model's own loss, of the assistant's words
    assert losses[-1] < losses[0]
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert any(part in name for part in ("lora_", "feature_mining", "multi_modal_projector")), name
    for name, after in trainer.model.get_base_model().named_parameters():
        if "box_head" in name or "vision_tower" in name:
            assert torch.equal(after, start[name]), name


# ---------------------------------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module")
def checkpoint(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "checkpoint"
    for part in chain:
        part.save_pretrained(folder)
    return folder


def question(row, turn):
    record = records_from_row(row, row["image"].size)[turn]
    return Question(record, row["image"], (record.phrase,), torch.tensor(row["intrinsics"], dtype=torch.float64))


def let_write(predictor, monkeypatch, write, probabilities=(0.5,)):
    """Make the model write `write(prompt)`, a list of answers. Token t has `probabilities[t]`, later ones the last."""
    tokenizer = predictor.processor.tokenizer

    def generate(input_ids, **kwargs):
        prompts = tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        answers = [[*tokenizer.encode(text), tokenizer.eos_token_id] for prompt in prompts for text in write(prompt)]
        answers = tokenizer.pad({"input_ids": answers}, padding_side="right", return_tensors="pt")["input_ids"]
        logits = []
        for t, tokens in enumerate(answers.T):
            chosen = torch.tensor(probabilities[min(t, len(probabilities) - 1)])
            others = ((1 - chosen) / (len(tokenizer) - 1)).log()
            row = torch.full((len(tokens), len(tokenizer)), others.item())
            logits.append(row.scatter(1, tokens[:, None], chosen.log().item()) + 3.0)  # not normalised
        sequences = torch.cat((input_ids.repeat_interleave(len(answers) // len(input_ids), 0), answers), 1)
        return SimpleNamespace(sequences=sequences, logits=tuple(logits))

    monkeypatch.setattr(predictor.model, "generate", generate)


@pytest.mark.parametrize("form", ["numbers", "json"])
def test_written_truth_is_found_by_the_evaluation(checkpoint, row, form, monkeypatch, tmp_path):
    rows = [{**row, "image_id": f"kitti/{i}", "source": "kitti", "split": "val"} for i in range(2)]
    predictor = TextPredictor(checkpoint, form, device="cpu")
    k = network_intrinsics(predictor.processor, row["image"].size, row["intrinsics"])
    said = {entry["category"]: predictor.box_text.write([entry], k) for entry in row["objects"]}

    def write(prompt):
        return [said["car"] if "the car" in prompt else said["cone"]]

    let_write(predictor, monkeypatch, write)
    protocol = get_protocol("ig3d-kitti").variant(categories=())
    report = evaluate(predictor, rows, protocol, tmp_path, progress=False, resamples=20).report
    assert report.counts["answered"] == 4 and predictor.counts["malformed"] == 0
    assert report.metrics["acc@0.25"].value == 1 and report.metrics["depth_error"].value < 0.05
    assert report.calibration["answers"] == 4


def test_score_is_the_mean_probability_of_the_answers_tokens(checkpoint, row, monkeypatch):
    predictor = TextPredictor(checkpoint, "numbers", device="cpu")
    text = "30 30 5 4 1 2 0 0 0"
    let_write(predictor, monkeypatch, lambda prompt: [text if "car" in prompt else text + "; 1"], (0.9, 0.5))
    short, long = predictor([question(row, 0), question(row, 1)])
    for boxes, tokens in ((short, len(text) + 1), (long, len(text) + 4)):
        assert boxes[0]["score"] == pytest.approx((0.9 * 0.5 ** (tokens - 1)) ** (1 / tokens), rel=1e-4)
    assert short[0]["category"] == "the car"
    assert predictor.counts == {"answers": 2, "abstained": 0, "malformed": 0, "malformed_boxes": 1}


def test_what_cannot_be_read_is_no_answer(checkpoint, row, monkeypatch):
    predictor = TextPredictor(checkpoint, "numbers", device="cpu")
    let_write(predictor, monkeypatch, lambda prompt: ["30 30"] if "car" in prompt else ["It is not in the image."])
    assert predictor([question(row, 0), question(row, 1)]) == [None, []]
    assert predictor.counts == {"answers": 2, "abstained": 1, "malformed": 1, "malformed_boxes": 0}


def test_best_readable_answer_is_chosen(checkpoint, row, monkeypatch):
    predictor = TextPredictor(checkpoint, "numbers", device="cpu", samples=3)
    good, better = "30 30 5 4 1 2 0 0 0", "31 30 5 4 1 2 0 0 0; 31 30 5 4 1 2 0 0 0"
    # With a likely first token, shorter answers have a higher mean; the unreadable one is the shortest.
    let_write(predictor, monkeypatch, lambda prompt: ["3", better, good], (0.99, 0.5))
    [[box]] = predictor([question(row, 0)])
    [[first], *_] = [predictor._write(*written_inputs(predictor, row))]
    assert max(score for _, score in first) == first[0][1] > box["score"] == first[2][1] > first[1][1]


def written_inputs(predictor, row):
    inputs = predictor.processor.grounding_inputs([row["image"]], [["the car"]], [row["intrinsics"]], mode="generate")
    return inputs, torch.tensor([0]), 0


def test_answers_do_not_depend_on_the_batch(checkpoint, row):
    predictor = TextPredictor(checkpoint, "numbers", device="cpu", max_new_tokens=6)
    inputs = predictor.processor.grounding_inputs(
        [row["image"], row["image"].resize((200, 320))],
        [["the car", "the cone over there"], ["it"]],
        [row["intrinsics"], [250, 250, 100, 150]],
        mode="generate",
    )
    together = predictor._write(inputs, torch.tensor([0, 0, 1]), 0)
    ids = predictor.processor.tokenizer
    for i, [(text, score)] in enumerate(together):
        kept = inputs["attention_mask"][i] > 0
        alone = predictor.model.generate(
            input_ids=inputs["input_ids"][i : i + 1, kept],
            pixel_values=inputs["pixel_values"][i : i + 1],
            high_res_pixel_values=inputs["high_res_pixel_values"][i : i + 1],
            max_new_tokens=6,
            do_sample=False,
        )
        answer = alone[0, int(kept.sum()) :]
        assert text == ids.decode(answer, skip_special_tokens=True)
        with torch.no_grad():
            logits = predictor.model(
                alone,
                pixel_values=inputs["pixel_values"][i : i + 1],
                high_res_pixel_values=inputs["high_res_pixel_values"][i : i + 1],
            ).logits
        log_probs = logits[0, int(kept.sum()) - 1 : -1].log_softmax(-1).gather(1, answer[:, None])
        assert score == pytest.approx(log_probs.mean().exp().item(), rel=1e-3)


def test_draws_are_decided_by_seed_and_question(checkpoint, row):
    several = [TextPredictor(checkpoint, "numbers", device="cpu", samples=2, max_new_tokens=4) for _ in range(2)]
    inputs = written_inputs(several[0], row)
    first, again = (predictor._write(*inputs) for predictor in several)
    other = several[0]._write(*inputs[:2], 1)
    assert first == again != other and len(first[0]) == 2


def test_no_samples_are_refused(checkpoint):
    with pytest.raises(ValueError, match="samples: got 0, want at least 1"):
        TextPredictor(checkpoint, "numbers", samples=0)


@pytest.mark.slow
def test_example_from_end_to_end(checkpoint, row, several, tmp_path):
    for split in ("train", "test"):
        rows = [{**one, "image_id": f"test/{i}", "split": split} for i, one in enumerate((row, several))]
        path = tmp_path / "data" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(path)
    example = Path(__file__).parents[3] / "examples" / "text_baseline.py"
    command = [sys.executable, example, checkpoint, tmp_path / "data", "--protocol", "own", "--out", tmp_path / "out"]
    command += ["--query", checkpoint, "--steps", "2", "--batch-size", "2", "--max-new-tokens", "8"]
    subprocess.run([str(word) for word in command], check=True, cwd=tmp_path)
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "boxes as text against 3D query token on own" in page and "| acc@0.25 (%) |" in page
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.suffix != ".md"}
    subprocess.run([str(word) for word in command], check=True, cwd=tmp_path)  # nothing is done twice
    assert written.keys() == {path for path in (tmp_path / "out").rglob("*") if path.suffix != ".md"}
    assert all(path.stat().st_mtime_ns == at for path, at in written.items() if path.suffix == ".safetensors")
