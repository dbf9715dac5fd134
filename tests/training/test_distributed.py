# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""One process, accumulated batches, DDP and FSDP2 compute the same training.

Each launch does several small runs (CPU, gloo); see distributed_run.py. Of the eight rows of a step the second half,
which is the second process's, holds no box.
"""

import pytest
import torch
from distributed_run import TWO_PROCESSES, launch, log, make_job, parameters

pytestmark = pytest.mark.slow

FSDP2 = {
    "version": 2,
    "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer", "FeatureMining", "Box3DHead"],
    "state_dict_type": "SHARDED_STATE_DICT",
}


@pytest.fixture(scope="module")
def job(tmp_path_factory, chain, photograph):
    """Runs on one process, by which the others are judged."""
    job = make_job(tmp_path_factory.mktemp("runs") / "job", chain, photograph)
    runs = {
        "whole": {"per_device_train_batch_size": 8, "evaluated_rows": 5},
        "accumulated": {"gradient_accumulation_steps": 2},
        "three": {"per_device_train_batch_size": 8, "max_steps": 3},
        "bf16": {"per_device_train_batch_size": 8, "max_steps": 1, "bf16": True},
    }
    launch(job, runs)
    return job


@pytest.fixture(scope="module")
def ddp(job):
    runs = {
        "ddp": {"evaluated_rows": 5},
        "skipped": {"rows": 16, "spoiled": "test/13", "nonfinite": "skip"},
        "ddp_bf16": {"max_steps": 1, "bf16": True},
    }
    launch(job, runs, TWO_PROCESSES)
    return job


@pytest.fixture(scope="module")
def fsdp2(job):
    engine = {"fsdp": True, "fsdp_config": FSDP2}
    runs = {
        "fsdp2": {**engine, "evaluated_rows": 5},
        "fsdp2_bf16": {**engine, "max_steps": 1, "bf16": True},
        "fsdp2_first": {**engine, "max_steps": 3, "save_strategy": "steps", "save_steps": 3},
        "fsdp2_resumed": {**engine, "resume": True, "output": "fsdp2_first"},
    }
    launch(job, runs, TWO_PROCESSES)
    return job


def furthest(job, one: str, two: str) -> float:
    """The largest difference of any parameter between two runs."""
    wanted, got = parameters(job, one), parameters(job, two)
    assert wanted.keys() == got.keys()
    return max(float((got[name] - value).abs().max()) for name, value in wanted.items())


def losses(job, name: str) -> list[dict]:
    return [
        {key: value for key, value in entry.items() if key.startswith(("loss", "box_iou"))}
        for entry in log(job, name)["history"]
        if "loss" in entry
    ]


def evaluated(job, name: str) -> dict:
    timed = ("_runtime", "_per_second", "_time")
    return {key: value for key, value in log(job, name)["metrics"].items() if not key.endswith(timed)}


def test_training_moves_what_is_compared(job):
    assert furthest(job, "whole", "three") > 1e-4


def test_accumulated_batches_are_one_batch(job):
    assert furthest(job, "whole", "accumulated") < 1e-6


def test_two_processes_are_one_though_one_of_them_has_no_box(ddp):
    assert furthest(ddp, "whole", "ddp") < 1e-6
    for one, two in zip(losses(ddp, "whole"), losses(ddp, "ddp"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_two_processes_evaluate_as_one_with_uneven_batches(ddp):
    """Five rows for two processes and batches of two: three rows are there to fill up."""
    one, two = evaluated(ddp, "whole"), evaluated(ddp, "ddp")
    assert one["eval_num_boxes"] == 5
    assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_both_processes_pass_over_a_step_that_is_not_finite_on_one(ddp):
    """Steps 2 and 4 hold a spoiled row; steps 1, 3 and 5 are what is left."""
    assert furthest(ddp, "three", "skipped") < 1e-6
    skipped = [entry.get("skipped_steps", 0) for entry in log(ddp, "skipped")["history"] if "loss" in entry]
    assert skipped == [0, 1, 0, 1, 0]


def test_fsdp2_is_one_process(fsdp2):
    assert log(fsdp2, "fsdp2")["engine"] == "FSDP"
    assert furthest(fsdp2, "whole", "fsdp2") < 1e-5
    assert evaluated(fsdp2, "fsdp2") == pytest.approx(evaluated(fsdp2, "whole"), rel=1e-4, abs=1e-5)


def test_heads_stay_in_float32_under_mixed_precision(ddp, fsdp2):
    for name in ("bf16", "ddp_bf16", "fsdp2_bf16"):
        assert log(job=ddp, name=name)["head_dtypes"] == ["torch.float32"]
        assert all(value.dtype == torch.float32 for key, value in parameters(ddp, name).items() if "box_head" in key)
    # Half precision did take place, and is the same everywhere up to its rounding.
    first = [losses(ddp, name)[0]["loss"] for name in ("bf16", "ddp_bf16", "fsdp2_bf16")]
    assert first == pytest.approx([first[0]] * 3, rel=1e-3)
    assert first[0] != losses(ddp, "whole")[0]["loss"]


def test_a_sharded_checkpoint_is_gone_on_from(fsdp2):
    assert (fsdp2 / "fsdp2_first" / "checkpoint-3" / "pytorch_model_fsdp_0").is_dir()
    assert furthest(fsdp2, "fsdp2", "fsdp2_resumed") == 0
