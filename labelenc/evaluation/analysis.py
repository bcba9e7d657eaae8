"""Everything a report says about one run's detections, computed once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labelenc.evaluation.box_tables import box_tables
from labelenc.evaluation.calibration import Calibration, calibration
from labelenc.evaluation.coco import evaluate_checked
from labelenc.evaluation.confusion import SCORE_THRESHOLD, ConfusionMatrix, confusion_matrix
from labelenc.evaluation.error_breakdown import BACKGROUND_IOU, ErrorBreakdown, error_breakdown
from labelenc.evaluation.image_quality import ImageQuality, image_quality
from labelenc.evaluation.inputs import detection_annotations, load_ground_truth, usable_ground_truth
from labelenc.evaluation.overlaps import match_by_score, overlapping_pairs
from labelenc.evaluation.plain import plain
from labelenc.evaluation.precision_recall import (
    PrecisionRecall,
    SizeBreakdown,
    precision_recall,
    size_breakdown,
)
from labelenc.evaluation.summary import CocoSummary


@dataclass(frozen=True)
class Analysis:
    """All numbers of one run on one data set.

    Whatever is "per class" has the order of ``category_ids``, which ascend, as has ``summary.per_class``.
    """

    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    summary: CocoSummary
    precision_recall: PrecisionRecall
    sizes: SizeBreakdown
    calibration: Calibration
    confusion: ConfusionMatrix
    errors: ErrorBreakdown
    images: ImageQuality

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: arrays as lists, NaN as None."""
        content: dict[str, Any] = plain(self)
        return content


def analyse(
    ground_truth: str | os.PathLike[str] | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    score_threshold: float | None = SCORE_THRESHOLD,
) -> Analysis:
    """Precision-recall, size, calibration, confusion, causes of errors and quality per image.

    Args:
        ground_truth: a COCO annotation file or its content, as for `evaluate_coco`, whose checks apply.
        results: entries as `to_coco_results` makes them.
        score_threshold: what counts as detected in the confusion matrix and per image; None takes the
            threshold of the highest F1 (`Calibration.best`), 0.3 where there is none.

    Raises:
        EvaluationError, FileNotFoundError: as `evaluate_coco`.
    """
    truth = usable_ground_truth(load_ground_truth(ground_truth))
    found = detection_annotations(results, truth)
    tables = box_tables(truth, found)
    summary, table = evaluate_checked(truth, found)
    pairs = overlapping_pairs(tables, BACKGROUND_IOU)
    matches = match_by_score(tables, pairs, 0.5)
    calibrated = calibration(tables, matches)
    if score_threshold is None:
        score_threshold = calibrated.best.threshold if calibrated.best else SCORE_THRESHOLD
    return Analysis(
        category_ids=tuple(int(i) for i in tables.category_ids),
        class_names=tables.class_names,
        summary=summary,
        precision_recall=precision_recall(table),
        sizes=size_breakdown(table, tables),
        calibration=calibrated,
        confusion=confusion_matrix(tables, pairs, score_threshold),
        errors=error_breakdown(tables, pairs, matches),
        images=image_quality(tables, pairs, matches, score_threshold),
    )
