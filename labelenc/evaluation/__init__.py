"""COCO evaluation of detections and its files."""

from labelenc.evaluation.analysis import Analysis, analyse
from labelenc.evaluation.bootstrap import Bootstrap, Difference, Interval, bootstrap_ap
from labelenc.evaluation.calibration import ScoreThreshold
from labelenc.evaluation.coco import EVALUATORS, evaluate_coco, to_coco_results
from labelenc.evaluation.error_breakdown import ERROR_KINDS
from labelenc.evaluation.image_quality import ImageQuality, most_different
from labelenc.evaluation.inputs import EvaluationError
from labelenc.evaluation.precision_recall import CURVES, SIZES
from labelenc.evaluation.summary import (
    COCO_NUMBERS,
    ClassResult,
    CocoSummary,
    format_percent,
    write_evaluation,
)

__all__ = [
    "COCO_NUMBERS",
    "CURVES",
    "ERROR_KINDS",
    "EVALUATORS",
    "SIZES",
    "Analysis",
    "Bootstrap",
    "ClassResult",
    "CocoSummary",
    "Difference",
    "EvaluationError",
    "ImageQuality",
    "Interval",
    "ScoreThreshold",
    "analyse",
    "bootstrap_ap",
    "evaluate_coco",
    "format_percent",
    "most_different",
    "to_coco_results",
    "write_evaluation",
]
