# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Phrases about one picture share what is computed of it, and are answered as if each had been asked alone."""

import copy
import sys

import pytest
import torch

from llmi3d.phrases_llmi3d import phrase_mask, split_phrases
from llmi3d.processing.processing_llmi3d import LLMI3DProcessor

K = (250.0, 260.0, 150.0, 110.0)
PHRASES = [["the car", "a much longer phrase about something else", "it"], ["the second car"], ["a", "b"]]


@pytest.fixture(params=["llava", "qwen3_vl"], scope="module")
def model_and_processor(request, chain, new_qwen_base, new_qwen_chain, tmp_path_factory):
    if request.param == "llava":
        return chain
    folder = tmp_path_factory.mktemp("base")
    new_qwen_base(request.param, folder)
    model, processor = new_qwen_chain(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.box_head.parameters():  # no neutral start: every answer is another
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model.eval(), processor


@pytest.fixture
def asked(model_and_processor, photograph):
    """(model, inputs of phrases that share pictures, boxes of each phrase asked alone)."""
    model, processor = model_and_processor
    pictures = [photograph, photograph.rotate(20), photograph.resize((300, 240))]
    inputs = processor.grounding_inputs(pictures, PHRASES, intrinsics=[K] * 3, share_pictures=True)
    pairs = [(picture, phrase) for picture, group in zip(pictures, PHRASES, strict=True) for phrase in group]
    alone = [processor.grounding_inputs(picture, phrase, intrinsics=K) for picture, phrase in pairs]
    with torch.no_grad():
        boxes = [model(**one, logits_to_keep=1).boxes_3d for one in alone]
    return model, inputs, {name: torch.cat([one[name] for one in boxes]) for name in boxes[0]}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_phrases_in_one_sequence_are_answered_as_alone(asked, attention):
    model, inputs, alone = asked
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    assert inputs["phrase_ids"].shape == inputs["input_ids"].shape and len(inputs["pixel_values"]) == 3
    together = model.ground(**inputs).boxes_3d
    assert len(inputs.cameras) == len(together.mask) == 6
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-4, msg=name)


def test_attention_without_free_masks_gets_a_sequence_a_phrase(asked, monkeypatch):
    model, inputs, alone = asked
    monkeypatch.setattr(sys.modules[type(model).__module__], "ANY_MASK", ())
    together = model.ground(**inputs).boxes_3d
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-4, msg=name)


def test_grounding_looks_once_scores_no_word_and_caches_nothing(chain, photograph):
    model, processor = chain
    inputs = processor.grounding_inputs(photograph, PHRASES[0], intrinsics=K, share_pictures=True)
    seen = []
    parts = {"eyes": model.model.vision_tower, "words": model.model.language_model, "scores": model.lm_head}
    hooks = [
        part.register_forward_hook(lambda *call, name=name: seen.append((name, call[-1])), with_kwargs=True)
        for name, part in parts.items()
    ]
    model.ground(**inputs)
    for hook in hooks:
        hook.remove()
    assert [name for name, _ in seen] == ["eyes", "words"]
    assert seen[1][1].cache is None


def test_a_written_answer_looks_once_too(model_and_processor, photograph):
    model, processor = model_and_processor
    settings = {"mode": "generate", "intrinsics": K}
    inputs = processor.grounding_inputs(photograph, PHRASES[0], share_pictures=True, **settings)
    assert len(inputs["pixel_values"]) == 1 and inputs["picture_index"].tolist() == [0, 0, 0]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    together = model.generate_boxes(**inputs, **options).sequences[:, -5:]
    alone = [processor.grounding_inputs(photograph, phrase, **settings) for phrase in PHRASES[0]]
    for got, one in zip(together, alone, strict=True):
        assert got.tolist() == model.generate_boxes(**one, **options).sequences[0, -5:].tolist()


def test_a_phrase_sees_what_is_shared_and_itself():
    sees = phrase_mask(torch.tensor([[1, 2, 2, 3, 0]]), torch.float32)[0, 0] == 0
    wanted = ["x....", "xx...", "xxx..", "x..x.", "....x"]
    assert ["".join(".x"[int(one)] for one in row) for row in sees] == wanted


def test_phrases_are_split_into_sequences_of_their_own():
    ids, mask, owners = split_phrases(
        torch.tensor([[7, 1, 2, 3, 4], [8, 5, 0, 0, 0]]), torch.tensor([[1, 2, 2, 3, 3], [1, 2, 0, 0, 0]])
    )
    assert ids.tolist() == [[7, 1, 2], [7, 3, 4], [8, 5, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert owners.tolist() == [0, 0, 1]


def test_words_before_the_picture_cannot_share_it(chain, photograph):
    _, processor = chain
    template = (
        "{% for message in messages %}{% for block in message['content'] %}"
        "{% if block['type'] == 'text' %}{{ block['text'] }}{% endif %}{% endfor %}<image>{% endfor %}"
    )
    other = LLMI3DProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=processor.patch_size,
        virtual_focal_length=processor.virtual_focal_length,
        chat_template=template,
    )
    other.grounding_inputs(photograph, ["one"], intrinsics=K, share_pictures=True)
    with pytest.raises(ValueError, match="chat_template: it writes words before the picture"):
        other.grounding_inputs(photograph, ["one", "other"], intrinsics=K, share_pictures=True)
