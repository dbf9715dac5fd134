# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Output of long jobs: files that appear whole, folders that belong to one job, processes launched together."""

import contextlib
import datetime
import json
import os
import reprlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator:
    """Open a file whose name appears only once it is complete; after an error there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file whose name appears only once it is complete."""
    with whole_file(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def process_state():
    """Return accelerate's state of this process among those launched together; unlike its default, on CPUs as well.

    Processes wait for one another as long as it takes: one may have hours of work left when another is done.
    """
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=datetime.timedelta(days=30))


def on_main_process(state, work: Callable[[], Any]) -> Any:
    """Do `work` on the main process alone; return its result, or raise its ValueError or OSError, on all of them."""
    from accelerate.utils import broadcast_object_list

    outcome = None
    if state.is_main_process:
        try:
            outcome = work()
        except (ValueError, OSError) as error:
            outcome = error
    (outcome,) = broadcast_object_list([outcome])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def claim_folder(
    folder: Path,
    record: str,
    settings: dict,
    *,
    kind: str,
    field: str = "out",
    place: str = "folder",
    state=None,
) -> None:
    """Make a folder belong to the job with these settings, or find that it does already.

    The only place where a job takes its folder, so whatever is to keep two runs apart belongs here.

    Args:
        folder: created where it is missing.
        record: name of the JSON file in it that holds the settings.
        settings: everything that decides the output, as plain values.
        kind: of output, for errors: "an evaluation".
        field, place: the option that named the folder, and what it names; for errors.
        state: of processes launched together (`process_state`), which all call this; None for one process.

    Raises:
        ValueError: the folder holds something else, or the output of a job with other settings, which are named.
    """
    settings = json.loads(json.dumps(settings))

    def take() -> dict:
        path = folder / record
        if not path.exists():
            # A killed process may have left an unfinished record.
            files = (file for file in folder.rglob("*") if not file.is_dir())
            if any(not file.name.startswith(f".{path.name}.") for file in files):
                raise ValueError(f"{field}: {folder} holds something else; choose a new {place}.")
            write_whole(path, json.dumps(settings, indent=1))
        return json.loads(path.read_text())

    held = take() if state is None else on_main_process(state, take)
    refuse_other(folder, kind, held, settings, field=field, place=place)


def refuse_other(
    out: Path, kind: str, held: dict, settings: dict, *, field: str = "out", place: str = "folder"
) -> None:
    """Raise a ValueError if `out` holds the output of a job with other settings; it names them and their values."""
    settings = json.loads(json.dumps(settings))
    names = [name for name in {**settings, **held} if held.get(name) != settings.get(name)]
    if names:
        values = "; ".join(
            f"{name} {reprlib.repr(held.get(name))} there, {reprlib.repr(settings.get(name))} now" for name in names
        )
        raise ValueError(
            f"{field}: {out} holds {kind} with other {', '.join(names)}; choose a new {place} ({values})."
        )


def checkpoint_fingerprint(checkpoint: str | Path, config) -> dict:
    """Return what tells one checkpoint from another: the Hub's commit, or name, size and time of a folder's files."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return {"name": str(checkpoint), "commit": getattr(config, "_commit_hash", None)}
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
