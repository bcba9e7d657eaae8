"""COCO evaluation of detections, its files, and self-contained HTML reports."""

from labelenc.evaluation.coco import EVALUATORS, EvaluationError, evaluate_coco, to_coco_results
from labelenc.evaluation.comparison import RunResult, comparison_report, reading_notes
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
    "EVALUATORS",
    "ClassResult",
    "CocoSummary",
    "EvaluationError",
    "Report",
    "RunResult",
    "comparison_report",
    "evaluate_coco",
    "format_percent",
    "reading_notes",
    "to_coco_results",
    "write_evaluation",
]
