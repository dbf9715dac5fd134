# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D: metric, oriented 3D boxes from one photograph, its camera and a sentence.

Public names are imported on first use, so that `import llmi3d` stays quick. The import also registers LLMI3D with the
Auto classes and the pipeline `image-3d-grounding`.
"""

from importlib import import_module


__version__ = "0.1.0"

_MODULE_OF = {
    "LLMI3DConfig": "configuration_llmi3d",
    "LLMI3DModel": "modeling_llmi3d",
    "LLMI3DPreTrainedModel": "modeling_llmi3d",
    "LLMI3DForConditionalGeneration": "modeling_llmi3d",
}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmi3d' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__():
    return __all__
