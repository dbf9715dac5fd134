# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The configuration: what it refuses, what it keeps, and the paper's size that its defaults build."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration
from llmi3d.feature_mining_llmi3d import cells_of

# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("num_depth_bin", "; did you mean `num_depth_bins`?"),
        ("depth_from_hight", "; did you mean `depth_from_height`?"),
        ("high_res_size", "; did you mean `high_res_image_size`?"),
        ("something_else_entirely", "."),
    ],
)
def test_an_unknown_key_is_refused_with_a_hint(tiny_config, key, hint):
    with pytest.raises(ValueError) as error:
        tiny_config(**{key: 5})
    assert str(error.value) == f"LLMI3DConfig: got the unknown key `{key}`=5{hint}"


def test_an_unknown_key_of_a_file_is_refused(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_depth_binz": 5}))
    with pytest.raises(ValueError, match="unknown key `num_depth_binz`=5; did you mean `num_depth_bins`"):
        LLMI3DConfig.from_pretrained(tmp_path)


# Settings, and what the message must say: the value given and the one it contradicts.
CONTRADICTIONS = {
    "patches": ({"vision_config": {"image_size": 18}}, "image_size 18 is not a multiple of patch_size 4"),
    "stride": ({"high_res_image_size": 80}, r"high_res_image_size: got 80, want a multiple of 32 .* \b4\b"),
    "grid": (
        {"high_res_image_size": 64, "vision_config": {"image_size": 20}},
        r"high_res_image_size: got 64, want a multiple of 32 .* \b5\b",
    ),
    "class token to drop": ({"vision_feature_select_strategy": "full"}, "got 'full' with a 'clip.*', want 'default'"),
    "no class token": (
        {
            "vision_config": {
                "model_type": "siglip_vision_model",
                "num_hidden_layers": 3,
                "image_size": 16,
                "patch_size": 4,
            }
        },
        "got 'default' with a 'siglip.*', want 'full'",
    ),
    "layer too deep": ({"vision_feature_layer": 4}, "vision_feature_layer: got 4, but the ViT has 3 layers"),
    "layer too early": ({"vision_feature_layer": -5}, "vision_feature_layer: got -5, but the ViT has 3 layers"),
    "depth range": (
        {"depth_min_virtual": 5.0, "depth_max_virtual": 2.5},
        r"got 5\.0 and 2\.5, want 0 < depth_min_virtual < depth_max_virtual",
    ),
    "empty depth range": ({"depth_min_virtual": 5.0, "depth_max_virtual": 5.0}, r"got 5\.0 and 5\.0"),
    "depth of zero": ({"depth_min_virtual": 0.0}, r"got 0\.0 and 200\.0"),
    "one bin": ({"num_depth_bins": 1}, "num_depth_bins: got 1, want at least 2"),
    "stage": ({"depth_map_stage": 4}, "depth_map_stage: got 4, want one of the CNN's 4 stages"),
    "focal length": ({"virtual_focal_length": -3.0}, r"virtual_focal_length: got -3\.0, want above 0"),
    "no source of depth": (
        {"depth_from_regression": False, "depth_from_height": False, "depth_from_map": False},
        "depth_from_regression, depth_from_height, depth_from_map: got all False, want one True",
    ),
    "no map to read": ({"depth_branch": False}, "depth_from_map: got True with depth_branch=False"),
    "image token": ({"image_token_id": 99}, "image_token_id: got 99, but text_config.vocab_size is 99"),
    "query token": ({"box_3d_token_id": -1}, "box_3d_token_id: got -1, but text_config.vocab_size is 99"),
    "one token twice": ({"image_token_id": 4}, "image_token_id and box_3d_token_id: both are 4"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_with_both_values(tiny_config, name):
    overrides, message = CONTRADICTIONS[name]
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**overrides)


@pytest.mark.parametrize("edge", [{"vision_feature_layer": 3}, {"vision_feature_layer": -4}, {"depth_map_stage": 3}])
def test_the_edges_of_the_ranges_are_allowed(tiny_config, edge):
    ((name, value),) = edge.items()
    assert getattr(tiny_config(**edge), name) == value


@pytest.mark.parametrize(("side", "grid"), [(64, 4), (96, 8), (96, 24), (288, 32), (288, 48), (160, 40)])
def test_what_is_accepted_can_be_cut_into_windows(tiny_config, side, grid):
    """A token's window is whole cells of the finest stage (stride 4), or the configuration says no."""
    try:
        tiny_config(high_res_image_size=side, vision_config={"image_size": 4 * grid})
    except StrictDataclassError as error:
        assert side // 4 % grid, error
    else:
        finest = (side // 4, side // 4)
        assert cells_of(torch.zeros(1, 1, *finest), finest, side // (4 * grid)).values.shape[1] == grid**2


@pytest.mark.parametrize("name", ["box_head_dim", "depth_predictor_dim", "depth_embedding_dim"])
@pytest.mark.parametrize("value", [0, -8])
def test_a_width_below_one_is_refused(tiny_config, name, value):
    with pytest.raises(StrictDataclassError, match=f"{name}: got {value}, want"):
        tiny_config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_depth_bins", "80", "int, got str"),
        ("num_depth_bins", 8.5, "int, got float"),
        ("depth_branch", 1, "bool, got int"),
        ("depth_min_virtual", "near", "float, got str"),
        ("vision_feature_select_strategy", "cls", "one of .*default.*full.*, got cls"),
    ],
)
def test_types_are_strict_at_the_start_and_later(tiny_config, name, value, expected):
    with pytest.raises(StrictDataclassError, match=f"'{name}' expected {expected}"):
        tiny_config(**{name: value})
    config = tiny_config()
    with pytest.raises(StrictDataclassError, match=f"'{name}' expected {expected}"):
        setattr(config, name, value)


# ------------------------------------------------------------------------------------------------------------ keeping


def without_bookkeeping(config) -> dict:
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def unusual(tiny_config) -> LLMI3DConfig:
    """Every field of its own away from its default."""
    return tiny_config(
        high_res_image_size=128,
        vision_feature_layer=-1,
        projector_hidden_act="silu",
        multimodal_projector_bias=False,
        depth_map_stage=2,
        depth_min_virtual=0.25,
        depth_max_virtual=90.0,
        virtual_focal_length=111.5,
        depth_from_regression=False,
        depth_from_height=False,
    )


def test_dict_round_trip(tiny_config):
    config = unusual(tiny_config)
    again = LLMI3DConfig.from_dict(config.to_dict())
    assert without_bookkeeping(again) == without_bookkeeping(config)
    assert again.virtual_focal_length == 111.5 and again.depth_map_stage == 2


def test_file_round_trip(tiny_config, tmp_path):
    config = unusual(tiny_config)
    config.save_pretrained(tmp_path)
    again = LLMI3DConfig.from_pretrained(tmp_path)
    assert without_bookkeeping(again) == without_bookkeeping(config)
    for part in ("text_config", "vision_config", "high_res_vision_config"):
        assert type(getattr(again, part)) is type(getattr(config, part))
    assert again.high_res_vision_config.model_args == {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}


def test_overrides_reach_a_loaded_configuration(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    assert LLMI3DConfig.from_pretrained(tmp_path, depth_from_height=False).depth_from_height is False


def test_the_virtual_focal_length_follows_the_canvas_unless_given(tiny_config):
    assert tiny_config(high_res_image_size=128).virtual_focal_length == 128.0
    assert tiny_config(high_res_image_size=128, virtual_focal_length=500.0).virtual_focal_length == 500.0


def test_tied_embeddings_of_the_language_model_are_heeded(tiny_config):
    assert not tiny_config().tie_word_embeddings
    assert tiny_config(text_config={"tie_word_embeddings": True}).tie_word_embeddings


def test_parts_may_be_configurations(tiny_config):
    config = tiny_config()
    again = LLMI3DConfig(
        text_config=config.text_config,
        vision_config=config.vision_config,
        high_res_vision_config=config.high_res_vision_config,
        high_res_image_size=64,
        image_token_id=3,
        box_3d_token_id=4,
    )
    assert again.text_config.hidden_size == 32 and again.image_seq_length == 16


# ---------------------------------------------------------------------------------------------------- the paper's size


def millions(*modules: torch.nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


def test_the_defaults_are_the_papers_size():
    """CLIP ViT-L/14-336, ConvNeXt-L at 768 pixels and a 7B Llama; sizes as published by their authors."""
    config = LLMI3DConfig()
    assert config.image_seq_length == 576 and config.image_grid_size == 24
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(config)
    assert millions(model.model.vision_tower) == pytest.approx(303.5, rel=0.01)
    assert millions(model.model.high_res_tower) == pytest.approx(196.2, rel=0.01)
    assert millions(model.model.language_model, model.lm_head) == pytest.approx(6738, rel=0.01)
    stages = model.model.high_res_tower.timm_model.feature_info
    assert [stage["num_chs"] for stage in stages] == [192, 384, 768, 1536]
    assert model.model.feature_mining.attention.key_proj.in_features == 2880
    finest = config.high_res_image_size // stages[0]["reduction"]
    windows = cells_of(torch.empty(1, 1, finest, finest, device="meta"), (finest, finest), 8).values
    assert windows.shape == (1, 576, 8 * 8, 1)
