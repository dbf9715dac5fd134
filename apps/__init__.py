# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Programs on top of the model: batch jobs, video tracking, conversation, web page and HTTP API, export, benchmark."""
