# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d demo`: the web page and its HTTP API."""

from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import Device, fail, require, user_errors

# A clone of the repository has both; an installed package has neither.
_ROOT = Path(__file__).parents[1]
SHIPPED_CHECKPOINT, SHIPPED_IMAGES = _ROOT / "model_cards" / "llmi3d-tiny", _ROOT / "examples" / "pictures"

ShippedCheckpoint = Annotated[
    str | None, typer.Option(help="Folder or Hub name; by default the one that a clone comes with.")
]


def checkpoint_or_shipped(given: str | None) -> str:
    """Return the checkpoint that was given, or else the shipped one."""
    if given is None and not SHIPPED_CHECKPOINT.is_dir():
        fail("--checkpoint: got none, want a folder or a name on the Hub.")
    return given or str(SHIPPED_CHECKPOINT)


def demo(
    checkpoint: ShippedCheckpoint = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 to be reached from other machines.")] = None,
    port: Annotated[int | None, typer.Option(help="By default the first free from 7860 on.", min=1, max=65535)] = None,
    device: Device = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = False,
) -> None:
    """Serve the web page and its HTTP API on this machine, until Ctrl+C."""
    chosen = checkpoint_or_shipped(checkpoint)
    require("gradio", extra="app", task="the page")
    with user_errors("app", "the page"):
        from llmi3d.apps.page import serve

        images = SHIPPED_IMAGES if SHIPPED_IMAGES.is_dir() else None
        page = serve(chosen, host, port, device, images, wait=False, open_browser=browser)
    typer.echo(f"{page.local_url}  (Ctrl+C stops)")
    page.block_thread()
