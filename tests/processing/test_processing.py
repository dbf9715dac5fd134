# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Words and pictures into the network, boxes out of it."""

import types

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from llmi3d import LLMI3DImageProcessor, LLMI3DProcessor
from llmi3d.box_heads_llmi3d import Box3DHeadOutput
from llmi3d.processing.geometry_llmi3d import Camera, box_corners, encode_boxes, matrix_to_rotation_6d

K = (250.0, 260.0, 150.0, 110.0)


@pytest.fixture(scope="module")
def processor(chain):
    return chain[1]


def perfect_outputs(center, size, rotation, camera, focal_length):
    """What a network that knows the truth of Q boxes of one picture would answer."""
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


def test_image_placeholder_becomes_as_many_tokens_as_the_picture_has(processor, photograph):
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


def test_any_number_of_phrases_for_each_picture(processor, photograph):
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
def test_other_counts_of_prompts_than_pictures_are_refused(processor, photograph, prompts, message):
    with pytest.raises(ValueError, match=message):
        processor.grounding_inputs([photograph, photograph], prompts, intrinsics=[K, K])


def test_text_and_pictures_of_different_count_are_refused(processor, photograph):
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
    # In the original picture's pixels.
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
