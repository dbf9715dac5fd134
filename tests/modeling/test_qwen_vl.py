# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Qwen2.5-VL and Qwen3-VL under the 3D part: what was taken over answers as the original, and the rest as ever."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Qwen2VLImageProcessor

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DModel
from llmi3d.bases.qwen_vl import qwen_vl_config
from llmi3d.qwen_vl_llmi3d import patches_of, rope_positions

SIDE, TOKENS, IMAGE = 32, 16, 5


def prompt(model, batch: int = 2, words: int = 7, padding: int = 0, queries: int = 0) -> dict[str, torch.Tensor]:
    """Two words, a picture between its marks, words with `queries` query tokens at their end; padded on the left."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(7, 260, (batch, 2 + words), generator=generator)
    text[:, len(text[0]) - queries :] = model.config.box_3d_token_id

    def column(token, count=1):
        return torch.full((batch, count), token)

    ids = torch.cat((column(0, padding), text[:, :2], column(3), column(IMAGE, TOKENS), column(4), text[:, 2:]), 1)
    high = model.config.high_res_image_size
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) >= padding).long().expand(batch, -1).clone(),
        "pixel_values": torch.randn(batch, 3, SIDE, SIDE, generator=generator),
        "high_res_pixel_values": torch.randn(batch, 3, high, high, generator=generator),
    }


def as_the_original_reads_it(config, inputs) -> dict[str, torch.Tensor]:
    vision = config.vision_config
    patches, rows, columns = Qwen2VLImageProcessor().patchify(
        inputs["pixel_values"], vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    )
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "pixel_values": patches.flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * len(patches)),
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
    }


def words_of(logits: torch.Tensor) -> torch.Tensor:
    """All but the query token's row, which is new."""
    return torch.cat((logits[..., :263], logits[..., 264:]), -1)


@torch.no_grad()
def answer(model, inputs, **kwargs):
    return model(**inputs, **kwargs)


# -------------------------------------------------------------------------------------------------------- the original


@pytest.mark.parametrize("branch", [True, False], ids=["mining", "no CNN"])
@pytest.mark.parametrize("padding", [0, 3])
def test_logits_are_the_originals(qwen_base, new_qwen_chain, branch, padding):
    folder, original = qwen_base
    model, _ = new_qwen_chain(folder, high_res_branch=branch)
    inputs = prompt(model, padding=padding)
    with torch.no_grad():
        want = original(**as_the_original_reads_it(model.config, inputs)).logits[:, padding:]
    got = answer(model, inputs).logits[:, padding:]
    torch.testing.assert_close(words_of(got), words_of(want), rtol=1e-5, atol=1e-5)
    assert want.std() > 0.1


def test_text_alone_is_the_originals(qwen_base, new_qwen_chain):
    folder, original = qwen_base
    model, _ = new_qwen_chain(folder)
    text = {name: value[:, -7:] for name, value in prompt(model).items() if "pixel" not in name}
    with torch.no_grad():
        want = original(**text).logits
    torch.testing.assert_close(words_of(answer(model, text).logits), words_of(want))


DECODING = {
    "greedy": {},
    "beam search": {"num_beams": 3},
    "three beams returned": {"num_beams": 3, "num_return_sequences": 3},
    "without cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "in chunks": {"prefill_chunk_size": 7},
}


@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("padding", [0, 3])
def test_generates_token_by_token_what_the_original_does(qwen_base, new_qwen_chain, decoding, padding):
    folder, original = qwen_base
    model, _ = new_qwen_chain(folder)
    inputs = prompt(model, padding=padding)
    settings = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    want = original.generate(**as_the_original_reads_it(model.config, inputs), **settings)
    if "num_beams" in DECODING[decoding]:
        settings |= DECODING[decoding]
        want = original.generate(**as_the_original_reads_it(model.config, inputs), **settings)
    got = model.generate(**inputs, **settings | DECODING[decoding])
    assert got.tolist() == want.tolist()
    assert len({tuple(row[-10:]) for row in got.tolist()}) > 1


