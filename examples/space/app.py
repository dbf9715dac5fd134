# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The page as a Hugging Face Space. `build.py` puts the package, a checkpoint and example images beside this file."""

import os
from pathlib import Path

from llmi3d.apps.page import serve

HERE = Path(__file__).parent

# The variable LLMI3D_CHECKPOINT of the Space's settings names another checkpoint on the Hub.
serve(os.environ.get("LLMI3D_CHECKPOINT", str(HERE / "llmi3d-tiny")), examples=HERE / "pictures")
