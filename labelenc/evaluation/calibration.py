"""How far scores can be trusted, and which score threshold to use."""

from dataclasses import dataclass

import numpy as np

from labelenc.evaluation.box_tables import BoxTables
from labelenc.evaluation.overlaps import Matches

BINS = 10


@dataclass(frozen=True)
class ScoreThreshold:
    """Precision, recall and F1 of the detections with a score of at least ``threshold``, at IoU 0.5."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Calibration:
    """Scores against the share of right detections, at IoU 0.5.

    A detection is right when it takes a truth of its class with an IoU of at least 0.5 that no better one
    has taken (COCO's matching, at most 100 detections of a class in an image). Those on crowds are left out.

    ``edges`` (B + 1) are the limits of the score bins, [low, high), the last one closed. Each bin has its
    number of detections ``counts`` (B) int64, the share of right ones ``precision`` (B) and their
    ``mean_score`` (B), both NaN in empty bins. ``expected_error`` is the detection ECE, the mean over all
    detections of the |precision - mean score| of their bin (Kueppers et al., CVPR workshops 2020, with the
    score as the only dimension); None without detections.

    ``thresholds`` (101) are 0, 0.01 .. 1; ``precision_at``, ``recall_at``, ``f1_at`` (101) are those of all
    detections with at least that score, all classes together; NaN where undefined.
    ``best``: the threshold with the highest F1 (the highest such threshold), None without truth or without a
    right detection; ``best_per_class`` has one for each class.
    """

    edges: np.ndarray
    counts: np.ndarray
    precision: np.ndarray
    mean_score: np.ndarray
    expected_error: float | None
    thresholds: np.ndarray
    precision_at: np.ndarray
    recall_at: np.ndarray
    f1_at: np.ndarray
    best: ScoreThreshold | None
    best_per_class: tuple[ScoreThreshold | None, ...]


def calibration(tables: BoxTables, matches: Matches, bins: int = BINS) -> Calibration:
    """From the matching at IoU 0.5 (`match_by_score`)."""
    counted = ~matches.ignored
    score, right = tables.found.score[counted], matches.right[counted]
    label = tables.found.label[counted]
    boxes = np.bincount(tables.truths.label[~tables.truths.crowd], minlength=tables.num_classes)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(score, edges) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    precision = _ratio(np.bincount(place, right, bins), counts)
    mean_score = _ratio(np.bincount(place, score, bins), counts)
    gap = np.where(counts > 0, np.abs(precision - mean_score), 0)
    error = float((gap * counts).sum() / counts.sum()) if len(score) else None
    thresholds = np.linspace(0, 1, 101)
    kept = np.searchsorted(-score, -thresholds, side="right")
    hits = np.append(0, np.cumsum(right))[kept]
    return Calibration(
        edges=edges,
        counts=counts,
        precision=precision,
        mean_score=mean_score,
        expected_error=error,
        thresholds=thresholds,
        precision_at=_ratio(hits, kept),
        recall_at=_ratio(hits, np.full(101, boxes.sum())),
        f1_at=_ratio(2 * hits, np.where(boxes.sum() > 0, kept + boxes.sum(), 0)),
        best=_best_threshold(score, right, int(boxes.sum())),
        best_per_class=tuple(
            _best_threshold(score[label == i], right[label == i], int(count)) for i, count in enumerate(boxes)
        ),
    )


def _best_threshold(score: np.ndarray, right: np.ndarray, boxes: int) -> ScoreThreshold | None:
    """``score`` (N) falls, ``right`` (N) bool. F1 = 2 TP / (detections + boxes)."""
    if boxes == 0 or not right.any():
        return None
    hits = np.cumsum(right)
    f1 = 2 * hits / (np.arange(1, len(score) + 1) + boxes)
    # A threshold cannot part equal scores.
    f1[:-1][score[1:] == score[:-1]] = -1
    last = int(np.argmax(f1))
    return ScoreThreshold(
        float(score[last]), float(hits[last] / (last + 1)), float(hits[last] / boxes), float(f1[last])
    )


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    result = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)