def test_patches_are_those_of_the_originals_image_processor(qwen_base):
    config = qwen_vl_config(qwen_base[1].config, image_size=32)
    original = Qwen2VLImageProcessor.from_pretrained(qwen_base[0])
    picture = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    want = original(list(picture), return_tensors="pt")
    mean, std = (torch.tensor(value)[:, None, None] for value in (original.image_mean, original.image_std))
    patches, grids = patches_of((picture / 255 - mean) / std, config)
    torch.testing.assert_close(patches, want["pixel_values"])
    assert grids.tolist() == want["image_grid_thw"].tolist()
    wide = original(list(picture[:, :, :16]), do_resize=False, return_tensors="pt")
    patches, grids = patches_of(((picture / 255 - mean) / std)[:, :, :16], config)
    torch.testing.assert_close(patches, wide["pixel_values"])
    assert grids.tolist() == wide["image_grid_thw"].tolist() and grids[0, 1] * 2 == grids[0, 2]


def test_positions_are_the_originals(qwen_base, new_qwen_chain):
    """Padded, and for two pictures in a sample beside a sample with one."""
    folder, original = qwen_base
    model, _ = new_qwen_chain(folder)
    ids = prompt(model, padding=2)["input_ids"]
    two = torch.cat((ids, ids[:, 4:]), 1)
    two[1, 30:] = 9  # its second picture becomes words
    seen = torch.ones_like(two)
    seen[:, :2] = 0
    grids = torch.tensor([[1, 8, 8]] * 3)
    want, _ = original.model.get_rope_index(
        two, mm_token_type_ids=(two == IMAGE).int(), image_grid_thw=grids, attention_mask=seen
    )
    assert (two == IMAGE).sum(1).tolist() == [2 * TOKENS, TOKENS]
    got = model.model.get_rope_positions(two == IMAGE, attention_mask=seen)
    assert torch.equal(got[:, seen.bool()], want[:, seen.bool()])


def test_turns_behind_one_picture_start_again_behind_it():
    """Positions are counted along the sequence, and each turn is where it would be alone."""
    is_image = torch.tensor([[False, *[True] * 9, False, False, False, False]])
    positions = torch.tensor([[*range(10), 10, 11, 10, 11]])
    got = rope_positions(is_image, positions, torch.tensor([3, 3]))
    alone = rope_positions(is_image[:, :12], positions[:, :12], torch.tensor([3, 3]))
    assert torch.equal(got[..., :12], alone) and torch.equal(got[..., 12:], alone[..., 10:])
    assert alone[:, 0, 10].tolist() == [4, 4, 4]


