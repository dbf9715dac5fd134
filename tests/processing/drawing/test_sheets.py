# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Sheets: an answer with its drawings and words, and montages."""

from xml.etree import ElementTree

import pytest
import torch
from drawn_boxes import INTRINSICS, SIZE, changed_box, corners_of, make_box, photograph
from PIL import Image

from llmi3d.processing.drawing import draw_answer, draw_birds_eye_view, draw_boxes, montage, surfaces
from llmi3d.processing.drawing.styles import PALETTE, TEXT, WHITE
from llmi3d.processing.geometry_llmi3d import project_box_2d

SVG = "{http://www.w3.org/2000/svg}"


def make_answer(boxes, size=SIZE, prompt="Locate every car in 3D."):
    return {
        "image_size": list(size),
        "intrinsics": INTRINSICS,
        "intrinsics_source": "given",
        "prompt": prompt,
        "text": "",
        "boxes": boxes,
    }


def test_svg_of_an_answer_holds_both_views():
    image, boxes = photograph(), [make_box((0.0, 0.0, 9.0), score=0.9)]
    root = ElementTree.fromstring(draw_answer(image, make_answer(boxes), svg=True))
    picture, view = root.findall(f"{SVG}svg")
    assert (picture.get("width"), view.get("width")) == ("640", "480")
    assert float(view.get("x")) >= 640
    assert [text.text for text in root.findall(f"{SVG}text")] == [
        "Locate every car in 3D.: 1 box",
        "intrinsics: given",
    ]


def test_an_answer_holds_the_drawn_picture_and_the_view():
    image, boxes = photograph(), [make_box((0.0, 0.0, 9.0), score=0.9)]
    page = draw_answer(image, make_answer(boxes))
    assert page.crop((0, 0, *SIZE)).tobytes() == draw_boxes(image, boxes, INTRINSICS).tobytes()
    view = draw_birds_eye_view(boxes, INTRINSICS, SIZE, size=(480, 480))
    assert page.crop((page.width - 480, 0, page.width, 480)).tobytes() == view.tobytes()


def words(monkeypatch, *arguments, **more):
    """(text, colour) of all that `draw_answer` writes on its page, grid and labels apart."""
    found = []

    class Recorder(surfaces.RasterSurface):
        def text(self, position, text, color, anchor):
            if anchor == "la":
                found.append((text, color))

    with monkeypatch.context() as patch:
        patch.setattr(surfaces, "RasterSurface", Recorder)
        draw_answer(*arguments, **more)
    return found


def test_phrases_without_boxes_are_said_not_to_be_in_the_picture(monkeypatch):
    boxes = [make_box((0.0, 0.0, 9.0))]
    answers = [make_answer(boxes, prompt="the car"), make_answer([], prompt="the cone")]
    assert words(monkeypatch, photograph(), answers, ground_truth=boxes) == [
        ("the car: 1 box", WHITE),
        ("the cone: not in the image", PALETTE[0]),
        ("intrinsics: given; dashed: ground truth", TEXT),
    ]
    guessed = {**make_answer(boxes * 2), "intrinsics_source": "default"}
    assert words(monkeypatch, photograph(), guessed)[1:] == [
        ("intrinsics: default, a guess: distances scale with it", TEXT)
    ]
    with pytest.raises(ValueError, match="answer: got an empty list"):
        draw_answer(photograph(), [])


def test_small_pictures_are_enlarged_with_their_boxes():
    k = [[40.0, 0.0, 20.0], [0.0, 40.0, 15.0], [0.0, 0.0, 1.0]]
    box = make_box((0.0, 0.0, 4.0), size=(1, 1, 1), label="")
    page = draw_answer(Image.new("RGB", (40, 30)), {**make_answer([box], (40, 30)), "intrinsics": k})
    picture = page.crop((0, 30, 320, 270))  # eight times larger, in the middle of the view's 300 pixels
    large = torch.tensor(k).double() * torch.tensor([[8.0], [8.0], [1.0]])
    wanted = project_box_2d(corners_of(box), large).tolist()
    assert changed_box(Image.new("RGB", picture.size), picture)[2:] == pytest.approx(wanted[2:], abs=4)


def test_a_long_prompt_makes_the_page_taller_not_wider():
    short = draw_answer(photograph(), make_answer([]))
    long = draw_answer(photograph(), make_answer([], prompt="the car left of the tree " * 20))
    assert long.width == short.width and long.height > short.height
    draw_answer(photograph(), make_answer([], prompt=""))


@pytest.mark.parametrize("size", [(64, 48), (300, 900)])
def test_an_answer_about_any_size_of_picture_can_be_drawn(size):
    page = draw_answer(photograph(size), make_answer([make_box((0.0, 0.0, 9.0))], size))
    assert page.width > size[0] and page.height > size[1]


def test_an_answer_about_another_picture_is_refused():
    with pytest.raises(ValueError, match=r"got \(320, 240\) pixels, but the answer is about \(640, 480\)"):
        draw_answer(photograph((320, 240)), make_answer([]))


def test_montage_holds_every_picture():
    sizes = ((400, 300), (300, 400), (800, 200))
    images = [Image.new("RGB", size, (255 - i, 0, 0)) for i, size in enumerate(sizes)]
    sheet = montage(images, width=612)
    counts = {color: count for count, color in sheet.getcolors(100)}
    assert sheet.width == 612
    assert [counts[255 - i, 0, 0] for i in range(3)] == [300 * 225, 300 * 400, 300 * 75]
