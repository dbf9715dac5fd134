# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Features of frozen towers on disk: the same numbers, computed once, never stale."""

import copy

import pytest
import torch

from llmi3d import LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.feature_cache import FeatureCache, fingerprint


@pytest.fixture
def frozen(new_chain):
    model = new_chain[0]
    model.model.vision_tower.requires_grad_(False)
    model.model.high_res_tower.requires_grad_(False)
    return model


@pytest.fixture
def pixels(frozen):
    """Two pictures."""
    torch.manual_seed(0)
    low, high = frozen.config.vision_config.image_size, frozen.config.high_res_image_size
    return torch.randn(2, 3, low, low), torch.randn(2, 3, high, high)


# Compared with a tolerance: what comes from disk lies otherwise in memory, and sums round in another order.


def look(model, pixels):
    image = model.get_image_features(*pixels, return_dict=True)
    return image.pooler_output, image.depth_logits


def test_features_from_disk_are_the_same(frozen, pixels, tmp_path):
    expected = look(frozen, pixels)
    with FeatureCache(frozen, tmp_path) as cache:
        first, second = look(frozen, pixels), look(frozen, pixels)
    assert (cache.misses, cache.hits) == (4, 4)
    for got in (*zip(first, expected, strict=True), *zip(second, expected, strict=True)):
        torch.testing.assert_close(*got, rtol=1e-5, atol=2e-6)


def test_only_new_pictures_are_computed(frozen, pixels, tmp_path):
    seen = []
    hook = frozen.model.high_res_tower.timm_model.register_forward_hook(lambda _, args, out: seen.append(len(args[0])))
    with FeatureCache(frozen, tmp_path) as cache:
        look(frozen, [one[:1] for one in pixels])
        look(frozen, pixels)
        look(frozen, pixels)
    hook.remove()
    assert cache.hits == 6 and cache.misses == 4
    with FeatureCache(frozen, tmp_path) as again:  # another run
        look(frozen, pixels)
    assert (again.hits, again.misses) == (4, 0)


def test_what_is_mined_still_learns(frozen, pixels, tmp_path):
    with FeatureCache(frozen, tmp_path):
        look(frozen, pixels)
        sum(one.sum() for one in look(frozen, pixels)).backward()
    gradients = [one.grad for one in frozen.model.feature_mining.parameters()]
    assert any(one is not None and one.abs().sum() > 0 for one in gradients)
    assert all(one.grad is None for one in frozen.model.vision_tower.parameters())


def test_other_weights_have_other_features(frozen, pixels, tmp_path):
    before = fingerprint(frozen.model.vision_tower)
    with FeatureCache(frozen, tmp_path):
        look(frozen, pixels)
    with torch.no_grad():
        next(frozen.model.vision_tower.parameters()).add_(1)
    assert fingerprint(frozen.model.vision_tower) != before
    expected = look(frozen, pixels)
    with FeatureCache(frozen, tmp_path) as cache:
        got = look(frozen, pixels)
    assert cache.misses == 2, "the CNN is as it was"
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=2e-6)


def test_autocast_has_features_of_its_own(frozen, pixels, tmp_path):
    with FeatureCache(frozen, tmp_path) as cache:
        look(frozen, pixels)
        with torch.autocast("cpu", torch.bfloat16):
            look(frozen, pixels)
    assert cache.hits == 0


def test_a_damaged_file_is_made_again(frozen, pixels, tmp_path):
    with FeatureCache(frozen, tmp_path) as cache:
        expected = look(frozen, pixels)
        for path in tmp_path.rglob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:100])
        got = look(frozen, pixels)
        assert cache.hits == 0 and cache.misses == 8
        look(frozen, pixels)
    assert cache.hits == 4
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)
    assert not list(tmp_path.rglob("*.tmp"))


def test_nothing_is_written_beyond_the_limit(frozen, pixels, tmp_path):
    with FeatureCache(frozen, tmp_path, limit_gb=0) as cache:
        look(frozen, pixels)
    assert cache.misses == 4 and not list(tmp_path.rglob("*.safetensors"))


def test_a_trained_tower_is_refused(new_chain, tmp_path):
    with pytest.raises(ValueError, match=r"vision_tower\..* is trained"):
        FeatureCache(new_chain[0], tmp_path)


def test_a_checkpoint_knows_nothing_of_it(frozen, pixels, tmp_path):
    names = set(frozen.state_dict())
    with FeatureCache(frozen, tmp_path):
        assert set(frozen.state_dict()) == names
    assert "forward" not in vars(frozen.model.vision_tower)


def test_training_is_the_same_with_it(frozen, new_chain, row, tmp_path):
    losses = []
    for cached in (False, True):
        model = copy.deepcopy(frozen)
        arguments = LLMI3DTrainingArguments(
            output_dir=str(tmp_path / "run"),
            per_device_train_batch_size=1,
            max_steps=3,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = LLMI3DTrainer(
            model, arguments, train_dataset=[row, row], data_collator=LLMI3DDataCollator(new_chain[1])
        )
        if cached:
            with FeatureCache(model, tmp_path / "features") as cache:
                trainer.train()
            assert cache.hits == 4, "the picture of the first step, twice again, in both towers"
        else:
            trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
