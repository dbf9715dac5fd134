# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`llmi3d chat` and errors of `llmi3d demo`; tests/apps/test_server.py covers the page."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmi3d.cli import app

PICTURE = Path(__file__).parents[2] / "examples" / "pictures" / "indoor-000020.jpg"


def run(*arguments, said=""):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=said)


def test_a_question_a_line_until_an_empty_one():
    done = run(
        "chat", PICTURE, "--fov", 60, "--device", "cpu", said="Locate the ball in 3D.\nHow far is it?\n\nnever\n"
    )
    assert done.exit_code == 0, done.output
    assert "[1] the ball: " in done.stdout and "never" not in done.output


def test_answers_as_json_and_errors_beside_them():
    done = run("chat", PICTURE, "--fov", 60, "--json", "--device", "cpu", said="<image>\nLocate the ball in 3D.\n")
    assert done.exit_code == 2 and "special token '<image>'" in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["boxes"][0]["label"] == "the ball"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.png",), "image: cannot read 'nothing.png'"),
        (("nothing.png", "--intrinsics", "1,2"), "--intrinsics: got '1,2'"),
        (("nothing.png", "--checkpoint", "no/where/at/all"), "cannot read|no/where"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    done = run("chat", *arguments)
    assert done.exit_code == 2 and re.search(message, done.output)


def test_without_a_clone_a_checkpoint_must_be_named(monkeypatch, tmp_path):
    monkeypatch.setattr(import_module("llmi3d.cli.demo"), "SHIPPED_CHECKPOINT", tmp_path / "none")
    for command in (("demo",), ("chat", "a.png")):
        done = run(*command)
        assert done.exit_code == 2 and "--checkpoint: got none" in done.output


def test_without_gradio_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("llmi3d.apps")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = run("demo")
    assert done.exit_code == 2 and "pip install 'llmi3d[app]'" in done.output
