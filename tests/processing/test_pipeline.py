# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`pipeline("image-3d-grounding")`, and what must hold for the whole model through it."""

import copy
import json

import numpy as np
import pytest
from datasets import Dataset
from transformers import pipeline

K = (250.0, 260.0, 150.0, 110.0)


@pytest.fixture(scope="module")
def ground(chain):
    model, processor = chain
    return pipeline("image-3d-grounding", model=model, processor=processor, device="cpu")


def numbers(answer):
    """Return every box of an answer as one array."""
    keys = ("center", "size", "rotation", "corners", "box_2d", "score")
    return np.array([np.concatenate([np.ravel(box[key]) for key in keys]) for box in answer["boxes"]])


def assert_same(got, want, **tolerances):
    np.testing.assert_allclose(numbers(got), numbers(want), **{"rtol": 1e-4, "atol": 1e-5, **tolerances})


def test_one_image_one_phrase(ground, photograph):
    answer = ground(photograph, prompt="the car", intrinsics=K)
    assert json.loads(json.dumps(answer)) == answer
    assert {key: answer[key] for key in ("prompt", "mode", "text", "image_size", "intrinsics_source")} == {
        "prompt": "the car",
        "mode": "direct",
        "text": "",
        "image_size": [320, 200],
        "intrinsics_source": "given",
    }
    (box,) = answer["boxes"]
    assert box["label"] == "the car"
    assert set(box["depth_weights"]) == {"regression", "height", "map"}
    assert sum(box["depth_weights"].values()) == pytest.approx(1)
    assert np.array(box["corners"]).shape == (8, 3)


def test_boxes_carry_their_pointing_on_request(ground, photograph):
    (plain,) = ground(photograph, prompt="the car", intrinsics=K)["boxes"]
    answer = ground(photograph, prompt="the car", intrinsics=K, pointing=True)
    assert json.loads(json.dumps(answer)) == answer
    (box,) = answer["boxes"]
    heat = np.array(box.pop("pointing"))
    assert heat.ndim == 2 and (heat >= 0).all() and 0 < heat.sum() < 1 + 1e-5
    assert box == plain and plain["pointing_spread"] > 0


def test_several_phrases_are_one_by_one(ground, photograph):
    phrases = ["the car", "a much longer phrase about something else", "it"]
    together = ground(photograph, prompt=phrases, intrinsics=K)
    for phrase, answer in zip(phrases, together, strict=True):
        assert answer["prompt"] == phrase
        assert_same(answer, ground(photograph, prompt=phrase, intrinsics=K))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_lists_generators_and_datasets_are_one_by_one(ground, photograph, tmp_path, batch_size):
    images = [photograph, photograph.resize((100, 160)), photograph.rotate(20)]
    single = [ground(image, prompt="the car", fov_deg=60) for image in images]
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
    rows = Dataset.from_list([{"image": str(tmp_path / f"{index}.png"), "note": "kept out"} for index in range(3)])
    for given in (images, (image for image in images), rows):
        answers = ground(given, prompt="the car", fov_deg=60, batch_size=batch_size)
        for got, want in zip(answers, single, strict=True):
            assert_same(got, want)


def test_items_may_bring_their_own_phrase_and_camera(ground, photograph):
    items = [{"image": photograph, "prompt": ["a", "b"], "intrinsics": K}, {"image": photograph, "fov_deg": 50.0}]
    first, second = ground(items, prompt="c")
    assert [answer["prompt"] for answer in first] == ["a", "b"]
    assert first[0]["intrinsics_source"] == "given"
    assert (second["prompt"], second["intrinsics_source"]) == ("c", "fov")


def test_generate_writes_an_answer(ground, photograph):
    answer = ground(photograph, prompt="the car", intrinsics=K, mode="generate", max_new_tokens=6)
    assert answer["mode"] == "generate"
    assert isinstance(answer["text"], str)
    assert json.dumps(answer)


