# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d train`: training from a YAML file, each field of which is an option too."""

import ast
import textwrap
from importlib.util import find_spec
from pathlib import Path

import typer

from llmi3d.cli.console import user_errors

# The parser of the fields reads every option.
TRAIN_SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
USAGE = """Usage: llmi3d train [CONFIG.yaml] [--FIELD VALUE ...]

Train from a YAML file of the fields below; options override it. The same command resumes an interrupted run.
Several processes: accelerate launch -m llmi3d.training.run CONFIG.yaml ...
"""
# Where the fields are defined: title, package, file, classes.
SOURCES = (
    ("Fields of the run", "llmi3d.training", "recipe.py", ("ModelArguments", "DataArguments", "RunArguments")),
    ("Fields of LLMI3DTrainingArguments", "llmi3d.training", "arguments.py", ("LLMI3DTrainingArguments",)),
    ("Fields of transformers.TrainingArguments", "transformers", "training_args.py", ("TrainingArguments",)),
)


def train(context: typer.Context) -> None:
    """Train from a YAML file: `llmi3d train --help` lists its fields. Resumes an interrupted run.

    Several processes share the work: accelerate launch -m llmi3d.training.run ...
    """
    if {"--help", "-h"} & set(context.args):
        typer.echo(fields_help())
        return
    with user_errors("train", "training"):
        from llmi3d.training.run import main as run
    run(context.args)


def fields_help() -> str:
    """Return the help on all fields, read from their definitions without running them: importing takes seconds."""
    lines, seen = [USAGE], set()
    for title, package, file, classes in SOURCES:
        lines.append(f"{title}:")
        folder = Path(find_spec(package).origin).parent
        tree = ast.parse((folder / file).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name in classes:
                for name, kind, default, text in _fields(node):
                    if name not in seen:
                        lines += _entry(name, kind, default, text)
                    seen.add(name)
        lines.append("")
    return "\n".join(lines).rstrip()


def _fields(node: ast.ClassDef):
    """Yield (name, type, default, help) of a dataclass's fields, as they are written."""
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.value, ast.Call):
            continue
        options = {keyword.arg: keyword.value for keyword in item.value.keywords}
        if "metadata" not in options:
            continue
        metadata = {
            key.value: value for key, value in zip(options["metadata"].keys, options["metadata"].values, strict=True)
        }
        text = ast.literal_eval(metadata["help"]) if isinstance(metadata.get("help"), ast.Constant) else ""
        factory = options.get("default_factory")
        default = factory.body if isinstance(factory, ast.Lambda) else options.get("default")
        yield item.target.id, ast.unparse(item.annotation), "" if default is None else ast.unparse(default), text


def _entry(name: str, kind: str, default: str, text: str) -> list[str]:
    kind = kind.removesuffix(" | None")
    default = "" if default in ("", "None") else f" (default {default})"
    text = " ".join(f"{text}{default}".split())
    return [f"  --{name} {kind}", *textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)]
