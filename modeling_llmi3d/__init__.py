# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""LLMI3D: metric, oriented 3D boxes from one photograph, its camera and a sentence.

Public names are imported on first use, so that `import llmi3d` stays quick. The import also registers LLMI3D with the
Auto classes and the pipeline `image-3d-grounding`.
"""

import sys
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_MODULE_OF = {
    "LLMI3DConfig": "llmi3d.configuration_llmi3d",
    "LLMI3DModel": "llmi3d.modeling_llmi3d",
    "LLMI3DPreTrainedModel": "llmi3d.modeling_llmi3d",
    "LLMI3DForConditionalGeneration": "llmi3d.modeling_llmi3d",
    "LLMI3DImageProcessor": "llmi3d.processing.image_processing_llmi3d",
    "LLMI3DProcessor": "llmi3d.processing.processing_llmi3d",
    "Image3DGroundingPipeline": "llmi3d.processing.pipeline_llmi3d",
    "LLMI3DTrainer": "llmi3d.training.trainer",
    "LLMI3DTrainingArguments": "llmi3d.training.arguments",
}

__all__ = ["__version__", "register", *sorted(_MODULE_OF)]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmi3d' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__():
    return __all__


def register() -> None:
    """Makes the Auto classes and `pipeline` know LLMI3D, and checkpoints carry their code. Called by the import."""
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
    if "image-3d-grounding" not in PIPELINE_REGISTRY.get_supported_tasks():
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


# The `llmi3d` command must answer `--help` at once, so it registers when it needs to. Python calls itself "-m" while
# it looks for a module to run.
if Path((sys.argv or [""])[0]).stem not in ("llmi3d", "-m"):
    register()