def test_generate_takes_a_box_from_each_query_token(chain, photograph):
    """Each query token that the model reads again gives a box."""
    model, processor = chain
    model = copy.deepcopy(model)
    model.generation_config.suppress_tokens = [i for i in range(261) if i != processor.box_3d_token_id]
    ground = pipeline("image-3d-grounding", model=model, processor=processor, device="cpu")
    answer = ground(photograph, prompt="every car", intrinsics=K, mode="generate", max_new_tokens=4)
    assert len(answer["boxes"]) == 3  # the fourth ends the answer and has no state


# ------------------------------------------------------------------------------------------------- the camera's role


def test_half_the_focal_length_is_half_the_depth(ground, photograph):
    far = ground(photograph, prompt="the car", intrinsics=K)["boxes"][0]
    near = ground(photograph, prompt="the car", intrinsics=(125.0, 130.0, 150.0, 110.0))["boxes"][0]
    assert near["center"][2] == pytest.approx(far["center"][2] / 2, rel=1e-6)
    assert near["size"] == pytest.approx(far["size"], rel=1e-6)
    assert near["box_2d"] == pytest.approx(far["box_2d"], rel=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_image_and_camera_rescaled_together_change_nothing(ground, photograph, factor):
    """To the precision of resampling an image: 8 bits and another filter."""
    scaled = photograph.resize((round(320 * factor), round(200 * factor)))
    before = ground(photograph, prompt="the car", intrinsics=K)["boxes"][0]
    after = ground(scaled, prompt="the car", intrinsics=[value * factor for value in K])["boxes"][0]
    for key in ("center", "size", "rotation", "corners"):
        np.testing.assert_allclose(after[key], before[key], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(after["box_2d"], np.multiply(before["box_2d"], factor), rtol=0.02, atol=1)


def test_camera_reported_is_the_camera_used(ground, photograph):
    answer = ground(photograph, prompt="the car", fov_deg=90)
    assert answer["intrinsics"] == [
        [pytest.approx(160), 0, 160],
        [0, pytest.approx(160), 100],
        [0, 0, 1],
    ]
    box = answer["boxes"][0]
    projected = np.array(answer["intrinsics"]) @ box["center"]
    np.testing.assert_allclose(projected[:2] / projected[2], box["center_2d"], rtol=1e-6)


# ------------------------------------------------------------------------------------------------- saving and errors


def test_saved_pipeline_is_loaded(ground, photograph, tmp_path):
    ground.save_pretrained(tmp_path)
    loaded = pipeline("image-3d-grounding", model=str(tmp_path), device="cpu")
    assert_same(loaded(photograph, prompt="the car", intrinsics=K), ground(photograph, prompt="the car", intrinsics=K))


@pytest.mark.parametrize(
    ("images", "kwargs", "message"),
    [
        ([], {"prompt": "a"}, "images: got an empty list"),
        ("nothing.png", {"prompt": "a"}, "image: cannot read 'nothing.png'"),
        (None, {}, "prompt: got None, want a phrase"),
        (None, {"prompt": []}, r"prompt: got \[\], want a phrase"),
        (None, {"prompt": "the <image>"}, "special token '<image>'"),
        (None, {"prompt": "a", "mode": "fast"}, "mode: got 'fast'"),
        (None, {"prompt": "a", "intrinsics": (1, 1, 999, 1)}, "principal point"),
        ([None, None], {"prompt": ["a"]}, "prompt: got 1 for 2 images"),
        ([None, None], {"prompt": "a", "intrinsics": [K]}, "intrinsics: got 1 for 2 images"),
        ({"photo": 1}, {"prompt": "a"}, "want the key 'image' among them"),
    ],
)
def test_bad_input_is_refused(ground, photograph, images, kwargs, message):
    if images is None:
        images = photograph
    elif isinstance(images, list):
        images = [photograph for _ in images]
    with pytest.raises(ValueError, match=message):
        ground(images, **kwargs)


def test_processor_of_another_model_is_refused(chain):
    model, processor = chain
    other = copy.deepcopy(processor)
    other.virtual_focal_length = 99.0
    with pytest.raises(ValueError, match=r"its virtual_focal_length is 99.0, the model's is 64.0"):
        pipeline("image-3d-grounding", model=model, processor=other, device="cpu")
