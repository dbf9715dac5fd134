# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The page, served on this machine."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Return the folder of rendered example images."""
    return ROOT / "examples" / "pictures"


@pytest.fixture(scope="session")
def page(pictures, tmp_path_factory):
    """Serve the page of the shipped checkpoint, with its uploads in a folder of its own."""
    pytest.importorskip("gradio", reason="needs pip install 'llmi3d[app]'")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    from llmi3d.apps.page import serve

    page = serve(str(ROOT / "model_cards" / "llmi3d-tiny"), "127.0.0.1", device="cpu", examples=pictures, wait=False)
    yield page
    page.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="session")
def ground():
    """Return the pipeline of the shipped checkpoint."""
    from transformers import pipeline

    import llmi3d  # noqa: F401 (registers the pipeline)

    return pipeline("image-3d-grounding", model=str(ROOT / "model_cards" / "llmi3d-tiny"), device="cpu")
