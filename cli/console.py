# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Options and error handling that several subcommands share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer


class Mode(str, Enum):
    """How the model answers: in one forward pass, or in writing."""

    direct = "direct"
    generate = "generate"


class Dtype(str, Enum):
    """Type of the weights that are written."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Checkpoint = Annotated[str, typer.Option(help="Folder or Hub name of an LLMI3D checkpoint.")]
Prompts = Annotated[list[str] | None, typer.Option(help="What to find, such as 'the nearest car'. May be repeated.")]
Intrinsics = Annotated[
    str | None, typer.Option(help="fx,fy,cx,cy in pixels, or a file with these or a 3x3 matrix.", metavar="K")
]
Fov = Annotated[float | None, typer.Option(help="Horizontal field of view in degrees, instead of K.")]
AnswerMode = Annotated[Mode, typer.Option(help="One forward pass, or a written answer.")]
Threshold = Annotated[float, typer.Option(help="Leave out boxes with a lower score.", min=0, max=1)]
CropPadding = Annotated[
    bool, typer.Option("--crop-padding", help="Crop the padding of wide and tall images, as in docs/speed.md.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar, no summary.")]
Data = Annotated[str, typer.Argument(help="Folder written by `llmi3d data build`, or a data set on the Hub.")]
Protocol = Annotated[str, typer.Option(help="Such as ig3d-kitti; an unknown name lists all.")]


def fail(problem: object) -> NoReturn:
    """End the command with a message and exit code 2."""
    typer.echo(f"Error: {problem}", err=True)
    raise typer.Exit(2)


@contextmanager
def user_errors(extra: str | None = None, task: str = "this") -> Iterator[None]:
    """End the command with a message if its input is wrong or a package is missing.

    Args:
        extra: extra of llmi3d that installs what may be missing.
        task: what needs it.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        fail(error)
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        fail(f"{error.name} is not installed; {task} needs pip install 'llmi3d[{extra}]'.")


def require(*modules: str, extra: str, task: str) -> None:
    """End the command if one of these modules is not installed; nothing is imported."""
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            fail(f"{module} is not installed; {task} needs pip install 'llmi3d[{extra}]'.")


def require_prompts(prompts: list[str] | None) -> None:
    """End the command if there is no prompt."""
    if not prompts:
        fail("--prompt: got none, want what to find, such as 'the nearest car'.")


def read_intrinsics(text: str | None) -> list | None:
    """Read `fx,fy,cx,cy`, or a file that holds these four numbers or the nine of a 3x3 matrix, as JSON or text.

    Raises:
        ValueError: neither four nor nine numbers.
    """
    if text is None:
        return None
    content = Path(text).read_text() if Path(text).is_file() else text
    try:
        numbers = [float(item) for item in re.split(r"[\s,;\[\]]+", content) if item]
    except ValueError:
        numbers = []
    if len(numbers) == 9:
        return [numbers[:3], numbers[3:6], numbers[6:]]
    if len(numbers) != 4:
        raise ValueError(f"--intrinsics: got '{text}', want fx,fy,cx,cy or a file with a 3x3 or these four numbers.")
    return numbers


def open_pipeline(checkpoint: str, device: str | None):
    """Return the pipeline `image-3d-grounding` of a folder or Hub name, on the fastest device by default."""
    from transformers import pipeline

    return pipeline("image-3d-grounding", model=checkpoint, device=device)


def own_device(state, device: str | None):
    """Return the device of this process among those launched together, or the one that was asked for."""
    return state.device if state.num_processes > 1 else device
