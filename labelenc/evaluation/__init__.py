"""COCO evaluation of detections and its files."""

from labelenc.evaluation.coco import EVALUATORS, EvaluationError, evaluate_coco, to_coco_results
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
    "evaluate_coco",
    "format_percent",
    "to_coco_results",
    "write_evaluation",
]
