"""COCO evaluation of detections, its files, and self-contained HTML reports."""

from labelenc.evaluation.analysis import Analysis, analyse
from labelenc.evaluation.bootstrap import Bootstrap, Difference, Interval, bootstrap_ap
from labelenc.evaluation.calibration import ScoreThreshold
from labelenc.evaluation.coco import EVALUATORS, evaluate_coco, to_coco_results
from labelenc.evaluation.comparison import RunResult, comparison_report, reading_notes
from labelenc.evaluation.error_breakdown import ERROR_KINDS
from labelenc.evaluation.image_quality import ImageQuality, most_different
from labelenc.evaluation.inputs import EvaluationError
from labelenc.evaluation.precision_recall import CURVES, SIZES
from labelenc.evaluation.report import Report
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
    "Report",
    "RunResult",
    "ScoreThreshold",
    "analyse",
    "bootstrap_ap",
    "comparison_report",
    "evaluate_coco",
    "format_percent",
    "most_different",
    "reading_notes",
    "to_coco_results",
    "write_evaluation",
]
