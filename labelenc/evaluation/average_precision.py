"""COCO's interpolated average precision, from true positives in order of score."""

import numpy as np

# As pycocotools has them, to the last bit: the seventh is not the float 0.07.
RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(right: np.ndarray, boxes: int) -> float:
    """The AP of one class at one IoU threshold.

    Args:
        right: (N) bool, the detections from the best score down, without those on crowds.
        boxes: number of truths of the class, above 0.
    """
    place = np.flatnonzero(right)[None]
    hits = np.arange(1, place.shape[1] + 1)[None]
    return float(average_precisions(hits, place + 1, np.array([boxes]))[0])


def average_precisions(hits: np.ndarray, detections: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The AP of one class at one IoU threshold in each of S versions of a data set.

    The precision that belongs to a recall is the highest at that recall or above. It can only be at a true
    positive, so these are all that is needed.

    Args:
        hits: (S, P) integers, the true positives down to each of P true positives by falling score.
        detections: (S, P) integers, the detections down to there.
        boxes: (S) integers, number of truths.

    Returns:
        float64 (S): the mean of the precision at `RECALLS`, NaN without truths.
    """
    some = np.maximum(boxes, 1)[:, None]
    precision = np.divide(hits, detections, out=np.zeros(hits.shape), where=detections > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many of the recalls each true positive reaches, and how many of them it is the first to reach.
    reached = np.searchsorted(RECALLS, (hits / some).ravel(), side="right").reshape(hits.shape)
    new = np.diff(reached, axis=1, prepend=0)
    return np.where(boxes > 0, (precision * new).sum(axis=1) / len(RECALLS), np.nan)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis without NaN, NaN where nothing is known (np.nanmean warns there)."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
