"""The confusion matrix of a detector."""

from dataclasses import dataclass

import numpy as np

from labelenc.evaluation.box_tables import BoxTables
from labelenc.evaluation.overlaps import Pairs, match_by_iou

SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5


@dataclass(frozen=True)
class ConfusionMatrix:
    """``counts`` (C + 1, C + 1) int64: rows are true classes, columns detected classes, background is last.

    Detections with a score of at least ``score_threshold`` are paired with truths of any class in the order
    of their IoU, the highest first, down to ``iou_threshold``; each box is used once. Of equal IoUs the
    better score goes first. A pair counts at (class of the truth, class of the detection), a truth without a
    partner in the background column, a detection without one in the background row. Crowds are left out, and
    so are detections without a partner on a crowd of their class (COCO's IoU with crowds, ``iou_threshold``).
    """

    counts: np.ndarray
    score_threshold: float
    iou_threshold: float


def confusion_matrix(
    tables: BoxTables,
    pairs: Pairs,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
) -> ConfusionMatrix:
    """``pairs``: of any classes, down to ``iou_threshold`` at least."""
    found, truths = tables.found, tables.truths
    used = found.score >= score_threshold
    pairs = pairs.where((pairs.iou >= iou_threshold) & used[pairs.detection])
    crowd = truths.crowd[pairs.truth]
    matches = match_by_iou(pairs.where(~crowd), len(found), len(truths))
    on_crowd = pairs.where(crowd & (found.label[pairs.detection] == truths.label[pairs.truth])).detection
    alone = used & ~matches.right
    alone[on_crowd] = False
    taken = np.flatnonzero(matches.right)
    missed = np.flatnonzero((matches.found_by < 0) & ~truths.crowd)
    background = tables.num_classes
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    np.add.at(counts, (truths.label[matches.truth[taken]], found.label[taken]), 1)
    np.add.at(counts[:, background], truths.label[missed], 1)
    np.add.at(counts[background], found.label[alone], 1)
    return ConfusionMatrix(counts, score_threshold, iou_threshold)
