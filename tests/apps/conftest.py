# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The page, served on this machine alone."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The folder of rendered pictures that come along."""
    return ROOT / "examples" / "pictures"


@pytest.fixture(scope="session")
def page(pictures, tmp_path_factory):
    """The served page of the checkpoint that comes along, with its uploads in a folder of its own."""
    pytest.importorskip("gradio", reason="needs pip install 'llmi3d[app]'")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    from llmi3d.apps.page import serve

    page = serve(str(ROOT / "model_cards" / "llmi3d-tiny"), "127.0.0.1", device="cpu", pictures=pictures, wait=False)
    yield page
    page.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="session")
def ground():
    """The pipeline of the checkpoint that comes along."""
    from transformers import pipeline

    import llmi3d  # noqa: F401 (registers the pipeline)

    return pipeline("image-3d-grounding", model=str(ROOT / "model_cards" / "llmi3d-tiny"), device="cpu")
