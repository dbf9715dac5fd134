# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d chat`: a conversation about an image, in the terminal."""

import json
import sys
from typing import Annotated

import typer

from llmi3d.cli.console import Device, Fov, Intrinsics, open_pipeline, read_intrinsics, user_errors
from llmi3d.cli.demo import ShippedCheckpoint, checkpoint_or_shipped


def chat(
    image: Annotated[str, typer.Argument(help="An image: path or URL.")],
    checkpoint: ShippedCheckpoint = None,
    intrinsics: Intrinsics = None,
    fov: Fov = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per answer.")] = False,
) -> None:
    """Talk about an image: one question per line, answered in words and boxes, until an empty line or the end."""
    chosen = checkpoint_or_shipped(checkpoint)
    with user_errors():
        camera = read_intrinsics(intrinsics)

        from llmi3d.apps.conversation import Conversation, describe
        from llmi3d.processing.image_processing_llmi3d import load_image

        loaded = load_image(image)
        conversation = Conversation(open_pipeline(chosen, device), loaded, camera, fov)
    failed = False
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line.strip():
            break
        try:
            answer = conversation.ask(line)
        except ValueError as error:  # the conversation continues
            typer.echo(f"Error: {error}", err=True)
            failed = True
            continue
        typer.echo(json.dumps(answer) if as_json else "\n".join(describe(answer)))
    if failed and not sys.stdin.isatty():
        raise typer.Exit(2)
