# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Writes the arguments and options of every `llmi3d` command into docs/commands.md, as `--help` prints them.

The text before the first command is written by hand and is kept.

python examples/commands_page.py            # writes the page
python examples/commands_page.py --check    # exit code 1 if the page is out of date
"""

import argparse
import sys
from pathlib import Path

from typer.main import get_command

from llmi3d.cli import app
from llmi3d.data.outputs import write_whole

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"


def commands(command=None, name: str = "llmi3d"):
    """Yield (name, command) of each command without subcommands, in the order of `--help`."""
    command = get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, subcommand in command.commands.items():
        yield from commands(subcommand, f"{name} {part}")


def section(name: str, command) -> str:
    """Return a heading, the description, the usage line and a table of arguments and options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    call = " ".join([name, *map(argument_name, arguments), "[OPTIONS]" if options else ""]).strip()
    lines = [f"## {name}", "", " ".join((command.help or "").split()), "", f"    {call}", ""]
    if command.params:
        lines += ["| argument or option | default | |", "| --- | --- | --- |"]
    for argument in arguments:
        lines.append(row(f"`{argument_name(argument)}`", "required" if argument.required else "", argument.help))
    for option in options:
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        lines.append(row(names, default(option), option.help))
    return "\n".join(lines).strip() + "\n"


def argument_name(argument) -> str:
    """Return the name of an argument in the usage line."""
    return argument.metavar or argument.name.upper()


def default(option) -> str:
    """Return the default of an option as text."""
    value = option.default
    if option.required:
        return "required"
    if value is None or value is False or value == [] or value == ():
        return ""
    if option.secondary_opts:
        return option.opts[0] if value else option.secondary_opts[0]
    value = getattr(value, "value", value)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def row(*cells: str | None) -> str:
    """Return a line of a table."""
    return "| " + " | ".join((cell or "").replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """Return the whole page."""
    head = PAGE.read_text().partition("## llmi3d ")[0].rstrip() + "\n"
    return "\n".join([head, *(section(name, command) for name, command in commands())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        write_whole(PAGE, page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE.name} is not what the commands say: run python examples/commands_page.py")


if __name__ == "__main__":
    main()
