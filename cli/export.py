# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d export`: direct grounding for ONNX Runtime or torch.export. Heavy imports stay inside the command."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import fail


class Format(str, Enum):
    """Of the graph that is written."""

    onnx = "onnx"
    torch = "torch"


def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub name of a LLMI3D checkpoint.")],
    out: Annotated[Path, typer.Argument(help="New folder for the graph, export.json and the processor.")],
    format: Annotated[Format, typer.Option(help="For ONNX Runtime, or a program of torch.export.")] = Format.onnx,
) -> None:
    """Export direct grounding as one graph, in float32. OUT appears when all is written and agrees with the model."""
    import torch

    from llmi3d import register
    from llmi3d.apps.benchmark_models import load

    register()
    try:
        from llmi3d.apps.graph_export import export as run

        found = run(*load(checkpoint, torch.float32, torch.device("cpu")), out, format.value)
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; exports need pip install 'llmi3d[export]'.")
    except (ValueError, OSError) as error:
        fail(error)
    typer.echo(f"{out / found['file']}: differs from the model by {found['difference']:.1e} at most")
    typer.echo(f"{out / 'export.json'}: what goes in and comes out")
