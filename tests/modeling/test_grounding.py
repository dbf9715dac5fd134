# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Phrases about one picture share what is computed of it, and are answered as if each had been asked alone."""

import copy
import sys
import weakref

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from llmi3d.phrases_llmi3d import pad_after, phrase_mask, shared_start, split_phrases
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
    inputs = processor.grounding_inputs(pictures, PHRASES, intrinsics=[K] * 3, share_images=True)
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
    inputs = processor.grounding_inputs(photograph, PHRASES[0], intrinsics=K, share_images=True)
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


@pytest.mark.parametrize("tower", ["vision_tower", "language_model"])
def test_grounding_keeps_no_layer_for_long(chain, photograph, tower):
    """Of a tower's states those live that are computed from: a layer's are gone two layers later."""
    model, processor = chain
    inputs = processor.grounding_inputs(photograph, PHRASES[0], intrinsics=K, share_images=True)
    model = copy.deepcopy(model)
    part = getattr(model.model, tower)
    layers = part.layers if tower == "language_model" else part.encoder.layers
    layers.extend([copy.deepcopy(layer) for layer in layers for _ in range(3)])
    part.config.num_hidden_layers = len(layers)
    states, alive = [], []

    def note(layer, args, output):
        states.append(weakref.ref(output if isinstance(output, torch.Tensor) else output[0]))
        alive.append(sum(state() is not None for state in states))

    for layer in layers:
        layer.register_forward_hook(note)
    outputs = model.ground(**inputs)
    assert len(alive) == len(layers) and max(alive) <= 2  # the one that is made, and the one before or that is read
    assert {name for name, value in outputs.items() if value is not None} == {"boxes_3d", "depth_logits"}


def test_a_written_answer_looks_once_too(model_and_processor, photograph):
    model, processor = model_and_processor
    settings = {"mode": "generate", "intrinsics": K}
    inputs = processor.grounding_inputs(photograph, PHRASES[0], share_images=True, **settings)
    assert len(inputs["pixel_values"]) == 1 and inputs["image_index"].tolist() == [0, 0, 0]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    together = model.generate_boxes(**inputs, **options).sequences[:, -5:]
    alone = [processor.grounding_inputs(photograph, phrase, **settings) for phrase in PHRASES[0]]
    for got, one in zip(together, alone, strict=True):
        assert got.tolist() == model.generate_boxes(**one, **options).sequences[0, -5:].tolist()


class Says(LogitsProcessor):
    """Makes every sequence say the same tokens."""

    def __init__(self, *tokens: int):
        self.tokens, self.said = tokens, 0

    def __call__(self, input_ids, scores):
        token, self.said = self.tokens[self.said % len(self.tokens)], self.said + 1
        return torch.full_like(scores, -1e4).index_fill_(1, torch.tensor([token]), 0.0) + 1e-3 * scores


@pytest.fixture
def asked_to_write(model_and_processor, photograph):
    """(model, inputs of phrases that share pictures, inputs of each phrase alone)."""
    model, processor = model_and_processor
    settings = {"mode": "generate", "share_images": True}
    pictures = [photograph, photograph.rotate(20), photograph.resize((300, 240))]
    inputs = processor.grounding_inputs(pictures, PHRASES, intrinsics=[K] * 3, **settings)
    pairs = [(picture, phrase) for picture, group in zip(pictures, PHRASES, strict=True) for phrase in group]
    alone = [processor.grounding_inputs(picture, phrase, intrinsics=K, **settings) for picture, phrase in pairs]
    return model, inputs, alone


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"use_cache": False},
    ],
    ids=str,
)
def test_phrases_that_share_a_picture_are_written_about_as_alone(asked_to_write, options):
    model, inputs, alone = asked_to_write
    query = model.config.box_3d_token_id
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "eos_token_id": None, **options}

    def write(given):
        return model.generate_boxes(**given, **options, logits_processor=LogitsProcessorList([Says(query, 9, 11)]))

    together, each = write(inputs), [write(one) for one in alone]
    copies = options.get("num_return_sequences", 1)
    assert torch.equal(together.sequences[:, :-6], inputs["input_ids"].repeat_interleave(copies, 0))
    assert together.sequences[:, -6:].tolist() == torch.cat([one.sequences[:, -6:] for one in each]).tolist()
    boxes = together.boxes_3d
    assert boxes.mask.sum() >= 2 * 6
    for name, value in boxes.items():
        wanted = torch.cat([one.boxes_3d[name][one.boxes_3d.mask] for one in each])
        torch.testing.assert_close(value[boxes.mask], wanted, rtol=1e-4, atol=1e-4, msg=name)


def test_a_static_cache_says_the_same(asked_to_write):
    model, inputs, _ = asked_to_write
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    dynamic, static = (
        model.generate_boxes(**inputs, **options, **cache) for cache in ({}, {"cache_implementation": "static"})
    )
    assert static.sequences.tolist() == dynamic.sequences.tolist()


def test_what_phrases_share_is_read_once(asked_to_write):
    model, inputs, _ = asked_to_write
    read = []

    def note(module, args, kwargs):
        read.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    hook = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    model.generate_boxes(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    hook.remove()
    length = inputs["input_ids"].shape[1]
    (pictures, shared), *rest = read
    assert pictures == 3 and shared > model.config.image_seq_length
    assert rest == [(6, length - shared), (6, 1)]


def test_padding_moves_behind_the_shared_start():
    ids = torch.tensor([[7, 8, 5, 1, 2], [0, 7, 8, 5, 3], [0, 7, 8, 6, 4]])
    mask = (ids > 0).long()
    pictures = torch.tensor([0, 0, 1])
    is_image = (ids == 8) | (ids == 5) | (ids == 6)
    assert shared_start(ids, mask, is_image, pictures) == 3
    assert pad_after(ids, mask, 3).tolist() == [[7, 8, 5, 1, 2], [7, 8, 5, 0, 3], [7, 8, 6, 0, 4]]
    assert pad_after(mask, mask, 3).tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 0, 1]]
    # Nothing is shared: a picture each, other words before the picture, padding on the right, nothing behind it.
    assert shared_start(ids, mask, is_image, torch.tensor([0, 1, 2])) == 0
    assert shared_start(ids, mask, is_image, torch.tensor([0, 1, 1])) == 0
    assert shared_start(ids.flip(-1), mask.flip(-1), is_image.flip(-1), pictures) == 0
    assert shared_start(ids[:, :4], mask[:, :4], is_image[:, :4], pictures) == 0


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
    other.grounding_inputs(photograph, ["one"], intrinsics=K, share_images=True)
    with pytest.raises(ValueError, match="chat_template: it writes text before the image"):
        other.grounding_inputs(photograph, ["one", "other"], intrinsics=K, share_images=True)
