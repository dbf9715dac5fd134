# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Every command of the pages is run, or taken apart by the parser that it would meet.

A `llmi3d` command is run in the folder of `workplace`, as it stands, unless `PARSED` says why not. Other programs meet
their own parsers: the scripts' argparse, accelerate's and torchrun's, make, bash, and the extras of the package.
"""

import argparse
import dataclasses
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from doc_pages import PAGES, ROOT, commands, prose
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.training.recipe import ARGUMENTS, read_recipe

ClickException = typer.BadParameter.mro()[2]  # typer brings a click of its own
# Commands of `llmi3d` that are parsed and not run, by how they begin, and why.
PARSED = {
    "train": "tests/training/test_train.py trains; test_recipes.py has dry runs of the recipes",
    "bench": "tests/modeling/test_bench.py measures",
    "init": "its base is on the Hub; tests/bases/test_init.py has small ones",
    "convert": "its original is a download; tests/bases/ has small ones",
    "data build kitti": "its source is a download; tests/training/test_kitti.py has one of that form",
    "calibrate": "wants many answers; tests/training/test_calibration.py has them",
    "demo": "serves until it is stopped; tests/app/ asks it",
    "chat": "reads lines until it is stopped; tests/app/ talks to it",
    "export": "wants packages of its own; tests/modeling/test_export.py exports",
}
# What is asked for in smaller numbers.
SMALLER = {"train:200,test:40": "train:2,test:1", "long_side=320": "long_side=64", "--num-proc 2": "--num-proc 1"}
SMALLER |= {"--robustness": "--condition focal-0.7"}
# What stands for a choice.
CHOICES = {"NAME": "mining"}
# Pages with a test of their own, which does more.
ELSEWHERE = {
    "docs/your_data.md": "tests/test_docs.py",
    **{
        f"examples/recipes/{name}.md": "tests/training/test_recipes.py"
        for name in ("ig3d", "kitti", "multi_node", "own_pictures")
    },
}


def why_parsed(arguments: list[str]) -> str | None:
    """Why a `llmi3d` command is not run; None if it is."""
    return next((why for start, why in PARSED.items() if arguments[: len(start.split())] == start.split()), None)


# Packages of extras that are wanted by commands in which such a word stands.
WANTED = {".mp4": ("av", "stonesoup"), "--html": ("plotly",)}


def smaller(command: str) -> str:
    for given, less in SMALLER.items():
        command = command.replace(given, less)
    return command


def named(page: str, command: list[str]):
    """A command as a parameter; those that are run and those that are parsed are told apart by their names."""
    run = command[0] == "llmi3d" and why_parsed(command[1:]) is None
    return pytest.param(command, id=f"{page}-{'run' if run else 'parsed'}-{' '.join(command)[:60]}")


# -------------------------------------------------------------------------------------------------------- the parsers


def parse_llmi3d(arguments: list[str]) -> None:
    """Takes a command apart without doing what it says; a wrong option, choice or file is an error."""
    if arguments[0] == "train":
        read_recipe([one for one in arguments[1:] if one != "--help"])
        return
    group, name = typer.main.get_command(app), "llmi3d"
    while hasattr(group, "commands"):
        name, *arguments = arguments
        if name in {option for one in group.params for option in one.opts}:  # of the group itself, as --version
            return
        group = group.commands[name]
    group.make_context(name, arguments)


def parse_module(module: str, arguments: list[str]) -> None:
    if arguments[-1:] == ["..."]:  # the rest is the page's neighbouring command
        arguments = [*arguments[:-1], "--checkpoint", "CHECKPOINT", "--out", "boxes.parquet"]
    if module == "llmi3d.training.train":
        read_recipe(arguments)
    else:
        assert module == "llmi3d", module
        parse_llmi3d(arguments)


class Parsed(Exception):
    """A script's options were understood."""


def parse_script(arguments: list[str], monkeypatch) -> None:
    """Starts a script of examples/ or tests/, and stops it once it has read its options."""
    arguments = [CHOICES.get(word, word) for word in arguments]
    script = ROOT / arguments[0]
    if "ArgumentParser" not in script.read_text():
        assert arguments[1:] == []
        compile(script.read_text(), str(script), "exec")
        return
    parse, known = argparse.ArgumentParser.parse_args, set(sys.modules)

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", list(arguments))
    monkeypatch.syspath_prepend(script.parent)
    try:
        with pytest.raises((Parsed, SystemExit)) as stopped:
            runpy.run_path(str(script), run_name="__main__")
    finally:
        for name in set(sys.modules) - known:  # scripts' neighbours have plain names
            if str(ROOT / "examples") in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
    assert stopped.type is Parsed or stopped.value.code == 0, f"{arguments}: exit code {stopped.value.code}"


def parse_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", table, re.MULTILINE)
    for target in arguments[1:]:
        if found := re.fullmatch(r"(?:\.|llmi3d)\[([\w,]+)\]", target):
            assert set(found[1].split(",")) <= set(extras), target
        else:
            assert re.fullmatch(r"\.|-e|--editable|--no-deps|-r|[\w.-]+([<>=]=?[\d.]+)?", target), target


