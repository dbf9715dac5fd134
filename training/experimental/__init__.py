# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Open research: boxes written as text, and reinforcement learning on exact 3D IoU."""
