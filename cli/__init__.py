# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The `llmi3d` command, one file per subcommand. Heavy imports stay inside the functions, for a quick `--help`."""

from typing import Annotated

import typer

from llmi3d.cli.batch import batch
from llmi3d.cli.bench import ListCommand, bench
from llmi3d.cli.calibrate import calibrate
from llmi3d.cli.chat import chat
from llmi3d.cli.convert import convert_app
from llmi3d.cli.data_commands import data_app
from llmi3d.cli.demo import demo
from llmi3d.cli.env import env
from llmi3d.cli.evaluate import evaluate
from llmi3d.cli.export import export
from llmi3d.cli.init import init
from llmi3d.cli.predict import predict
from llmi3d.cli.track import track
from llmi3d.cli.train import TRAIN_SETTINGS, train

app = typer.Typer(name="llmi3d", no_args_is_help=True, pretty_exceptions_enable=False)

app.command()(predict)
app.command()(batch)
app.command()(track)
app.command()(chat)
app.command()(demo)
app.add_typer(data_app, name="data")
app.command()(init)
app.add_typer(convert_app, name="convert")
app.command(context_settings=TRAIN_SETTINGS)(train)
app.command()(evaluate)
app.command()(calibrate)
app.command()(export)
app.command(cls=ListCommand)(bench)
app.command()(env)


def _print_version(wanted: bool) -> None:
    if wanted:
        from llmi3d.version import __version__

        typer.echo(f"llmi3d {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Metric, oriented 3D boxes from one photograph, its camera and a sentence."""
