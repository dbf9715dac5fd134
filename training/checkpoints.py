# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Checkpoints that get their name only when they are whole."""

import os
import shutil
from pathlib import Path

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

# Half-written checkpoints lie here; uploads to the Hub leave out what starts with "_".
_STAGING = "_incomplete"


class AtomicCheckpoints(Trainer):
    """`Trainer` whose last `checkpoint-*` is one to resume from, however the run was interrupted."""

    _staging: str | None = None

    def _get_output_dir(self, trial) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model, trial) -> None:
        """Save beside the other checkpoints, and rename when every process has written its part."""
        folder = Path(self._get_output_dir(trial))
        staging, final = folder / _STAGING, folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        except Exception:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self._staging = None
        if self.state.best_model_checkpoint == str(staging / final.name):
            self.state.best_model_checkpoint = str(final)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(staging / final.name / TRAINER_STATE_NAME))
            _publish(staging / final.name, final)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))


def _publish(staged: Path, final: Path) -> None:
    """Give a checkpoint its name, once it is on the disk; one that has the name stays until then."""
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if final.exists():
        final.rename(staged.with_name("replaced"))
    staged.rename(final)
    shutil.rmtree(staged.parent)
