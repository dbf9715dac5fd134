# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Dense labels: which cell shows what, which are drawn, and what they add to the loss."""

import copy

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.data.schema import Turn, turns_of, validate_row, with_turns
from llmi3d.processing.geometry_llmi3d import Camera, project
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.dense import (
    NOTHING,
    DenseDetector,
    DenseLabels,
    Frame,
    cells_of_objects,
    gaze_loss,
    sample_cells,
)
from llmi3d.training.first_words import first_words
from llmi3d.training.lora import lora_config

NAMES = {"category": ["car", "cone"], "color": ["red"]}


@pytest.fixture
def row(row):
    """The two objects of the common row, each painted over a square about its projected centre, 40 pixels wide."""
    instances = np.zeros((200, 320), np.uint8)
    for i, entry in enumerate(row["objects"]):
        x, y = project(torch.tensor(entry["center"]), torch.tensor(row["intrinsics"])).round().int().tolist()
        instances[max(y - 20, 0) : y + 20, max(x - 20, 0) : x + 20] = i + 1
    return {**row, "instance_map": Image.fromarray(instances)}


@pytest.fixture
def rows(row):
    """The row, and one without any object."""
    empty = {
        **row,
        "objects": [],
        "messages": [],
        "targets": [],
        "task": [],
        "instance_map": Image.new("L", (320, 200)),
    }
    return [row, empty]


def collator(chain, count=4, **options):
    config = chain[0].config
    place_px = config.place_px if config.pointing else None
    return LLMI3DDataCollator(chain[1], dense=DenseLabels(count, NAMES), place_px=place_px, pack_turns=True, **options)


# --------------------------------------------------------------------------------------------------------------- cells


def test_a_cell_shows_what_fills_most_of_it():
    instances = np.zeros((8, 16), np.uint8)
    instances[:, 4:8] = 1  # the second of four columns of cells
    instances[:, 8:11] = 2  # three quarters of the third
    camera, wanted = Camera(intrinsics=(), image_size=(16, 8), offset=(0.0, 4.0)), [NOTHING, 0, 1, NOTHING]
    cells = cells_of_objects(instances, camera, Frame(16, (16, 16), (4, 4), (4, 4)), (4, 4))
    assert (cells[[0, 3]] == NOTHING).all()  # above and below the image
    assert cells[1:3].tolist() == [wanted, wanted]
    middle = cells_of_objects(instances, camera, Frame(16, (8, 16), (2, 4), (2, 4)), (2, 4))
    assert middle.tolist() == [wanted, wanted]


def test_a_small_object_has_a_cell():
    instances = np.ones((16, 16), np.uint8)
    instances[5, 6] = 2
    instances[5, 7] = 3
    instances[4, 4:6] = 3
    camera = Camera(intrinsics=(), image_size=(16, 16))
    cells = cells_of_objects(instances, camera, Frame(16, (16, 16), (4, 4), (4, 4)), (4, 4))
    assert cells[1, 1] == 1, "the smaller of two has it"
    assert (np.delete(cells.numpy().ravel(), 5) == 0).all()


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


def shown_at(chain, row, places):
    """What a grid of places (rows, columns) of the whole canvas shows of the row, flat."""
    camera = chain[1].image_processor([row["image"]], intrinsics=[row["intrinsics"]], return_tensors="pt").cameras[0]
    canvas = chain[1].image_processor.high_res_size["height"]
    frame = Frame(canvas, (canvas, canvas), places, places)
    return cells_of_objects(np.asarray(row["instance_map"]), camera, frame, places).flatten()


