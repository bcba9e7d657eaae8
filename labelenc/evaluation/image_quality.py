"""How well each image is detected, to find the worst images and those on which two runs differ most."""

from dataclasses import dataclass

import numpy as np

from labelenc.evaluation.box_tables import BoxTables
from labelenc.evaluation.overlaps import Matches, Pairs


@dataclass(frozen=True)
class ImageQuality:
    """One entry for each of the I images, by ascending id; all arrays (I), counts int64.

    Counts take the detections with a score of at least ``score_threshold``, matched within their class at IoU
    0.5 as COCO does; those on crowds are left out, as are crowds.

    ``loss`` (float64) is in boxes: the missed truths, plus the scores of the false detections, plus 1 - IoU
    of each right one. 0 is perfect, also where there is nothing to find and nothing was found. A sure false
    detection costs as much as a missed box, a doubtful one less.
    """

    image_ids: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    loss: np.ndarray
    score_threshold: float

    def worst(self, count: int) -> list[int]:
        """Ids of the images with the highest loss above 0, the worst first; at most ``count``."""
        ids: list[int] = self.image_ids[_largest(self.loss, count)].tolist()
        return ids


def most_different(first: ImageQuality, second: ImageQuality, count: int) -> tuple[list[int], list[int]]:
    """Ids of the images on which ``second`` gains most over ``first``, and on which it loses most.

    By the difference of their losses, the largest first; at most ``count`` each.

    Raises:
        ValueError: the two are not of the same images.
    """
    if not np.array_equal(first.image_ids, second.image_ids):
        raise ValueError("two runs can be compared by image only when both were evaluated on the same images")
    gain = first.loss - second.loss
    better, worse = (first.image_ids[_largest(values, count)].tolist() for values in (gain, -gain))
    return better, worse


def image_quality(tables: BoxTables, pairs: Pairs, matches: Matches, score_threshold: float) -> ImageQuality:
    """``matches`` at IoU 0.5 (`match_by_score`); ``pairs`` of any classes, down to 0.5 at least."""
    found, truths = tables.found, tables.truths
    size = len(tables.image_ids)
    used = found.score >= score_threshold
    right, wrong = matches.right & used, matches.wrong & used
    # Detections go best first, so leaving out the weak ones changes no match of the others.
    hit = (matches.found_by >= 0) & used[matches.found_by] if len(found) else np.zeros(len(truths), bool)
    missed = ~hit & ~truths.crowd
    taken = pairs.where((matches.truth[pairs.detection] == pairs.truth) & used[pairs.detection])
    loss = (
        np.bincount(truths.image[missed], minlength=size)
        + np.bincount(found.image[wrong], found.score[wrong], size)
        + np.bincount(found.image[taken.detection], 1 - taken.iou, size)
    )
    return ImageQuality(
        tables.image_ids,
        np.bincount(found.image[right], minlength=size),
        np.bincount(found.image[wrong], minlength=size),
        np.bincount(truths.image[missed], minlength=size),
        loss,
        score_threshold,
    )


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(-values, kind="stable")[:count]
    return order[values[order] > 0]
