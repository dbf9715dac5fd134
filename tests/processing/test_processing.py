# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Text and images into the network, boxes out of it."""

import types

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from llmi3d import LLMI3DImageProcessor, LLMI3DProcessor
from llmi3d.box_heads_llmi3d import Box3DHeadOutput
from llmi3d.processing.geometry_llmi3d import Camera, box_corners, encode_boxes, matrix_to_rotation_6d
from llmi3d.processing.image_processing_llmi3d import cells_to_image

K = (250.0, 260.0, 150.0, 110.0)


@pytest.fixture(scope="module")
def processor(chain):
    return chain[1]


def perfect_outputs(center, size, rotation, camera, focal_length):
    """Return the outputs of a network that knows the truth of Q boxes of one image."""
    truth = encode_boxes(center, size, rotation, camera.network_intrinsics(), focal_length)
    count = len(center)
    boxes = Box3DHeadOutput(
        mask=torch.ones(1, count, dtype=torch.bool),
        center_2d_px=truth.center_2d_px[None],
        box_2d_px=truth.box_2d_px[None],
        depth_virtual=truth.depth_virtual[None],
        depth_weights=torch.full((1, count, 3), 1 / 3),
        size=truth.size[None],
        rotation_6d=matrix_to_rotation_6d(truth.rotation_allocentric)[None],
        score_logits=torch.linspace(-2, 2, count)[None],
    )
    return types.SimpleNamespace(boxes_3d=boxes)


@pytest.fixture
def boxes():
    center = torch.tensor([[0.5, 0.4, 6.0], [-1.0, 0.6, 4.0], [20.0, -3.0, 5.0]], dtype=torch.float64)
    size = torch.tensor([[4.0, 1.5, 1.8], [0.4, 0.8, 0.3], [1.0, 2.0, 3.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, 3, dtype=torch.float64, generator=generator))[0]
    return center, size, rotation * rotation.det()[:, None, None]


# ------------------------------------------------------------------------------------------------------------- prompts


def test_direct_prompt_ends_in_the_query_token(processor):
    assert processor.grounding_prompt("the car") == "USER: <image>\nLocate the car in 3D. ASSISTANT: <|box_3d|>"


def test_generate_prompt_leaves_the_answer_open(processor):
    assert processor.grounding_prompt("the car", "generate") == "USER: <image>\nLocate the car in 3D. ASSISTANT: "


def test_chat_template_marks_the_assistants_words(processor, photograph):
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": photograph}, {"type": "text", "text": "Hello?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes. <|box_3d|>"}]},
        {"role": "user", "content": [{"type": "text", "text": "More?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]
    text = processor.apply_chat_template(conversation)
    assert text == ("Be brief. USER: <image>\nHello? ASSISTANT: Yes. <|box_3d|></s>USER: More? ASSISTANT: No.</s>")
    batch = processor.apply_chat_template(
        conversation,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"intrinsics": [K]},
    )
    learned = batch["input_ids"][0][torch.as_tensor(batch["assistant_masks"])[0].bool()]
    assert processor.tokenizer.decode(learned) == "Yes. <|box_3d|></s>No.</s>"
    assert batch.cameras[0].source == "given"


@pytest.mark.parametrize("token", ["<image>", "<|box_3d|>", "</s>", "<pad>"])
def test_special_tokens_typed_into_a_phrase_are_refused(processor, token):
    with pytest.raises(ValueError, match=f"prompt: got the special token '{token}'".replace("|", r"\|")):
        processor.grounding_prompt(f"the car {token} and more")


@pytest.mark.parametrize("phrase", ["", "  ", None, 3])
def test_empty_phrases_are_refused(processor, phrase):
    with pytest.raises(ValueError, match="want a phrase that says what to find"):
        processor.grounding_prompt(phrase)


def test_unknown_mode_is_refused(processor):
    with pytest.raises(ValueError, match="mode: got 'fast', want 'direct' or 'generate'"):
        processor.grounding_prompt("the car", "fast")


# -------------------------------------------------------------------------------------------------------------- inputs


def test_image_placeholder_becomes_as_many_tokens_as_the_image_has(processor, photograph):
    batch = processor(images=photograph, text=processor.grounding_prompt("it"), intrinsics=K, return_tensors="pt")
    assert (batch["input_ids"] == processor.image_token_id).sum() == 16
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "high_res_pixel_values"}
    assert len(batch.cameras) == 1


def test_grounding_inputs_agree_with_call(processor, photograph):
    phrases = ["it", "a much longer phrase about something else"]
    texts = [processor.grounding_prompt(phrase) for phrase in phrases]
    plain = processor(images=[photograph] * 2, text=texts, intrinsics=K, return_tensors="pt")
    convenient = processor.grounding_inputs(photograph, phrases, intrinsics=K)
    assert set(plain) == set(convenient) and plain.cameras == convenient.cameras
    for key in plain:
        torch.testing.assert_close(plain[key], convenient[key])


def test_any_number_of_phrases_for_each_image(processor, photograph):
    other = photograph.resize((100, 160))
    batch = processor.grounding_inputs([photograph, other], [["a", "the second"], "b"], intrinsics=[K, None])
    assert batch["input_ids"].shape[0] == batch["pixel_values"].shape[0] == 3
    assert [camera.source for camera in batch.cameras] == ["given", "given", "default"]
    torch.testing.assert_close(batch["pixel_values"][0], batch["pixel_values"][1])
    assert (batch["pixel_values"][1] != batch["pixel_values"][2]).any()
    # Padded on the left, so that every sequence ends in its query token.
    assert (batch["input_ids"][:, -1] == processor.box_3d_token_id).all()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a", "prompts: got one phrase for 2 images"),
        (["a"], "prompts: got 1 prompts for 2 images"),
        ([[], []], "prompts: got no phrase"),
    ],
)
def test_other_counts_of_prompts_than_images_are_refused(processor, photograph, prompts, message):
    with pytest.raises(ValueError, match=message):
        processor.grounding_inputs([photograph, photograph], prompts, intrinsics=[K, K])