def test_targets_are_those_of_the_places_object(chain, rows, row):
    ignoring = copy.deepcopy(row)
    ignoring["objects"][0]["ignore"] = True
    batch = collator(chain, 8, words=False)([*rows, ignoring, {**row, "instance_map": None}])
    dense, targets = batch["dense"], batch["targets_3d"]
    assert targets["mask"].sum(1).tolist() == dense["mask"].sum(1).tolist() == [8, 0, 8, 0]
    side = round(chain[1].image_processor.high_res_size["height"] / chain[0].config.place_px)
    shown = shown_at(chain, row, (side, side))
    for place, center, names in zip(dense["places"][0], targets["center"][0], dense["names"][0], strict=True):
        index = shown[place].item()
        torch.testing.assert_close(center, torch.tensor(row["objects"][index]["center"]))
        assert names.tolist() == [index, -1]
    assert (dense["names"][2, :, 0] == 1).all(), "ignored objects are not asked for"
    assert (dense["names"][[1, 3]] == -1).all()
    grid = chain[0].config.image_grid_size
    seen = (shown_at(chain, row, (grid, grid)) != NOTHING).sum()
    assert dense["shows_object"].sum(1).tolist() == [seen, 0, seen, 0]
    assert dense["has_map"].tolist() == [True, True, True, False]


def test_query_tokens_point_at_places_that_show_their_object(chain, row):
    """By the instance map, or without one inside the 2D box."""
    px = chain[0].config.place_px
    batch = LLMI3DDataCollator(chain[1], place_px=px)([row, {**row, "instance_map": None}])
    mapped, boxed = batch["targets_3d"]["pointing_places"]
    shown = shown_at(chain, row, tuple(mapped.shape[-2:])).view(mapped.shape[-2:])
    for index in range(2):
        assert torch.equal(mapped[index], shown == index)
    boxes = batch["targets_3d"]["painted_boxes_2d_px"][1]
    for places, box in zip(boxed, boxes, strict=True):
        y, x = places.nonzero().T
        assert len(x) and (x * px >= box[0] - px).all() and ((x + 1) * px <= box[2] + px).all()
        assert (y * px >= box[1] - px).all() and ((y + 1) * px <= box[3] + px).all()


def test_tokens_look_at_what_they_speak_of(chain, rows, row):
    turn = Turn("Where is the cone?", "There.", "caption", meaning={"form": {"object": "b"}})
    row = with_turns(row, [*turns_of(row), turn])
    batch = collator(chain)([row, rows[1]])
    gaze, ids = batch["gaze"], batch["input_ids"][0]
    grid = chain[0].config.image_grid_size
    shown = shown_at(chain, row, (grid, grid))
    assert not gaze["samples"].any(), "the second image shows nothing"
    boxes = (ids == chain[1].box_3d_token_id).nonzero().squeeze(1).tolist()
    spoken = dict(zip(gaze["positions"].tolist(), gaze["cells"], strict=True))
    for index, position in enumerate(boxes):
        # The query token, and the last token of the question before it.
        assert torch.equal(spoken.pop(position), shown == index)
        assert torch.equal(spoken.pop(position - 1), shown == index)
    last, first = spoken  # of the question without a box, and of its answer
    assert first == last + 1 and all(torch.equal(cells, shown == 1) for cells in spoken.values())


def test_a_map_of_other_objects_is_refused(chain, row):
    with pytest.raises(ValueError, match=r"instance_map: got the shape .* and values up to 3, want .* at most 2"):
        collator(chain)([{**row, "instance_map": Image.new("L", (8, 8), 3)}])


def test_first_words_say_where_things_are(row):
    told = first_words({**row, "image_id": "a"})
    validate_row({name: value for name, value in told.items() if name != "instance_map"})
    turns = turns_of(told)
    about = [turn.meaning["form"]["object"] for turn in turns if "form" in turn.meaning]
    assert about == ["a", "b", "a", "b"] and not told["targets"]
    assert turns[0].question.startswith("What is at ") and turns[0].answer.startswith("A car, ")
    assert turns[2].question == "Describe the picture." and "; A cone, " in turns[2].answer
    assert turns[3].question == "Where is the car?" and turns[3].answer.startswith("At ")
    with pytest.raises(ValueError, match="instance_map: row 'test/0' has none"):
        first_words({**row, "instance_map": None})


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


