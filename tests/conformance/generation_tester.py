# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
class GenerationTesterMixin:
    pass
