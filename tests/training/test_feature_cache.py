# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Features of frozen towers on disk: the same numbers, computed once, never stale."""

import json
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.data.schema import IG3D_FEATURES, validate_row
from llmi3d.training import feature_cache
from llmi3d.training.augment import augment_from_config
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.feature_cache import (
    CachedViews,
    FeatureCacheArguments,
    build_feature_cache,
    cache_settings,
    row_key,
    undecoded,
)
from llmi3d.training.feature_shards import INDEX, FeatureCache

AUGMENT = augment_from_config({"color": 0.2, "flip": 1, "zoom": [0.7, 0.9], "scale": [0.8, 1.2], "p": 1})


def freeze(model):
    model.model.vision_tower.requires_grad_(False)
    model.model.high_res_tower.requires_grad_(False)
    return model


@pytest.fixture
def frozen(new_chain):
    """(model, processor) with frozen towers."""
    return freeze(new_chain[0]), new_chain[1]


@pytest.fixture
def rows(row):
    """Three rows with images of two sizes."""
    given = []
    for number, width in enumerate((320, 320, 200)):
        scale = width / 320
        image = row["image"].rotate(number).resize((width, round(200 * scale)))
        k = (np.diag([scale, scale, 1]) @ row["intrinsics"]).tolist()
        given.append({**row, "image": image, "image_id": f"test/{number}", "intrinsics": k})
    return given


def build(frozen, rows, folder, views=2, augment=AUGMENT, **arguments):
    return build_feature_cache(*frozen, rows, FeatureCacheArguments(str(folder), views, **arguments), augment)


@pytest.mark.parametrize("flip", [0, 1])
def test_cached_features_are_those_of_the_augmented_pixels(frozen, rows, tmp_path, flip):
    augment = augment_from_config({"color": 0.2, "flip": flip, "zoom": [0.7, 0.9], "crop": [0.8, 1], "p": 1})
    model, processor = frozen
    views = CachedViews(build(frozen, rows, tmp_path, views=3, augment=augment, batch_size=2, shard_size=4), 3)
    collate = LLMI3DDataCollator(processor, pack_turns=True)
    for view in range(3):
        seen = [replace(augment, epoch=view)(row) if view else row for row in rows]
        cached = [views.view(row, view) for row in rows]
        for row, other in zip(seen, cached, strict=True):
            validate_row({**{name: other[name] for name in IG3D_FEATURES}, "image": row["image"]})
            assert all(row[name] == other[name] for name in row if name != "image")
        wanted, given = collate(seen), collate(cached)
        pixels = [wanted.pop(name) for name in ("pixel_values", "high_res_pixel_values")]
        features = [given.pop(name) for name in ("vision_features", "high_res_features")]
        assert given.pop("image_id") == wanted.pop("image_id")
        torch.testing.assert_close(given, wanted, rtol=0, atol=0)
        with torch.no_grad():
            expected = model.get_image_features(*pixels, return_dict=True)
            got = model.get_image_features(None, None, *features, return_dict=True)
        for name in ("pooler_output", "depth_logits", "cells"):
            error = (got[name] - expected[name]).abs().max()
            assert error < 5e-3 * expected[name].abs().max(), name
    mirrored = views.view(rows[0], 1)["objects"][0]["center"][0] * rows[0]["objects"][0]["center"][0] < 0
    assert mirrored == bool(flip)


@pytest.mark.parametrize("pack_turns", [False, True])
@pytest.mark.parametrize("towers", [["vision_tower"], ["high_res_tower"]])
def test_where_one_tower_is_kept_the_other_sees_the_image(frozen, rows, tmp_path, towers, pack_turns):
    model, processor = frozen
    views = CachedViews(build(frozen, rows, tmp_path, towers=towers), 2)
    collate = LLMI3DDataCollator(processor, pack_turns=pack_turns)
    seen = [replace(AUGMENT, epoch=1)(row) for row in rows]
    wanted, given = collate(seen), collate([views.view(row, 1) for row in rows])
    assert "image_id" in wanted and ("vision_features" in given) == ("pixel_values" not in given)
    for batch in (wanted, given):
        batch.pop("targets_3d"), batch.pop("image_id")
    with torch.no_grad():
        expected, got = (model(**batch).logits for batch in (wanted, given))
    assert (got - expected).abs().max() < 5e-3 * expected.abs().max()


