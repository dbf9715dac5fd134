# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D: metric, oriented 3D boxes from one photograph, its camera and a sentence.

Importing the package registers LLMI3D with the Auto classes of transformers and with `pipeline`, as the task
`image-3d-grounding`. There is nothing to register with until transformers is imported, so that is when it happens:
at once if transformers is there already, otherwise when its import, or the import of the LLMI3D module that asked for
it, is complete. `import llmi3d` itself takes milliseconds. Registering imports the model and the processor: together
with transformers some 6 s on one core, against 2.5 s for a bare `import torch, transformers`, since the image
processors of transformers import torchvision, and that the compiler of torch. Public names are imported on first use.
"""

import sys
import threading
from copy import copy
from importlib import import_module
from importlib.abc import MetaPathFinder

from llmi3d.moved import MovedModules
from llmi3d.version import __version__

_MODULE_OF = {
    "LLMI3DConfig": "llmi3d.configuration_llmi3d",
    "LLMI3DModel": "llmi3d.modeling_llmi3d",
    "LLMI3DPreTrainedModel": "llmi3d.modeling_llmi3d",
    "LLMI3DForConditionalGeneration": "llmi3d.modeling_llmi3d",
    "LLMI3DImageProcessor": "llmi3d.processing.image_processing_llmi3d",
    "LLMI3DProcessor": "llmi3d.processing.processing_llmi3d",
    "Image3DGroundingPipeline": "llmi3d.processing.pipeline_llmi3d",
    "LLMI3DDataCollator": "llmi3d.training.collator",
    "LLMI3DTrainer": "llmi3d.training.trainer",
    "LLMI3DTrainingArguments": "llmi3d.training.arguments",
    "lora_config": "llmi3d.training.lora",
}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmi3d' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__():
    return __all__


def _register() -> None:
    """Make the Auto classes and `pipeline` know LLMI3D, and its checkpoints carry their code."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )
    from transformers.pipelines import PIPELINE_REGISTRY

    from llmi3d.configuration_llmi3d import LLMI3DConfig
    from llmi3d.modeling_llmi3d import LLMI3DForConditionalGeneration, LLMI3DModel
    from llmi3d.processing.image_processing_llmi3d import LLMI3DImageProcessor
    from llmi3d.processing.pipeline_llmi3d import Image3DGroundingPipeline
    from llmi3d.processing.processing_llmi3d import LLMI3DProcessor

    AutoConfig.register(LLMI3DConfig.model_type, LLMI3DConfig, exist_ok=True)
    AutoModel.register(LLMI3DConfig, LLMI3DModel, exist_ok=True)
    AutoModelForImageTextToText.register(LLMI3DConfig, LLMI3DForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(LLMI3DConfig, LLMI3DForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(LLMI3DConfig, fast_image_processor_class=LLMI3DImageProcessor, exist_ok=True)
    AutoProcessor.register(LLMI3DConfig, LLMI3DProcessor, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(
        "image-3d-grounding",
        pipeline_class=Image3DGroundingPipeline,
        pt_model=AutoModelForImageTextToText,
        type="multimodal",
    )
    LLMI3DConfig.register_for_auto_class()
    LLMI3DModel.register_for_auto_class("AutoModel")
    LLMI3DForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
    LLMI3DImageProcessor.register_for_auto_class()
    LLMI3DProcessor.register_for_auto_class()


class _RegisterAfterImport(MetaPathFinder):
    """Registers as soon as transformers is imported and no module of LLMI3D is half imported.

    It finds no module itself: it watches how the modules that other finders find are executed.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._unfinished = 0  # imports of transformers and LLMI3D under way, in all threads
        self._registering = False

    def find_spec(self, name, path=None, target=None):
        if name != "transformers" and not name.startswith("llmi3d."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = copy(spec.loader)  # some kinds are shared
            spec.loader.exec_module = self._watched(spec.loader.exec_module)
        return spec

    def _watched(self, execute):
        def exec_module(module):
            with self._lock:
                self._unfinished += 1
            try:
                execute(module)
            finally:
                with self._lock:
                    self._unfinished -= 1
                    due = not (self._unfinished or self._registering) and "transformers" in sys.modules
                    due = due and self in sys.meta_path
                    self._registering |= due
                if due:
                    self._register()

        return exec_module

    def _register(self):
        try:
            _register()
            sys.meta_path.remove(self)
        except RuntimeError as error:
            # Another thread imports LLMI3D and waits for this one; it registers when it is done.
            if type(error).__name__ != "_DeadlockError":
                raise
        finally:
            self._registering = False


sys.meta_path.append(MovedModules())
if "transformers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterAfterImport())
