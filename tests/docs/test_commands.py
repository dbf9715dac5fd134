# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Every command of the pages runs, ours in this process, in the folder of `workplace`, unless `PARSED` says why not.

Options that ask for much are reduced by their names. A launcher's options meet its own parser, and what it would start
runs once. Each command is also read by its parser; commands within sentences are only read.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from doc_pages import PAGES, ROOT, commands, prose
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from llmi3d.cli import app
from llmi3d.training.recipe import ARGUMENTS, read_recipe

ClickException = typer.BadParameter.mro()[2]  # typer brings a click of its own


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


# Commands that are read and not run, by their first words, and why.
PARSED = {"pip install flash-attn": "it needs a network and CUDA"}
# Values of options, at most.
AT_MOST = {
    **dict.fromkeys(("--num-proc", "--repeats", "--pictures", "--steps"), 1),
    **dict.fromkeys(("--batch-size", "--phrases", "--rows", "--count"), 2),
}
# Values of options instead of any others.
INSTEAD = {"--threads": ["1"], "--size": ["tiny"], "--port": [str(free_port())]}
# Options instead of others.
RENAMED = {"--robustness": ["--condition", "focal-0.7"]}
# Arguments instead of others: a folder with a config.json alone.
SMALL = {"model_cards/llmi3d-7b": "model_cards/llmi3d-tiny-random"}
DRY = "--dry-run --no-index --no-build-isolation"
# Further options, by a command's first words.
MORE = {
    # All but installing; its requirements must be installed, except for two extras that the tests do without.
    **dict.fromkeys(("pip install .[quantize]", "pip install .[flash]"), f"{DRY} --no-deps"),
    "pip install": DRY,
    "make test": f"VENV={sys.prefix} --old-file={sys.prefix}/installed",  # which is not to be made
    "llmi3d bench": "--repeats 1 --warm-up 1 --new-tokens 2 --image-size 320x96",
    **dict.fromkeys(
        ("llmi3d train", "python -m llmi3d.training.run"),
        "--max_steps 1 --max_eval_rows 1 --per_device_train_batch_size 1 --dataloader_num_workers 0 --use_cpu",
    ),
    "python examples/benchmarks/canvas.py": "--repeats 1",
    "python examples/benchmarks/efficiency.py": "--rows 2 --steps 6 --base BASE",
    "python examples/benchmarks/latency.py": "--phrases 2 --new-tokens 2 --repeats 1 --warm-up 0",
    "python examples/benchmarks/preprocessing.py": "--count 2 --batch-size 1",
    "python examples/benchmarks/throughput.py": "--rows 2 --only sample",
}
# Files that a command writes, by its first words, besides the value of --out.
LEAVES = {
    "llmi3d convert": "paper_base/config.json",
    "llmi3d export CHECKPOINT exported": "exported*/export.json",
    "python examples/benchmarks/": "outputs/benchmarks/*.json",
    "python examples/demo.py": "outputs/demo/results.json",
    "python examples/space/build.py": "outputs/space/app.py",
}
# Commands that only `pytest -m slow` runs, by their first words, and why.
SLOW = {
    "llmi3d export": "it traces; tests/apps/test_graph_export.py exports something smaller",
    "llmi3d train examples/recipes/tiny.yaml": "four stages; tests/training/test_tiny.py runs the whole chain",
    "python examples/tiny/new_model.py": "as above",
}
# Packages of extras, by words of the commands that need them.
WANTED = {
    **{".mp4": ("av", "stonesoup"), "--html": ("plotly",), "llmi3d demo": ("gradio",)},
    "llmi3d export": ("onnx", "onnxruntime", "onnxscript"),
}
# What stands for a choice, and for the rest of a page's neighbouring command.
CHOICES = {"NAME": "mining"}
REST = ["--prompt", "the nearest car", "--checkpoint", "CHECKPOINT", "--out", "boxes.parquet"]
# Commands that have run: each runs once, whatever its page or launcher.
DONE: set[str] = set()
# Pages with a test of their own, which does more.
ELSEWHERE = {"docs/your_data.md": "tests/test_docs.py"}
SAID = "Locate the nearest car in 3D.\n\n"  # standard input


def of_beginning(table: dict[str, str], command: list[str]) -> str | None:
    """Return the entry of a table by a command's first words."""
    return next((entry for start, entry in table.items() if " ".join(command).startswith(start)), None)


def named(page: str, command: list[str]):
    """Return a command as a parameter, whose name says whether it runs or is only read."""
    how = "run" if of_beginning(PARSED, command) is None else "parsed"
    marks = pytest.mark.slow if of_beginning(SLOW, command) else ()
    return pytest.param(command, id=f"{page}-{how}-{' '.join(command)[:60]}", marks=marks)


