"""Precision-recall curves and AP by object size, read off the evaluator's precision table."""

from dataclasses import dataclass

import numpy as np

from labelenc.evaluation.average_precision import RECALLS, mean_of_known
from labelenc.evaluation.box_tables import BoxTables

CURVES = ("IoU 0.50", "IoU 0.75", "mean of IoU 0.50:0.95")
SIZES = ("small", "medium", "large")
# COCO's limits, in square pixels of the annotation's area.
SIZE_LIMITS = (32.0**2, 96.0**2)


@dataclass(frozen=True)
class PrecisionRecall:
    """Interpolated precision over recall, COCO's 101 points; NaN where there is no ground truth.

    ``recall`` (101) is 0, 0.01 .. 1. ``precision`` (3, 101) has the rows `CURVES`, averaged over the classes
    that have ground truth, so the mean of a row is AP50, AP75 and AP. ``per_class`` is (C, 3, 101).
    """

    recall: np.ndarray
    precision: np.ndarray
    per_class: np.ndarray


@dataclass(frozen=True)
class SizeBreakdown:
    """AP, the mean of ten IoUs, of small, medium and large objects; NaN where there are none.

    ``ap`` (3) and ``boxes`` (3) int64 have the order `SIZES`; per class they are (C, 3). ``boxes`` counts the
    ground truth without crowds: small below an area of 32 x 32 square pixels, large from 96 x 96. (The
    evaluator counts an area of exactly a limit on both sides of it.)
    """

    ap: np.ndarray
    boxes: np.ndarray
    ap_per_class: np.ndarray
    boxes_per_class: np.ndarray


def precision_recall(table: np.ndarray) -> PrecisionRecall:
    """From the evaluator's table (`evaluate_checked`)."""
    precision = _absent_as_nan(table[:, :, :, 0, -1])
    per_class = np.stack([precision[0], precision[5], precision.mean(axis=0)]).transpose(2, 0, 1)
    return PrecisionRecall(RECALLS, mean_of_known(per_class), per_class)


def size_breakdown(table: np.ndarray, tables: BoxTables) -> SizeBreakdown:
    """From the evaluator's table (`evaluate_checked`); counts from the ground truth."""
    ap_per_class = _absent_as_nan(table[:, :, :, 1:, -1]).mean(axis=(0, 1))
    real = ~tables.truths.crowd
    size = np.digitize(tables.truths.area[real], SIZE_LIMITS)
    boxes = np.bincount(tables.truths.label[real] * 3 + size, minlength=3 * tables.num_classes).reshape(-1, 3)
    return SizeBreakdown(mean_of_known(ap_per_class), boxes.sum(axis=0), ap_per_class, boxes)


def _absent_as_nan(table: np.ndarray) -> np.ndarray:
    return np.where(table < 0, np.nan, table)
