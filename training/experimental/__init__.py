# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Research that is not settled: boxes written as text, and reinforcement on exact 3D IoU."""