def test_positions_with_a_filled_cache_must_be_given(qwen_chain):
    model, inputs = qwen_chain[0], prompt(qwen_chain[0])
    out = answer(model, inputs, use_cache=True)
    word = torch.full((2, 1), 9)
    for positions in (None, torch.full((2, 1), 27)):
        with pytest.raises(ValueError, match=r"position_ids: got .* with a filled cache, want \[3, B, T\]"):
            answer(model, {"input_ids": word}, cache=out.cache, position_ids=positions)
    whole = {**inputs, "input_ids": torch.cat((inputs["input_ids"], word), 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    place = model.model.get_rope_positions(whole["input_ids"] == IMAGE)[..., -1:]
    got = answer(model, {"input_ids": word}, cache=out.cache, position_ids=place).logits[:, -1]
    torch.testing.assert_close(got, answer(model, whole).logits[:, -1], rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- the 3D part


def test_batched_is_one_by_one(qwen_chain):
    model, inputs = qwen_chain[0], prompt(qwen_chain[0], batch=3, queries=2)
    together = answer(model, inputs)
    assert together.boxes_3d.mask.all() and together.boxes_3d.mask.shape == (3, 2)
    for i in range(3):
        single = answer(model, {name: value[i : i + 1] for name, value in inputs.items()})
        torch.testing.assert_close(single.logits[0], together.logits[i], atol=1e-5, rtol=1e-4)
        for name, value in single.boxes_3d.items():
            torch.testing.assert_close(value[0], together.boxes_3d[name][i], atol=1e-5, rtol=1e-4, msg=name)


def test_left_padded_is_unpadded(qwen_chain):
    model = qwen_chain[0]
    plain, padded = (answer(model, prompt(model, padding=n, queries=1)) for n in (0, 5))
    torch.testing.assert_close(padded.logits[:, 5:], plain.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.boxes_3d.depth_virtual, plain.boxes_3d.depth_virtual)


def test_the_answer_depends_on_both_resolutions(qwen_chain):
    model, inputs = qwen_chain[0], prompt(qwen_chain[0], queries=1)
    before = answer(model, inputs).boxes_3d.depth_virtual
    for name in ("pixel_values", "high_res_pixel_values"):
        after = answer(model, {**inputs, name: inputs[name] + 1}).boxes_3d.depth_virtual
        assert (after - before).abs().max() > 1e-4, name


def test_without_cnn_there_is_no_depth_map_and_the_large_picture_is_not_read(qwen_base, new_qwen_chain):
    model, _ = new_qwen_chain(qwen_base[0], high_res_branch=False)
    inputs = prompt(model, queries=1)
    out = answer(model, inputs)
    assert out.depth_logits is None and out.boxes_3d.depth_weights[..., 2].eq(0).all()
    assert not any("high_res" in name or "feature_mining" in name for name in model.state_dict())
    del inputs["high_res_pixel_values"]
    assert torch.equal(answer(model, inputs).boxes_3d.size, out.boxes_3d.size)
    assert torch.equal(model.generate_boxes(**inputs, max_new_tokens=3).sequences[:, :-3], inputs["input_ids"])


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}])
def test_generated_boxes_are_those_of_a_teacher_forced_pass(qwen_chain, decoding):
    torch.manual_seed(0)
    model = qwen_chain[0]
    inputs = prompt(model, padding=2)
    box = model.config.box_3d_token_id

    length, words = inputs["input_ids"].shape[1], list(range(7, 260))

    def only(batch, sequence):  # the third token is a query token, and so is the fifth
        return [box] if len(sequence) - length in (2, 4) else words

    got = model.generate_boxes(
        **inputs, max_new_tokens=7, prefix_allowed_tokens_fn=only, eos_token_id=None, **decoding
    )
    assert got.boxes_3d.mask.sum(-1).tolist() == [2] * len(got.sequences)
    each = len(got.sequences) // 2
    again = {name: value.repeat_interleave(each, 0) for name, value in inputs.items()}
    mask = torch.cat((again["attention_mask"], torch.ones(len(got.sequences), 7, dtype=torch.long)), 1)
    want = answer(model, {**again, "input_ids": got.sequences, "attention_mask": mask}).boxes_3d
    for name in ("center_2d_px", "depth_virtual", "size", "rotation_6d"):
        torch.testing.assert_close(got.boxes_3d[name], want[name], atol=1e-4, rtol=1e-4, msg=name)


def test_every_parameter_gets_a_gradient(qwen_chain):
    model = copy.deepcopy(qwen_chain[0]).train()
    inputs = prompt(model, queries=2)
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        out = model(**inputs, labels=inputs["input_ids"])
        boxes = sum((value * value).mean() for name, value in out.boxes_3d.items() if name != "mask")
        (out.loss + boxes).backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        # Softmax forgets what is added to every key.
        assert [name for name in silent if not name.endswith("k_proj.bias")] == []


def test_saved_is_loaded(qwen_chain, tmp_path):
    model, inputs = qwen_chain[0], prompt(qwen_chain[0], queries=2)
    model.save_pretrained(tmp_path)
    loaded, info = LLMI3DForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want, got = answer(model, inputs), answer(loaded, inputs)
    assert torch.equal(got.logits, want.logits) and torch.equal(got.boxes_3d.size, want.boxes_3d.size)
    assert loaded.config.image_size == 32 and loaded.config.has_qwen_vision
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is LLMI3DModel
    assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    card = (tmp_path / "README.md").read_text()
    assert f"{model.config.vision_config.model_type}, 3 layers of 32, 32 px in patches of 4, merged by 2 x 2" in card


