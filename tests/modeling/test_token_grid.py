# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The middle of the square in place of the whole: what is there is as in the square, but for what padding gave it."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from llmi3d.box_heads_llmi3d import read_depth_map
from llmi3d.feature_mining_llmi3d import FeatureMining, depth_bin_centers
from llmi3d.outputs_llmi3d import LLMI3DImageFeatures
from llmi3d.token_grid_llmi3d import positions_in_the_square, positions_of_the_middle, token_grid
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.losses import Box3DCriterion, Box3DTargets, paint_depth_bins

IMAGE, QUERY = 3, 4
K = (250.0, 260.0, 150.0, 33.0)  # of a 320x60 picture


def crop(inputs: dict, rows: int) -> dict:
    """The tiny model's inputs with the middle `rows` of four rows of tokens."""
    top = (4 - rows) // 2
    kept = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    kept[1:17] = False
    kept[1 + 4 * top : 1 + 4 * (top + rows)] = True
    return {
        "input_ids": inputs["input_ids"][:, kept],
        "attention_mask": inputs["attention_mask"][:, kept],
        "pixel_values": inputs["pixel_values"][:, :, 4 * top : 4 * (top + rows)],
        "high_res_pixel_values": inputs["high_res_pixel_values"][:, :, 16 * top : 16 * (top + rows)],
    }


# --------------------------------------------------------------------------------------------------------- what it is


def test_the_grid_is_told_by_the_shape(tiny_config):
    config = tiny_config()
    for rows, columns in ((4, 4), (2, 4), (4, 2), (2, 2)):
        low, high = torch.zeros(1, 3, 4 * rows, 4 * columns), torch.zeros(1, 3, 16 * rows, 16 * columns)
        assert token_grid(low, high, config) == token_grid(low, None, config) == (rows, columns)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((12, 16), (48, 64), "pixel_values: got images of 12x16 pixels, want 16x16, or that cropped by equally"),
        ((8, 18), (32, 72), "pixel_values: got images of 8x18 pixels"),
        ((24, 16), (96, 64), "pixel_values: got images of 24x16 pixels"),
        ((8, 16), (64, 64), "high_res_pixel_values: got images of 64x64 pixels beside 8x16, want 32x64"),
    ],
)
def test_other_sizes_are_refused(tiny_model, low, high, message):
    with pytest.raises(ValueError, match=message):
        tiny_model.get_image_features(torch.zeros(1, 3, *low), torch.zeros(1, 3, *high))


# ---------------------------------------------------------------------------------------------------------------- ViT


