# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Fields of a form become arguments of the pipeline, and its answers become HTML."""

import pytest

pytest.importorskip("gradio", reason="needs pip install 'llmi3d[app]'")
forms = pytest.importorskip("llmi3d.apps.page_answers")

SIZE = (640, 480)


def box(**changes):
    identity = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    return {"label": "a", "score": 0.5, "center": [3.0, 0, 4], "size": [1.0, 2, 3], "rotation": identity, **changes}


def answer(*boxes, **changes):
    return {"prompt": "the cup", "mode": "generate", "text": "", "boxes": list(boxes), **changes}


@pytest.mark.parametrize(
    ("fields", "intrinsics", "fov_deg"),
    [
        (("auto", 60, 500, 500, 1, 1), None, None),  # what other kinds of camera hold is ignored
        (("fov", 60, 500, None, None, None), None, 60),
        (("intrinsics", 60, 500, 510, 300, 200), [500, 510, 300, 200], None),
        (("intrinsics", None, 500, None, None, None), [500, 500, 320, 240], None),
        (("intrinsics", None, 500, None, 0, 0), [500, 500, 0, 0], None),
    ],
)
def test_cameras_of_a_form(fields, intrinsics, fov_deg):
    assert forms.given_camera(*fields, size=SIZE) == {"intrinsics": intrinsics, "fov_deg": fov_deg}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forms.given_camera("lens", 1, 1, 1, 1, 1, SIZE), "camera: got 'lens', want one of auto, fov"),
        (lambda: forms.given_camera("fov", None, 1, 1, 1, 1, SIZE), "fov_deg: got none"),
        (lambda: forms.given_camera("intrinsics", 60, None, 1, 1, 1, SIZE), "fx: got None, want the focal length"),
        (lambda: forms.split_prompts(" \n "), "prompt: got none, want what to find"),
        (lambda: forms.split_prompts(None), "prompt: got none"),
        (lambda: forms.split_prompts("a\n" * 17), "prompt: got 17 lines, want at most 16"),
        (lambda: forms.split_prompts("a" * 501), "prompt: got 501 letters, want at most 500"),
        (lambda: forms.open_image(None), "image: got none, want an image"),
    ],
)
def test_bad_forms_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_image_is_named_without_its_folder(tmp_path):
    (tmp_path / "secret.png").write_text("text")
    with pytest.raises(ValueError, match="cannot read 'the file'") as refused:
        forms.open_image(str(tmp_path / "secret.png"))
    assert "secret" not in str(refused.value)


def test_prompts_are_lines():
    assert forms.split_prompts(" the cup \n\nthe car\r\n") == ["the cup", "the car"]


def test_words_tell_distance_absence_and_no_markup():
    table = forms.answers_in_words([answer(box(label="<b>cup</b>")), answer(prompt="<i>", text="It is not there.")])
    assert "<td>5.00</td>" in table and "1.00 x 2.00 x 3.00" in table
    assert "&lt;b&gt;cup&lt;/b&gt;" in table and "<b>cup" not in table
    assert '&lt;i&gt;<div class="said">It is not there.</div></td><td><span class="absent">not in the image' in table


def test_what_was_said_stands_once_and_only_if_something_was():
    assert forms.answers_in_words([answer(box(), box(), text="Two cups.")]).count("Two cups.") == 1
    assert "said" not in forms.answers_in_words([answer(box(), text="")])


@pytest.mark.parametrize("source", ["given", "fov", "exif", "default"])
def test_k_and_its_source_are_said(source):
    camera = {"intrinsics": [[320.0, 0, 320], [0, 330, 240], [0, 0, 1]], "image_size": SIZE}
    words = forms.camera_in_words({**camera, "intrinsics_source": source})
    assert f'data-source="{source}"' in words and "fx 320.0, fy 330.0" in words and "90&deg; across" in words
    assert ('class="warning"' in words) == (source == "default")
