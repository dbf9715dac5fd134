# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Drawings of answers: overlays, bird's-eye views and interactive 3D views."""
