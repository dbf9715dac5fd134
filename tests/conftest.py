# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real frames in their data sets' own layouts: LLMI3D_SAMPLES, or ../shared/samples beside the clone.

    They are under research-only licences and no part of the repository, so tests that need them skip without them.
    """
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "samples"
    folder = Path(os.environ.get("LLMI3D_SAMPLES") or default).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}: set LLMI3D_SAMPLES to their folder")
    return folder
