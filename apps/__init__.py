# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The web page and its HTTP API: `llmi3d demo`. Needs gradio and plotly: pip install 'llmi3d[app]'."""

from llmi3d.apps.page import build_page, serve

__all__ = ["build_page", "serve"]
