# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""A run that is killed and gone on with is one that was not; what a killed write leaves is never taken for whole."""

import json
import signal

import pytest
from distributed_run import launch, log, make_job, parameters
from transformers.trainer_utils import get_last_checkpoint

pytestmark = pytest.mark.slow

# Shuffled rows, several epochs, dropout, moments and a falling learning rate: all of it has to be found again.
RUN = {
    "lora": True,
    "rows": 6,
    "per_device_train_batch_size": 2,
    "max_steps": 6,
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "train_sampling_strategy": "random",
    "save_strategy": "steps",
    "save_steps": 2,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory, chain, photograph):
    """One run killed behind step 5, one while it writes the checkpoint of step 4, both gone on with."""
    job = make_job(tmp_path_factory.mktemp("runs") / "job", chain, photograph)
    killed = -signal.SIGKILL
    launch(job, {"killed": {**RUN, "kill_at": 5}}, wanted=killed)
    launch(job, {"killed_in_save": {**RUN, "kill_in_save": 4}}, wanted=killed)
    left = {name: get_last_checkpoint(str(job / name)) for name in ("killed", "killed_in_save")}
    (job / "left.json").write_text(json.dumps(left))
    assert (job / "killed_in_save" / "_incomplete" / "checkpoint-4" / "adapter_model.safetensors").exists()
    resumed = {f"{name}_resumed": {**RUN, "resume": True, "output": name} for name in left}
    launch(job, {"whole": RUN, **resumed})
    return job


def test_the_last_whole_checkpoint_is_found(job):
    left = json.loads((job / "left.json").read_text())
    assert left == {
        "killed": str(job / "killed" / "checkpoint-4"),
        "killed_in_save": str(job / "killed_in_save" / "checkpoint-2"),
    }


@pytest.mark.parametrize("name", ["killed", "killed_in_save"])
def test_resumed_is_uninterrupted_bit_for_bit(job, name):
    whole, resumed = parameters(job, "whole"), parameters(job, f"{name}_resumed")
    assert whole.keys() == resumed.keys()
    assert [key for key, value in whole.items() if not value.equal(resumed[key])] == []
    runs = (log(job, run)["history"] for run in ("whole", f"{name}_resumed"))
    wanted, got = ([entry["loss"] for entry in run if "loss" in entry] for run in runs)
    assert got == wanted


def test_nothing_half_written_is_left(job):
    for name in ("killed", "killed_in_save"):
        assert sorted(path.name for path in (job / name).iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
