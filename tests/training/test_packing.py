# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Packed turns: the network answers each as it would alone, also where padding is cropped."""

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llmi3d.data.schema import grounding_conversation, turns_of, with_turns
from llmi3d.processing.processing_llmi3d import GROUNDING_PROMPT, LLMI3DProcessor
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.packing import TurnPacker


@pytest.fixture
def rows(row):
    """Three rows of 3, 1 and 1 turns; the second has no box and the third no object."""
    talk = [{"role": "user", "content": "How many cars?"}, {"role": "assistant", "content": "One."}]
    first = {**row, "messages": [*row["messages"], *talk], "task": ["grounding", "grounding", "vqa"]}
    ask = [{"role": "user", "content": "<image>\nHow many dogs?"}, {"role": "assistant", "content": "None."}]
    second = {**row, "messages": ask, "targets": [], "task": ["vqa"]}
    return [first, second, {**second, "objects": []}]


@pytest.mark.parametrize("crop_padding", [False, True])
def test_answers_and_loss_are_those_of_each_turn_alone(chain, rows, crop_padding):
    model, processor = chain
    system = {"role": "system", "content": "Be brief."}
    rows[1] = {**rows[1], "messages": [system, *rows[1]["messages"]]}
    options = {"crop_padding": crop_padding, "place_px": model.config.place_px}
    batch = LLMI3DDataCollator(processor, pack_turns=True, **options)(rows)
    targets = batch.pop("targets_3d")
    with torch.no_grad():
        together = model(**batch)
    single = LLMI3DDataCollator(processor, **options)(
        [with_turns(row, [turn]) for row in rows for turn in turns_of(row)]
    )
    truth = single.pop("targets_3d")
    with torch.no_grad():
        apart = model(**single)
    torch.testing.assert_close(together.loss, apart.loss, rtol=1e-4, atol=1e-5)
    for name, value in apart.boxes_3d.items():
        if name != "mask":
            got = together.boxes_3d[name][together.boxes_3d.mask]
            torch.testing.assert_close(got, value[apart.boxes_3d.mask], rtol=2e-3, atol=2e-4, msg=name)
    for name in ("center", "size", "pointing_places"):
        assert torch.equal(targets[name][targets["mask"]], truth[name][truth["mask"]])


def test_only_the_assistants_words_are_learned(chain, rows):
    processor = chain[1]
    batch = LLMI3DDataCollator(processor, pack_turns=True)(rows)
    assert processor.tokenizer.decode(batch["labels"][1][batch["labels"][1] != -100]) == "None.</s>"
    assert (batch["labels"][0] == processor.box_3d_token_id).sum() == 2
    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][:, -batch["labels"].shape[1] :][kept])


def test_users_cannot_type_special_tokens(chain, row):
    row["messages"] = grounding_conversation(["<|box_3d|>"])
    with pytest.raises(ValueError, match="special token"):
        LLMI3DDataCollator(chain[1], pack_turns=True)([{**row, "targets": ["a"], "task": ["grounding"]}])


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

    packer = TurnPacker(processor)
    question, answer = packer.tokens_of_turn(GROUNDING_PROMPT.format(phrase="the red car"), "<box_3d>")
    assert [*packer.prefix((asked == processor.image_token_id).sum()), *question, *answer[:-1]] == asked.tolist()
