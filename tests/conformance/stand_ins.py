# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""What the common tests import but their source distribution lacks, and LLMI3D's place among the known models.

The distribution holds the files `tests/test*.py` alone. What stands in for the rest:
    generation.test_utils       our own `GenerationTesterMixin`, see `generation_tester.py`
    exporters.test_export       nothing: an empty mixin
    fetch_hub_objects_for_ci    a picture drawn here, as nothing is downloaded from the Hub
    utils.test_configuration_utils    values for a check that composite configurations do not run
"""

import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from fetch import PACKAGE, cache_folder
from PIL import Image


def provide(name: str, **contents) -> None:
    """Makes a module importable, unless a later transformers ships it."""
    parent = name.rpartition(".")[0]
    if parent and parent != PACKAGE and parent not in sys.modules:
        provide(parent)
    if name in sys.modules or find_spec(name) is not None:
        return
    module = ModuleType(name)
    module.__path__ = []  # a package too, so that modules can be found below it
    vars(module).update(contents)
    sys.modules[name] = module


def local_picture(url: str) -> str:
    """The path of a picture instead of a picture's address; other addresses (video, sound) are never opened."""
    if not url.endswith((".png", ".jpg")):
        return url
    path = cache_folder() / "picture.png"
    if not path.is_file():
        pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(path)


def install() -> None:
    """Puts the stand-ins in place and LLMI3D into the tables of names on which the common tests branch."""
    from transformers.models.auto import modeling_auto

    import llmi3d  # noqa: F401 (registers with the Auto classes)

    modeling_auto.MODEL_MAPPING_NAMES["llmi3d"] = "LLMI3DModel"
    for table in ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"):
        getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES")["llmi3d"] = "LLMI3DForConditionalGeneration"

    from generation_tester import GenerationTesterMixin

    provide(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=GenerationTesterMixin)
    provide(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=object)
    provide(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
    provide("fetch_hub_objects_for_ci", url_to_local_path=local_picture)
