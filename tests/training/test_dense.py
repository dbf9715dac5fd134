# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Dense labels: which cell shows what, which are drawn, and what the loss is computed from."""

import copy

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import TrainingArguments

from llmi3d import LLMI3DTrainingArguments
from llmi3d.processing.geometry_llmi3d import project
from llmi3d.training.dense import (
    NOTHING,
    DenseCollator,
    DenseTowers,
    DenseTowersTrainer,
    DenseTrainer,
    cell_objects,
    gaze_loss,
    name_classes,
    row_cells,
    sample_cells,
)
from llmi3d.training.lora import lora_config
from llmi3d.training.packing import Packer


@pytest.fixture
def row(row):
    """The two objects of the common row, each painted over a square about its projected centre, 40 pixels wide."""
    instances = np.zeros((200, 320), np.uint8)
    for i, entry in enumerate(row["objects"]):
        x, y = project(torch.tensor(entry["center"]), torch.tensor(row["intrinsics"])).round().int().tolist()
        instances[max(y - 20, 0) : y + 20, max(x - 20, 0) : x + 20] = i + 1
    return {**row, "instance_map": Image.fromarray(instances)}


@pytest.fixture
def records(chain, row):
    """(packer, two records): the row, and one without any object."""
    processor = chain[1]
    packer = Packer(processor)
    empty = {
        **row,
        "objects": [],
        "messages": [],
        "targets": [],
        "task": [],
        "instance_map": Image.new("L", (320, 200)),
    }
    made = []
    for one in (row, empty):
        record = packer(one)
        canvas = processor.image_processor.high_res_size["height"]
        grid = processor.image_processor.size["height"] // processor.patch_size
        record["cells"] = row_cells(one, record["place"], canvas, grid)
        record["names"] = name_classes(one["objects"], {"category": ["car", "cone"], "color": ["red"]}).tobytes()
        made.append(record)
    return packer, made


# --------------------------------------------------------------------------------------------------------------- cells


def test_a_cell_shows_what_fills_most_of_it():
    instances = np.zeros((8, 16), np.uint8)
    instances[:, 4:8] = 1  # the second of four columns of cells
    instances[:, 8:11] = 2  # three quarters of the third
    cells = cell_objects(instances, [8, 16, 0, 4], canvas=16, grid=4).reshape(4, 4)
    assert (cells[[0, 3]] == NOTHING).all()  # above and below the picture
    assert (cells[1:3] == [NOTHING, 0, 1, NOTHING]).all()


def test_a_small_object_has_a_cell():
    instances = np.ones((16, 16), np.uint8)
    instances[5, 6] = 2
    instances[5, 7] = 3
    instances[4, 4:6] = 3
    cells = cell_objects(instances, [16, 16, 0, 0], canvas=16, grid=4).reshape(4, 4)
    assert cells[1, 1] == 1, "the smaller of two has it"
    assert (np.delete(cells.ravel(), 5) == 0).all()


def test_objects_are_drawn_as_often_as_others():
    objects = torch.full((2, 16), NOTHING)
    objects[0, :9], objects[0, 9] = 3, 4  # nine cells against one
    torch.manual_seed(0)
    cells, mask = sample_cells(objects, 2000)
    shown = objects.gather(1, cells)
    assert mask[0].all() and not mask[1].any()
    assert set(shown[0].tolist()) == {3, 4}
    assert 0.45 < (shown[0] == 4).float().mean() < 0.55


# ------------------------------------------------------------------------------------------------------------ collator


def test_targets_are_those_of_the_cells_object(records, row):
    packer, made = records
    torch.manual_seed(0)
    dense = DenseCollator(packer, cells=8, words=False)(made)["dense"]
    targets = dense["targets"]
    assert targets["mask"].sum(1).tolist() == [8, 0]
    shown = np.frombuffer(made[0]["cells"], np.uint8)
    for cell, center, names in zip(dense["cells"][0], targets["center"][0], dense["names"][0], strict=True):
        index = shown[cell]
        torch.testing.assert_close(center, torch.tensor(row["objects"][index]["center"]))
        assert names.tolist() == [index, -1]
    assert (dense["names"][1] == -1).all()
    assert dense["shows_object"].sum(1).tolist() == [(shown != NOTHING).sum(), 0]


def test_mirrored_cells_lie_where_their_objects_do(records):
    packer, made = records
    collator = DenseCollator(packer, cells=16, words=False, flip=True)
    canvas, grid = packer.processor.image_processor.high_res_size["width"], int(packer.num_image_tokens**0.5)
    for seed in range(6):
        torch.manual_seed(seed)
        dense = collator(made[:1])["dense"]
        targets = dense["targets"]
        x = project(targets["center"][0], targets["intrinsics"])[:, 0]
        column = (dense["cells"][0] % grid + 0.5) * canvas / grid
        assert ((x - column).abs() < 1.5 * canvas / grid + 20 * 320 / 320).all()


def test_ignored_objects_are_not_asked_for(chain, records, row):
    packer, made = records
    row = copy.deepcopy(row)
    row["objects"][0]["ignore"] = True
    record = {**made[0], "boxes": packer({**row, "targets": ["b"], **_ask("the cone")})["boxes"]}
    dense = DenseCollator(packer, cells=8, words=False)([record])["dense"]
    assert (dense["names"][0, :, 0] == 1).all()


def _ask(phrase):
    messages = [
        {"role": "user", "content": f"<image>\nLocate {phrase} in 3D."},
        {"role": "assistant", "content": "<box_3d>"},
    ]
    return {"messages": messages, "task": ["grounding"]}


