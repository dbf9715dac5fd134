# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Checkpoints of other models become LLMI3D checkpoints. Nothing here is needed to use one."""
