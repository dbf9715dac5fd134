# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Names of modules that moved: importing one by its old name raises an error that gives the new one."""

from importlib.abc import MetaPathFinder

MOVED = {
    "llmi3d.app": "llmi3d.apps (answers: llmi3d.apps.page_answers)",
    "llmi3d.bases.init": "llmi3d.bases.assemble",
    "llmi3d.bench": "llmi3d.apps.benchmark",
    "llmi3d.bench_models": "llmi3d.apps.benchmark_models",
    "llmi3d.bench_report": "llmi3d.apps.benchmark_report",
    "llmi3d.canvas_llmi3d": "llmi3d.token_grid_llmi3d",
    "llmi3d.export": "llmi3d.apps.graph_export",
    "llmi3d.processing.canvas": "llmi3d.processing.drawing.surfaces",
    "llmi3d.processing.chat": "llmi3d.apps.conversation",
    "llmi3d.processing.jobs": "llmi3d.data.outputs",
    "llmi3d.processing.offline": "llmi3d.apps.offline",
    "llmi3d.processing.pictures": "llmi3d.apps.image_sources",
    "llmi3d.processing.tracking": "llmi3d.apps.tracking",
    "llmi3d.processing.video": "llmi3d.apps.video",
    "llmi3d.processing.visualize": "llmi3d.processing.drawing.overlays",
    "llmi3d.processing.visualize_3d": "llmi3d.processing.drawing.scene_3d",
    "llmi3d.training.card": "llmi3d.training.training_card",
    "llmi3d.training.data": "llmi3d.training.mixture",
    "llmi3d.training.grpo": "llmi3d.training.experimental.grpo",
    "llmi3d.training.ig3d": "llmi3d.data (converters: llmi3d.data.sources; inspect: llmi3d.data.validate)",
    "llmi3d.training.metrics": "llmi3d.evaluation (answers: llmi3d.evaluation.question_answers; calibration: "
    "llmi3d.evaluation.reliability; confidence: llmi3d.evaluation.calibration)",
    "llmi3d.training.text_baseline": "llmi3d.training.experimental.text_baseline",
    "llmi3d.training.text_boxes": "llmi3d.training.experimental.text_boxes",
    "llmi3d.training.train": "llmi3d.training.run",
}


class MovedModules(MetaPathFinder):
    """Stands last among the finders, so it is asked only for modules that no other one finds."""

    def find_spec(self, name, path=None, target=None):
        if name in MOVED:
            # Without `name=`: `from llmi3d.training import metrics` would drop the message.
            raise ModuleNotFoundError(f"No module named '{name}': it is now {MOVED[name]}.")
