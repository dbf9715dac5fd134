# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The IG3D row: what it stores, and what its validation refuses."""

import copy
import io

import pytest
import torch
from datasets import Dataset
from PIL import Image

from llmi3d.data.schema import (
    GROUNDING_PROMPT,
    IG3D_FEATURES,
    TASKS,
    Turn,
    grounding_conversation,
    grounding_pairs,
    make_object,
    turns_of,
    validate_row,
    with_turns,
)
from llmi3d.processing.geometry_llmi3d import box_corners, project_box_2d, quaternion_to_matrix, yaw_to_matrix

INTRINSICS = [[510.0, 0.0, 310.0], [0.0, 520.0, 250.0], [0.0, 0.0, 1.0]]


def make_row(**changes):
    chair = make_object(
        "a", "chair", [0.3, 0.2, 2.5], [0.5, 0.9, 0.6], yaw_to_matrix(torch.tensor(0.4)), INTRINSICS, visibility=0.8
    )
    table = make_object(
        "b",
        "table",
        [-0.6, 0.4, 3.5],
        [1.6, 0.8, 0.9],
        quaternion_to_matrix(torch.tensor([0.9, 0.1, 0.4, 0.1])),
        INTRINSICS,
        attributes={"colour": "brown", "material": "wood"},
    )
    row = {
        "image": Image.new("RGB", (640, 480)),
        "image_id": "made/0",
        "source": "made",
        "split": "train",
        "intrinsics": INTRINSICS,
        "objects": [chair, table],
        "messages": grounding_conversation(["the chair", "the brown table"]),
        "targets": ["a", "b"],
        "task": ["grounding", "grounding"],
        "meanings": None,
    }
    return {**copy.deepcopy(row), **changes}


def changed(path, value):
    """A row in which the field at `path`, as in ("objects", 1, "size"), is `value`."""
    row = make_row()
    place = row
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return row


def without(name):
    row = make_row()
    del row[name]
    return row


def turn(role, content):
    return {"role": role, "content": content}


def test_a_row_is_valid():
    validate_row(make_row())


def test_conversations_of_other_kinds_are_valid():
    messages = [
        turn("system", "You see in three dimensions."),
        turn("user", "<image>\nHow many chairs are there?"),
        turn("assistant", "One."),
        turn("user", "Locate the chair and the table in 3D."),
        turn("assistant", "The chair <box_3d> and the table <box_3d>."),
        turn("user", "Locate the bear in 3D."),
        turn("assistant", "There is none."),
    ]
    validate_row(make_row(messages=messages, task=["vqa", "multi", "absent"]))


def test_rows_survive_arrow_and_parquet(tmp_path):
    rows = [make_row(), make_row(objects=[], messages=[turn("user", "<image>Hi"), turn("assistant", "Hi.")])]
    rows[1].update(targets=[], task=["caption"], image_id="made/1")
    Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(tmp_path / "rows.parquet")
    loaded = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    assert loaded.features == IG3D_FEATURES
    for before, after in zip(rows, loaded, strict=True):
        validate_row(after)
        assert after.pop("image").tobytes() == before.pop("image").tobytes()
        assert after == before
    assert loaded[0]["objects"][1]["attributes"] == {"colour": "brown", "material": "wood"}
    assert loaded[0]["objects"][0]["attributes"] == {}
    assert loaded[0]["objects"][0]["occlusion"] is None


def test_make_object_projects_its_box():
    center, size, rotation = [0.3, 0.2, 2.5], [0.5, 0.9, 0.6], yaw_to_matrix(torch.tensor(0.4, dtype=torch.float64))
    entry = make_object("a", "chair", center, size, rotation, INTRINSICS)
    corners = box_corners(torch.tensor(center).double(), torch.tensor(size).double(), rotation)
    wanted = project_box_2d(corners, torch.tensor(INTRINSICS).double())
    assert entry["box_2d"] == pytest.approx(wanted.tolist(), abs=1e-3)
    assert all(isinstance(value, float) for name in ("center", "size", "box_2d") for value in entry[name])
    behind = make_object("a", "chair", [0, 0, -5.0], size, rotation, INTRINSICS, ignore=True)
    assert behind["box_2d"] is None
    validate_row(make_row(objects=[behind, *make_row()["objects"][1:]], **answer_about("b")))


def answer_about(target):
    return {"messages": grounding_conversation(["it"]), "targets": [target], "task": ["grounding"]}


