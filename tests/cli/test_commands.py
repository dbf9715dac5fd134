# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The command line as a whole: its page, quick help, `env`, and JSON output."""

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from llmi3d import __version__
from llmi3d.cli import app
from llmi3d.cli.env import environment, extras

ROOT = Path(__file__).parents[2]
PAGE = runpy.run_path(str(ROOT / "examples" / "commands_page.py"))
COMMANDS = dict(PAGE["commands"]())
HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "PIL",
    "matplotlib",
    "gradio",
    "plotly",
    "cv2",
    "huggingface_hub",
)


def test_the_page_is_what_the_commands_say():
    assert (ROOT / "docs" / "commands.md").read_text() == PAGE["page"](), "run python examples/commands_page.py"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "llmi3d train"])
def test_help_shows_every_option_of_the_page(name):
    shown = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "240"})
    assert shown.exit_code == 0
    for parameter in COMMANDS[name].params:
        for option in (*parameter.opts, *parameter.secondary_opts) if parameter.param_type_name == "option" else ():
            assert option in shown.output
        assert parameter.help, f"{name} {parameter.name} has no help"


def test_help_on_training_shows_every_field():
    from llmi3d.training.recipe import ARGUMENTS

    shown = CliRunner().invoke(app, ["train", "--help"]).output
    listed = re.findall(r"^  --(\w+) ", shown, re.MULTILINE)
    assert sorted(listed) == sorted(
        {field.name for kind in ARGUMENTS for field in dataclasses.fields(kind) if field.init}
    )


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"llmi3d {__version__}\n"


def in_process(code: str, **environment) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    ).stdout


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from llmi3d.cli import app
for name in {["llmi3d", *COMMANDS]!r}:
    try:
        app([*name.split()[1:], "--help"])
    except SystemExit:
        pass
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    start = time.perf_counter()
    shown = in_process(code)
    print(f"all --help: {time.perf_counter() - start:.2f} s")  # shown by pytest -rP; machines differ
    assert shown.splitlines()[-1] == "[]" and "--model_name_or_path" in shown


def test_no_colours_in_a_pipe():
    plain = {"NO_COLOR": "", "FORCE_COLOR": "", "GITHUB_ACTIONS": "", "PY_COLORS": ""}
    code = "import sys; sys.argv = ['llmi3d', '--help']; from llmi3d.cli import app; app()"
    assert "\x1b" not in in_process(code, **plain)
    forced = in_process(code, FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b[3" not in forced and "\x1b[1;3" not in forced  # bold is no colour


# ----------------------------------------------------------------------------------------------------------------- env


def test_env_says_what_is_here_and_nothing_of_the_user(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = CliRunner().invoke(app, ["env", "--json"])
    found = json.loads(shown.stdout)
    assert found["llmi3d"] == __version__ and found["versions"]["torch"] == torch.__version__
    assert found["versions"]["transformers"] == transformers.__version__
    assert found["cpu"]["threads"] == torch.get_num_threads() and "sdpa" in found["attention"]
    assert found["settings"]["OMP_NUM_THREADS"] == "1"
    for text in (shown.output, CliRunner().invoke(app, ["env"]).output):
        assert "hf_secret" not in text and str(Path.home()) not in text
        assert str(ROOT) not in text and sys.prefix not in text
    words = CliRunner().invoke(app, ["env"]).output
    assert f"torch           {torch.__version__}" in words and "[train]" in words


def test_env_names_what_an_extra_misses(monkeypatch):
    from importlib import metadata

    needed = ['alpha>=2; extra == "one"', 'beta; extra == "one"', 'llmi3d[one]; extra == "two"', "torch"]
    versions = {"alpha": "1.0", "beta": "3"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    class Own:
        def get_all(self, name):
            return ["one", "two"]

    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    monkeypatch.setattr(metadata, "metadata", lambda name: Own())
    monkeypatch.setattr(metadata, "version", version)
    assert extras() == {"one": ["alpha>=2"], "two": ["alpha>=2"]}
    versions["alpha"] = "2.1"
    assert extras() == {"one": [], "two": []}
    assert environment()["versions"]["timm"] is None


# ---------------------------------------------------------------------------------------------------------------- JSON


@pytest.fixture
def checkpoint(chain, tmp_path):
    for part in chain:
        part.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_predict_prints_json_alone(checkpoint, photograph, tmp_path):
    for name in ("a.png", "b.png"):
        photograph.save(tmp_path / name)
    pictures = (tmp_path / "a.png", tmp_path / "b.png")
    given = ("--prompt", "the car", "--fov", 60, "--checkpoint", checkpoint, "--device", "cpu", "--json")
    done = run("predict", *pictures, "--out", tmp_path / "out", *given)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.png", "b.png"]
    [answer] = lines[0]["answers"]
    assert answer["found"] and len(answer["boxes"][0]["center"]) == 3
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == lines[0]
    none = run("predict", pictures[0], "--out", tmp_path / "none", *given, "--threshold", 1)
    [answer] = json.loads(none.stdout)["answers"]
    assert answer["found"] is False and answer["boxes"] == []
    words = run("predict", pictures[0], "--out", tmp_path / "words", *given[:-1], "--threshold", 1)
    assert "the car: not in the image" in words.output

    (tmp_path / "pictures").mkdir()
    photograph.save(tmp_path / "pictures" / "a.png")
    table = run("batch", tmp_path / "pictures", "--out", tmp_path / "t.parquet", *given)
    assert json.loads(table.stdout) == {"images": 1, "boxes": 1, "errors": 0, "guessed_cameras": 0}


def test_bad_input_is_exit_code_2_with_nothing_on_stdout(checkpoint, tmp_path):
    done = run(
        "predict", tmp_path / "no.png", "--prompt", "it", "--checkpoint", checkpoint, "--out", tmp_path, "--json"
    )
    assert done.exit_code == 2 and not done.stdout and "Error: " in done.stderr


def test_evaluations_and_data_print_json_alone(checkpoint, row, tmp_path):
    from datasets import Dataset

    from llmi3d.data.schema import IG3D_FEATURES

    (tmp_path / "data" / "data").mkdir(parents=True)
    rows = [{**row, "image_id": f"test/{i}", "split": "test"} for i in range(2)]
    path = tmp_path / "data" / "data" / "test-00000-of-00001.parquet"
    Dataset.from_list(rows, features=IG3D_FEATURES).to_parquet(path)
    data = tmp_path / "data"
    judged = run(
        "evaluate", checkpoint, data, "--protocol", "own", "--out", tmp_path / "out", "--device", "cpu", "--json"
    )
    assert json.loads(judged.stdout)["metrics"]["acc@0.25"]["count"] == 4
    assert json.loads(judged.stdout) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert json.loads(run("data", "stats", data, "--json", "--quiet").stdout)["test"]["rows"] == 2
    sound = run("data", "validate", data, "--json", "--quiet")
    assert (sound.exit_code == 0) == json.loads(sound.stdout)["sound"]
