# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Turns checkpoints of other models into LLMI3D checkpoints. Using a checkpoint needs nothing from here."""

from llmi3d.bases.llava import from_llava
from llmi3d.bases.qwen_vl import from_qwen_vl

__all__ = ["from_llava", "from_qwen_vl"]
