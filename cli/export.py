# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d export`: direct grounding as a graph for ONNX Runtime or torch.export."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmi3d.cli.console import user_errors


class Format(str, Enum):
    """Format of the graph that is written."""

    onnx = "onnx"
    torch = "torch"


def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub name of an LLMI3D checkpoint.")],
    out: Annotated[Path, typer.Argument(help="New folder for the graph, export.json and the processor.")],
    format: Annotated[Format, typer.Option(help="For ONNX Runtime, or a program of torch.export.")] = Format.onnx,
) -> None:
    """Export direct grounding as one float32 graph. OUT appears once it is complete and agrees with the model."""
    with user_errors("export", "llmi3d export"):
        import torch

        from llmi3d.apps.benchmark_models import load
        from llmi3d.apps.graph_export import export as run

        report = run(*load(checkpoint, torch.float32, torch.device("cpu")), out, format.value)
    typer.echo(f"{out / report['file']}: differs from the model by {report['difference']:.1e} at most")
    typer.echo(f"{out / 'export.json'}: describes inputs and outputs")
