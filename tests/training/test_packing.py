# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Packed turns: the network's answers are those of each turn alone, and the pixels those of the processor."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llmi3d.data.schema import grounding_conversation, turns_of, with_turns
from llmi3d.processing.geometry_llmi3d import box_corners, project
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT, LLMI3DProcessor
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.packing import PackedCollator, Packer


@pytest.fixture
def rows(row):
    """Three rows of 3, 1 and 1 turns; the second has no box and the third no object."""
    talk = [{"role": "user", "content": "How many cars?"}, {"role": "assistant", "content": "One."}]
    first = {**row, "messages": [*row["messages"], *talk], "task": ["grounding", "grounding", "vqa"]}
    ask = [{"role": "user", "content": "<image>\nHow many dogs?"}, {"role": "assistant", "content": "None."}]
    second = {**row, "messages": ask, "targets": [], "task": ["vqa"]}
    return [first, second, {**second, "objects": []}]


@pytest.fixture
def packed(chain, rows):
    packer = Packer(chain[1])
    return packer, [packer(row) for row in rows]


def alone(row, turn):
    """The row with one of its turns."""
    return with_turns(row, [turn])


def test_pixels_are_the_processors(chain, rows, packed):
    packer, records = packed
    collator = PackedCollator(packer)
    got = collator(records)
    wanted = LLMI3DDataCollator(chain[1])(rows)
    for name in ("pixel_values", "high_res_pixel_values"):
        torch.testing.assert_close(got[name], wanted[name], rtol=0, atol=2e-5)
    torch.testing.assert_close(got["targets_3d"]["intrinsics"], wanted["targets_3d"]["intrinsics"])


def test_answers_and_loss_are_those_of_each_turn_alone(chain, rows, packed):
    model, processor = chain
    packer, records = packed
    batch = PackedCollator(packer)(records)
    targets = batch.pop("targets_3d")
    with torch.no_grad():
        together = model(**batch)
    each = [alone(row, turn) for row in rows for turn in turns_of(row)]
    single = LLMI3DDataCollator(processor)(each)
    truth = single.pop("targets_3d")
    with torch.no_grad():
        apart = model(**single)
    torch.testing.assert_close(together.loss, apart.loss, rtol=1e-4, atol=1e-5)

    def by_center(boxes, targets):
        """Answers in the order of the true centres, as turns are shuffled."""
        order = targets["center"][targets["mask"]][:, 0].argsort()
        return {name: value[boxes.mask][order] for name, value in boxes.items() if name != "mask"}

    got, wanted = by_center(together.boxes_3d, targets), by_center(apart.boxes_3d, truth)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=2e-3, atol=2e-4, msg=name)


def test_only_the_assistants_words_are_learned(packed):
    packer, records = packed
    batch = PackedCollator(packer)(records)
    decode = packer.processor.tokenizer.decode
    assert decode(batch["labels"][1][batch["labels"][1] != -100]) == "None.</s>"
    assert (batch["labels"][0] == packer.processor.box_3d_token_id).sum() == 2
    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][:, -batch["labels"].shape[1] :][kept])


def test_at_most_so_many_turns(packed):
    packer, records = packed
    torch.manual_seed(0)
    counts = {int(PackedCollator(packer, most_turns=1)(records[:1])["targets_3d"]["mask"].sum()) for _ in range(20)}
    assert counts == {0, 1}


def test_mirrored_pictures_have_mirrored_boxes(packed):
    packer, records = packed
    collator = PackedCollator(packer, flip=True)
    canvas = packer.processor.image_processor.high_res_size["width"]
    torch.manual_seed(1)
    plain = PackedCollator(packer).scene(records[:1])
    while not (scene := collator.scene(records[:1]))["flipped"][0]:
        pass
    for before, after in zip(plain["objects"][0], scene["objects"][0], strict=True):
        rotation = after[6:15].view(3, 3)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3))
        assert rotation.det() > 0
        corners = [box_corners(one[:3], one[3:6], one[6:15].view(3, 3)) for one in (before, after)]
        points = [project(one, k["intrinsics"][0]) for one, k in zip(corners, (plain, scene), strict=True)]
        mirrored = torch.stack((canvas - points[0][:, 0], points[0][:, 1]), -1)
        # The same set of points, corners 4-7 for 0-3: the box's z axis is turned round.
        torch.testing.assert_close(points[1], mirrored[[4, 5, 6, 7, 0, 1, 2, 3]], rtol=1e-4, atol=1e-3)
    pixels = [
        one.pixels(records[:1], flipped=torch.tensor([mirror]))["high_res_pixel_values"]
        for one, mirror in ((collator, False), (collator, True))
    ]
    assert torch.equal(pixels[1], pixels[0].flip(-1)) or np.isclose(pixels[1], pixels[0].flip(-1)).mean() > 0.9


def test_users_cannot_type_special_tokens(chain, row):
    row["messages"] = grounding_conversation(["<|box_3d|>"])
    with pytest.raises(ValueError, match="special token"):
        Packer(chain[1])({**row, "targets": ["a"], "task": ["grounding"]})


def test_tokens_are_those_that_are_asked(chain, row):
    """Also with a tokenizer as Llama's, which sets `<s>` before every text and a space before its first word."""
    own = chain[1].tokenizer
    backend = Tokenizer.from_str(own.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first"), pre_tokenizers.ByteLevel(False)]
    )
    start = own.pad_token  # any special token of its own
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, own.pad_token_id)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=own.pad_token,
        eos_token=own.eos_token,
        extra_special_tokens=[chain[1].image_token, chain[1].box_3d_token],
    )
    processor = LLMI3DProcessor(
        chain[1].image_processor, tokenizer, chain[1].patch_size, chain[1].virtual_focal_length
    )
    asked = processor.grounding_inputs(row["image"], "the red car", intrinsics=row["intrinsics"])["input_ids"][0]
    assert asked[0] == own.pad_token_id and tokenizer.decode(asked[1:2]) == " "

    packer = Packer(processor)
    question, answer = packer.tokens_of_turn(GROUNDING_PROMPT.format(phrase="the red car"), "<box_3d>")
    assert [*packer.prefix(), *question, *answer[:-1]] == asked.tolist()
