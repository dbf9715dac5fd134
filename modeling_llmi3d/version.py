# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The version of the package."""

__version__ = "0.1.0"