REFUSED = [
    (without("split"), "row: misses split"),
    (make_row(score=1.0), "row: has no field score"),
    (make_row(image=None), "image: got None"),
    (make_row(image="no/such/picture.png"), r"image: got 'no/such/picture.png' .*No such file"),
    (make_row(image=Image.new("RGB", (300, 480))), r"intrinsics: principal point .* outside the 300x480"),
    (make_row(image_id=""), "image_id: got ''"),
    (make_row(source=3), "source: got 3"),
    (make_row(objects=None), "objects: got None, want a list"),
    (make_row(intrinsics=[[500.0, 0, 320], [0, 500.0, 240]]), r"intrinsics: .*want finite numbers of shape \(3, 3\)"),
    (changed(("intrinsics", 0, 0), float("nan")), "intrinsics: .*finite"),
    (changed(("intrinsics", 0, 0), -1.0), "intrinsics: got focal lengths"),
    (changed(("objects", 1, "id"), "a"), r"objects\[1\]\.id: got 'a' a second time"),
    (changed(("objects", 1, "category"), None), r"objects\[1\]\.category: got None"),
    (changed(("objects", 1, "colour"), "red"), r"objects\[1\]: has no field colour"),
    (changed(("objects", 0, "center"), [0.0, 1.0]), r"objects\[0\]\.center: .*shape \(3,\)"),
    (changed(("objects", 0, "center", 1), float("inf")), r"objects\[0\]\.center: .*finite"),
    (changed(("objects", 0, "center", 2), -2.0), r"objects\[0\]\.center: got a depth of -2 m"),
    (changed(("objects", 0, "center", 2), 0.0), r"objects\[0\]\.center: got a depth of 0 m"),
    (changed(("objects", 0, "size", 0), float("nan")), r"objects\[0\]\.size: .*finite"),
    (changed(("objects", 0, "size", 2), 0.0), r"objects\[0\]\.size: .*above 0 m"),
    (changed(("objects", 0, "size"), "big"), r"objects\[0\]\.size: got 'big'"),
    (changed(("objects", 0, "rotation", 0, 0), float("nan")), r"objects\[0\]\.rotation: .*finite"),
    (changed(("objects", 0, "rotation", 0, 0), 0.5), r"objects\[0\]\.rotation: .*orthonormal"),
    (
        changed(("objects", 0, "rotation"), [[1, 0, 0], [0, 1, 0], [0, 0, -1]]),
        r"objects\[0\]\.rotation: .*determinant",
    ),
    (changed(("objects", 0, "box_2d"), None), r"objects\[0\]\.box_2d: got none"),
    (changed(("objects", 0, "box_2d"), [9.0, 0.0, 3.0, 5.0]), r"objects\[0\]\.box_2d: .*x_min <= x_max"),
    (changed(("objects", 0, "visibility"), 40), r"objects\[0\]\.visibility: got 40, want 0 to 1"),
    (changed(("objects", 0, "truncation"), float("nan")), r"objects\[0\]\.truncation: got nan"),
    (changed(("objects", 0, "occlusion"), 0.4), r"objects\[0\]\.occlusion: got 0.4, want 0, 1, 2, 3 or null"),
    (changed(("objects", 0, "ignore"), None), r"objects\[0\]\.ignore: got None"),
    (changed(("objects", 0, "attributes"), {"seats": 4}), r"objects\[0\]\.attributes: .*strings to strings"),
    (changed(("objects", 0, "ignore"), True), r"targets\[0\]: got 'a', which is an object to ignore"),
    (changed(("targets", 1), "c"), r"targets\[1\]: got 'c', want one of the object ids \['a', 'b'\]"),
    (make_row(targets=["a"]), "targets: got 1 for 2 <box_3d>"),
    (changed(("messages", 3, "content"), "There."), "targets: got 2 for 1 <box_3d>"),
    (make_row(task=["grounding"]), "task: got 1 for 2 turns of the assistant"),
    (changed(("task", 1), "detection"), r"task\[1\]: got 'detection', want one of grounding, multi"),
    (make_row(messages=[], targets=[], task=[]), r"messages: got the roles \[\]"),
    (make_row(messages=[turn("assistant", "a"), turn("user", "<image>b")]), "messages: got the roles"),
    (make_row(messages=[turn("user", "<image>b")]), r"messages: got the roles \['user'\]"),
    (changed(("messages", 1, "role"), "user"), "messages: got the roles"),
    (changed(("messages", 2, "role"), "system"), "messages: got the roles"),
    (changed(("messages", 1, "content"), None), r"messages\[1\]\.content: got None"),
    (changed(("messages", 0, "content"), "Locate it."), r"messages\[0\]\.content: got 0 <image>, want 1"),
    (changed(("messages", 0, "content"), "<image><image>"), r"messages\[0\]\.content: got 2 <image>, want 1"),
    (changed(("messages", 2, "content"), "<image>"), r"messages\[2\]\.content: got 1 <image>, want 0"),
    (changed(("messages", 2, "content"), "Is <box_3d> red?"), r"messages\[2\]\.content: got 1 <box_3d> of the user"),
]


