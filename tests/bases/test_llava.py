# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D with a LLaVA's parts answers as the LLaVA does; bases that would not are refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, InternVLConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llmi3d import LLMI3DForConditionalGeneration
from llmi3d.bases import from_llava
from llmi3d.bases.llava import llava_config

FAMILIES = ("llava", "llava_next", "llava_onevision")
TINY = {
    "high_res_vision_config": {
        **{"model_type": "timm_wrapper", "architecture": "convnext_atto", "do_pooling": False},
        "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
    },
    **{"high_res_image_size": 64, "box_head_dim": 32, "num_depth_bins": 10},
    **{"depth_predictor_dim": 16, "depth_embedding_dim": 8},
}


def take_over(folder, **changes) -> LLMI3DForConditionalGeneration:
    torch.manual_seed(5)
    return from_llava(str(folder), **{**TINY, **changes}).eval()


def prompt(original, batch: int = 2) -> dict[str, torch.Tensor]:
    """Return words, an image's 16 placeholders, words; the pixels of both branches, the high ones of noise."""
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(0, 250, (batch, 9), generator=generator)
    image = torch.full((batch, 16), original.config.image_token_id)
    side = original.config.vision_config.image_size
    return {
        "input_ids": torch.cat((words[:, :3], image, words[:, 3:]), 1),
        "pixel_values": torch.randn(batch, 3, side, side, generator=generator),
        "high_res_pixel_values": torch.randn(batch, 3, 64, 64, generator=generator),
    }


def as_the_original_sees_it(original, inputs) -> dict:
    """Return the original's inputs; of tiles it gets only the base view's tokens, by its own code."""
    if original.config.model_type == "llava":
        return {name: inputs[name] for name in ("input_ids", "pixel_values")}
    side = inputs["pixel_values"].shape[-1]
    sizes = torch.tensor([[side, 2 * side]] * len(inputs["input_ids"]))  # the base view and two tiles
    tiles = inputs["pixel_values"][:, None].repeat(1, 3, 1, 1, 1)
    seen = original.model.get_image_features(tiles, sizes, return_dict=True).pooler_output
    base_view = BaseModelOutputWithPooling(pooler_output=[one[:16] for one in seen])
    return {"input_ids": inputs["input_ids"], "mm_encoder_outputs": {"image": base_view}}


# ---------------------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_the_originals(bases, family):
    folder, original = bases[family]
    model, inputs = take_over(folder), prompt(original)
    wanted = original(**as_the_original_sees_it(original, inputs)).logits
    size = original.config.text_config.vocab_size
    torch.testing.assert_close(model(**inputs).logits[..., :size], wanted, rtol=1e-5, atol=1e-5)
    blind = model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}).logits[..., :size]
    assert (blind - wanted).abs().max() > 0.01  # the picture has its say


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_generates_token_by_token_what_the_original_does(bases, family):
    folder, original = bases[family]
    model, inputs = take_over(folder), prompt(original)
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    wanted = original.generate(**as_the_original_sees_it(original, inputs), **how)
    assert torch.equal(model.generate(**inputs, **how), wanted)
    assert len(set(wanted[:, -12:].flatten().tolist())) > 2


@torch.no_grad()
def test_saved_it_is_llmi3ds_own_layout_and_answers_the_same(bases, tmp_path):
    folder, original = bases["llava_onevision"]
    model, inputs = take_over(folder), prompt(original)
    model.save_pretrained(tmp_path)
    again = LLMI3DForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    names = load_file(tmp_path / "model.safetensors")
    assert all(name.startswith(("model.", "lm_head.", "box_head.")) for name in names)


@torch.no_grad()
def test_the_layout_of_todays_versions_is_read_too(new_base, tmp_path):
    original = new_base("llava", tmp_path / "old")
    original.save_pretrained(tmp_path / "new", save_original_format=False)
    AutoTokenizer.from_pretrained(tmp_path / "old").save_pretrained(tmp_path / "new")
    old, new = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("old", "new"))
    assert not old & new - {"lm_head.weight"}
    logits = [take_over(tmp_path / name)(**prompt(original)).logits for name in ("old", "new")]
    assert torch.equal(*logits)


# --------------------------------------------------------------------------------------------------------- vocabulary


def test_a_padding_row_becomes_the_query_token_and_the_others_stay(new_base, tmp_path):
    original = new_base("llava", tmp_path, vocab_size=320)
    model = take_over(tmp_path)
    assert (model.config.text_config.vocab_size, model.config.box_3d_token_id) == (320, 261)
    for mine, its in (
        (model.get_input_embeddings(), original.get_input_embeddings()),
        (model.get_output_embeddings(), original.get_output_embeddings()),
    ):
        kept = torch.arange(320) != 261
        assert torch.equal(mine.weight[kept], its.weight[kept])
        torch.testing.assert_close(mine.weight[261], its.weight[:261].mean(0))


def test_a_full_vocabulary_grows_by_rows_that_never_win(bases):
    folder, original = bases["llava"]
    model = take_over(folder)
    assert (model.config.text_config.vocab_size, model.config.box_3d_token_id) == (320, 261)
    assert torch.equal(model.lm_head.weight[:261], original.lm_head.weight)
    torch.testing.assert_close(model.lm_head.weight[261:], original.lm_head.weight.mean(0).expand(59, -1))


