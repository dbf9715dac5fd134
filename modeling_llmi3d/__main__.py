# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""`python -m llmi3d` is the `llmi3d` command."""

from llmi3d.cli import app

app(prog_name="llmi3d")