def test_tokens_look_at_what_they_speak_of(records, row):
    packer, made = records
    batch = DenseCollator(packer, cells=4)(made)
    gaze, ids = batch["gaze"], batch["input_ids"]
    shown = torch.from_numpy(np.frombuffer(made[0]["cells"], np.uint8).copy())
    assert not gaze["samples"].any(), "the second picture shows nothing"
    boxes = (ids[0] == packer.processor.box_3d_token_id).nonzero().squeeze(1).tolist()
    centers = batch["targets_3d"]["center"][0].tolist()
    by_center = {tuple(np.float32(entry["center"])): i for i, entry in enumerate(row["objects"])}
    spoken = dict(zip(gaze["positions"].tolist(), gaze["cells"], strict=True))
    for position, center in zip(boxes, centers, strict=True):
        cells = shown == by_center[tuple(np.float32(center))]
        # The query token, and the last word of the question before it.
        assert torch.equal(spoken[position], cells) and torch.equal(spoken[position - 1], cells)
    assert len(spoken) == 2 * len(boxes)


def test_words_without_boxes_look_where_they_are_told(records, row):
    packer, _ = records
    turn = {"question": "Where is the cone?", "answer": "There.", "targets": ["b"]}
    told = Packer(packer.processor, {"turns": lambda row: [turn]})(row)
    made = {**records[1][0], **{name: told[name] for name in ("turns", "turns_turns")}}
    batch = DenseCollator(packer, cells=4)([made])
    shown = torch.from_numpy(np.frombuffer(made["cells"], np.uint8).copy())
    assert not batch["targets_3d"]["mask"].any()
    begin = len(packer.prefix()) + made["turns_turns"][0][0]
    assert batch["gaze"]["positions"].tolist() == [begin - 1, begin]
    assert all(torch.equal(cells, shown == 1) for cells in batch["gaze"]["cells"])


def test_the_gaze_loss_is_the_cross_entropy_of_half_of_the_heads_of_two_layers():
    torch.manual_seed(0)
    layers = torch.rand(3, 2, 4, 9, 9).softmax(-1)  # layers, samples, heads, from, to; visual tokens at 1 to 4
    gaze = {
        "samples": torch.tensor([1, 0]),
        "positions": torch.tensor([7, 8]),
        "cells": torch.tensor([[True, False, True, False], [False, False, False, True]]),
    }
    expected = 0.0
    for layer in layers[1:]:
        for head in (0, 1):
            expected -= (layer[1, head, 7, 1] + layer[1, head, 7, 3]).log() + layer[0, head, 8, 4].log()
    assert gaze_loss(tuple(layers), gaze, 1).item() == pytest.approx(expected.item() / 8, rel=1e-5)
    nothing = {name: value[:0] for name, value in gaze.items()}
    assert gaze_loss(tuple(layers), nothing, 1) == 0


# ------------------------------------------------------------------------------------------------------------ training


SETTINGS = {
    "per_device_train_batch_size": 2,
    "max_steps": 3,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def test_the_towers_learn_without_the_language_model(new_chain, records, tmp_path):
    model, packer, made = new_chain[0], *records
    before = copy.deepcopy(model.state_dict())
    towers = DenseTowers(model, [3, 2])
    assert not any(name.startswith("parts.language_model") for name, _ in towers.named_parameters())
    trainer = DenseTowersTrainer(
        towers,
        TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, **SETTINGS),
        train_dataset=made,
        data_collator=DenseCollator(packer, cells=4, words=False),
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert {"loss_center", "loss_depth_map", "loss_names_0", "right_names_0", "loss_objectness"} <= set(log)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("model.high_res_tower") for name in moved)
    assert any(name.startswith("box_head") for name in moved)
    assert not any("language_model" in name or "lm_head" in name for name in moved)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_dense_loss_is_that_of_the_boxes_at_the_image_tokens(new_chain, records, tmp_path, adapted):
    model, packer, made = new_chain[0], *records
    if adapted:
        model = get_peft_model(model, lora_config(model, rank=2))
    logs = []
    for weight in (0.0, 2.0):
        trainer = DenseTrainer(
            copy.deepcopy(model),
            LLMI3DTrainingArguments(output_dir=str(tmp_path), seed=1, **SETTINGS),
            train_dataset=made,
            data_collator=DenseCollator(packer, cells=4),
            dense_weight=weight,
        )
        trainer.train()
        logs.append(trainer.state.log_history[0])
    plain, dense = logs
    assert "dense_loss" not in plain
    # The same first batch: what is new is the dense loss alone.
    assert dense["loss"] == pytest.approx(plain["loss"] + 2 * dense["dense_loss"], rel=1e-4)


def test_gazes_are_taught_where_asked_for(new_chain, records, tmp_path):
    model, packer, made = new_chain[0], *records
    model.set_attn_implementation("eager")
    logs = []
    for weight in (0.0, 3.0):
        trainer = DenseTrainer(
            copy.deepcopy(model),
            LLMI3DTrainingArguments(output_dir=str(tmp_path), seed=1, **SETTINGS),
            train_dataset=made,
            data_collator=DenseCollator(packer, cells=4),
            gaze_weight=weight,
        )
        trainer.train()
        logs.append(trainer.state.log_history[0])
    plain, taught = logs
    assert "gaze_loss" not in plain
    assert taught["loss"] == pytest.approx(plain["loss"] + 3 * taught["gaze_loss"], rel=1e-4)


def test_a_share_of_the_boxes_is_judged_without_a_front(records):
    packer, made = records
    shares = [
        DenseCollator(packer, cells=400, words=False, unordered=share)(made[:1])["dense"]["targets"]["symmetric"]
        for share in (0.0, 0.5)
    ]
    assert not shares[0].any()
    assert 0.4 < shares[1].float().mean() < 0.6
