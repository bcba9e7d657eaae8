"""Which detections overlap which truths, and who gets whom: flat arrays over the whole data set."""

from dataclasses import dataclass

import numpy as np

from labelenc.evaluation.box_tables import Boxes, BoxTables, Truths, rank_in_group

# COCO's own thresholds, by its own formula: 0.6 is not the float that a literal gives.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

_CHUNK = 2_000_000


@dataclass(frozen=True)
class Pairs:
    """P pairs of boxes in one image: ``detection``, ``truth`` (P) int64, positions; ``iou`` (P) float64.

    The IoU with a crowd is the share of the detection inside it, as in COCO.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def where(self, chosen: np.ndarray) -> "Pairs":
        """Those that ``chosen`` picks, a mask (P) or positions in a new order."""
        return Pairs(self.detection[chosen], self.truth[chosen], self.iou[chosen])


@dataclass(frozen=True)
class Matches:
    """``truth`` (N detections) int64: the truth it found, else -1. ``ignored`` (N) bool: it lies on a crowd.

    ``found_by`` (T truths) int64: the detection that found it, else -1.
    """

    truth: np.ndarray
    ignored: np.ndarray
    found_by: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(N) bool: true positives."""
        return self.truth >= 0

    @property
    def wrong(self) -> np.ndarray:
        """(N) bool: false positives."""
        return (self.truth < 0) & ~self.ignored


def overlapping_pairs(tables: BoxTables, minimum: float, same_class: bool = False) -> Pairs:
    """All pairs with an IoU of at least ``minimum``, of equal class only if ``same_class``."""
    found, truths = tables.found, tables.truths
    factor = tables.num_classes if same_class else 0
    keys = [boxes.image * factor + boxes.label if same_class else boxes.image for boxes in (truths, found)]
    order = np.argsort(keys[0], kind="stable")
    ordered = keys[0][order]
    start = np.searchsorted(ordered, keys[1], side="left")
    count = np.searchsorted(ordered, keys[1], side="right") - start
    parts = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    # In chunks, since crowded images have many pairs, of which few overlap.
    chunk = np.cumsum(count) // _CHUNK
    for few in np.split(np.arange(len(found)), np.flatnonzero(np.diff(chunk)) + 1):
        detection = np.repeat(few, count[few])
        truth = order[start[detection] + rank_in_group(detection)]
        pairs = Pairs(detection, truth, box_iou(found, truths, detection, truth))
        parts.append(pairs.where(pairs.iou >= minimum))
    columns = zip(*((part.detection, part.truth, part.iou) for part in parts), strict=True)
    return Pairs(*map(np.concatenate, columns))


def box_iou(found: Boxes, truths: Truths, detection: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of the pairs by COCO's formula, (P) float64: without the legacy pixel, crowds by inclusion."""
    x, y, w, h = found.xywh[detection].T
    tx, ty, tw, th = truths.xywh[truth].T
    width = np.minimum(x + w, tx + tw) - np.maximum(x, tx)
    height = np.minimum(y + h, ty + th) - np.maximum(y, ty)
    inside = np.where((width > 0) & (height > 0), width * height, 0.0)
    union = np.where(truths.crowd[truth], w * h, w * h + tw * th - inside)
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def match_by_score(tables: BoxTables, pairs: Pairs, threshold: float) -> Matches:
    """COCO's matching: the best detection first, each takes the free truth of its class with the highest IoU.

    Crowds may be shared; a detection that has no truth but a crowd is ignored.

    Args:
        pairs: of equal classes, down to ``threshold`` at least; others are left out here.
    """
    found, truths = tables.found, tables.truths
    pairs = pairs.where(
        (pairs.iou >= min(threshold, 1 - 1e-10)) & (found.label[pairs.detection] == truths.label[pairs.truth])
    )
    crowd = truths.crowd[pairs.truth]
    real = pairs.where(~crowd)
    # Of equal IoUs COCO takes the last truth.
    order = np.lexsort((-real.truth, -real.iou, real.detection))
    real = real.where(order)
    match = _assign(real, real.detection, len(found), len(truths))
    ignored = np.zeros(len(found), dtype=bool)
    ignored[pairs.detection[crowd]] = True
    return _matches(match, ignored & (match < 0), len(truths))


def match_by_iou(pairs: Pairs, num_found: int, num_truths: int) -> Matches:
    """Pairs in order of IoU, best first; each truth and each detection is taken once, whatever their classes.

    Of equal IoUs the better score goes first, then the earlier truth. ``pairs`` must be without crowds.
    """
    priority = np.empty(len(pairs.iou), dtype=np.int64)
    priority[np.lexsort((pairs.truth, pairs.detection, -pairs.iou))] = np.arange(len(pairs.iou))
    order = np.lexsort((priority, pairs.detection))
    match = _assign(pairs.where(order), priority[order], num_found, num_truths)
    return _matches(match, np.zeros(num_found, dtype=bool), num_truths)


def _assign(pairs: Pairs, priority: np.ndarray, num_found: int, num_truths: int) -> np.ndarray:
    """Each detection asks for its truths in the order of ``pairs``; a truth keeps the lowest priority so far.

    This gives what a loop over the pairs by priority gives (deferred acceptance: with one order that all
    truths share there is a single stable outcome), in as many rounds as the longest chain of refusals.
    """
    detection, truth = pairs.detection, pairs.truth
    none = len(detection)
    rank = np.append(priority, np.iinfo(np.int64).max)
    holder = np.full(num_truths, none)
    asking = np.flatnonzero(np.append(True, detection[1:] != detection[:-1])[:none])
    while len(asking):
        # Several may ask for one truth: written in falling priority, the best stays.
        worst_first = asking[np.argsort(-priority[asking])]
        before = holder[truth[asking]]
        best = holder.copy()
        best[truth[worst_first]] = worst_first
        holder = np.where(rank[best] < rank[holder], best, holder)
        lost = np.concatenate([asking[holder[truth[asking]] != asking], np.unique(before[before < none])])
        lost = lost[holder[truth[lost]] != lost]
        following = lost + 1
        following = following[following < none]
        asking = following[detection[following] == detection[following - 1]]
    match = np.full(num_found, -1)
    taken = holder[holder < none]
    match[detection[taken]] = truth[taken]
    return match


def _matches(match: np.ndarray, ignored: np.ndarray, num_truths: int) -> Matches:
    found_by = np.full(num_truths, -1)
    taken = np.flatnonzero(match >= 0)
    found_by[match[taken]] = taken
    return Matches(match, ignored, found_by)
