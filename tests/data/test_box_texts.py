# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Boxes written as text: well-formed, broken and published answers."""

import json
import math

import pytest
import torch

from llmi3d.data.box_texts import parse_qwen3vl, qwen3vl_rotation
from llmi3d.evaluation import grounding_metrics, make_record, with_predictions
from llmi3d.processing.geometry_llmi3d import project

CAR = '{"bbox_3d": [2.88, 0.56, 6.28, 4.45, 1.7, 1.84, 0.75, 0.49, 0.75], "label": "car"}'
CUP = '{"bbox_3d": [0.1, 0.2, 1, 0.1, 0.1, 0.1, 0, 0, 0], "label": "cup"}'


def about(axis: str, fraction: float) -> torch.Tensor:
    """Rotation about one axis, written from its definition."""
    c, s = math.cos(math.pi * fraction), math.sin(math.pi * fraction)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return torch.tensor(rows[axis], dtype=torch.float64)


def test_rotation_is_z_after_y_after_x_in_fractions_of_180_degrees():
    angles = torch.tensor([[0.16, 0.13, 0.08], [0.75, 0.49, 0.75], [-0.3, -0.9, 1.0]], dtype=torch.float64)
    for (a, b, c), rotation in zip(angles.tolist(), qwen3vl_rotation(angles), strict=True):
        torch.testing.assert_close(rotation, about("z", c) @ about("y", b) @ about("x", a))


@pytest.mark.parametrize(
    "text",
    [
        f"[{CAR}, {CUP}]",
        f"```json\n[{CAR},\n {CUP}]\n```",
        f"Here are the boxes:\n```\n[{CAR}, {CUP}]\n```\nThat is all.",
        f"Sure! [{CAR}, {CUP}] Anything else?",
        f'{{"objects": [{CAR}, {CUP}]}}',
    ],
)
def test_well_formed(text):
    parsed = parse_qwen3vl(text)
    assert parsed.status == "ok" and parsed.malformed == 0 and parsed.answer == parsed.boxes
    assert [box["label"] for box in parsed.boxes] == ["car", "cup"]
    car = parsed.boxes[0]
    assert car["center"] == [2.88, 0.56, 6.28] and car["size"] == [4.45, 1.7, 1.84] and car["score"] == 1
    torch.testing.assert_close(
        torch.tensor(car["rotation"]), about("z", 0.75) @ about("y", 0.49) @ about("x", 0.75), check_dtype=False
    )


def test_one_box_alone():
    assert len(parse_qwen3vl(CAR).boxes) == 1 and parse_qwen3vl(CAR).status == "ok"


@pytest.mark.parametrize(
    "text, boxes, malformed, status",
    [
        (f"[{CAR}, {CUP[:40]}", 1, 1, "recovered"),  # cut off within a box
        (f"```json\n[{CAR},\n{CAR},", 2, 0, "recovered"),  # cut off between boxes, fence and all
        (f"[{CAR}, {CUP},]", 2, 0, "recovered"),  # trailing comma
        (f"[{CAR} {CUP}]", 2, 0, "recovered"),  # missing comma
        (f"{CAR}\n{CUP}", 2, 0, "recovered"),  # one object a line
        (CAR.replace('"', "'"), 1, 0, "recovered"),  # Python's quotes
        (f"[{CAR}, {CUP.replace('0.1, 0.2', '0.1, 0.2, 0.3')}]", 1, 1, "ok"),  # ten numbers
        (f"[{CAR}, {CUP.replace('0, 0]', '0]')}]", 1, 1, "ok"),  # eight
        (f"[{CUP.replace('[0.1,', '[null,')}]", 0, 1, "ok"),
        (f"[{CUP.replace('[0.1,', '[NaN,')}]", 0, 1, "ok"),
        (f"[{CUP.replace('[0.1,', '[1e400,')}]", 0, 1, "ok"),
        (f"[{CUP.replace('[0.1,', '[' + chr(34) + 'left' + chr(34) + ',')}]", 0, 1, "ok"),
        (f"[{CUP.replace('1, 0.1, 0.1, 0.1', '1, 0.1, 0, 0.1')}]", 0, 1, "ok"),  # no height
        (f"[{CUP.replace('1, 0.1, 0.1, 0.1', '1, 0.1, -2, 0.1')}]", 0, 1, "ok"),
        ('[{"bbox_3d": {"x": 1}, "label": "cup"}]', 0, 1, "ok"),
        (f'[{CAR}, "and so on"]', 1, 1, "ok"),
        ('{"bbox_3d": [1, 2', 0, 1, "unreadable"),
        ("There is no car in this picture.", 0, 0, "unreadable"),
        ('{"bbox_2d": [1, 2, 3, 4]}', 0, 0, "unreadable"),
        ("", 0, 0, "unreadable"),
        ("[" * 100000, 0, 0, "unreadable"),
        ("{" * 1000 + '"bbox_3d"', 0, 1, "unreadable"),
    ],
)
def test_malformed_texts_are_survived_and_counted(text, boxes, malformed, status):
    parsed = parse_qwen3vl(text)
    assert (len(parsed.boxes), parsed.malformed, parsed.status) == (boxes, malformed, status)
    assert parsed.answer == (parsed.boxes or None)


def test_only_an_empty_list_is_an_abstention():
    assert parse_qwen3vl("```json\n[]\n```").answer == [] and parse_qwen3vl("[]").status == "ok"
    record = make_record("n", "absent", [])
    for text, recall in (("[]", 1), ("I cannot say.", 0)):
        answered = with_predictions([record], [{"id": "n", "boxes": parse_qwen3vl(text).answer}])
        assert grounding_metrics(answered)["abstention_recall"] == recall


def test_labels_may_be_missing():
    assert parse_qwen3vl(CAR.replace(', "label": "car"', "")).boxes[0]["label"] is None


def test_published_answers(samples):
    published = json.loads((samples / "qwen3vl" / "notebook_outputs.json").read_text())
    cameras = json.loads((samples / "qwen3vl" / "cam_infos.json").read_text())
    parsed = {}
    for name, answer in published.items():
        text = "```json\n" + json.dumps(answer["model_output"], ensure_ascii=False) + "\n```"
        parsed[name] = parse_qwen3vl(text)
        assert parsed[name].status == "ok" and parsed[name].malformed == 0
    assert [len(parsed[name].boxes) for name in published] == [2, 1, 4, 1]
    assert parsed["lounge.jpg"].boxes[3]["label"] == "沙发"
    for box in parsed["autonomous_driving.jpg"].boxes:
        # A car on a level road: its height axis is the camera's y but for its sign, its length is seen from behind.
        rotation = torch.tensor(box["rotation"])
        assert abs(rotation[1, 1]) > 0.99 and abs(rotation[2, 0]) > 0.99
        camera = cameras["autonomous_driving.jpg"]
        intrinsics = torch.tensor([[camera["fx"], 0, camera["cx"]], [0, camera["fy"], camera["cy"]], [0, 0, 1]])
        u, v = project(torch.tensor(box["center"]), intrinsics).tolist()
        assert 900 < u < 1500 and 450 < v < 700  # the right lower part of 1600 x 900