def parse(command: list[str], monkeypatch) -> None:
    """Whatever program a page calls; an unknown one fails, and wants a way here.

    Raises:
        AssertionError, SystemExit, ClickException: a command that would not be understood.
    """
    while re.fullmatch(r"[A-Z_0-9]+=\S*", command[0]):  # NAME=value program ...
        command = command[1:]
    program, *arguments = command
    if program == "llmi3d":
        parse_llmi3d(arguments)
    elif program == "python" and arguments[0] == "-m":
        parse_module(arguments[1], arguments[2:])
    elif program == "python":
        parse_script(arguments, monkeypatch)
    elif program == "accelerate":
        assert arguments[0] == "launch"
        launched = _validate_launch_command(launch_command_parser().parse_args(arguments[1:]))[0]
        assert launched.module
        parse_module(launched.training_script, launched.training_script_args)
    elif program == "torchrun":
        launched = get_args_parser().parse_args(arguments)
        assert launched.module
        parse_module(launched.training_script, launched.training_script_args)
    elif program == "srun":
        assert arguments[-3:-1] == ["bash", "-c"]
        inner = re.sub(r"\$\(\(.*?\)\)|\$\(.*?\)|\$\w+", "1", arguments[-1])
        parse(shlex.split(inner), monkeypatch)
    elif program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "bash":
        subprocess.run(["bash", "-n", *arguments], cwd=ROOT, check=True)
    elif program == "pip":
        parse_pip(arguments)
    elif program == "cd":
        assert not Path(arguments[0]).is_absolute()
    elif program == "git":
        assert arguments[0] in ("clone", "push", "add", "commit", "lfs"), arguments
    else:
        pytest.fail(f"{program}: no way to check it; add one to tests/docs/test_commands.py")


# ---------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize(
    "command", [named(page, command) for page in PAGES if page not in ELSEWHERE for command in commands(page)]
)
def test_commands_of_the_pages(command, workplace, monkeypatch):
    parse(command, monkeypatch)
    for package in {name for part, names in WANTED.items() if part in " ".join(command) for name in names}:
        pytest.importorskip(package, reason="pip install '.[test]'")
    if command[0] != "llmi3d" or why_parsed(command[1:]):
        return
    done = CliRunner().invoke(app, shlex.split(smaller(shlex.join(command[1:]))))
    assert done.exit_code == 0, f"{' '.join(command)}: {done.output} {done.exception!r}"


def inline_commands() -> list:
    """Commands within sentences and tables, a line break in them counting as a space."""
    found = {}
    for page in PAGES:
        for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page)):
            text = " ".join(text.split())
            if re.match(r"([A-Z_]+=\S+ )?(python examples|bash examples|make |pip install|llmi3d )", text):
                found.setdefault(text, pytest.param(shlex.split(text), id=f"{page}-{text[:60]}"))
    return list(found.values())


@pytest.mark.parametrize("command", inline_commands())
def test_commands_within_sentences(command, workplace, monkeypatch):
    """Whole ones meet their parser. Of `llmi3d` they are often cut short: its commands and options exist."""
    if command[0] != "llmi3d":
        parse(command, monkeypatch)
        return
    group, options = typer.main.get_command(app), set()
    for word in command[1:]:
        if hasattr(group, "commands") and word.isupper():  # any of them
            continue
        if hasattr(group, "commands") and not word.startswith("-"):
            assert word in group.commands, f"{' '.join(command)}: no command {word}"
            group = group.commands[word]
        options.add(word.split("=")[0])
    options = {one for one in options if one.startswith("-")}
    if group.name == "train":  # whose options are fields
        known = {f"--{field.name}" for kind in ARGUMENTS for field in dataclasses.fields(kind)}
        assert options <= known | {"--help"}, f"{' '.join(command)}: no field {options - known}"
        return
    known = {name for one in group.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    assert options <= known, f"{' '.join(command)}: no option {options - known}"


def test_other_tests_are_there():
    assert all((ROOT / page).is_file() and (ROOT / test).is_file() for page, test in ELSEWHERE.items())
    for why in PARSED.values():
        for test in re.findall(r"tests/[\w/]+(?:\.py)?", why):
            assert (ROOT / test).exists(), test


@pytest.mark.parametrize(
    "command",
    [
        "llmi3d predict street.png --prompts car --checkpoint CHECKPOINT --out out",
        "llmi3d predict street.png --prompt car --mode both --checkpoint CHECKPOINT --out out",
        "llmi3d data biuld synth --out out",
        "llmi3d train CONFIG.yaml --learnig_rate 1",
        "python examples/demo.py --promt x",
        "python examples/missing.py",
        "accelerate launch --num_procs 2 -m llmi3d predict photos ...",
        "make demoo",
        "bash examples/missing.sh",
        "pip install '.[trian]'",
        "npx anything",
    ],
)
def test_a_wrong_command_fails(command, workplace, monkeypatch):
    """The parsers above notice."""
    wrong = (
        *(AssertionError, SystemExit, KeyError, ValueError, FileNotFoundError, ClickException),
        *(pytest.fail.Exception, subprocess.CalledProcessError),
    )
    with pytest.raises(wrong):
        parse(shlex.split(command), monkeypatch)
