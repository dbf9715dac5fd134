# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The package as its users meet it: what it installs and registers, and what its checkpoints carry."""

import ast
import importlib
import json
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import pytest
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    pipeline,
)

import llmi3d
from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DImageProcessor, LLMI3DModel, LLMI3DProcessor
from llmi3d.moved import MOVED

ROOT = Path(__file__).parents[1]
K = (250.0, 260.0, 150.0, 110.0)
with mock.patch("setuptools.setup"):
    PACKAGES: dict[str, str] = runpy.run_path(str(ROOT / "setup.py"))["PACKAGES"]


@pytest.fixture(scope="module")
def checkpoint(chain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in chain:
        part.save_pretrained(folder)
    return folder


def test_the_wheel_holds_llmi3d_and_nothing_else(tmp_path):
    # In a copy: the build leaves folders behind.
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    files = [file for folder in PACKAGES.values() for file in (ROOT / folder).glob("*.py")]
    for file in files:
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    (tmp_path / "modeling_llmi3d" / "py.typed").touch()
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"llmi3d"}
    assert sum(name.endswith(".py") for name in names) == len(files)
    assert "llmi3d/py.typed" in names


def test_every_public_name_is_there():
    for name in llmi3d.__all__:
        assert getattr(llmi3d, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = llmi3d.nothing


# -------------------------------------------------------------------------------------------------------- registration

IS_REGISTERED = """
from transformers import AutoConfig
from transformers.pipelines import PIPELINE_REGISTRY
assert AutoConfig.for_model("llmi3d").model_type == "llmi3d"
assert "image-3d-grounding" in PIPELINE_REGISTRY.get_supported_tasks()
"""
THREADS = """
import sys, threading, time, llmi3d

def imports(name, after=None):
    while after is not None and after not in sys.modules:
        time.sleep(0.001)
    try:
        __import__(name)
    except Exception as error:
        errors.append(error)

errors = []
# The second starts while the first registers.
given = [("transformers",), ("llmi3d.processing.pipeline_llmi3d", "llmi3d.configuration_llmi3d"), ("transformers",)]
threads = [threading.Thread(target=imports, args=names) for names in given]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
"""


@pytest.mark.parametrize(
    "before",
    [
        "import llmi3d",
        "import transformers, llmi3d",
        "from llmi3d.configuration_llmi3d import LLMI3DConfig",
        "from llmi3d.processing.geometry_llmi3d import decode_boxes; import llmi3d.modeling_llmi3d",
        "from llmi3d import LLMI3DForConditionalGeneration",
        "import llmi3d, peft",
        # An import that fails midway registers, too.
        "import sys; sys.modules['llmi3d.training.losses'] = None; import llmi3d, contextlib\n"
        "with contextlib.suppress(ImportError): print(llmi3d.LLMI3DTrainer)\n"
        "assert 'transformers' in sys.modules\n",
        THREADS,
    ],
    ids=lambda code: code.strip().partition("\n")[0],
)
def test_any_import_registers(before, tmp_path):
    done = subprocess.run([sys.executable, "-c", before + IS_REGISTERED], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_package_alone_imports_nothing_heavy(tmp_path):
    code = "import llmi3d, sys; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    done = subprocess.run([sys.executable, "-m", "llmi3d", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"llmi3d {llmi3d.__version__}\n"


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_names_its_new_place(old):
    new = re.findall(r"llmi3d[\w.]+", MOVED[old])
    for module in new:
        assert importlib.util.find_spec(module) is not None
    with pytest.raises(ModuleNotFoundError, match=f"'{old}': it is now {new[0]}"):
        importlib.import_module(old)
    package, _, name = old.rpartition(".")
    with pytest.raises(ImportError, match=f"it is now {new[0]}"):
        exec(f"from {package} import {name}")


def test_the_version_is_that_of_the_distribution():
    assert f'version = "{llmi3d.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        (AutoConfig, LLMI3DConfig),
        (AutoModel, LLMI3DModel),
        (AutoModelForImageTextToText, LLMI3DForConditionalGeneration),
        (AutoModelForMultimodalLM, LLMI3DForConditionalGeneration),
        (AutoImageProcessor, LLMI3DImageProcessor),
        (AutoProcessor, LLMI3DProcessor),
    ],
)
def test_auto_classes_know_it(checkpoint, auto_class, expected):
    assert type(auto_class.from_pretrained(checkpoint)) is expected


