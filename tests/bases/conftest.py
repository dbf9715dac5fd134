# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tiny random checkpoints of the LLaVA family."""

import pytest
from small_bases import build_base


@pytest.fixture(scope="session")
def new_base():
    """A function: saves a tiny checkpoint of a family in a folder and gives the original model."""
    return build_base


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """(folder, original model) of each family, for tests that leave them as they are."""
    made = {}
    for family in ("llava", "llava_next", "llava_onevision"):
        folder = tmp_path_factory.mktemp(family) / "base"
        made[family] = (folder, build_base(family, folder))
    return made