def test_bfloat16_is_near_float32(qwen_base, new_qwen_chain):
    model, _ = new_qwen_chain(qwen_base[0])
    inputs = prompt(model, queries=1)
    want = answer(model, inputs)
    got = answer(model.to(torch.bfloat16), inputs)
    assert got.logits.dtype == torch.bfloat16 and got.boxes_3d.depth_virtual.dtype == torch.float32
    assert (got.logits.float() - want.logits).abs().max() < 0.1 * want.logits.abs().max()


# ------------------------------------------------------------------------------------------------------ taking it over


def test_the_query_token_takes_a_row_to_spare(qwen_base, new_qwen_chain):
    model, processor = new_qwen_chain(qwen_base[0])
    assert model.config.box_3d_token_id == processor.box_3d_token_id == 263
    assert model.config.text_config.vocab_size == 288
    old = qwen_base[1].get_input_embeddings().weight
    new = model.get_input_embeddings().weight
    assert torch.equal(new[:263], old[:263]) and torch.equal(new[264:], old[264:])
    torch.testing.assert_close(new[263], old[:263].mean(0))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_tied_embeddings_stay_tied(new_qwen_base, new_qwen_chain, family, tmp_path):
    original = new_qwen_base(family, tmp_path, tie_word_embeddings=True)
    model, _ = new_qwen_chain(tmp_path)
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.get_input_embeddings().weight
    inputs = prompt(model)
    with torch.no_grad():
        want = original(**as_the_original_reads_it(model.config, inputs)).logits
    got = answer(model, inputs).logits
    torch.testing.assert_close(got[..., :263], want[..., :263], rtol=1e-5, atol=1e-5)


