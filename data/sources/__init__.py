# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Converters: one for each data set, from its native layout to IG3D scenes."""