def losses_of(model, chain, rows, out, steps=1, words=True, **settings):
    """The trainer and its log after some steps."""
    arguments = LLMI3DTrainingArguments(
        output_dir=str(out),
        **{"per_device_train_batch_size": 2, "max_steps": steps, "learning_rate": 1e-3, "logging_steps": 1, "seed": 1}
        | {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
        | settings,
    )
    trainer = LLMI3DTrainer(model, arguments, train_dataset=rows, data_collator=collator(chain, words=words))
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(params=[True, False], ids=["pointing", "without"])
def new_model(request, new_chain):
    """A new model and processor, with pointing and without."""
    model, processor = new_chain
    if not request.param:
        torch.manual_seed(0)
        model = LLMI3DForConditionalGeneration(LLMI3DConfig(**{**model.config.to_dict(), "pointing": False}))
    return model, processor


def test_sight_is_learned_without_the_language_model(new_model, rows, tmp_path):
    model = new_model[0]
    before = copy.deepcopy(model.state_dict())
    detector = DenseDetector(model, [2, 1])
    assert not any("language_model" in name for name, _ in detector.named_parameters())
    settings = {"name_loss_weight": 2.0, "muon": True, "weight_decay": 0.05}
    log = losses_of(detector, new_model, rows, tmp_path, steps=2, words=False, **settings)[0]
    components = {name: value for name, value in log.items() if name.startswith("loss_") and value}
    assert {"loss_center", "loss_depth_map", "loss_names", "loss_objectness"} <= set(components)
    assert sum(components.values()) == pytest.approx(log["loss"], rel=1e-4)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("model.high_res_tower") for name in moved)
    assert any(name.startswith("box_head") for name in moved)
    assert not any("language_model" in name or "lm_head" in name for name in moved)


def test_accumulated_batches_of_dense_labels_are_one_batch(new_chain, rows, tmp_path):
    detector = DenseDetector(new_chain[0], [2, 1])

    def fixed(rows):
        torch.manual_seed(0)
        return collator(new_chain, words=False)(rows)

    rows, losses = [rows[0], copy.deepcopy(rows[0])], []
    for batch, accumulated in ((2, 1), (1, 2)):
        arguments = LLMI3DTrainingArguments(
            output_dir=str(tmp_path),
            **{"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "max_steps": 1},
            **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True},
        )
        trainer = LLMI3DTrainer(copy.deepcopy(detector), arguments, train_dataset=rows, data_collator=fixed)
        trainer.train()
        losses.append(trainer.state.log_history[0])
    # Other places are drawn, of the same rows; images and names weigh the same.
    assert losses[0]["loss_depth_map"] == pytest.approx(losses[1]["loss_depth_map"], rel=1e-4)
    assert losses[0]["loss_objectness"] == pytest.approx(losses[1]["loss_objectness"], rel=1e-4)


@pytest.mark.parametrize("adapted", [False, True])
def test_aids_are_added_to_the_loss(new_model, rows, tmp_path, adapted):
    model = new_model[0]
    model.set_attn_implementation("eager")
    if adapted:
        model = get_peft_model(model, lora_config(model, rank=2))
    logs = []
    for weights in ({"dense_loss_weight": 0.0}, {"dense_loss_weight": 2.0, "gaze_loss_weight": 3.0}):
        logs += losses_of(copy.deepcopy(model), new_model, rows, tmp_path, **weights)
    plain, aided = logs
    assert plain["loss_dense"] == plain["loss_gaze"] == 0
    # The same first batch: only the aids are new.
    assert aided["loss_dense"] > 0 and aided["loss_gaze"] > 0
    assert aided["loss"] == pytest.approx(plain["loss"] + aided["loss_dense"] + aided["loss_gaze"], rel=1e-4)