def test_text_and_images_of_different_count_are_refused(processor, photograph):
    with pytest.raises(ValueError, match="Found total 2 <image> tokens and 1 images"):
        processor(images=photograph, text="<image> <image>", intrinsics=K)


def test_tokenizer_without_the_query_token_is_refused(processor, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace("<|box_3d|>", "<other>")
    (tmp_path / "tokenizer.json").write_text(text)
    other = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token="</s>")
    with pytest.raises(ValueError, match=r"tokenizer: '<\|box_3d\|>' is not one token of it"):
        LLMI3DProcessor(LLMI3DImageProcessor(), other)


def test_model_of_another_size_is_refused(chain):
    model, processor = chain
    processor.check_model(model.config)
    other = type(model.config).from_dict({**model.config.to_dict(), "virtual_focal_length": 500.0})
    with pytest.raises(ValueError, match=r"its virtual_focal_length is 64.0, the model's is 500.0"):
        processor.check_model(other)


def test_saved_is_loaded(processor, photograph, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = LLMI3DProcessor.from_pretrained(tmp_path)
    assert (loaded.patch_size, loaded.virtual_focal_length) == (4, 64.0)
    before, after = (one.grounding_inputs(photograph, "the car", intrinsics=K) for one in (processor, loaded))
    for key in before:
        torch.testing.assert_close(before[key], after[key])


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("scale", "offset"), [((0.2, 0.2), (0.0, 12.0)), ((1.7, 1.7), (-300.0, -40.5)), ((0.31, 0.29), (7.0, 0.0))]
)
def test_truth_survives_any_resize_crop_and_pad(processor, boxes, scale, offset):
    center, size, rotation = boxes
    k = ((250.0, 0.0, 150.0), (0.0, 260.0, 110.0), (0.0, 0.0, 1.0))
    camera = Camera(k, (320, 200), "given", scale, offset)
    outputs = perfect_outputs(center, size, rotation, camera, processor.virtual_focal_length)
    answer = processor.post_process_grounding_3d(outputs, [camera], [["a", "b", "c"]])[0]
    torch.testing.assert_close(answer["centers"], center, atol=1e-4, rtol=0)
    torch.testing.assert_close(answer["sizes"], size, atol=1e-4, rtol=0)
    torch.testing.assert_close(answer["rotations"], rotation, atol=1e-4, rtol=0)
    torch.testing.assert_close(answer["corners"], box_corners(center, size, rotation), atol=1e-4, rtol=0)
    # In the original image's pixels.
    in_image = encode_boxes(center, size, rotation, camera.intrinsics_tensor(), 1.0)
    torch.testing.assert_close(answer["boxes_2d"], in_image.box_2d_px, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(answer["centers_2d"], in_image.center_2d_px, atol=1e-4, rtol=1e-6)
    assert answer["labels"] == ["a", "b", "c"]
    assert answer["intrinsics_source"] == "given"


def test_threshold_leaves_out_low_scores(processor, boxes):
    camera = Camera(((250.0, 0.0, 150.0), (0.0, 260.0, 110.0), (0.0, 0.0, 1.0)), (320, 200))
    outputs = perfect_outputs(*boxes, camera, processor.virtual_focal_length)
    answer = processor.post_process_grounding_3d(outputs, [camera], [["a", "b", "c"]], threshold=0.4)[0]
    assert answer["labels"] == ["b", "c"]
    assert answer["scores"].tolist() == pytest.approx([0.5, 0.8808], abs=1e-4)
    assert all(len(answer[key]) == 2 for key in ("centers", "corners", "boxes_2d", "depth_weights"))


def test_calibration_changes_scores_alone_and_is_saved(new_chain, boxes, tmp_path):
    processor = new_chain[1]
    camera = Camera(((250.0, 0.0, 150.0), (0.0, 260.0, 110.0), (0.0, 0.0, 1.0)), (320, 200))
    outputs = perfect_outputs(*boxes, camera, processor.virtual_focal_length)
    before = processor.post_process_grounding_3d(outputs, [camera])[0]
    processor.calibrate(temperature=0.5, bias=1.0, threshold=0.8)
    processor.save_pretrained(tmp_path)
    loaded = LLMI3DProcessor.from_pretrained(tmp_path)
    after = loaded.post_process_grounding_3d(outputs, [camera])[0]
    logits = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(after["scores"], (2 * logits + 1).sigmoid())
    torch.testing.assert_close(after["centers"], before["centers"], atol=0, rtol=0)
    kept = loaded.post_process_grounding_3d(outputs, [camera], [["a", "b", "c"]], threshold=None)[0]
    assert kept["labels"] == ["c"] and len(after["scores"]) == 3  # nothing is left out unless it is asked for


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "score_temperature: got 0.0, want a number above 0"),
        ({"bias": float("nan")}, "score_bias: got nan, want a finite number"),
        ({"threshold": 1.5}, "score_threshold: got 1.5, want a score within 0 to 1"),
    ],
)
def test_calibrations_that_are_none_are_refused(processor, given, message):
    with pytest.raises(ValueError, match=message):
        processor.calibrate(**given)