@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (4, 2)])
def test_position_embeddings_are_those_of_the_middle(tiny_model, shape):
    siglip = SiglipVisionModel(
        SiglipVisionConfig(
            **{"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
            **{"image_size": 16, "patch_size": 4},
        )
    )
    for embeddings in (tiny_model.model.vision_tower.embeddings, siglip.embeddings):
        weight = embeddings.position_embedding.weight
        square = weight[-16:].view(4, 4, -1)
        top, left = (4 - shape[0]) // 2, (4 - shape[1]) // 2
        want = square[top : top + shape[0], left : left + shape[1]].flatten(0, 1)
        got = positions_of_the_middle(embeddings, None, 4 * shape[0], 4 * shape[1])
        assert torch.equal(got[0], torch.cat((weight[:-16], want)))


@torch.no_grad()
def test_the_vit_sees_what_it_sees_in_the_square_with_padding_masked(tiny_model, tiny_inputs):
    tower, inputs = tiny_model.model.vision_tower, tiny_inputs()
    cropped = crop(inputs, 2)
    got = tower(cropped["pixel_values"], interpolate_pos_encoding=True).last_hidden_state
    seen = torch.tensor([True, *[False] * 4, *[True] * 8, *[False] * 4])  # the class token and the middle
    states = tower.pre_layrnorm(tower.embeddings(inputs["pixel_values"]))
    mask = torch.zeros(17, 17).masked_fill(~seen, -torch.inf).expand(2, 1, -1, -1)
    want = tower.encoder(inputs_embeds=states, attention_mask=mask).last_hidden_state[:, seen]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- mining


@torch.no_grad()
def test_mining_is_as_in_the_square_but_where_the_edge_interpolates(tiny_config):
    """Of the stages' middle: a token whose cells lie between cells that are all there finds what it finds there."""
    config = tiny_config(
        **{"depth_branch": False, "depth_from_map": False, "high_res_image_size": 128},
        vision_config={"image_size": 32},
    )
    torch.manual_seed(0)
    mining = FeatureMining(config, [8, 12, 16, 20])
    for parameter in mining.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    stages = [torch.randn(1, c, 32 >> i, 32 >> i) for i, c in enumerate((8, 12, 16, 20))]
    tokens = torch.randn(1, 64, 24)
    square = mining(tokens, stages).tokens.unflatten(1, (8, 8))
    middle = [stage[:, :, stage.shape[2] // 4 : -stage.shape[2] // 4] for stage in stages]
    cropped = mining(tokens.unflatten(1, (8, 8))[:, 2:6].flatten(1, 2), middle).tokens.unflatten(1, (4, 8))
    torch.testing.assert_close(cropped[:, 1:3], square[:, 3:5])
    assert (cropped[:, 0] - square[:, 2]).abs().max() > 1e-3


# -------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("shape", [(4, 8), (8, 4)])
def test_the_map_of_the_middle_is_read_where_the_squares_is(tiny_config, shape):
    logits, centers = torch.randn(2, 11, 8, 8), depth_bin_centers(tiny_config())
    top, left = (8 - shape[0]) // 2, (8 - shape[1]) // 2
    middle = logits[:, :, top : top + shape[0], left : left + shape[1]]
    # Between the middles of the outermost cells that are there: pixels of a 64-pixel frame, 8 a cell.
    low, high = torch.tensor([left, top]) * 8.0 + 4, torch.tensor([left + shape[1], top + shape[0]]) * 8.0 - 4
    points = low + torch.rand(2, 50, 2) * (high - low)
    want = read_depth_map(logits, points, centers, 64, 8)
    torch.testing.assert_close(read_depth_map(middle, points, centers, 64, 8), want)
    # Beyond them, the border.
    outside = torch.tensor([[[-99.0, -99.0], [999.0, 999.0]]]).expand(2, -1, -1)
    border = torch.stack((low, high)).expand(2, -1, -1)
    got, want = (read_depth_map(middle, at, centers, 64, 8) for at in (outside, border))
    torch.testing.assert_close(got, want)


def test_the_map_of_the_middle_is_painted_as_the_squares(tiny_config):
    config = tiny_config()
    boxes = torch.tensor([[[3.0, 5.0, 30.0, 40.0], [20.0, 26.0, 22.0, 27.0], [0.0, 0.0, 64.0, 64.0]]])
    truth = boxes, torch.tensor([[2.0, 1.0, 30.0]]), torch.ones(1, 3, dtype=torch.bool)
    square = paint_depth_bins(*truth, (8, 8), config)
    assert torch.equal(paint_depth_bins(*truth, (4, 8), config), square[:, 2:6])
    assert torch.equal(paint_depth_bins(*truth, (8, 4), config), square[:, :, 2:6])


# ------------------------------------------------------------------------------------------------------ language model


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (4, 2), (4, 4)])
def test_positions_are_those_in_the_square_against_a_loop(rows, columns):
    """Two pictures in a sequence, words before, between and behind."""
    sequence = [*"ww", *"i" * rows * columns, "w", *"i" * rows * columns, *"www"]
    want, place, token = [], 0, 0
    for kind in sequence:
        if kind == "w":
            want.append(place)
            place += 1
            continue
        row, column = divmod(token % (rows * columns), columns)
        want.append(place + (row + (4 - rows) // 2) * 4 + column + (4 - columns) // 2)
        token += 1
        if token % (rows * columns) == 0:
            place += 16
    is_image = torch.tensor([[kind == "i" for kind in sequence]])
    got = positions_in_the_square(is_image, torch.arange(len(sequence))[None], torch.tensor([rows, columns]), 4)
    assert got.tolist() == [want]


@torch.no_grad()
def test_the_language_model_answers_as_with_padding_masked(tiny_model, tiny_inputs):
    """With the square's own features: only what its padding tokens would have said is missing."""
    inputs = tiny_inputs()
    cropped, features = (
        crop(inputs, 2),
        tiny_model.get_image_features(inputs["pixel_values"], inputs["high_res_pixel_values"]),
    )
    square = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    square["attention_mask"][:, 1:5] = square["attention_mask"][:, 13:17] = 0
    want = tiny_model(**square)
    middle = LLMI3DImageFeatures(
        pooler_output=features.pooler_output[:, 4:12],
        depth_logits=features.depth_logits,
        grid=torch.tensor([2, 4]),
    )
    for mask in (cropped["attention_mask"], None):
        got = tiny_model(input_ids=cropped["input_ids"], attention_mask=mask, mm_encoder_outputs={"image": middle})
        torch.testing.assert_close(got.logits[:, -6:], want.logits[:, -6:], rtol=1e-4, atol=1e-4)
        for name, value in got.boxes_3d.items():
            torch.testing.assert_close(value, want.boxes_3d[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("rows", [2, 4])
def test_words_are_written_as_without_cache(tiny_model, tiny_inputs, rows):
    inputs = crop(tiny_inputs(), rows)
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    generated = tiny_model.generate_boxes(**inputs, **settings).sequences
    assert torch.equal(tiny_model.generate(**inputs, **settings), generated)
    whole = dict(inputs)
    with torch.no_grad():
        for _ in range(5):
            word = tiny_model(**whole).logits[:, -1].argmax(-1, keepdim=True)
            whole["input_ids"] = torch.cat((whole["input_ids"], word), 1)
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    assert torch.equal(generated, whole["input_ids"])


# ---------------------------------------------------------------------------------------------------------- the chain


def numbers(answer: dict) -> np.ndarray:
    return np.array(
        [
            np.concatenate([np.ravel(box[key]) for key in ("center", "size", "rotation", "score")])
            for box in answer["boxes"]
        ]
    )


@pytest.fixture(params=["llava", "qwen2_5_vl", "qwen3_vl"])
def cropping_pipeline(request, chain, new_qwen_base, new_qwen_chain, tmp_path):
    from transformers import pipeline

    model, processor = chain
    if request.param != "llava":
        new_qwen_base(request.param, tmp_path)
        model, processor = new_qwen_chain(tmp_path)
    return pipeline("image-3d-grounding", model=model, processor=copy.deepcopy(processor), device="cpu")


def test_pictures_of_one_shape_share_a_pass_and_are_answered_as_alone(cropping_pipeline, photograph, monkeypatch):
    ground = cropping_pipeline
    pictures = [photograph.resize(size) for size in ((320, 60), (60, 320), (300, 300), (310, 62), (64, 300))]
    phrases = ["the car", ["the cone", "a much longer phrase"], "it", "the tree", "a man"]
    settings = {"fov_deg": 60, "crop_padding": True}
    alone = [ground(picture, prompt=asked, **settings) for picture, asked in zip(pictures, phrases, strict=True)]
    shapes, look = [], ground.model.ground

    def counted(**inputs):
        shapes.append(tuple(inputs["pixel_values"].shape))
        return look(**inputs)

    monkeypatch.setattr(ground.model, "ground", counted)
    together = ground(pictures, prompt=phrases, batch_size=5, **settings)
    assert sorted(shape[0] for shape in shapes) == [1, 2, 2] and len(shapes) == len(set(shapes))
    for got, want in zip(together, alone, strict=True):
        for one, other in zip(*((each if isinstance(each, list) else [each]) for each in (got, want)), strict=True):
            assert one["prompt"] == other["prompt"] and one["image_size"] == other["image_size"]
            np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-3, atol=1e-4)


def test_phrases_that_share_a_picture_are_answered_as_alone(cropping_pipeline, photograph):
    ground, wide, phrases = cropping_pipeline, photograph.resize((320, 60)), ["the car", "a much longer phrase", "it"]
    together = ground(wide, prompt=phrases, fov_deg=60, crop_padding=True)
    for phrase, got in zip(phrases, together, strict=True):
        alone = ground(wide, prompt=phrase, fov_deg=60, crop_padding=True)
        np.testing.assert_allclose(numbers(got), numbers(alone), rtol=1e-3, atol=1e-4)
    square = ground(wide, prompt=phrases[0], fov_deg=60)
    assert np.abs(numbers(square) - numbers(together[0])).max() > 1e-4  # it was cropped


def test_an_answer_can_be_written_about_the_middle(cropping_pipeline, photograph):
    settings = {"mode": "generate", "max_new_tokens": 4, "min_new_tokens": 4, "crop_padding": True, "fov_deg": 60}
    wide, high = photograph.resize((320, 60)), photograph.resize((60, 320))
    together = cropping_pipeline([wide, high], prompt="the car", batch_size=2, **settings)
    for got, picture in zip(together, (wide, high), strict=True):
        assert got["text"] == cropping_pipeline(picture, prompt="the car", **settings)["text"]


def test_phrases_about_one_middle_are_written_as_alone(chain, photograph):
    model, processor = chain
    wide, phrases = photograph.resize((320, 60)), ["the car", "a much longer phrase", "it"]
    settings = {"mode": "generate", "fov_deg": 60, "crop_padding": True}
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    inputs = processor.grounding_inputs(wide, phrases, share_images=True, **settings)
    assert len(inputs["pixel_values"]) == 1
    together = model.generate_boxes(**inputs, **options).sequences[:, -4:]
    for got, phrase in zip(together, phrases, strict=True):
        alone = processor.grounding_inputs(wide, phrase, **settings)
        assert got.tolist() == model.generate_boxes(**alone, **options).sequences[0, -4:].tolist()


def test_commands_can_switch_it_on(chain, photograph, tmp_path):
    from transformers import pipeline
    from typer.testing import CliRunner

    from llmi3d.cli import app

    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    photograph.resize((320, 60)).save(tmp_path / "wide.png")
    found = {}
    for name, more in (("square", []), ("cropped", ["--crop-padding"])):
        asked = ["predict", str(tmp_path / "wide.png"), "--prompt", "the car", "--fov", "60", "--device", "cpu", *more]
        places = ["--checkpoint", str(tmp_path / "checkpoint"), "--out", str(tmp_path / name)]
        done = CliRunner().invoke(app, [*asked, *places])
        assert done.exit_code == 0, done.output
        found[name] = json.loads((tmp_path / name / "wide.json").read_text())["answers"][0]
    assert np.abs(numbers(found["square"]) - numbers(found["cropped"])).max() > 1e-4
    ground = pipeline("image-3d-grounding", model=chain[0], processor=chain[1], device="cpu")
    want = ground(str(tmp_path / "wide.png"), prompt="the car", fov_deg=60, crop_padding=True)
    np.testing.assert_allclose(numbers(found["cropped"]), numbers(want), rtol=1e-4, atol=1e-5)


def test_half_the_focal_length_is_half_the_depth(chain, photograph):
    """No camera enters the network, cropped or not."""
    model, processor = chain
    answers = []
    for factor in (1.0, 0.5):
        k = [K[0] * factor, K[1] * factor, *K[2:]]
        inputs = processor.grounding_inputs(photograph.resize((320, 60)), "it", intrinsics=k, crop_padding=True)
        outputs = model.ground(**inputs)
        answers.append(processor.post_process_grounding_3d(outputs, inputs.cameras)[0])
    torch.testing.assert_close(answers[1]["centers"][:, 2], answers[0]["centers"][:, 2] / 2)
    torch.testing.assert_close(answers[1]["centers_2d"], answers[0]["centers_2d"])


def test_it_can_be_trained(new_chain, row):
    model, processor = new_chain
    processor.image_processor.crop_padding = True
    k = [[K[0], 0.0, K[2]], [0.0, K[1], K[3]], [0.0, 0.0, 1.0]]
    wide = {**row, "image": row["image"].resize((320, 60)), "intrinsics": k}
    batch = LLMI3DDataCollator(processor)([wide, {**wide, "image_id": "test/1"}])
    assert batch["pixel_values"].shape[2] < batch["pixel_values"].shape[3]
    targets = Box3DTargets(**batch.pop("targets_3d"))
    batch.pop("image_id")
    outputs = model(**batch)
    assert outputs.depth_logits.shape[2] < outputs.depth_logits.shape[3]
    loss = outputs.loss + Box3DCriterion(model.config)(outputs.boxes_3d, outputs.depth_logits, targets).total
    loss.backward()
    for part in (model.model.vision_tower.embeddings, model.model.high_res_tower, model.model.feature_mining):
        gradients = [one.grad for one in part.parameters() if one.grad is not None]
        assert gradients and all(torch.isfinite(one).all() for one in gradients)
