# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Vision towers of other families: DINOv2, several layers at once, and other CNNs of timm."""

import pytest
import torch
from transformers import AutoModel

from llmi3d import LLMI3DForConditionalGeneration

DINO = {
    "model_type": "dinov2",
    "hidden_size": 24,
    "mlp_ratio": 2,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
FAMILIES = {
    "dinov2": DINO,
    "registers": {**DINO, "model_type": "dinov2_with_registers", "num_register_tokens": 3},
}
CNNS = {
    "resnet": ("resnet18", {"channels": [8, 8, 12, 16]}, [8, 8, 12, 16]),
    "efficientnet-lite": ("tf_efficientnet_lite0", {}, [24, 40, 112, 320]),
    "mobilenet": ("mobilenetv3_small_050", {}, None),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}, [8, 12, 16, 20]),
}


@pytest.mark.parametrize("vision", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("layers", [-1, 2, [1, 2, 3], [-1, 1]])
def test_tokens_are_the_hidden_states_of_the_patches(new_tiny_model, tiny_inputs, vision, layers):
    model = new_tiny_model(vision_config=vision, vision_feature_layer=layers, high_res_branch=False, **NO_CNN)
    pixels = tiny_inputs()["pixel_values"]
    tower = AutoModel.from_config(model.config.vision_config).eval()
    tower.load_state_dict(model.model.vision_tower.state_dict())
    states = tower(pixels, output_hidden_states=True).hidden_states
    prefix = 1 + vision.get("num_register_tokens", 0)
    if isinstance(layers, list):
        chosen = [states[i] for i in layers]
        chosen = [(x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True) for x in chosen]
        want = torch.cat(chosen, -1)[:, prefix:]
    else:
        want = states[layers][:, prefix:]
    assert want.shape[1] == 16
    got = model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(got, model.model.multi_modal_projector(want), rtol=1e-4, atol=1e-4)


NO_CNN = {"depth_branch": False, "depth_from_map": False}


@pytest.mark.parametrize("vision", FAMILIES.values(), ids=FAMILIES)
def test_a_crop_keeps_the_positions_of_the_square(new_tiny_model, vision):
    model = new_tiny_model(vision_config=vision, high_res_branch=False, **NO_CNN)
    embeddings = model.model.vision_tower.embeddings
    table = embeddings.position_embeddings
    got = embeddings.interpolate_pos_encoding(None, 8, 16)
    want = torch.cat((table[:, :1], table[:, 1:].view(1, 4, 4, -1)[:, 1:3].flatten(1, 2)), 1)
    torch.testing.assert_close(got, want)
    features = model.get_image_features(torch.randn(1, 3, 8, 16))
    assert features.pooler_output.shape == (1, 8, 32)


@pytest.mark.parametrize("vision", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("layers", [2, [1, 2]])
def test_layers_after_the_last_one_read_are_frozen(new_tiny_model, vision, layers):
    model = new_tiny_model(vision_config=vision, vision_feature_layer=layers)
    frozen = {name for name, p in model.model.vision_tower.named_parameters() if not p.requires_grad}
    assert {name.split(".")[2] for name in frozen if name.startswith("encoder")} == {"2"}
    assert "layernorm.weight" in frozen


@pytest.mark.parametrize(("architecture", "arguments", "channels"), CNNS.values(), ids=CNNS)
def test_any_cnn_with_stages_at_strides_4_to_32(
    new_tiny_model, tiny_inputs, tmp_path, architecture, arguments, channels
):
    cnn = {"model_type": "timm_wrapper", "architecture": architecture, "model_args": arguments, "do_pooling": False}
    model = new_tiny_model(high_res_vision_config=cnn, pointing=True)
    seen = {}
    model.model.feature_mining.register_forward_pre_hook(lambda _, inputs: seen.update(stages=inputs[1]))
    inputs = tiny_inputs()
    boxes = model(**inputs).boxes_3d
    assert [stage.shape[-1] for stage in seen["stages"]] == [16, 8, 4, 2]
    assert channels is None or [stage.shape[1] for stage in seen["stages"]] == channels
    model.save_pretrained(tmp_path)
    loaded = LLMI3DForConditionalGeneration.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).boxes_3d.center_2d_px, boxes.center_2d_px)
    model.train()
    model(**inputs).boxes_3d.depth_virtual.sum().backward()
    without = [name for name, p in model.model.high_res_tower.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_batch_norms_of_a_frozen_cnn_keep_their_statistics(new_tiny_model, tiny_inputs):
    cnn = {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"channels": [8, 8, 12, 16]}}
    model = new_tiny_model(high_res_vision_config=cnn)
    model.model.high_res_tower.requires_grad_(False)
    before = {name: value.clone() for name, value in model.model.high_res_tower.named_buffers()}
    model.train()(**tiny_inputs())
    for name, value in model.model.high_res_tower.named_buffers():
        torch.testing.assert_close(value, before[name])


def test_a_network_without_such_stages_is_refused(tiny_config):
    cnn = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": {}}
    with pytest.raises(ValueError, match=r"'vit_tiny_patch16_224' has feature maps at strides"):
        LLMI3DForConditionalGeneration(tiny_config(high_res_vision_config=cnn))


def test_features_of_before_stand_in_for_pixels(new_tiny_model, tiny_inputs):
    model, inputs = new_tiny_model(vision_config=DINO, vision_feature_layer=[1, 3], pointing=True), tiny_inputs()
    want = model(**inputs).boxes_3d
    from llmi3d.vision_towers_llmi3d import cnn_feature_maps, vit_tokens

    low = model.model._look(inputs.pop("pixel_values"))
    features = {
        "vision_features": vit_tokens(low, model.config).unflatten(1, (4, 4)),
        "high_res_features": cnn_feature_maps(model.model.high_res_tower, inputs.pop("high_res_pixel_values")),
    }
    got = model(**inputs, **features).boxes_3d
    for name, value in want.items():
        torch.testing.assert_close(got[name], value)
    with pytest.raises(ValueError, match="pixel_values: got both pixels and features"):
        model(**inputs, **features, pixel_values=torch.zeros(2, 3, 16, 16))