def test_padded_queries_are_no_answers(processor, boxes):
    camera = Camera(((250.0, 0.0, 150.0), (0.0, 260.0, 110.0), (0.0, 0.0, 1.0)), (320, 200))
    outputs = perfect_outputs(*boxes, camera, processor.virtual_focal_length)
    outputs.boxes_3d.mask = torch.tensor([[True, False, False]])
    assert len(processor.post_process_grounding_3d(outputs, [camera])[0]["scores"]) == 1
    outputs.boxes_3d.mask = torch.tensor([[False, False, False]])
    assert processor.post_process_grounding_3d(outputs, [camera])[0]["labels"] == []


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_batch_is_answered_as_each_of_its_samples(processor, boxes, threshold):
    """Samples of several cameras, and of three, one and no boxes."""
    ks = [((f, 0.0, 150.0), (0.0, f + 7.0, 110.0), (0.0, 0.0, 1.0)) for f in (250.0, 300.0, 410.0)]
    cameras = [
        Camera(ks[0], (320, 200), "given", (0.2, 0.2), (0.0, 12.0)),
        Camera(ks[1], (320, 200), "exif", (1.7, 1.6), (-300.0, -40.5)),
        Camera(ks[2], (320, 200), "fov", (0.31, 0.29), (7.0, 0.0)),
    ]
    focal_length = processor.virtual_focal_length
    each = [perfect_outputs(*boxes, camera, focal_length).boxes_3d for camera in cameras]
    masks = torch.tensor([[True, True, True], [False, False, False], [True, False, False]])
    for one, mask in zip(each, masks, strict=True):
        one.mask = mask[None]
    labels = [["a", "b", "c"], ["nothing"], ["d"]]
    batch = Box3DHeadOutput(**{name: torch.cat([one[name] for one in each]) for name in each[0]})
    together = processor.post_process_grounding_3d(types.SimpleNamespace(boxes_3d=batch), cameras, labels, threshold)
    assert len(together) == 3
    for answer, one, camera, names in zip(together, each, cameras, labels, strict=True):
        alone = processor.post_process_grounding_3d(types.SimpleNamespace(boxes_3d=one), [camera], [names], threshold)[
            0
        ]
        assert list(answer) == list(alone)
        for key, value in alone.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(answer[key], value, rtol=0, atol=1e-12, msg=key)
            else:
                assert answer[key] == value