@pytest.mark.parametrize("row, message", REFUSED, ids=[message for _, message in REFUSED])
def test_a_wrong_field_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        validate_row(row)


def test_an_object_behind_the_camera_may_be_ignored():
    row = make_row(**answer_about("b"))
    row["objects"][0].update(center=[0.0, 0.0, -2.0], ignore=True, box_2d=None)
    validate_row(row)


def test_fields_without_a_value_may_be_left_out():
    row = make_row()
    for name in ("visibility", "truncation", "occlusion"):
        del row["objects"][0][name]
    validate_row(row)


@pytest.mark.parametrize("turned, size", [(1, (640, 480)), (6, (480, 640))])
def test_the_camera_is_held_against_the_picture_as_it_is_seen(turned, size):
    stored, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turned  # orientation: 6 is a quarter turn
    Image.new("RGB", size).save(stored, format="JPEG", exif=exif)
    intrinsics = [[500.0, 0.0, 600.0], [0.0, 500.0, 200.0], [0.0, 0.0, 1.0]]  # fits 640x480 alone
    validate_row(make_row(image={"path": None, "bytes": stored.getvalue()}, intrinsics=intrinsics))


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
@pytest.mark.parametrize("meanings", [None, [{"kind": "category"}, {}, {"kind": "how_many"}]])
def test_turns_are_the_inverse_of_the_conversation(system, meanings):
    messages = [
        *system,
        turn("user", "<image>\nName them."),
        turn("assistant", "A chair <box_3d> and a table <box_3d>."),
        turn("user", "Locate the lamp in 3D."),
        turn("assistant", "There is none."),
        turn("user", "Locate the brown table in 3D."),
        turn("assistant", "<box_3d>"),
    ]
    row = make_row(
        messages=messages, targets=["b", "a", "b"], task=["multi", "absent", "grounding"], meanings=meanings
    )
    validate_row(row)
    turns = turns_of(row)
    assert [turn.targets for turn in turns] == [("b", "a"), (), ("b",)]
    assert [turn.phrase for turn in turns] == ["Name them.", "the lamp", "the brown table"]
    assert turns[0].question == "Name them." and turns[0].meaning == ({"kind": "category"} if meanings else {})
    assert with_turns(row, turns) == row

    last = with_turns(row, turns[2:])  # the image moves to what is now the first question
    validate_row(last)
    assert last["messages"][len(system)] == turn("user", "<image>\nLocate the brown table in 3D.")
    assert last["messages"][: len(system)] == system and last["targets"] == ["b"]
    assert last["meanings"] == (meanings and [{"kind": "how_many"}])


def test_a_known_meaning_appears_where_none_was_known():
    asked = Turn("Locate the chair in 3D.", "<box_3d>", "grounding", ("a",), {"kind": "category"})
    assert with_turns(make_row(), [asked])["meanings"] == [{"kind": "category"}]


def test_grounding_pairs_are_the_inverse_of_the_conversation():
    row = make_row()
    assert [(phrase, entry["id"]) for phrase, entry in grounding_pairs(row)] == [
        ("the chair", "a"),
        ("the brown table", "b"),
    ]
    assert row["messages"][2]["content"] == GROUNDING_PROMPT.format(phrase="the brown table")


def test_grounding_pairs_skip_other_turns():
    messages = [
        turn("user", "<image>\nName them."),
        turn("assistant", "A chair <box_3d>."),
        turn("user", "Locate the brown table in 3D."),
        turn("assistant", "<box_3d>"),
    ]
    row = make_row(messages=messages, task=["vqa", "grounding"])
    assert [(phrase, entry["id"]) for phrase, entry in grounding_pairs(row)] == [("the brown table", "b")]


def test_the_tasks():
    assert TASKS == ("grounding", "multi", "absent", "vqa", "caption")
