# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d bench`: latency, throughput and memory, and where the time of an answer goes."""

import json
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from llmi3d.cli.console import AsJson, Device, require, user_errors


class ListCommand(TyperCommand):
    """Command whose lists may be written `--batch-size 1 4`, for `--batch-size 1 --batch-size 4`."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        given, last = [], None
        for item in args:
            if item.startswith("--"):
                last = item
            elif last in lists and given[-1] != last:  # another item of the same list
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
    batch_size: Annotated[list[int], typer.Option(help="Images per batch.", metavar="N...")] = [1],  # noqa: B006
    phrases: Annotated[list[int], typer.Option(help="Phrases per image.", metavar="N...")] = [1, 16],  # noqa: B006
    dtype: Annotated[list[str], typer.Option(help="float32, bfloat16, float16.", metavar="DTYPE...")] = ["float32"],  # noqa: B006
    mode: Annotated[list[str], typer.Option(help="direct, generate.", metavar="MODE...")] = ["direct"],  # noqa: B006
    attention: Annotated[str | None, typer.Option(help="Such as sdpa; the fastest by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Measured answers; each is repeated with its stages timed.")] = 10,
    warm_up: Annotated[int, typer.Option(help="Answers before them; the first counts the operations.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens written in mode generate.")] = 60,
    image_size: Annotated[
        str, typer.Option(help="Size of the JPEG files, pixels.", metavar="WIDTHxHEIGHT")
    ] = "1242x375",
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Folder for bench.json and bench.png.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency, throughput, memory and stages of every combination of the lists.

    --json prints bench.json.
    """
    if out is not None:
        require("matplotlib", extra="train", task="--out")
    with user_errors():
        width, _, height = image_size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise ValueError(f"--image-size: got '{image_size}', want WIDTHxHEIGHT, such as 1242x375.")

        import torch

        from llmi3d.apps.benchmark import bench as run
        from llmi3d.apps.benchmark_report import check_out, to_markdown, write_report

        if out is not None:
            check_out(out)
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
            image_size=(int(width), int(height)),
            device=device or str(torch.accelerator.current_accelerator(check_available=True) or "cpu"),
            progress=lambda _: typer.echo(".", nl=False, err=True),
        )
        typer.echo(err=True)
        typer.echo(json.dumps(report) if as_json else to_markdown(report))
        if out is not None:
            typer.echo("  ".join(map(str, write_report(report, out))), err=as_json)