@pytest.mark.parametrize("layers", [-1, [1, 3]])
def test_any_vit_and_cnn(tokenizer, rows, tmp_path, layers):
    vit = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LLMI3DConfig(
        vision_config={**vit, "patch_size": 14, "image_size": 56, "mlp_ratio": 2},
        vision_feature_layer=layers,
        high_res_image_size=64,
        high_res_vision_config={
            "model_type": "timm_wrapper",
            "architecture": "test_efficientnet",
            "do_pooling": False,
        },
        text_config={
            **{"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32},
            **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
        },
        image_token_id=3,
        box_3d_token_id=4,
        pointing=True,
        **{"depth_predictor_dim": 16, "depth_embedding_dim": 8, "box_head_dim": 16},
    )
    model = freeze(LLMI3DForConditionalGeneration(config).eval())
    processor = LLMI3DProcessor.for_model(config, tokenizer)
    cache = build((model, processor), rows, tmp_path, views=1)
    cached = CachedViews(cache)(rows[0])
    width = 32 * (2 if isinstance(layers, list) else 1)
    assert cached["vision_features"].shape == (4, 4, width) and cached["vision_features"].dtype == torch.float16
    assert [stage.shape[-1] for stage in cached["high_res_features"]] == [16, 8, 4, 2]
    batch, pixels = (LLMI3DDataCollator(processor)([row]) for row in (cached, rows[0]))
    for inputs in (batch, pixels):
        inputs.pop("targets_3d"), inputs.pop("image_id")
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, model(**pixels).logits, rtol=5e-3, atol=5e-3)


def test_only_what_is_missing_is_computed(frozen, rows, tmp_path):
    seen = []
    tower = frozen[0].model.high_res_tower
    hook = tower.register_forward_hook(lambda _, pixels, output: seen.append(len(pixels[0])))
    try:
        build(frozen, [*rows[:2], rows[0]], tmp_path, views=1)
        assert sum(seen) == 2, "a row that comes twice is computed once"
        assert len(build(frozen, rows[:2], tmp_path)) == 4 and sum(seen) == 4, "more views keep those that are there"
        assert len(build(frozen, rows, tmp_path)) == 6 and sum(seen) == 6
        changed = [{**rows[0], "image": rows[0]["image"].rotate(90)}, *rows[1:]]
        with pytest.raises(ValueError, match="has no view 0 of the row 'test/0' as it is now; build it again"):
            CachedViews(FeatureCache(tmp_path)).view(changed[0], 0)
        assert len(build(frozen, changed, tmp_path)) == 8 and sum(seen) == 8
    finally:
        hook.remove()


def test_bfloat16_is_about_the_same(frozen, rows, tmp_path):
    whole, half = (CachedViews(build(frozen, rows, tmp_path / str(bf16), 1, bf16=bf16)) for bf16 in (False, True))
    for name in ("vision_features", "high_res_features"):
        for one, other in zip(whole(rows[0])[name], half(rows[0])[name], strict=True):
            error = (one.float() - other.float()).abs().max()
            assert 0 < error < 0.03 * one.float().abs().max()


def test_every_view_comes_once_in_as_many_epochs(frozen, rows, tmp_path):
    views = CachedViews(build(frozen, rows, tmp_path, views=3), 3)
    focal = []
    for epoch in range(6):
        views.set_epoch(epoch)
        focal.append([views(row)["intrinsics"][0][0] for row in rows])
    assert focal[:3] == focal[3:]
    assert all(len(set(of_row)) == 3 for of_row in zip(*focal[:3], strict=True))


def test_rows_of_a_data_set_are_known_from_their_stored_bytes(frozen, row, tmp_path):
    import datasets

    stored = datasets.Dataset.from_list([row], features=IG3D_FEATURES)
    cache = build(frozen, stored, tmp_path, views=1)
    again = pickle.loads(pickle.dumps(CachedViews(cache)))  # as for a loader's workers
    assert again(undecoded(stored)[0])["image_id"] == "test/0"


def test_a_map_moves_with_its_view(frozen, rows, tmp_path):
    instances = Image.new("L", rows[0]["image"].size)
    instances.paste(1, (0, 0, 160, 200))
    rows = [{**rows[0], "instance_map": instances}]
    views = CachedViews(build(frozen, rows, tmp_path, augment=augment_from_config({"flip": 1})), 2)
    shown = [np.asarray(views.view(rows[0], view)["instance_map"]) for view in range(2)]
    assert (shown[0] == np.asarray(instances)).all() and (shown[1] == shown[0][:, ::-1]).all()


# ---------------------------------------------------------------------------------------------- interruption, damage


KILLED = """
import os, pickle, signal, sys
from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor
from llmi3d.training import feature_cache, feature_shards

folder, count, save = sys.argv[1], 0, feature_shards.save_file
with open(f"{folder}/given.pkl", "rb") as file:
    rows, arguments, augment = pickle.load(file)

def dying(tensors, path):
    global count
    count += 1
    save(tensors, path)
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)

feature_shards.save_file = dying
model = LLMI3DForConditionalGeneration.from_pretrained(folder).requires_grad_(False)
processor = LLMI3DProcessor.from_pretrained(folder)
feature_cache.build_feature_cache(model, processor, rows, arguments, augment)
"""


