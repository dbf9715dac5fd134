# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tiny random checkpoints of the LLaVA family."""

import pytest
from small_bases import build_base


@pytest.fixture(scope="session")
def new_base():
    """Return a function that saves a tiny checkpoint of a family in a folder and returns the original model."""
    return build_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Return (folder, original model) of each family, for tests that do not change them."""
    made = {}
    for family in ("llava", "llava_next", "llava_onevision"):
        folder = tmp_path_factory.mktemp(family) / "base"
        made[family] = (folder, build_base(family, folder))
    return made