def test_tied_embeddings_stay_tied(new_base, tmp_path):
    original = new_base("llava_onevision", tmp_path, tie_word_embeddings=True)
    model = take_over(tmp_path)
    assert model.config.tie_word_embeddings and model.lm_head.weight is model.get_input_embeddings().weight
    with torch.no_grad():
        inputs = prompt(original)
        wanted = original(**as_the_original_sees_it(original, inputs)).logits
        torch.testing.assert_close(model(**inputs).logits[..., :261], wanted, rtol=1e-5, atol=1e-5)


def test_a_query_token_that_the_base_has_keeps_its_row(new_base, tmp_path):
    original = new_base("llava", tmp_path, vocab_size=320)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|box_3d|>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(tmp_path)
    model = take_over(tmp_path)
    assert model.config.box_3d_token_id == 261
    assert torch.equal(model.lm_head.weight, original.lm_head.weight)


# ------------------------------------------------------------------------------------------------------ configuration


def test_pictures_are_as_large_as_what_the_tower_sees(bases):
    config = llava_config(AutoConfig.from_pretrained(bases["llava_onevision"][0]))
    assert (config.vision_config.image_size, config.image_seq_length) == (16, 16)
    published = AutoConfig.from_pretrained(bases["llava_onevision"][0])
    published.vision_config.image_size, published.vision_config.patch_size = 384, 14
    config = llava_config(published)
    assert (config.vision_config.image_size, config.image_seq_length, config.high_res_image_size) == (378, 729, 864)


def test_fields_can_be_changed_and_weights_be_of_another_type(bases):
    model = take_over(bases["llava"][0], num_depth_bins=12, dtype=torch.bfloat16)
    assert model.config.num_depth_bins == 12
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert {one.dtype for one in model.box_head.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "model_type, reason", [("internvl", "pixel shuffle"), ("vipllava", "several layers"), ("llama", "'llama'")]
)
def test_other_families_are_refused_with_the_reason(model_type, reason, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=rf"base: got the family '{model_type}'.*want one of llava, llava_next"
    ) as error:
        from_llava(str(tmp_path))
    assert reason in str(error.value)


def test_internvls_projector_has_what_ours_has_not():
    """The reason given for the refusal is true."""
    from transformers import InternVLForConditionalGeneration

    with torch.device("meta"):
        model = InternVLForConditionalGeneration(InternVLConfig())
    names = {name.split(".")[0] for name, _ in model.model.multi_modal_projector.named_parameters()}
    assert "layer_norm" in names
    assert model.model.multi_modal_projector.linear_1.in_features == 4 * model.config.vision_config.hidden_size


@pytest.mark.parametrize(
    "change, text",
    [
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer is \[-2, -1\], want a single layer"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy: got 'full'"),
        ({"quantization_config": {"quant_method": "awq"}}, "got quantized weights"),
        ({"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type is 'pixtral', want one of clip_"),
    ],
)
def test_layouts_that_cannot_be_expressed_are_refused(bases, tmp_path, change, text):
    given = json.loads((bases["llava"][0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**given, **change}))
    with pytest.raises(ValueError, match=text):
        from_llava(str(tmp_path))


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def broken(bases, tmp_path):
    """Return a function that copies the tiny LLaVA and changes its weights by a function."""

    def make(change):
        folder = tmp_path / "broken"
        shutil.copytree(bases["llava"][0], folder)
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


NORM = "language_model.model.norm.weight"


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda weights: weights.pop(NORM), r"missing: model\.language_model\.norm\.weight\."),
        (lambda weights: weights.update(extra=torch.ones(2)), r"unknown: extra\."),
        (
            lambda weights: weights.update({NORM: torch.ones(7)}),
            r"misshapen: model\.language_model\.norm\.weight \[7\] for \[32\]\.",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(broken, change, text):
    with pytest.raises(ValueError, match=r"do not fit its config\.json: " + text):
        take_over(broken(change))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_named(broken, name):
    folder = broken(lambda weights: None)
    path = folder / name
    if path.suffix == ".bin":
        torch.save(load_file(folder / "model.safetensors"), path)
        (folder / "model.safetensors").unlink()
        take_over(folder)  # whole, it is read
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"base: cannot read the weights of .*broken"):
        take_over(folder)


def test_a_missing_shard_is_named(new_base, tmp_path):
    original = new_base("llava", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    original.save_pretrained(tmp_path, max_shard_size="50kB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    take_over(tmp_path)  # whole, it is read
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"base: cannot read the weights of .*{shards[1].name}"):
        take_over(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="base: cannot read"):
        from_llava(str(tmp_path))


def test_a_tokenizer_without_the_image_token_is_refused(bases, tmp_path, tokenizer):
    shutil.copytree(bases["llava"][0], tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "image_token_index": 7}))
    with pytest.raises(ValueError, match="'<image>' is 259 of its tokenizer, but 7 in its configuration"):
        take_over(tmp_path / "base")
    other = AutoTokenizer.from_pretrained(bases["llava"][0]).train_new_from_iterator(["words"], 300)
    other = type(other)(tokenizer_object=other.backend_tokenizer)
    if "<image>" not in other.get_vocab():
        with pytest.raises(ValueError, match="its tokenizer has no '<image>'"):
            take_over(bases["llava"][0], tokenizer=other)
