# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The folder of a Hugging Face Space is complete, and starts."""

import os
import re
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import metadata_load

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"
BUILD = runpy.run_path(str(SPACE / "build.py"))


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "space"
    BUILD["build"](folder, ROOT / "model_cards" / "llmi3d-tiny")
    return folder


def test_it_brings_its_own_package(space):
    code = (
        "from importlib.util import find_spec\n"
        "for name in ('', '.apps.conversation', '.data.schema'): print(find_spec('llmi3d' + name).origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True)
    files = [Path(file) for file in done.stdout.split()]
    assert len(files) == 3 and all(file.is_relative_to(space) for file in files), done.stderr
    assert (space / "llmi3d" / "apps" / "page.py").is_file()
    assert (space / "llmi3d-tiny" / "model.safetensors").is_file() and (space / "pictures" / "pictures.json").is_file()


def test_what_it_installs_is_what_the_package_needs():
    table = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"^dependencies = \[\n(.*?)^\]", table, re.MULTILINE | re.DOTALL)[1]
    page = re.search(r"^app = (.*)$", table, re.MULTILINE)[1] + re.search(r"^plot = (.*)$", table, re.MULTILINE)[1]
    wanted = {one for one in re.findall(r'"([^"]+)"', needed + page) if not one.startswith("llmi3d[")}
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("--")} == wanted


def test_the_hub_is_told_how_to_run_it():
    card = metadata_load(SPACE / "README.md")
    assert card["sdk"] == "gradio" and int(card["sdk_version"].split(".")[0]) >= 6
    assert (SPACE / card["app_file"]).is_file() and len(card["short_description"]) <= 60


def test_nothing_is_overwritten(space, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        BUILD["build"](space, ROOT / "model_cards" / "llmi3d-tiny")
    with pytest.raises(ValueError, match=r"want a folder with a config\.json"):
        BUILD["build"](tmp_path / "new", tmp_path)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_it_starts_and_answers(space):
    gradio_client = pytest.importorskip("gradio_client", reason="needs pip install 'llmi3d[app]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment)
    try:
        for _ in range(120):
            try:
                client = gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False)
                break
            except Exception:
                assert process.poll() is None, "the Space ended"
                time.sleep(1)
        image = gradio_client.handle_file(str(space / "pictures" / "indoor-000012.jpg"))
        assert client.predict(image, "the stool", api_name="/predict")["answers"][0]["found"]
    finally:
        process.terminate()
        process.wait(timeout=30)
