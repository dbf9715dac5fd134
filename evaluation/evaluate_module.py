# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The grounding metrics as a metric of Hugging Face's `evaluate`; nothing is downloaded.

Make it by its class, or load it by its path:

    from llmi3d.evaluation.evaluate_module import OrientedBoxGrounding
    metric = OrientedBoxGrounding()
    metric = evaluate.load("path/to/evaluation/evaluate_module.py")

    metric.add_batch(predictions=predictions, references=references)
    metric.compute(iou="mono3dvg")["acc@0.25"]
"""

import datasets
import evaluate

from llmi3d.evaluation.grounding import grounding_metrics
from llmi3d.evaluation.records import make_record, with_predictions

_DESCRIPTION = "Accuracy and errors of 3D visual grounding with oriented boxes (exact 3D IoU)."
_INPUTS = """
Args:
    predictions: one for each reference, {"id", "boxes"} and optionally "frame" ("camera"). `boxes` is a list of
        {"center", "size", "rotation"} and optionally "score", "category", "box_2d", as the pipeline
        `image-3d-grounding` returns them; empty for an abstention, None for no answer.
    references: {"id", "task", "boxes"} and optionally "intrinsics", "frame". `task` is grounding, multi or absent.
    iou: "exact", or "mono3dvg" for the rotation-blind IoU of the Mono3DVG code beside it.
    thresholds: of IoU (default 0.25 and 0.5).
    symmetry: of rotation and length errors (default "none").
Returns:
    The metrics of `llmi3d.evaluation.grounding_metrics`.
"""
_CITATION = "LLMI3D: MLLM-based 3D Perception from a Single 2D Image, arXiv 2408.07422."

_NUMBER = datasets.Value("float64")
_VECTOR = datasets.List(_NUMBER)
_BOX = {
    "center": _VECTOR,
    "size": _VECTOR,
    "rotation": datasets.List(_VECTOR),
    "category": datasets.Value("string"),
    "frame": datasets.Value("string"),
}
_FEATURES = {
    "predictions": {
        "id": datasets.Value("string"),
        "answered": datasets.Value("bool"),  # lists cannot be null here
        "boxes": datasets.List({**_BOX, "score": _NUMBER, "box_2d": _VECTOR}),
    },
    "references": {
        "id": datasets.Value("string"),
        "task": datasets.Value("string"),
        "intrinsics": datasets.List(_VECTOR),
        "boxes": datasets.List(_BOX),
    },
}


class OrientedBoxGrounding(evaluate.Metric):
    """Grounding metrics of oriented boxes; the top of this file says how to load it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(_FEATURES),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add predictions and references, in the same order. Optional keys are filled in."""
        predictions = [_filled(prediction, "predictions") for prediction in predictions or []]
        references = [_filled(reference, "references") for reference in references or []]
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one prediction and its reference."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(self, predictions, references, **options):
        records = [
            make_record(truth["id"], truth["task"], truth["boxes"] or [], truth["intrinsics"] or None)
            for truth in references
        ]
        answers = [{**answer, "boxes": answer["boxes"] if answer["answered"] else None} for answer in predictions]
        return grounding_metrics(with_predictions(records, answers), **options)


def _filled(entry: dict, side: str) -> dict:
    """Fill missing keys of an entry and its boxes with None, and drop keys that are not read."""
    features, boxes = _FEATURES[side], entry.get("boxes")
    defaults = {"frame": entry.get("frame", "camera")}
    plain = [{**defaults, "category": box.get("label"), **box} for box in boxes or []]
    filled = {name: entry.get(name) for name in features} | {
        "boxes": [{name: _plain(box.get(name)) for name in features["boxes"].feature} for box in plain]
    }
    return {**filled, "answered": boxes is not None} if side == "predictions" else filled


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else value