def test_counts_that_differ_are_refused(processor, boxes):
    camera = Camera(((250.0, 0.0, 150.0), (0.0, 260.0, 110.0), (0.0, 0.0, 1.0)), (320, 200))
    outputs = perfect_outputs(*boxes, camera, processor.virtual_focal_length)
    with pytest.raises(ValueError, match="cameras: got 2 for 1 samples"):
        processor.post_process_grounding_3d(outputs, [camera, camera])
    with pytest.raises(ValueError, match="labels: got 0 for 1 samples"):
        processor.post_process_grounding_3d(outputs, [camera], [])
    with pytest.raises(ValueError, match="labels: got 2 for 3 boxes"):
        processor.post_process_grounding_3d(outputs, [camera], [["a", "b"]])
    with pytest.raises(ValueError, match="got no boxes_3d"):
        processor.post_process_grounding_3d(types.SimpleNamespace(boxes_3d=None), [camera])


# ------------------------------------------------------------------------------------------------------------ pointing


def points_at(outputs, cells, tokens):
    """Let every box of `outputs` point by hand-made distributions over cells [Q, H, W] and over `tokens` tokens."""
    boxes = outputs.boxes_3d
    boxes.pointing = torch.full((*boxes.mask.shape, tokens), 1 / tokens)
    boxes.pointing_log_probs = cells[None].log()
    boxes.pointing_spread_px = torch.arange(1.0, len(cells) + 1)[None]
    return outputs


