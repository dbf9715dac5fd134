"""Judging answers: exact 3D IoU, metrics, protocols, reports and calibration."""

from llmi3d.evaluation.baselines import MeanSizes, mean_sizes, oracle_records
from llmi3d.evaluation.bootstrap import Statistic
from llmi3d.evaluation.calibration import calibrate, fit_scores
from llmi3d.evaluation.comparison import Comparison, compare
from llmi3d.evaluation.detection import Detections, detection_metrics
from llmi3d.evaluation.grounding import grounding_metrics, question_values
from llmi3d.evaluation.iou3d import box3d_iou, intersection_volume, volume
from llmi3d.evaluation.overlaps import mono3dvg_iou
from llmi3d.evaluation.protocols import PROTOCOLS, Protocol, get_protocol
from llmi3d.evaluation.records import (
    Boxes3D,
    Record,
    detection_record,
    make_boxes,
    make_record,
    records_from_row,
    with_predictions,
)
from llmi3d.evaluation.reliability import expected_calibration_error, grounding_calibration, reliability, risk_coverage
from llmi3d.evaluation.report import Estimate, Report, evaluate_records
from llmi3d.evaluation.symmetry import align_axes, rotation_error
from llmi3d.processing.geometry_llmi3d import box_2d_iou

__all__ = [
    "PROTOCOLS",
    "Boxes3D",
    "Comparison",
    "Detections",
    "Estimate",
    "MeanSizes",
    "Protocol",
    "Record",
    "Report",
    "Statistic",
    "align_axes",
    "box3d_iou",
    "box_2d_iou",
    "calibrate",
    "compare",
    "detection_metrics",
    "detection_record",
    "evaluate_records",
    "expected_calibration_error",
    "fit_scores",
    "get_protocol",
    "grounding_calibration",
    "grounding_metrics",
    "intersection_volume",
    "make_boxes",
    "make_record",
    "mean_sizes",
    "mono3dvg_iou",
    "oracle_records",
    "question_values",
    "records_from_row",
    "reliability",
    "risk_coverage",
    "rotation_error",
    "volume",
    "with_predictions",
]
