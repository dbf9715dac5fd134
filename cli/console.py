# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What all parts of the `llmi3d` command share."""

from typing import NoReturn

import typer


def fail(problem: object) -> NoReturn:
    """Ends the command with a message, exit code 2."""
    typer.echo(f"Error: {problem}", err=True)
    raise typer.Exit(2)


def open_pipeline(checkpoint: str, device: str | None):
    """The pipeline `image-3d-grounding` of a folder or Hub name, on the fastest device by default."""
    from transformers import pipeline

    from llmi3d import register

    register()
    return pipeline("image-3d-grounding", model=checkpoint, device=device)
