# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What people run: offline jobs, video and tracking, conversations, the web page and its HTTP API, export, timing."""
