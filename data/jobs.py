# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What long jobs over many pictures share: whole files, processes launched together, one job a place."""

import contextlib
import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator:
    """An open file whose name appears only once it is complete; after an error there is none."""
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
    """Writes a file so that its name appears only once it is complete."""
    with whole_file(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)


def process_state():
    """accelerate's state of this process among those launched together; unlike its default, on CPUs as well.

    Processes wait for one another as long as it takes: one may have hours of work left when another is done.
    """
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=datetime.timedelta(days=30))


def refuse_other(out: Path, kind: str, held: dict, wanted: dict, place: str = "folder") -> None:
    """Raises a ValueError if what `out` holds was begun with other fields than `wanted`, which it names."""
    changed = [name for name, value in json.loads(json.dumps(wanted)).items() if held.get(name) != value]
    if changed:
        raise ValueError(f"out: {out} holds {kind} with other {', '.join(changed)}; choose a new {place}.")


def checkpoint_fingerprint(checkpoint: str | Path, config) -> dict:
    """What tells one checkpoint from another: the Hub's commit, or name, size and time of a folder's files."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return {"name": str(checkpoint), "commit": getattr(config, "_commit_hash", None)}
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
