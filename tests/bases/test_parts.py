# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""An MLLM assembled from a ViT, a CNN and a language model."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from typer.testing import CliRunner

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.bases.parts import assemble, cut_vocabulary, resample_positions
from llmi3d.cli import app

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
VITS = {
    "clip": CLIPVisionConfig(**SIZES, intermediate_size=32, projection_dim=16),
    "siglip": SiglipVisionConfig(**SIZES, intermediate_size=32),
    "dinov2": Dinov2Config(**SIZES, mlp_ratio=2),
    "registers": Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=2),
}
CNN = "mobilenetv3_small_050"
TEXTS = ["the red mug on the table", "could you show me where the blue car is?", "a person on a bicycle"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folder of small parts: four ViTs, a CNN's weights and a language model with a BPE tokenizer."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    for name, config in VITS.items():
        AutoModel.from_config(config).save_pretrained(folder / name)
    save_file(timm.create_model(CNN).state_dict(), folder / "cnn.safetensors")
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*TEXTS, "something else entirely, with other words in it"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "words")
    words = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(words).save_pretrained(folder / "words")
    return folder


def assembled(parts, vision="dinov2", **options):
    return assemble(
        parts / vision,
        parts / "words",
        CNN,
        **{"high_res_weights": parts / "cnn.safetensors", "box_head_dim": 32, "depth_predictor_dim": 16, **options},
    )


@pytest.mark.parametrize("vision", VITS)
def test_parts_are_taken_over_and_answer(parts, photograph, tmp_path, vision):
    model, processor = assembled(parts, vision)
    model.eval()
    given = AutoModel.from_pretrained(parts / vision).state_dict()
    for name, weight in model.model.vision_tower.state_dict().items():
        torch.testing.assert_close(weight, given[name], msg=name)
    given = LlamaForCausalLM.from_pretrained(parts / "words").model.state_dict()
    for name, weight in model.model.language_model.state_dict().items():
        torch.testing.assert_close(weight[: len(given[name])], given[name], msg=name)
    inputs = processor.grounding_inputs(photograph, "the red mug", fov_deg=60)
    answer = model(**inputs).boxes_3d
    assert answer.pointing.shape == (1, 1, 16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = LLMI3DProcessor.from_pretrained(tmp_path).grounding_inputs(photograph, "the red mug", fov_deg=60)
    torch.testing.assert_close(loaded(**inputs).boxes_3d.center_2d_px, answer.center_2d_px)


def test_layers_after_the_last_one_read_are_dropped(parts):
    model, _ = assembled(parts, vision_layers=[1, 2], language_layers=2)
    assert len(model.model.vision_tower.encoder.layer) == model.config.vision_config.num_hidden_layers == 2
    assert len(model.model.language_model.layers) == model.config.text_config.num_hidden_layers == 2
    assert model.config.visual_token_dim == 48


@pytest.mark.parametrize("vision", VITS)
def test_positions_are_resampled_for_another_size(parts, vision):
    vit = AutoModel.from_pretrained(parts / vision)
    with torch.no_grad():  # positions that a plane describes are those of the plane afterwards
        table = getattr(vit.embeddings, "position_embeddings", None)
        table = vit.embeddings.position_embedding.weight if table is None else table[0]
        table[-16:] = torch.arange(4).repeat(4)[:, None].float()
        before = table[:-16].clone()
    resample_positions(vit, 64)
    table = getattr(vit.embeddings, "position_embeddings", None)
    table = vit.embeddings.position_embedding.weight if table is None else table[0]
    assert table.shape[0] == 64 + len(before) and vit.config.image_size == 64
    torch.testing.assert_close(table[: len(before)], before)
    columns = table[len(before) :].view(8, 8, -1)
    torch.testing.assert_close(columns[:, 3:5].mean(1), torch.full((8, 24), 1.5))
    assert vit(torch.randn(1, 3, 64, 64)).last_hidden_state.shape[1] >= 64


def test_a_cut_vocabulary_says_the_same_in_the_same_words(parts):
    whole, processor = assembled(parts)
    cut, small = assembled(parts, vocabulary=TEXTS[:2])
    assert len(small.tokenizer) < len(processor.tokenizer)
    for text in TEXTS:
        ids, few = (p.tokenizer(text, add_special_tokens=False).input_ids for p in (processor, small))
        assert small.tokenizer.decode(few) == text
        if text != TEXTS[2]:
            assert small.tokenizer.convert_ids_to_tokens(few) == processor.tokenizer.convert_ids_to_tokens(ids)
            torch.testing.assert_close(
                cut.get_input_embeddings().weight[few], whole.get_input_embeddings().weight[ids]
            )
    assert small.tokenizer.eos_token_id == cut.generation_config.eos_token_id


def test_new_tokens_start_as_the_mean(parts):
    model, processor = assembled(parts)
    weight = model.get_input_embeddings().weight
    old = min(processor.image_token_id, processor.box_3d_token_id)
    torch.testing.assert_close(weight[processor.box_3d_token_id], weight[:old].mean(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size: got 30, want a multiple of the ViT's patch of 8"),
        ({"vision_layers": [1, 9]}, r"vision_layers: got \[1, 9\], but the ViT has 3 layers"),
        ({"language_layers": 7}, "language_layers: got 7, but .* has 3"),
        ({"vision": "words"}, "vision: .* is a 'llama', want one of clip_vision_model"),
        ({"high_res": "resnet18"}, "high_res_weights: .* lacks"),
    ],
)
def test_what_cannot_be_used_is_named(parts, options, message):
    options = {"vision": "dinov2", "high_res": CNN, **options}
    vision, high_res = options.pop("vision"), options.pop("high_res")
    with pytest.raises(ValueError, match=message):
        assemble(parts / vision, parts / "words", high_res, high_res_weights=parts / "cnn.safetensors", **options)


def test_other_tokenizers_are_not_cut(parts):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(byte_fallback=True)))
    with pytest.raises(ValueError, match="vocabulary: the tokenizer is a BPE, want a byte-level BPE"):
        cut_vocabulary(tokenizer, None, TEXTS)


def test_the_command_writes_a_checkpoint_that_loads(parts, tmp_path):
    out, weights = tmp_path / "out", parts / "cnn.safetensors"
    given = ["init", "--vision", parts / "dinov2", "--language", parts / "words", "--out", out, "--high-res", CNN]
    result = CliRunner().invoke(app, [*map(str, given), "--high-res-weights", str(weights), "--language-layers", "1"])
    assert result.exit_code == 0, result.output
    config = LLMI3DConfig.from_pretrained(out)
    assert config.pointing and config.vision_config.model_type == "dinov2"
    assert config.text_config.num_hidden_layers == 1
    assert "| CNN, `cnn.safetensors` | unknown" in (out / "README.md").read_text()
    LLMI3DProcessor.from_pretrained(out).check_model(LLMI3DForConditionalGeneration.from_pretrained(out).config)


@pytest.mark.parametrize("given", [[], ["--base", "a", "--vision", "b"], ["--vision", "b"]])
def test_half_of_the_parts_is_refused(tmp_path, given):
    result = CliRunner().invoke(app, ["init", *given, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "want a base, or a ViT and a language model" in result.output
