# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d bench`: where the time of an answer goes. Heavy imports stay inside the command."""

import json
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from llmi3d.cli.console import fail


class ListCommand(TyperCommand):
    """A command whose lists may be written `--batch-size 1 4`, for `--batch-size 1 --batch-size 4`."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        given, last = [], None
        for item in args:
            if item.startswith("--"):
                last = item
            elif last in lists and given[-1] != last:  # one more of the same list
                given.append(last)
            given.append(item)
        return super().parse_args(ctx, given)


def bench(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Folder or Hub name of a checkpoint; or, with random weights, a folder with a config.json or one of "
            "tiny, small, 1b, 7b.",
            metavar="CHECKPOINT_OR_CONFIG",
        ),
    ],
    batch_size: Annotated[list[int], typer.Option(help="Pictures asked at once.", metavar="N...")] = [1],  # noqa: B006
    phrases: Annotated[list[int], typer.Option(help="Asked about each picture.", metavar="N...")] = [1, 16],  # noqa: B006
    dtype: Annotated[list[str], typer.Option(help="float32, bfloat16, float16.", metavar="DTYPE...")] = ["float32"],  # noqa: B006
    mode: Annotated[list[str], typer.Option(help="direct, generate.", metavar="MODE...")] = ["direct"],  # noqa: B006
    attention: Annotated[str | None, typer.Option(help="Such as sdpa; the fastest by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Answers that count; each once more with its stages timed.")] = 10,
    warm_up: Annotated[int, typer.Option(help="Answers before them; operations are counted in the first.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Words written in mode generate.")] = 60,
    picture: Annotated[str, typer.Option(help="Size of the JPEG files, pixels.", metavar="WIDTHxHEIGHT")] = "1242x375",
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the fastest by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print bench.json instead of tables.")] = False,
) -> None:
    """Measure latency, throughput, memory and stages of every combination of what is given as lists."""
    import torch

    from llmi3d import register
    from llmi3d.apps.benchmark import bench as run
    from llmi3d.apps.benchmark_report import check_out, to_markdown, write_report

    register()
    try:
        width, _, height = picture.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise ValueError(f"--picture: got '{picture}', want WIDTHxHEIGHT, such as 1242x375.")
        if out is not None:
            check_out(out)
            import matplotlib  # noqa: F401  (better missed now than after the work)
        report = run(
            checkpoint,
            batch_sizes=batch_size,
            phrases=phrases,
            dtypes=dtype,
            modes=mode,
            attention=attention,
            repeats=repeats,
            warm_up=warm_up,
            new_tokens=new_tokens,
            picture=(int(width), int(height)),
            device=device or str(torch.accelerator.current_accelerator(check_available=True) or "cpu"),
            progress=lambda _: typer.echo(".", nl=False, err=True),
        )
        typer.echo(err=True)
        typer.echo(json.dumps(report) if as_json else to_markdown(report))
        if out is not None:
            typer.echo("  ".join(map(str, write_report(report, out))), err=as_json)
    except ModuleNotFoundError as error:
        fail(f"--out: {error.name} is not installed; it needs pip install 'llmi3d[train]'.")
    except (ValueError, OSError) as error:
        fail(error)
