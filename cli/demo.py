# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d demo` and `llmi3d chat`: the web page, and a conversation in the terminal. Heavy imports stay inside."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import fail, open_pipeline

# Where a clone of the repository has them; an installed package has neither.
_ROOT = Path(__file__).parents[1]
SHIPPED_CHECKPOINT, SHIPPED_PICTURES = _ROOT / "model_cards" / "llmi3d-tiny", _ROOT / "examples" / "pictures"

Checkpoint = Annotated[
    str | None, typer.Option(help="Folder or Hub name; by default the one that comes along with a clone.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")]


def _checkpoint(given: str | None) -> str:
    if given is None and not SHIPPED_CHECKPOINT.is_dir():
        fail("--checkpoint: got none, want a folder or a name on the Hub.")
    return given or str(SHIPPED_CHECKPOINT)


def demo(
    checkpoint: Checkpoint = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 to be reached from other machines.")] = None,
    port: Annotated[int | None, typer.Option(help="By default the first free from 7860 on.", min=1, max=65535)] = None,
    device: Device = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = False,
) -> None:
    """Serve the web page and its HTTP API on this machine, until Ctrl+C."""
    chosen = _checkpoint(checkpoint)
    try:
        from llmi3d.apps import serve
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; the page needs pip install 'llmi3d[app]'.")
    pictures = SHIPPED_PICTURES if SHIPPED_PICTURES.is_dir() else None
    try:
        page = serve(chosen, host, port, device, pictures, wait=False, open_browser=browser)
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(f"{page.local_url}  (Ctrl+C stops)")
    page.block_thread()


def chat(
    image: Annotated[str, typer.Argument(help="A picture: path or URL.")],
    checkpoint: Checkpoint = None,
    intrinsics: Annotated[
        str | None, typer.Option(help="fx,fy,cx,cy in pixels, or a file with them or a 3x3.", metavar="K")
    ] = None,
    fov: Annotated[float | None, typer.Option(help="Horizontal field of view in degrees, instead of K.")] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON an answer.")] = False,
) -> None:
    """Talk about a picture: a question a line, answered in words and boxes, until an empty line or the end."""
    import json
    import sys

    from llmi3d.cli.predict import read_intrinsics

    chosen = _checkpoint(checkpoint)
    try:
        camera = None if intrinsics is None else read_intrinsics(intrinsics)
    except ValueError as error:
        fail(error)

    from llmi3d.apps.conversation import Conversation, describe
    from llmi3d.processing.image_processing_llmi3d import load_image

    try:
        picture = load_image(image)
        talk = Conversation(open_pipeline(chosen, device), picture, camera, fov)
    except (ValueError, OSError) as error:
        fail(error)
    failed = False
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line.strip():
            break
        try:
            answer = talk.ask(line)
        except ValueError as error:  # the conversation goes on
            typer.echo(f"Error: {error}", err=True)
            failed = True
            continue
        typer.echo(json.dumps(answer) if as_json else "\n".join(describe(answer)))
    if failed and not sys.stdin.isatty():
        raise typer.Exit(2)
