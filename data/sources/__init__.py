# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""One converter for each data set: a download in its native layout becomes IG3D scenes."""