@pytest.mark.parametrize("crop", [False, True], ids=("square", "cropped"))
@pytest.mark.parametrize("size", [(320, 80), (80, 320)], ids=("wide", "tall"))
def test_pointing_comes_back_to_the_image(tokenizer, boxes, photograph, size, crop):
    """8x8 tokens of 16 network pixels, 16x16 cells; the image fills the 4 middle rows (columns) of the canvas."""
    image_processor = LLMI3DImageProcessor(size=32, high_res_size=128)
    processor = LLMI3DProcessor(image_processor, tokenizer, patch_size=4, virtual_focal_length=64.0)
    inputs = image_processor(photograph.resize(size), fov_deg=60, crop_padding=crop, return_tensors="pt")
    height, width = (side // 8 for side in inputs["high_res_pixel_values"].shape[-2:])
    assert {height, width} == ({4, 16} if crop else {16})
    cells = torch.zeros(3, height, width)
    rows, columns = (4, 16) if size[0] > 80 else (16, 4)
    top, left = (height - rows) // 2, (width - columns) // 2
    cells[0, top + 1, left + 2] = 1.0
    cells[1, top : top + 2, left + 3] = torch.tensor([0.25, 0.75])
    cells[2] = 1 / cells[2].numel()
    outputs = perfect_outputs(*boxes, inputs.cameras[0], processor.virtual_focal_length)
    answer = processor.post_process_grounding_3d(points_at(outputs, cells, height * width // 4), inputs.cameras)[0]
    pointing = answer["pointing"]
    assert pointing.dtype == torch.float32
    assert pointing.shape == (3, rows, columns)
    assert pointing[0].nonzero().tolist() == [[1, 2]] and pointing[0, 1, 2] == pytest.approx(1)
    assert pointing[1, :2, 3].tolist() == pytest.approx([0.25, 0.75]) and pointing[1].sum() == pytest.approx(1)
    assert pointing[2].sum() == pytest.approx(1 if crop else 0.25)  # the rest points at the padding
    assert answer["pointing_spread"].tolist() == pytest.approx([2.5, 5.0, 7.5])  # 128 network pixels are 320


def test_cells_across_the_border_of_the_image_are_shared():
    """The image begins in the middle of a cell and is not whole cells long."""
    camera = Camera(((90.0, 0.0, 50.0), (0.0, 90.0, 20.0), (0.0, 0.0, 1.0)), (100, 40), "fov", (0.3, 0.3), (1.0, 14.0))
    cells = torch.zeros(4, 4, dtype=torch.float64)
    cells[1, 0], cells[2, 3] = 0.5, 0.5
    moved = cells_to_image(cells, 8.0, (32, 40), camera)
    # Rows of the canvas from 14 to 26 are two parts of 6; the cells' rows are 12-20 and 20-28.
    assert moved.shape == (2, 4) and moved.sum() == pytest.approx(0.5 * 0.75 * 7 / 8 * 2)
    assert moved[0].tolist() == pytest.approx([0.5 * 0.75 * 7 / 8, 0, 0, 0])
    assert moved[1].tolist() == pytest.approx([0, 0, 0, 0.5 * 0.75 * 7 / 8])


def test_pointing_follows_its_boxes(processor, boxes):
    """A threshold leaves out boxes with their pointing; a network that does not point has none."""
    camera = Camera(((250.0, 0.0, 150.0), (0.0, 260.0, 110.0), (0.0, 0.0, 1.0)), (320, 320), "given", (0.2, 0.2))
    outputs = perfect_outputs(*boxes, camera, processor.virtual_focal_length)
    assert not any("pointing" in name for name in processor.post_process_grounding_3d(outputs, [camera])[0])
    cells = torch.eye(3).repeat_interleave(16, 1).view(3, 3, 4, 4)[:, 0] / 16 + 0.1
    cells = cells / cells.sum((-2, -1), keepdim=True)
    cells[2] = torch.eye(4) / 4
    answer = processor.post_process_grounding_3d(points_at(outputs, cells, 16), [camera], threshold=0.6)[0]
    torch.testing.assert_close(answer["pointing"], cells[2:])
    none = processor.post_process_grounding_3d(outputs, [camera], threshold=1.0)[0]
    assert none["pointing"].shape == (0, 4, 4)


@pytest.mark.parametrize("crop", [False, True], ids=("square", "cropped"))
def test_the_network_points(chain, photograph, crop):
    model, processor = chain
    wide = photograph.resize((320, 60))  # five image pixels to a pixel of the 64x64 canvas
    inputs = processor.grounding_inputs(wide, "the car", intrinsics=(250, 260, 150, 30), crop_padding=crop)
    with torch.no_grad():
        outputs = model(**inputs, logits_to_keep=1)
    (answer,) = processor.post_process_grounding_3d(outputs, inputs.cameras)
    cell_px = model.config.place_px
    assert answer["pointing"].shape[1:] == (-(-12 // cell_px), 64 // cell_px)
    assert 0 < answer["pointing"].sum() < 1 + 1e-5
    spread_px = outputs.boxes_3d.pointing_spread_px.item()
    assert answer["pointing_spread"].item() == pytest.approx(5 * spread_px, rel=1e-4)
