# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Training runs of the tiny model in processes of their own: `[torchrun ...] distributed_run.py JOB`.

JOB is a folder made by `make_job`; its `job.json` says which runs `launch` wants. Each run leaves
`NAME/parameters.safetensors` and `NAME/log.json` there.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from llmi3d import LLMI3DForConditionalGeneration, LLMI3DProcessor, LLMI3DTrainer, LLMI3DTrainingArguments
from llmi3d.data.schema import grounding_conversation, make_object
from llmi3d.training.collator import LLMI3DDataCollator
from llmi3d.training.lora import lora_config

# Plain gradient descent: Adam divides tiny gradients by their own size, and the last bits of a sum become everything.
SETTINGS = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "max_steps": 5,
    "optim": "sgd",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    # An error, not a wait, where a parameter takes no part.
    "ddp_find_unused_parameters": False,
}


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def make_rows() -> list[dict]:
    """16 rows without image: 0-3 have 2, 1, 0 and 2 boxes, 4-7 none at all, 8-15 are the same under other names."""
    intrinsics = [[250.0, 0.0, 150.0], [0.0, 260.0, 110.0], [0.0, 0.0, 1.0]]
    turn = [[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]]
    objects = [
        make_object("a", "car", [0.5, 0.4, 6.0], [4.0, 1.5, 1.8], turn, intrinsics),
        make_object("b", "cone", [-1.0, 0.6, 4.0], [0.4, 0.8, 0.4], turn, intrinsics),
    ]
    talk = [{"role": "user", "content": "<image>\nHow many dogs?"}, {"role": "assistant", "content": "None."}]
    two = {"messages": grounding_conversation(["the car", "the cone"]), "targets": ["a", "b"]}
    one = {"messages": grounding_conversation(["the cone"]), "targets": ["b"]}
    none = {"messages": talk, "targets": []}
    turns = [two, one, none, two, none, none, none, none] * 2
    shared = {"intrinsics": intrinsics, "objects": objects}
    return [{**shared, **each, "image_id": f"test/{index}"} for index, each in enumerate(turns)]


def make_job(job: Path, chain, photograph) -> Path:
    """What all runs share: `model/`, `picture.png`, `job.json`."""
    job.mkdir()
    for part in chain:
        part.save_pretrained(job / "model")
    photograph.save(job / "picture.png")
    (job / "job.json").write_text(json.dumps({"rows": make_rows()}))
    return job


def launch(job: Path, runs: dict[str, dict], how: tuple[str, ...] = (), wanted: int = 0) -> str:
    """Does some runs (keyword arguments of `run` by name) in new processes that end with a code; gives their words."""
    known = json.loads((job / "job.json").read_text())
    (job / "job.json").write_text(json.dumps({**known, "runs": runs}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *how, __file__, str(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == wanted, done.stderr[-4000:]
    return done.stderr


def parameters(job: Path, name: str) -> dict[str, torch.Tensor]:
    """The parameters that a run has left."""
    return load_file(job / name / "parameters.safetensors")


def log(job: Path, name: str) -> dict:
    """`history`, `metrics`, `head_dtypes` and `engine` of a run."""
    return json.loads((job / name / "log.json").read_text())


class SpoilingCollator(LLMI3DDataCollator):
    """Makes the true boxes of one row not finite."""

    spoiled: str | None = None

    def __call__(self, rows):
        batch = super().__call__(rows)
        for index, name in enumerate(batch["image_id"]):
            if name == self.spoiled:
                batch["targets_3d"]["center"][index] = torch.nan
                batch["targets_3d"]["intrinsics"][index] = torch.nan
        return batch


class KillAt(TrainerCallback):
    """Ends the process behind a step as a cluster would, without a last word."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledInSave(LLMI3DTrainer):
    """Is killed when weights of a checkpoint are written and the optimizer's state is not."""

    step: int | None = None

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


def run(
    job: Path,
    name: str,
    rows: int = 8,
    first_row: int = 0,
    lora: bool = False,
    spoiled: str | None = None,
    kill_at: int | None = None,
    kill_in_save: int | None = None,
    resume: bool = False,
    evaluated_rows: int = 0,
    output: str | None = None,
    **settings,
) -> None:
    """Trains on some rows, evaluates on the first ones, and writes what came of it."""
    out = job / (output or name)
    arguments = LLMI3DTrainingArguments(output_dir=str(out), **{**SETTINGS, **settings})
    if arguments.fsdp:
        # accelerate keeps FSDP2 for accelerators, though gloo serves it: told that this is one, it does the same.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    model = LLMI3DForConditionalGeneration.from_pretrained(job / "model")
    processor = LLMI3DProcessor.from_pretrained(job / "model")
    data = [{**row, "image": str(job / "picture.png")} for row in json.loads((job / "job.json").read_text())["rows"]]
    if lora:
        torch.manual_seed(0)
        model = get_peft_model(model, lora_config(model, rank=4, dropout=0.2))
    collator = SpoilingCollator(processor)
    collator.spoiled = spoiled
    trainer = KilledInSave(
        model,
        arguments,
        train_dataset=data[first_row : first_row + rows],
        eval_dataset=data[:evaluated_rows],
        data_collator=collator,
        callbacks=[] if kill_at is None else [KillAt(kill_at)],
    )
    trainer.step = kill_in_save
    head_dtypes = set()
    head = (model.get_base_model() if lora else model).box_head
    head.register_forward_hook(
        lambda module, _, answer: head_dtypes.update(
            str(one.dtype) for one in (*module.parameters(), *answer.values()) if one.is_floating_point()
        )
    )
    trainer.train(resume_from_checkpoint=resume or None)
    metrics = trainer.evaluate() if evaluated_rows else {}
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        (job / name).mkdir(exist_ok=True)
        tensors = {key: value.detach().clone().contiguous() for key, value in state.items()}
        save_file(tensors, job / name / "parameters.safetensors")
        log = {
            "history": trainer.state.log_history,
            "metrics": metrics,
            "head_dtypes": sorted(head_dtypes),
            "engine": trainer.accelerator.distributed_type.value,
        }
        (job / name / "log.json").write_text(json.dumps(log))
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for run_name, options in json.loads((folder / "job.json").read_text())["runs"].items():
        run(folder, run_name, **options)
