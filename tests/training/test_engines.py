# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The paper's size under examples/accelerate: how FSDP2 splits it over eight processes, how ZeRO-3's file is filled.

Nothing is computed: the model is on the meta device, and the other processes are torch's fake process group. Since
that affects a whole process, FSDP2 wraps in a subprocess, which runs this file as a program.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from accelerate.utils.launch import prepare_multi_gpu_env
from peft import get_peft_model
from peft.utils.other import TrainableTokensWrapper
from torch.distributed.fsdp import FSDPModule
from transformers.integrations import deepspeed

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DTrainingArguments
from llmi3d.feature_mining_llmi3d import FeatureMining
from llmi3d.training.lora import NEW_PARTS, lora_config
from llmi3d.training.trainable import make_trainable

REPOSITORY = Path(__file__).parents[2]
ACCELERATE = REPOSITORY / "examples" / "accelerate"
PROCESSES = 8
BASE = "base_model.model"
TOWER, MINING = f"{BASE}.model.vision_tower", f"{BASE}.model.feature_mining"
LANGUAGE, HEADS = f"{BASE}.model.language_model", f"{BASE}.box_head"


def launched_by(file: str):
    """Return what `accelerate launch --config_file FILE -m llmi3d.training.run` parses."""
    command = ["--config_file", str(ACCELERATE / file), "-m", "llmi3d.training.run", "config.yaml"]
    return _validate_launch_command(launch_command_parser().parse_args(command))[0]


# --------------------------------------------------------------------------------------------------------------- FSDP2


def wrap() -> dict:
    """Wrap the 7B size with LoRA as accelerate does with fsdp2.yaml, and return the contents of each group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ.update(prepare_multi_gpu_env(launched_by("fsdp2.yaml")))
    plugin = FullyShardedDataParallelPlugin()
    plugin.mixed_precision_policy = None  # as LLMI3DTrainer has it
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    with torch.device("meta"):
        model = LLMI3DForConditionalGeneration(LLMI3DConfig()).to(torch.bfloat16)
        heads = sum(one.numel() for one in model.box_head.parameters())
        model = get_peft_model(model, lora_config(model))
    make_trainable(model, NEW_PARTS)
    whole = sum(one.numel() for one in model.parameters())
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="bf16",
        is_main_process=True,
        torch_device_mesh=None,
        device=torch.device("meta"),
    )
    fsdp2_prepare_model(accelerator, model)
    names = [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]
    groups = {name: {"trained": {}, "frozen": {}} for name in names}
    for name, parameter in model.named_parameters():
        group = max((one for one in names if not one or name.startswith(f"{one}.")), key=len)
        counts = groups[group]["trained" if parameter.requires_grad else "frozen"]
        dtype = str(parameter.dtype).removeprefix("torch.")
        counts[dtype] = counts.get(dtype, 0) + parameter.numel()
    own = sum(one.to_local().numel() for one in model.parameters())
    return {"groups": groups, "heads": heads, "whole": whole, "own": own}


@pytest.fixture(scope="module")
def wrapped():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_fsdp2_groups_are_layers_mining_heads_embeddings_and_the_rest(wrapped):
    layers = {f"{LANGUAGE}.layers.{index}" for index in range(32)}
    layers |= {f"{TOWER}.encoder.layers.{index}" for index in range(24)}
    # PEFT keeps the original beside the copy that it trains.
    parts = {f"{part}.{one}" for part in (MINING, HEADS) for one in ("original_module", "modules_to_save.default")}
    assert set(wrapped["groups"]) == layers | parts | {f"{LANGUAGE}.embed_tokens", f"{BASE}.lm_head", ""}


@pytest.mark.slow
def test_fsdp2_leaves_each_process_an_eighth(wrapped):
    counts = [counts for group in wrapped["groups"].values() for counts in group.values()]
    assert sum(sum(one.values()) for one in counts) == wrapped["whole"]
    # Rows that eight does not divide are padded.
    assert wrapped["whole"] / PROCESSES <= wrapped["own"] < 1.0001 * wrapped["whole"] / PROCESSES


@pytest.mark.slow
def test_fsdp2_heads_are_float32_and_alone(wrapped):
    heads = wrapped["heads"]
    assert wrapped["groups"][f"{HEADS}.modules_to_save.default"] == {"trained": {"float32": heads}, "frozen": {}}
    assert wrapped["groups"][f"{HEADS}.original_module"] == {"trained": {}, "frozen": {"float32": heads}}


@pytest.mark.slow
def test_fsdp2_finds_one_dtype_among_what_a_group_trains(wrapped):
    """Otherwise the first step would fail; frozen weights may have another dtype, and do."""
    assert all(set(group["trained"]) <= {"float32"} for group in wrapped["groups"].values())
    assert set(wrapped["groups"][f"{LANGUAGE}.layers.0"]["frozen"]) == {"bfloat16"}
    # Rank 16 on q, k, v, o and on gate, up, down.
    adapters = 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert wrapped["groups"][f"{LANGUAGE}.layers.0"]["trained"] == {"float32": adapters}


# -------------------------------------------------------------------------------------------------------------- ZeRO-3


class Zero3(deepspeed.HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
    """DeepSpeed's file as the Trainer reads it; without DeepSpeed, transformers leaves accelerate's base class out."""


@pytest.fixture
def zero3(monkeypatch):
    monkeypatch.setattr(deepspeed, "dep_version_check", lambda name: None)
    yield Zero3(str(ACCELERATE / "zero3.json"))
    deepspeed.unset_hf_deepspeed_config()


def automatic(values: dict) -> list[str]:
    inner = [name for value in values.values() if isinstance(value, dict) for name in automatic(value)]
    return [name for name, value in values.items() if value == "auto"] + inner


def test_zero3_is_filled_in_for_the_papers_size(zero3, tmp_path):
    arguments = LLMI3DTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        bf16=True,
        use_cpu=True,
    )
    assert zero3.is_zero3() and automatic(zero3.config)
    zero3.trainer_config_process(arguments)
    zero3.trainer_config_finalize(arguments, SimpleNamespace(config=LLMI3DConfig()), 100)  # raises on contradictions
    found = zero3.config
    assert automatic(found) == []
    assert (found["train_micro_batch_size_per_gpu"], found["train_batch_size"]) == (4, 8 * arguments.world_size)
    assert found["gradient_clipping"] == 0.5 and found["bf16"] == {"enabled": True}
    # Values that the Trainer derives from the language model's width.
    assert found["zero_optimization"]["reduce_bucket_size"] == 4096**2
    assert found["zero_optimization"]["stage3_param_persistence_threshold"] == 10 * 4096
    # Modules that read weights of inner modules, by names that exist.
    leaves = found["zero_optimization"]["leaf_module"]["classes"]
    assert leaves == [FeatureMining.__name__, TrainableTokensWrapper.__name__]
    # The trainer's own are used.
    assert not {"optimizer", "scheduler"} & set(found)


def test_zero3_is_launched_with_its_file(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    arguments = launched_by("zero3.yaml")
    assert arguments.use_deepspeed and arguments.num_processes == PROCESSES
    assert Path(arguments.deepspeed_config_file).resolve() == ACCELERATE / "zero3.json"
    assert launched_by("fsdp2.yaml").use_fsdp and launched_by("ddp.yaml").multi_gpu


if __name__ == "__main__":
    print(json.dumps(wrap()))
