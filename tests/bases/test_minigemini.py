# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Conversion of Mini-Gemini, against its published arithmetic, written out here, and the 7B's list of weights."""

import gc
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from minigemini_originals import LARGE, TINY, original_config, original_shapes, original_state, write_original
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    pipeline,
)
from typer.testing import CliRunner

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration
from llmi3d.bases.checkpoint_io import CheckpointReader
from llmi3d.bases.minigemini import convert_minigemini, match_minigemini, minigemini_config, new_weights
from llmi3d.cli import app


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return original_state(TINY)


@pytest.fixture(scope="module")
def src(state, tmp_path_factory) -> Path:
    return write_original(tmp_path_factory.mktemp("originals") / "tiny", state)


@pytest.fixture(scope="module")
def converted(src, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "llmi3d"
    convert_minigemini(src, out, max_shard_bytes=200_000)
    return out


@pytest.fixture
def original(src, tmp_path) -> Path:
    """Return a copy that a test may damage."""
    return shutil.copytree(src, tmp_path / "original")


def refuses(message: str, src: Path, out: Path, **kwargs) -> None:
    """Assert that the conversion is refused with this message and leaves nothing behind."""
    before = set(out.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        convert_minigemini(src, out, **kwargs)
    assert set(out.parent.iterdir()) == before


# ------------------------------------------------------------------------------------------------- the same arithmetic


def layers_of(state: dict, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def pictures() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": torch.randn(2, 3, 16, 16, generator=generator),
        "high_res_pixel_values": torch.randn(2, 3, 64, 64, generator=generator),
    }


@torch.no_grad()
def reference_tokens(state: dict, pixel_values, high_res_pixel_values) -> np.ndarray:
    """Return Mini-Gemini's visual tokens [B, N, hidden], float64, from its towers and a loop over tokens."""
    sizes = TINY
    vit = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=sizes["vit_dim"],
            intermediate_size=sizes["vit_mlp"],
            num_hidden_layers=sizes["vit_layers"],
            num_attention_heads=1,
            image_size=sizes["grid"] * sizes["patch"],
            patch_size=sizes["patch"],
        )
    ).eval()
    vit.load_state_dict(layers_of(state, "model.vision_tower.vision_tower.vision_model."))
    tokens = vit.double()(pixel_values.double(), output_hidden_states=True).hidden_states[-2][:, 1:].numpy()

    cnn = timm.create_model("convnext_large", depths=sizes["depths"], dims=sizes["dims"], num_classes=0).eval()
    missing = cnn.load_state_dict(layers_of(state, "model.vision_tower_aux.vision_"), strict=False)
    assert not missing.unexpected_keys and all(name.startswith("head.") for name in missing.missing_keys)
    x, stages = cnn.double().stem(high_res_pixel_values.double()), []
    for stage in cnn.stages:
        x = stage(x)
        stages.append(x)
    size = stages[0].shape[-2:]
    cells = torch.cat([F.interpolate(stage, size, mode="bilinear", align_corners=False) for stage in stages], 1)
    cells = cells.numpy()

    weight = {name: value.double().numpy() for name, value in state.items()}

    def project(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = x * weight[f"model.vlm_uni_{name}_projector.0.weight"] + weight[f"model.vlm_uni_{name}_projector.0.bias"]
        linear = f"model.vlm_uni_{name}_projector.1"
        return x @ weight[f"{linear}.weight"].T + weight[f"{linear}.bias"]

    grid, side, dim = sizes["grid"], size[0] // sizes["grid"], sizes["vit_dim"]
    mined = np.empty_like(tokens)
    for b in range(len(tokens)):
        for n in range(grid**2):
            row, column = divmod(n, grid)
            window = cells[b, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
            window = window.reshape(len(window), -1).T
            scores = project(window, "aux") @ project(tokens[b, n], "query") / math.sqrt(dim)
            shares = np.exp(scores - scores.max())
            mined[b, n] = tokens[b, n] + (shares / shares.sum()) @ project(window, "val")
    x = mined @ weight["model.mm_projector.0.weight"].T + weight["model.mm_projector.0.bias"]
    x = x * (1 + torch.erf(torch.from_numpy(x / math.sqrt(2))).numpy()) / 2
    return x @ weight["model.mm_projector.2.weight"].T + weight["model.mm_projector.2.bias"]


@pytest.fixture(scope="module")
def reference(state, pictures) -> torch.Tensor:
    return torch.from_numpy(reference_tokens(state, **pictures))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_visual_tokens_are_mini_geminis(state, pictures, reference, form, tmp_path):
    """Both towers, mining without the key's biases, and the projector."""
    src = write_original(tmp_path / "src", state, form=form)
    convert_minigemini(src, tmp_path / "out")
    model, info = LLMI3DForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        got = model.eval().get_image_features(**pictures).pooler_output
    assert reference.std() > 0.1
    torch.testing.assert_close(got.double(), reference, rtol=1e-5, atol=1e-5 * reference.abs().max().item())
    # What was mined matters: without it the tokens are others.
    with torch.no_grad():
        model.model.feature_mining.attention.value_proj.weight.zero_()
        plain = model.get_image_features(**pictures).pooler_output
    assert (plain - reference).abs().max() > 0.05


def test_words_are_mini_geminis(state, converted, pictures, reference):
    """Logits of the old vocabulary after an image and words."""
    sizes = TINY
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes["vocab"],
            hidden_size=sizes["hidden"],
            intermediate_size=sizes["intermediate"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            num_key_value_heads=sizes["kv_heads"],
            rms_norm_eps=1e-5,
        )
    ).eval()
    own = {name: state[name] for name in llama.state_dict()}
    llama.load_state_dict(own)
    model = LLMI3DForConditionalGeneration.from_pretrained(converted).eval()
    words = torch.randint(3, sizes["vocab"], (2, 7), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        embedded = llama.model.embed_tokens(words)
        want = llama(inputs_embeds=torch.cat((embedded[:, :2], reference.float(), embedded[:, 2:]), 1)).logits
        image = torch.full((2, sizes["grid"] ** 2), model.config.image_token_id)
        got = model(torch.cat((words[:, :2], image, words[:, 2:]), 1), **pictures).logits
    torch.testing.assert_close(got[..., : sizes["vocab"]], want, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ the 7B, name by name


def meta_match(sizes: dict):
    tensors = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in original_shapes(sizes).items()
    }
    config, assumed = minigemini_config(original_config(sizes), tensors, 32064, 32000, 32001)
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    return tensors, config, assumed, model, match_minigemini(tensors, shapes)


def test_the_7b_maps_one_to_one():
    tensors, _, assumed, model, matching = meta_match(LARGE)
    assert len(tensors) == 1038
    assert sum(math.prod(info.shape) for info in tensors.values()) == 7_266_093_504
    assert len(assumed) == 1 and "16 heads" in assumed[0]
    # Two biases are forgotten; all else is taken over, each once, with its shape but for the vocabulary's rows.
    assert set(matching.unused) == {f"model.vlm_uni_aux_projector.{i}.bias" for i in (0, 1)}
    assert len(set(matching.source_of.values())) == len(matching.source_of) == 1036
    weights = model.state_dict()
    for target, source in matching.source_of.items():
        want = list(tensors[source].shape)
        if want[0] == 32000:
            want[0] = 32064
        assert list(weights[target].shape) == want, target
    # What is new is the 3D half.
    assert matching.new and set(matching.new) == set(weights) - set(matching.source_of)
    assert all(re.match(r"box_head\.|model\.feature_mining\.(attention\.)?depth_", name) for name in matching.new)


def test_the_7b_is_the_default_configuration():
    _, config, _, _, _ = meta_match(LARGE)
    mine, default = config.to_dict(), LLMI3DConfig().to_dict()
    mine.pop("architectures"), default.pop("architectures")
    assert mine == default


def test_the_tiny_original_has_the_names_of_the_large_one(state):
    def kinds(names):
        return {re.sub(r"\d+", "*", name) for name in names}

    assert kinds(state) == kinds(original_shapes(LARGE))


# --------------------------------------------------------------------------------------------- what lies in the folder


def test_every_tensor_is_accounted_for(state, src, converted):
    report = json.loads((converted / "conversion.json").read_text())
    assert set(report["used"]) | set(report["unused"]) == set(state)
    assert not set(report["used"]) & set(report["unused"])
    written = CheckpointReader(converted).tensors
    assert set(report["used"].values()) | set(report["new"]) == set(written)
    assert report["source"] == {"folder": "tiny", "family": "mini_gemini"}
    assert str(src.parent) not in json.dumps(report)


def test_files_are_those_of_the_report(converted):
    report = json.loads((converted / "conversion.json").read_text())
    files = sorted(file.name for file in converted.glob("*.safetensors"))
    assert sorted(report["files"]) == files and len(files) > 3
    for name, record in report["files"].items():
        content = (converted / name).read_bytes()
        assert record == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert not any(file.suffix in (".bin", ".pt", ".pkl") for file in converted.iterdir())


def test_new_rows_of_the_embeddings_are_the_mean(state, converted):
    model = LLMI3DForConditionalGeneration.from_pretrained(converted)
    assert (model.config.image_token_id, model.config.box_3d_token_id) == (259, 260)
    for name, new in (
        ("model.embed_tokens.weight", model.get_input_embeddings().weight),
        ("lm_head.weight", model.lm_head.weight),
    ):
        assert new.shape == (320, 32)  # 261 tokens, in steps of 64
        assert torch.equal(new[:259], state[name])
        torch.testing.assert_close(new[259:], state[name].mean(0).expand(61, -1))


def test_new_weights_are_as_a_new_models(src, converted, tmp_path):
    model = LLMI3DForConditionalGeneration.from_pretrained(converted)
    mining, head = model.model.feature_mining, model.box_head
    assert not mining.attention.depth_key_proj.weight.any() and not mining.attention.depth_value_proj.weight.any()
    torch.manual_seed(0)
    fresh = LLMI3DForConditionalGeneration(model.config).state_dict()
    weights = model.state_dict()
    for name in json.loads((converted / "conversion.json").read_text())["new"]:
        assert weights[name].std(correction=0) == pytest.approx(fresh[name].std(correction=0), rel=0.5), name
    assert head.outputs["score"].bias.tolist() == fresh["box_head.outputs.score.bias"].tolist()
    # The seed decides them, and it alone.
    again = convert_minigemini(src, tmp_path / "again", max_shard_bytes=200_000)
    other = convert_minigemini(src, tmp_path / "other", max_shard_bytes=200_000, seed=1)
    assert again.files == json.loads((converted / "conversion.json").read_text())["files"] != other.files


def test_new_weights_leave_the_random_state_alone(tiny_meta_model):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    new_weights(tiny_meta_model, ["box_head.trunk.1.weight", "box_head.trunk.1.bias"], seed=0)
    assert torch.equal(torch.rand(3), want)


@pytest.fixture
def tiny_meta_model(converted):
    with torch.device("meta"):
        return LLMI3DForConditionalGeneration(LLMI3DConfig.from_pretrained(converted))


def test_the_tokenizer_and_template_come_along(converted):
    processor = AutoProcessor.from_pretrained(converted)
    assert processor.tokenizer.pad_token == "<unk>"
    assert processor.grounding_prompt("the car") == "USER: <image>\nLocate the car in 3D. ASSISTANT: <|box_3d|>"
    ids = processor.tokenizer("a<image>b<|box_3d|>")["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_vicunas_own_tokenizer_file_is_read(original, tmp_path):
    """Mini-Gemini's checkpoints have SentencePiece's tokenizer.model and no tokenizer.json."""
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Locate the red mug {i} and the quick brown fox in 3D." for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "vicuna"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (original / "tokenizer.json").unlink()
    (tmp_path / "vicuna.model").rename(original / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False, "pad_token": "<unk>"}
    (original / "tokenizer_config.json").write_text(json.dumps(config))
    convert_minigemini(original, tmp_path / "out")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer
    its = sentencepiece.SentencePieceProcessor(model_file=str(original / "tokenizer.model"))
    words = "USER: Locate the fox, \u00e9. ASSISTANT:"
    assert tokenizer(words)["input_ids"] == [1, *its.encode(words)]
    assert tokenizer.convert_tokens_to_ids(["<image>", "<|box_3d|>"]) == [330, 331]


def test_a_converted_checkpoint_answers(converted, photograph):
    ground = pipeline("image-3d-grounding", model=str(converted), device="cpu")
    answer = ground(photograph, prompt="the car", intrinsics=(250.0, 260.0, 150.0, 110.0))
    (box,) = answer["boxes"]
    assert len(box["center"]) == 3 and all(math.isfinite(value) for value in box["center"])
    assert "modeling_llmi3d.py" in {file.name for file in converted.iterdir()}  # its code, for `trust_remote_code`
    assert "clip_vision_model, 3 layers of 64" in (converted / "README.md").read_text()


@pytest.mark.parametrize("given, licence", [("", "unknown: see the base"), ("cc-by-nc-4.0", "cc-by-nc-4.0")])
def test_the_card_says_the_licence(given, licence, original, tmp_path):
    (original / "README.md").write_text(f"---\nlicense: {given}\n---\n" if given else "Words.\n")
    convert_minigemini(original, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"Initialised from `original` (mini_gemini). Licence of its weights: {licence}." in text
    assert ("license: cc-by-nc-4.0" in text) == bool(given)


@pytest.mark.parametrize(("dtype", "want"), [(None, torch.float16), (torch.bfloat16, torch.bfloat16)])
def test_dtypes(dtype, want, tmp_path):
    """The source's dtype, or the given one; the 3D heads are always float32."""
    src = write_original(tmp_path / "src", original_state(TINY, torch.float16))
    report = convert_minigemini(src, tmp_path / "out", dtype=dtype)
    assert report.dtype == str(want).removeprefix("torch.")
    for name, info in CheckpointReader(tmp_path / "out").tensors.items():
        assert info.dtype == (torch.float32 if name.startswith("box_head.") else want), name
    model = LLMI3DForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.dtype == want and model.box_head.trunk[1].weight.dtype == torch.float32


def test_the_vits_own_configuration_is_used(state, src, original, tmp_path):
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    folder = original / "clip-vit-large-patch14-336"  # the last part of `mm_vision_tower`
    published = CLIPVisionConfig(**vision, image_size=16, patch_size=4, hidden_act="gelu", dtype="float32")
    published.save_pretrained(folder)
    report = convert_minigemini(original, tmp_path / "inside", dtype=torch.bfloat16)
    assert not report.assumed
    tower = LLMI3DForConditionalGeneration.from_pretrained(tmp_path / "inside").model.vision_tower
    assert tower.dtype == torch.bfloat16 and tower.config.dtype != torch.float32
    vision_config = LLMI3DConfig.from_pretrained(tmp_path / "inside").vision_config
    assert (vision_config.num_attention_heads, vision_config.hidden_act) == (4, "gelu")
    convert_minigemini(src, tmp_path / "named", vision_tower=folder)
    assert LLMI3DConfig.from_pretrained(tmp_path / "named").vision_config.num_attention_heads == 4
    refuses("vision_tower: .* contains no config.json", src, tmp_path / "out", vision_tower=tmp_path / "nothing")


@pytest.mark.parametrize("inside", [True, False])
def test_another_convnext_takes_the_place_of_the_one_inside(state, inside, tmp_path):
    """With and without a ConvNeXt inside the source."""
    cnn = timm.create_model("convnext_large_mlp", depths=TINY["depths"], dims=TINY["dims"], num_classes=0)
    save_file(
        {f"visual.trunk.{name}": value for name, value in cnn.state_dict().items()}, tmp_path / "cnn.safetensors"
    )
    own = {name: value for name, value in state.items() if inside or "vision_tower_aux" not in name}
    src = write_original(tmp_path / "src", own)
    report = convert_minigemini(src, tmp_path / "out", high_res_weights=tmp_path / "cnn.safetensors")
    tower = LLMI3DForConditionalGeneration.from_pretrained(tmp_path / "out").model.high_res_tower.timm_model
    for name, value in tower.state_dict().items():
        assert torch.equal(value, cnn.state_dict()[name]), name
    assert list(report.unused.values()).count("replaced by --high-res-weights") == sum("_aux.vision" in n for n in own)
    assert set(own) == {name for name in {*report.used, *report.unused} if not name.startswith("visual.trunk.")}


def test_buffers_of_older_versions_are_named(state, tmp_path):
    old = {
        **state,
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    report = convert_minigemini(write_original(tmp_path / "src", old), tmp_path / "out")
    assert list(report.unused.values()).count("computed from the configuration") == 2


def test_memory_is_that_of_a_shard(tmp_path, monkeypatch):
    """Anonymous memory while tensors of 4 MiB are converted from float32 to bfloat16, in shards of 16 MiB."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("needs Linux's /proc")

    def now() -> int:
        return int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1]) * 1024

    seen, read = [], CheckpointReader.read

    def watched(self, name):
        tensor = read(self, name)
        seen.append(now())
        return tensor

    monkeypatch.setattr(CheckpointReader, "read", watched)
    peaks = {}
    for layers in (1, 2, 12):  # the first warms up
        sizes = {**TINY, "layers": layers, "intermediate": 32768}
        src = write_original(tmp_path / f"src{layers}", original_state(sizes), sizes, shards=2)
        seen.clear()
        gc.collect()  # what was left over from before would be given back in between
        start = now()
        convert_minigemini(src, tmp_path / f"out{layers}", dtype=torch.bfloat16, max_shard_bytes=2**24)
        peaks[layers] = max(seen) - start
    # Ten layers are 120 MiB in the source and 60 MiB in what is written.
    assert peaks[12] - max(peaks[1], peaks[2]) < 40 * 2**20, peaks


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_out_that_is_there_is_kept(src, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    refuses("out: .* is there already", src, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.vlm_uni_val_projector.1.bias", None, "misses 1 tensors.*attention.value_proj.bias"),
        ("model.layers.1.mlp.up_proj.weight", None, "misses 1 tensors.*layers.1.mlp.up_proj.weight"),
        ("model.embed_tokens.weight", None, "embed_tokens.weight is missing"),
        ("model.vision_tower_aux.vision_stages.2.blocks.0.conv_dw.weight", None, "misses stages.2.blocks.0.conv_dw"),
        ("model.vision_fpn.weight", torch.ones(2), "got 1 tensors that have no place: model.vision_fpn.weight"),
        ("lm_head.weight", torch.ones(259, 31), r"lm_head.weight is of shape \[259, 31\], want \[320, 32\]"),
        ("model.mm_projector.0.bias", torch.ones(31), r"mm_projector.0.bias is of shape \[31\], want \[32\]"),
        ("model.norm.weight", torch.ones(32, dtype=torch.int8), "model.norm.weight is torch.int8"),
    ],
)
def test_tensors_missing_extra_or_misshapen(state, name, value, message, tmp_path):
    spoilt = dict(state)
    spoilt.pop(name, None)
    if value is not None:
        spoilt[name] = value
    refuses(message, write_original(tmp_path / "src", spoilt), tmp_path / "out")


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_truncated_shards(state, form, tmp_path):
    src = write_original(tmp_path / "src", state, form=form)
    shard = sorted(src.glob(f"*.{form}"))[1]
    shard.write_bytes(shard.read_bytes()[:-1000])
    refuses(f"{shard.name}: is truncated", src, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mgm_gemma"}, "got the family 'mgm_gemma', want one of mini_gemini, mgm"),
        ({"model_type": "llava"}, "got the family 'llava'"),
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type is 'mlp3x_gelu'"),
        ({"image_grid": 2, "image_global": True}, "image_grid is 2 in config.json, want 1"),
        ({"mm_hidden_size_aux": 2880}, "mm_hidden_size_aux is 2880 in config.json, but the tower's is 56"),
        ({"image_size_aux": 100}, "do not fit LLMI3D: high_res_image_size: got 100"),
        ({"num_hidden_layers": 3}, "misses 9 tensors"),
    ],
)
def test_other_families_and_forms(original, change, message, tmp_path):
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, **change}))
    refuses(message, original, tmp_path / "out")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_no_configuration(original, content, tmp_path):
    (original / "config.json").unlink()
    if content is not None:
        (original / "config.json").write_text(content)
    refuses("is no configuration of a model", original, tmp_path / "out")


def test_no_tokenizer(original, tmp_path):
    for file in original.glob("tokenizer*"):
        file.unlink()
    refuses("the tokenizer in .* cannot be read", original, tmp_path / "out")


def test_a_full_disk_leaves_nothing(src, tmp_path, monkeypatch):
    from llmi3d.bases import checkpoint_io

    def full(*args, **kwargs):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint_io, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        convert_minigemini(src, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- the command


def test_command(src, tmp_path):
    done = CliRunner().invoke(app, ["convert", "minigemini", str(src), str(tmp_path / "out"), "--dtype", "bfloat16"])
    assert done.exit_code == 0, done.output
    assert "bfloat16" in done.output and "2 x: adds a constant to every score" in done.output
    assert "rows became 320" in done.output and "assumed: 1 heads" in done.output
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.get_tensor("lm_head.weight").dtype == torch.bfloat16


def test_command_says_what_is_wrong_in_a_line(src, tmp_path):
    (tmp_path / "out").mkdir()
    done = CliRunner().invoke(app, ["convert", "minigemini", str(src), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.output == f"Error: out: {tmp_path / 'out'} is there already; choose a new folder.\n"