def test_the_layout_of_older_versions_is_read_too(new_qwen_base, new_qwen_chain, tmp_path):
    """As published for Qwen2.5-VL: `visual.` and `model.layers.`."""
    original = new_qwen_base("qwen2_5_vl", tmp_path)
    file = tmp_path / "model.safetensors"
    old = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value
        for name, value in original.state_dict().items()
    }
    assert {name.split(".")[0] for name in old} == {"visual", "model", "lm_head"} and "model.norm.weight" in old
    save_file({name: value.contiguous() for name, value in old.items()}, file, metadata={"format": "pt"})
    model, _ = new_qwen_chain(tmp_path)
    inputs = prompt(model)
    with torch.no_grad():
        want = original(**as_the_original_reads_it(model.config, inputs)).logits
    torch.testing.assert_close(words_of(answer(model, inputs).logits), words_of(want), rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_fit_are_named(new_qwen_base, new_qwen_chain, tmp_path):
    new_qwen_base("qwen3_vl", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["extra"] = weights.pop("model.visual.merger.norm.weight")
    weights["lm_head.weight"] = weights["lm_head.weight"][:5].clone()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError,
        match=r"missing: model\.vision_tower\.merger\.norm\.weight; misshapen: lm_head\..*; unknown: extra",
    ):
        new_qwen_chain(tmp_path)


def test_the_published_sizes_make_24_tokens_a_side(qwen_base):
    base = copy.deepcopy(qwen_base[1].config)
    base.vision_config.patch_size = 16 if base.model_type == "qwen3_vl" else 14
    config = qwen_vl_config(base)
    assert config.image_seq_length == 576
    assert (config.image_size, config.high_res_image_size) == ((768 if base.model_type == "qwen3_vl" else 672), 768)
    larger = qwen_vl_config(base, image_size=32 * config.visual_token_side)
    assert (larger.image_seq_length, larger.high_res_image_size) == (1024, 1024 if config.image_size == 768 else 896)


def published(name: str):
    """(original's class, configuration, parameters) of a published size."""
    family, hidden, layers, heads, groups, inner, vocabulary, parameters = {
        "Qwen2.5-VL-3B": ("Qwen2_5_VL", 2048, 36, 16, 2, 11008, 151936, 3_754_622_976),
        "Qwen2.5-VL-7B": ("Qwen2_5_VL", 3584, 28, 28, 4, 18944, 152064, 8_292_166_656),
        "Qwen3-VL-2B": ("Qwen3VL", 2048, 28, 16, 8, 6144, 151936, 2_127_532_032),
        "Qwen3-VL-4B": ("Qwen3VL", 2560, 36, 32, 8, 9728, 151936, 4_437_815_808),
        "Qwen3-VL-8B": ("Qwen3VL", 4096, 36, 32, 8, 12288, 151936, 8_767_123_696),
    }[name]
    text = {
        **{"vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "num_key_value_heads": groups},
    }
    if family == "Qwen2_5_VL":
        vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14}
    else:
        text["head_dim"] = 128
        large = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
        small = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
        vision = {**(large if hidden == 4096 else small), "num_heads": 16, "patch_size": 16}
    config = getattr(transformers, f"{family}Config")(
        text_config=text,
        vision_config={**vision, "out_hidden_size": hidden},
        tie_word_embeddings=hidden < 3000,
    )
    return getattr(transformers, f"{family}ForConditionalGeneration"), config, parameters


@pytest.mark.parametrize("name", ["Qwen2.5-VL-3B", "Qwen2.5-VL-7B", "Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen3-VL-8B"])
def test_every_weight_of_the_published_sizes_has_its_place(name):
    kind, config, parameters = published(name)
    with torch.device("meta"):
        original, model = kind(config), LLMI3DForConditionalGeneration(qwen_vl_config(config))
    assert sum(one.numel() for one in original.parameters()) == parameters
    old = {key.replace("model.visual.", "model.vision_tower."): one for key, one in original.state_dict().items()}
    new = model.state_dict()
    assert {key: one.shape for key, one in old.items()} == {key: new[key].shape for key in old}
    own = ("model.high_res_tower.", "model.feature_mining.", "box_head.")
    assert all(key.startswith(own) for key in set(new) - set(old))


def test_one_resolution_where_two_are_read_is_refused(qwen_chain):
    inputs = prompt(qwen_chain[0])
    del inputs["high_res_pixel_values"]
    with pytest.raises(ValueError, match=r"^high_res_pixel_values: got None"):
        qwen_chain[0].generate_boxes(**inputs)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image_size": 36}, "image_size 36 is not a multiple of patch_size"),
        ({"high_res_image_size": 80}, "high_res_image_size: got 80, want a multiple of 32"),
        ({"high_res_branch": False, "depth_branch": True}, "depth_branch: got True with high_res_branch=False"),
    ],
)
def test_changes_that_contradict_each_other_are_refused(qwen_base, change, text):
    with pytest.raises(ValueError, match=text):
        qwen_vl_config(qwen_base[1].config, **{"image_size": 32, **change})


def test_another_language_model_than_the_encoders_is_refused(qwen_base, tiny_config):
    config = qwen_base[1].config
    with pytest.raises(Exception, match="text_config: got a 'llama' with a 'qwen"):
        tiny_config(vision_config=config.vision_config.to_dict(), image_size=32)
    other = copy.deepcopy(config)
    other.vision_config.out_hidden_size = 48
    with pytest.raises(ValueError, match=r"out_hidden_size is 48, but text_config\.hidden_size is 32"):
        qwen_vl_config(other, image_size=32)


@pytest.mark.parametrize(("family", "reason"), [("qwen2_vl", "older"), ("qwen3_vl_moe", "experts"), ("llama", "want")])
def test_other_families_are_refused_with_the_reason(family, reason):
    from transformers import AutoConfig

    with pytest.raises(ValueError, match=f"got the family '{family}'.*{reason}"):
        qwen_vl_config(AutoConfig.for_model(family))