def test_a_checkpoint_is_safe_and_has_a_card(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    card = (checkpoint / "README.md").read_text()
    assert "llama, 2 layers of 32" in card and "library_name: transformers" in card


def test_a_card_that_is_there_is_kept(chain, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    chain[0].save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_saving_leaves_the_model_as_it_was(chain, checkpoint):
    """A pipeline named in the configuration would ask users of the installed package for trust."""
    assert "custom_pipelines" in json.loads((checkpoint / "config.json").read_text())
    assert not hasattr(chain[0].config, "custom_pipelines")


REMOTE = """
import importlib.abc, json, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "llmi3d":
            raise ImportError(name)

sys.meta_path.insert(0, Hide())
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, pipeline

folder, picture = sys.argv[1:]
for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    assert type(auto.from_pretrained(folder, trust_remote_code=True)).__module__.startswith("transformers_modules.")
ground = pipeline("image-3d-grounding", model=folder, trust_remote_code=True, device="cpu")
answers = [ground(picture, prompt="the car", intrinsics=[250.0, 260.0, 150.0, 110.0], **kwargs)
           for kwargs in ({}, {"mode": "generate", "max_new_tokens": 4})]
print(json.dumps(answers))
"""


def assert_it_carries_its_code(checkpoint, photograph, tmp_path, monkeypatch):
    """Without llmi3d, `trust_remote_code=True` gives the same answers, the pipeline's too."""
    photograph.save(tmp_path / "picture.png")
    (tmp_path / "remote.py").write_text(REMOTE)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "remote.py"), str(checkpoint), str(tmp_path / "picture.png")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ground = pipeline("image-3d-grounding", model=str(checkpoint), device="cpu")
    picture = str(tmp_path / "picture.png")
    here = [
        ground(picture, prompt="the car", intrinsics=K, **kwargs)
        for kwargs in ({}, {"mode": "generate", "max_new_tokens": 4})
    ]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == here


def test_a_checkpoint_carries_its_code(checkpoint, photograph, tmp_path, monkeypatch):
    assert_it_carries_its_code(checkpoint, photograph, tmp_path, monkeypatch)


def test_a_checkpoint_on_qwen_vl_carries_its_code(qwen_chain, photograph, tmp_path, monkeypatch):
    for part in qwen_chain:
        part.save_pretrained(tmp_path / "checkpoint")
    assert_it_carries_its_code(tmp_path / "checkpoint", photograph, tmp_path, monkeypatch)


def test_exported_files_have_names_of_their_own():
    """Files are copied flat into checkpoints, where a shared base name would overwrite silently."""
    names = [file.name for folder in ("modeling_llmi3d", "processing") for file in (ROOT / folder).glob("*_llmi3d.py")]
    assert len(names) == len(set(names))
    for folder in ("modeling_llmi3d", "processing"):
        for file in (ROOT / folder).glob("*_llmi3d.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level:
                    assert node.level == 1 and node.module and node.module.endswith("_llmi3d"), (
                        file.name,
                        node.module,
                    )


def test_the_paper_sized_configuration_is_the_default():
    """A number is stated once: in the configuration class."""
    written = LLMI3DConfig.from_pretrained(ROOT / "model_cards" / "llmi3d-7b").to_dict()
    for key, value in LLMI3DConfig().to_dict().items():
        if key not in ("architectures", "_name_or_path"):
            assert written[key] == value, key