def test_a_killed_build_resumes(frozen, rows, tmp_path):
    for part in frozen:
        part.save_pretrained(tmp_path)
    frozen = (
        freeze(LLMI3DForConditionalGeneration.from_pretrained(tmp_path)),
        LLMI3DProcessor.from_pretrained(tmp_path),
    )
    arguments = FeatureCacheArguments(str(tmp_path / "features"), views=2, batch_size=1, shard_size=2)
    with open(tmp_path / "given.pkl", "wb") as file:
        pickle.dump((rows, arguments, AUGMENT), file)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    index = tmp_path / "features" / INDEX
    assert len(index.read_text().splitlines()) == 1
    with open(index, "a") as file:
        file.write('{"file": "00001.safet')  # as if it had been killed a little later
    assert len(FeatureCache(tmp_path / "features")) == 2
    computed = []
    cache = build_feature_cache(*frozen, rows, arguments, AUGMENT, lambda done, count: computed.append(count))
    assert len(cache) == 6 and set(computed) == {4}
    whole = build(frozen, rows, tmp_path / "whole", batch_size=1)
    for row in rows:
        for view in range(2):
            one, other = (CachedViews(each, 2).view(row, view) for each in (cache, whole))
            torch.testing.assert_close(one["vision_features"], other["vision_features"], rtol=0, atol=0)


def test_a_damaged_shard_is_named(frozen, rows, tmp_path):
    cache = build(frozen, rows, tmp_path, views=1, shard_size=2)
    path = tmp_path / "00000.safetensors"
    data = bytearray(path.read_bytes())
    place = data.index(bytes(cache.read(row_key(rows[1]), 0)["vision_features"].numpy()))
    data[place] ^= 1
    path.write_bytes(data)
    views = CachedViews(FeatureCache(tmp_path))
    assert views(rows[0])["image_id"] == "test/0"
    with pytest.raises(
        ValueError, match=r"00000.safetensors' is damaged \(entry 1 does not fit its checksum\); remove it"
    ):
        views(rows[1])
    path.write_bytes(data[:100])
    for opens in (lambda: FeatureCache(tmp_path), lambda: build(frozen, rows, tmp_path, views=1)):
        with pytest.raises(ValueError, match=r"00000.safetensors' is damaged \(100 bytes, want \d+\)"):
            opens()
    path.unlink()
    assert len(build(frozen, rows, tmp_path, views=1)) == 3
    (tmp_path / INDEX).write_text("{\n")
    with pytest.raises(ValueError, match=r"index.jsonl' is damaged"):
        FeatureCache(tmp_path)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_stale_features_are_refused_by_name(frozen, rows, tmp_path):
    build(frozen, rows, tmp_path)
    model, processor = frozen

    def refused(name, augment=AUGMENT, **arguments):
        with pytest.raises(ValueError, match=f"was built with the {name} .*, but the run has .*; want another folder"):
            build((model, processor), rows, tmp_path, augment=augment, **arguments)

    refused("augment.seed", replace(AUGMENT, seed=1))
    refused("augment.transforms", augment_from_config({"flip": 1}))
    refused("high_res_tower", towers=["vision_tower"])
    refused("bf16", bf16=True)
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    refused("image_processor.image_mean")
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).add_(1)
    refused("vision_tower")


def test_what_cannot_be_kept_is_refused(frozen, rows, tmp_path):
    frozen[0].model.vision_tower.embeddings.requires_grad_(True)
    with pytest.raises(ValueError, match=r"vision_tower\..* is trained, want a frozen tower"):
        build(frozen, rows, tmp_path)
    frozen[0].model.vision_tower.embeddings.requires_grad_(False)
    with pytest.raises(ValueError, match="views: got 2 without augmentation"):
        build(frozen, rows, tmp_path, augment=None)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        build(frozen, rows, tmp_path)
    with pytest.raises(ValueError, match=r"cannot read .*settings.json"):
        FeatureCache(tmp_path)


def test_two_builds_do_not_share_a_folder(frozen, rows, tmp_path):
    with feature_cache.only_builder(tmp_path), pytest.raises(ValueError, match="is being built by another process"):
        build(frozen, rows, tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (3, "feature_cache: got 3, want a folder, or a mapping"),
        ({"views": 2}, "feature_cache: got {'views': 2}, want a folder"),
        ({"folder": "x", "view": 2}, "feature_cache: got the unknown field view, want some of folder, views"),
        ({"folder": "x", "views": 0}, "feature_cache.views: got 0, want a whole number of at least 1"),
        ({"folder": "x", "towers": ["llm"]}, r"feature_cache.towers: got \['llm'\], want some of vision_tower"),
        ({"folder": "x", "bf16": "yes"}, "feature_cache.bf16: got 'yes', want true or false"),
        ({"folder": ""}, "feature_cache.folder: got '', want the name of a folder"),
    ],
)
def test_a_wrong_section_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        FeatureCacheArguments.from_config(config)


def test_settings_can_be_written_and_read(frozen):
    settings = cache_settings(*frozen, AUGMENT, FeatureCacheArguments("x", towers="vision_tower"))
    assert json.loads(json.dumps(settings)) == settings and settings["high_res_tower"] is None