# -------------------------------------------------------------------------------------------------------- the parsers


def parse_llmi3d(arguments: list[str]) -> None:
    """Read a command without running it; a wrong option, choice or file is an error."""
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
    if module == "llmi3d.training.run":
        read_recipe(arguments)
    else:
        assert module == "llmi3d", module
        parse_llmi3d(arguments)


@contextlib.contextmanager
def as_program(script: Path, arguments: list[str], monkeypatch) -> Iterator[None]:
    """Set what a script finds when it starts: its arguments, and its neighbours, which have plain names."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "argv", list(arguments))
    monkeypatch.syspath_prepend(script.parent)
    try:
        yield
    finally:
        for name in set(sys.modules) - known:
            if str(ROOT / "examples") in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


class Parsed(Exception):
    """Raised when a script has read its options."""


def parse_script(arguments: list[str], monkeypatch) -> None:
    """Start a script of examples/ or tests/, and stop it once it has read its options."""
    arguments = [CHOICES.get(word, word) for word in arguments]
    script = ROOT / arguments[0]
    if "ArgumentParser" not in script.read_text():
        assert arguments[1:] == []
        compile(script.read_text(), str(script), "exec")
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    with (
        monkeypatch.context() as patch,
        as_program(script, arguments, patch),
        pytest.raises((Parsed, SystemExit)) as stopped,
    ):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        runpy.run_path(str(script), run_name="__main__")
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


def started(command: list[str]) -> list[str]:
    """Return what finally starts, without environment variables and launchers, whose options are read.

    Raises:
        AssertionError, SystemExit, CalledProcessError: options that a launcher does not understand.
    """
    while re.fullmatch(r"[A-Z_0-9]+=\S*", command[0]):  # NAME=value program ...
        command = command[1:]
    program, *arguments = command
    if program == "srun":
        assert arguments[-3:-1] == ["bash", "-c"]
        return started(shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\(.*?\)|\$\w+", "1", arguments[-1])))
    if program in ("accelerate", "torchrun"):
        if program == "accelerate":
            assert arguments[0] == "launch"
            launched = _validate_launch_command(launch_command_parser().parse_args(arguments[1:]))[0]
        else:
            launched = get_args_parser().parse_args(arguments)
        assert launched.module
        arguments = launched.training_script_args
        rest = [*arguments[:-1], *REST] if arguments[-1] == "..." else arguments
        command = ["python", "-m", launched.training_script, *rest]
    if program == "make":
        # Under make, which may have started the tests, it would print folders.
        dry = ["make", "-n", "--no-print-directory", *arguments]
        steps = subprocess.run(dry, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        if arguments[0] == "demo":
            command = ["python", *shlex.split(steps.splitlines()[-1])[1:]]
    return command


def parse(command: list[str], monkeypatch) -> None:
    """Read the command of any program that pages call; an unknown program fails.

    Raises:
        AssertionError, SystemExit, ClickException: a command that its program does not understand.
    """
    program, *arguments = started(command)
    if program == "llmi3d":
        parse_llmi3d(arguments)
    elif program == "python" and arguments[0] == "-m":
        parse_module(arguments[1], arguments[2:])
    elif program == "python":
        parse_script(arguments, monkeypatch)
    elif program == "bash":
        subprocess.run(["bash", "-n", *arguments], cwd=ROOT, check=True)
    elif program == "pip":
        parse_pip(arguments)
    elif program == "cd":
        assert not Path(arguments[0]).is_absolute()
    elif program == "git":
        assert arguments[0] in ("clone", "push", "add", "commit", "lfs"), arguments
    elif program != "make":
        pytest.fail(f"{program}: no way to check it; add one to tests/docs/test_commands.py")


# -------------------------------------------------------------------------------------------------------- the runners


def smaller(command: list[str]) -> list[str]:
    """Return the same command with less to do."""
    words, option = [], ""
    for word in command:
        if word.startswith("--"):
            option = word
            words += RENAMED.get(option, [option]) + INSTEAD.get(option, [])
        elif option in AT_MOST and word.isdigit():
            words.append(str(min(int(word), AT_MOST[option])))
        elif option == "--option" and word.startswith("frames="):
            words.append(re.sub(r":\d+", ":2", word))
        elif option == "--option" and word.startswith("long_side="):
            words.append("long_side=64")
        elif option not in INSTEAD:
            words.append(SMALL.get(word, word))
    return words + shlex.split(of_beginning(MORE, command) or "")


def run_llmi3d(arguments: list[str], monkeypatch) -> None:
    seen = []

    def ask_and_stop(page) -> None:
        """Request the page once instead of serving it until Ctrl+C."""
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(page.local_url, timeout=60) as answer:
                seen.append((answer.status, b"<html" in answer.read()))
        finally:
            page.close(verbose=False)

    if arguments[0] == "demo":
        import gradio

        monkeypatch.setenv("GRADIO_TEMP_DIR", str(Path("uploads").absolute()))
        monkeypatch.setattr(gradio.Blocks, "block_thread", ask_and_stop)
    done = CliRunner().invoke(app, arguments, input=SAID)
    assert done.exit_code == 0, f"{' '.join(arguments)}: {done.output} {done.exception!r}"
    assert seen == [(200, True)] * (arguments[0] == "demo")


def in_this_process(work, *arguments) -> dict[str, float]:
    """Replace `measured` of examples/benchmarks/data.py, whose new process imports everything first."""
    work(*arguments)
    return {"peak_mb": 0.0}


def run_python(arguments: list[str], monkeypatch) -> None:
    """Run a script of examples/, or a module of the package."""
    module, threads = arguments[0] == "-m", torch.get_num_threads()
    arguments = arguments[1:] if module else arguments
    script = ROOT / arguments[0]
    with as_program(script, arguments, monkeypatch):
        try:
            if not module and "from data import measured" in script.read_text():
                monkeypatch.setattr("data.measured", in_this_process)
            if module:
                runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(script), run_name="__main__")
        except SystemExit as done:
            assert not done.code, f"{' '.join(arguments)}: exit code {done.code}"
        finally:
            torch.set_num_threads(threads)


def run_program(command: list[str], where: Path | str, **variables: str) -> None:
    """Run a program of others."""
    variables = {name: value for name, value in {**os.environ, **variables}.items() if "XDIST" not in name}
    done = subprocess.run(command, cwd=where, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout} {done.stderr}"


def run_pip(arguments: list[str], monkeypatch) -> None:
    run_program([sys.executable, "-m", "pip", *arguments], ".")


def run_make(arguments: list[str], monkeypatch) -> None:
    """Run a target of make; of the tests only one module."""
    run_program(["make", *arguments], ROOT, PYTEST_ADDOPTS="tests/docs/test_links.py -n 0 -p no:cacheprovider")


def left_behind(command: list[str]) -> list[str]:
    """Return patterns of files and folders that exist after a command."""
    patterns = [command[i + 1] for i, word in enumerate(command) if word == "--out"]
    trained = ["llmi3d", "train"] if command[0] == "llmi3d" else ["python", "-m", "llmi3d.training.run"]
    arguments = command[len(trained) :]
    if command[: len(trained)] == trained and not {"--dry_run", "--plan"} & set(arguments):
        patterns.append(f"{read_recipe(arguments).output_dir}/final/config.json")
    if "--help" not in command and (leaves := of_beginning(LEAVES, command)):
        patterns.append(leaves)
    return patterns


# ---------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize(
    "command", [named(page, command) for page in PAGES if page not in ELSEWHERE for command in commands(page)]
)
def test_commands_of_the_pages(command, workplace, monkeypatch):
    for package in {name for part, names in WANTED.items() if part in " ".join(command) for name in names}:
        pytest.importorskip(package, reason="pip install '.[test]'")
    parse(command, monkeypatch)
    if of_beginning(PARSED, command):
        return
    program, *arguments = smaller(started(command))
    whole = shlex.join([program, *arguments])
    if whole in DONE:
        return
    {"llmi3d": run_llmi3d, "python": run_python, "pip": run_pip, "make": run_make}[program](arguments, monkeypatch)
    for pattern in left_behind([program, *arguments]):
        assert list(workplace.glob(pattern)), f"{' '.join(command)}: {pattern} is not there"
    DONE.add(whole)


def inline_commands() -> list:
    """Return commands within sentences and tables; a line break counts as a space."""
    found = {}
    for page in PAGES:
        for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page)):
            text = " ".join(text.split())
            if re.match(r"([A-Z_]+=\S+ )?(python examples|bash examples|make |pip install|llmi3d )", text):
                found.setdefault(text, pytest.param(shlex.split(text), id=f"{page}-{text[:60]}"))
    return list(found.values())


@pytest.mark.parametrize("command", inline_commands())
def test_commands_within_sentences(command, workplace, monkeypatch):
    """Those of `llmi3d` are often incomplete: its commands and options exist. Others meet their parser."""
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
    for why in (*PARSED.values(), *SLOW.values()):
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
        "accelerate launch --num_procs 2 -m llmi3d batch photos ...",
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
