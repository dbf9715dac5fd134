# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""ConvNeXt weights of OpenCLIP and timm in the high-resolution tower."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration
from llmi3d.bases.convnext import convnext_config, load_convnext

ROOT = Path(__file__).parents[2]
SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module.eval()


@pytest.fixture
def model() -> LLMI3DForConditionalGeneration:
    config = LLMI3DConfig.from_pretrained(ROOT / "model_cards" / "llmi3d-tiny-random")
    config.high_res_vision_config.architecture = "convnext_large_mlp"
    config.high_res_vision_config.model_args = {key: list(value) for key, value in SIZES.items()}
    return LLMI3DForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def cnn() -> torch.nn.Module:
    """Return a small `convnext_large_mlp.clip_laion2b_ft_soup_320`, whose head has a hidden layer."""
    return drawn(timm.create_model("convnext_large_mlp", **SIZES, num_classes=6, head_hidden_size=10))


def open_clip(cnn) -> dict[str, torch.Tensor]:
    """Return an OpenCLIP checkpoint around the trunk of `cnn`."""
    trunk = {f"visual.trunk.{name}": value for name, value in cnn.state_dict().items() if "head.fc" not in name}
    return {
        **trunk,
        "visual.head.mlp.fc1.weight": torch.ones(10, 20),
        "visual.head.mlp.fc2.weight": torch.ones(6, 10),
        "positional_embedding": torch.ones(77, 8),
        "text_projection": torch.ones(8, 6),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.ones(9, 8),
        "transformer.resblocks.0.ln_1.weight": torch.ones(8),
        "ln_final.weight": torch.ones(8),
    }


def file_of(kind: str, cnn, folder: Path) -> Path:
    state = cnn.state_dict() if kind.startswith("timm") else open_clip(cnn)
    if kind == "timm safetensors":
        save_file(state, folder / "model.safetensors")
        return folder / "model.safetensors"
    name = "pytorch_model.bin" if kind == "timm pickle" else "open_clip_pytorch_model.bin"
    torch.save(state, folder / name)
    return folder  # as it is downloaded


@pytest.mark.parametrize("kind", ["timm safetensors", "timm pickle", "open_clip"])
def test_stages_are_the_originals(kind, model, cnn, tmp_path):
    unused = load_convnext(model, file_of(kind, cnn, tmp_path))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = cnn.forward_intermediates(pixels, intermediates_only=True)
        got = model.model.high_res_tower(pixels, output_hidden_states=[0, 1, 2, 3], do_pooling=False).hidden_states
    for stage, (mine, its) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(mine, its), stage
    text_tower = {name for name, reason in unused.items() if "text tower" in reason}
    assert len(text_tower) == (6 if kind == "open_clip" else 0)
    assert all("stages" in unused[name] for name in set(unused) - text_tower) and set(unused) - text_tower


def test_the_base_model_is_served_too(model, cnn, tmp_path):
    load_convnext(model.model, file_of("timm safetensors", cnn, tmp_path))
    loaded = model.model.high_res_tower.timm_model.state_dict()
    assert torch.equal(loaded["stem.0.weight"], cnn.state_dict()["stem.0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages.2.blocks.0.gamma": None}, "misses 1 tensors, those that become stages.2.blocks.0.gamma"),
        ({"stages.2.blocks.0.gamma": torch.ones(3)}, r"gamma is of shape \[3\], want \[16\]"),
        ({"stages.3.blocks.1.gamma": torch.ones(20)}, "have no place: stages.3.blocks.1.gamma"),
        ({"downsample_layers.0.0.weight": torch.ones(1)}, "have no place: downsample_layers.0.0.weight"),
    ],
)
def test_other_weights_are_refused_and_none_is_loaded(change, message, model, cnn, tmp_path):
    state = {name: value for name, value in {**cnn.state_dict(), **change}.items() if value is not None}
    save_file(state, tmp_path / "model.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_convnext(model, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("convnext_large_mlp", "convnext_large_mlp"),
        ("convnext_base", "convnext_base"),
        ("convnext_xxlarge", "convnext_xxlarge"),
        ("convnext_tiny", None),
    ],
)
def test_sizes_are_told_by_shapes(name, architecture):
    with torch.device("meta"):
        cnn = timm.create_model(name)
    config = convnext_config({key: tuple(value.shape) for key, value in cnn.state_dict().items()})
    assert config["architecture"] == architecture or (
        architecture is None and config["model_args"] == {"depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768]}
    )


def test_no_convnext():
    with pytest.raises(ValueError, match=r"misses stages.0.blocks.0.conv_dw.weight, want a ConvNeXt with four stages"):
        convnext_config({"blocks.0.attn.qkv.weight": (3, 3)})
