"""COCO's interpolated average precision from flags in order of score."""

import numpy as np

# As pycocotools has them, to the last bit: 7 * 0.01 is not 0.07.
RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(right: np.ndarray, boxes: int) -> float:
    """COCO's AP: the mean of the interpolated precision at 101 recalls.

    Args:
        right: (N) bool, the detections of one class from the best score down, ignored ones left out.
        boxes: number of truths of the class, above 0.
    """
    place = np.flatnonzero(right)
    hits = np.arange(1, len(place) + 1)
    precision = np.maximum.accumulate((hits / (place + 1))[::-1])[::-1]
    # The interpolated precision at recall r belongs to the first detection that reaches r.
    reached = np.searchsorted(hits / boxes, RECALLS, side="left")
    return float(np.append(precision, 0.0)[reached].mean()) if len(place) else 0.0
