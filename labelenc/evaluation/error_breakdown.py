"""What keeps AP50 down, by cause, after TIDE (Bolya, Foley, Hays, Hoffman, ECCV 2020)."""

from dataclasses import dataclass

import numpy as np

from labelenc.evaluation.average_precision import average_precision
from labelenc.evaluation.box_tables import BoxTables
from labelenc.evaluation.overlaps import Matches, Pairs

ERROR_KINDS = ("class", "location", "both", "duplicate", "background", "missed")
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1

_RIGHT, _LEFT_OUT = -1, -2
_CLASS, _LOCATION, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(6)


@dataclass(frozen=True)
class ErrorBreakdown:
    """How often each kind of error happens, and what AP50 would gain if one kind were mended.

    A false positive is a detection without a match at IoU 0.5 in COCO's matching, unless it lies on a crowd;
    crowds are no truths here. "same" and "other" are its highest IoU with truths of its own class and of
    other classes, taken or not. It is the first of these that fits, in the order of TIDE's own program:

    - location: 0.1 <= same < 0.5.
    - class: other >= 0.5.
    - duplicate: same >= 0.5, so that a better detection has the truth.
    - background: neither reaches 0.1.
    - both (wrong class and badly placed): all others, which is 0.1 <= other < 0.5.

    A truth without a match is *missed* unless a class or location error points at it, that is, has its
    highest IoU ("other", "same") with it.

    ``gain`` is the dAP of the paper's section 2.3, the AP50 with one kind of error mended less ``ap50``:

    - class, location: the detection becomes right for the truth it points at (and of its class). Where that
      truth has a match already, or a better detection with the same kind of error points at it too, the
      detection is removed.
    - both, duplicate, background: the detection is removed.
    - missed: the truths are removed.
    - false_positive: all false positives are removed. false_negative: all truths without a match are removed.

    A class that so loses its last truth counts as AP 1 if it has no false positive either, else as 0. Gains
    are fractions and do not add up. Without any truth they and ``ap50``, the evaluator's AP50, are None.

    ``counts`` has the keys `ERROR_KINDS`, ``gain`` also "false_positive" and "false_negative";
    ``counts_per_class`` (6, C) int64 counts by the class of the detection, for "missed" by that of the truth.
    """

    ap50: float | None
    counts: dict[str, int]
    counts_per_class: np.ndarray
    gain: dict[str, float | None]


def error_breakdown(tables: BoxTables, pairs: Pairs, matches: Matches) -> ErrorBreakdown:
    """``matches`` at IoU 0.5 (`match_by_score`); ``pairs`` of any classes, down to `BACKGROUND_IOU`."""
    kind, target = _kinds(tables, pairs, matches)
    truths, found = tables.truths, tables.found
    lost = (matches.found_by < 0) & ~truths.crowd
    missed = lost.copy()
    missed[target[(kind == _CLASS) | (kind == _LOCATION)]] = False
    counts = np.zeros((len(ERROR_KINDS), tables.num_classes), dtype=np.int64)
    errors = kind >= 0
    np.add.at(counts, (kind[errors], found.label[errors]), 1)
    np.add.at(counts, (_MISSED, truths.label[missed]), 1)

    scored = _Scored(tables, kind)
    ap50 = scored.ap()
    mended = {name: scored.ap(removed=kind == i) for i, name in enumerate(ERROR_KINDS) if i < _MISSED}
    for i in (_CLASS, _LOCATION):
        mended[ERROR_KINDS[i]] = scored.ap_pointed(i, target, matches)
    mended["missed"] = scored.ap(truths_removed=missed)
    mended["false_positive"] = scored.ap(removed=errors)
    mended["false_negative"] = scored.ap(truths_removed=lost)
    gain = {name: None if value is None or ap50 is None else value - ap50 for name, value in mended.items()}
    totals = {name: int(counts[i].sum()) for i, name in enumerate(ERROR_KINDS)}
    return ErrorBreakdown(ap50, totals, counts, gain)


def _kinds(tables: BoxTables, pairs: Pairs, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """For each detection (N) its kind of error, `_RIGHT` or `_LEFT_OUT`, and the truth it points at."""
    pairs = pairs.where(~tables.truths.crowd[pairs.truth])
    equal = tables.found.label[pairs.detection] == tables.truths.label[pairs.truth]
    same, same_truth = _highest(pairs.where(equal), len(tables.found))
    other, other_truth = _highest(pairs.where(~equal), len(tables.found))
    kind = np.select(
        [
            matches.right,
            matches.ignored,
            (same >= BACKGROUND_IOU) & (same < FOREGROUND_IOU),
            other >= FOREGROUND_IOU,
            same >= FOREGROUND_IOU,
            other < BACKGROUND_IOU,
        ],
        [_RIGHT, _LEFT_OUT, _LOCATION, _CLASS, _DUPLICATE, _BACKGROUND],
        _BOTH,
    )
    return kind, np.where(kind == _LOCATION, same_truth, other_truth)


def _highest(pairs: Pairs, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest IoU of each detection (size), 0 without, and the truth it is with, -1 without."""
    order = np.argsort(pairs.iou, kind="stable")
    iou, truth = np.zeros(size), np.full(size, -1)
    # Written by rising IoU, so the highest stays.
    iou[pairs.detection[order]] = pairs.iou[order]
    truth[pairs.detection[order]] = pairs.truth[order]
    return iou, truth


@dataclass(frozen=True)
class _Scored:
    """AP50 of detections with the errors ``kind`` (N), as they are and mended."""

    tables: BoxTables
    kind: np.ndarray

    def ap(
        self,
        removed: np.ndarray | None = None,
        truths_removed: np.ndarray | None = None,
        right: np.ndarray | None = None,
        label: np.ndarray | None = None,
    ) -> float | None:
        found, truths = self.tables.found, self.tables.truths
        right = self.kind == _RIGHT if right is None else right
        label = found.label if label is None else label
        kept = self.kind != _LEFT_OUT
        if removed is not None:
            kept = kept & ~removed
        real = ~truths.crowd
        before = np.bincount(truths.label[real], minlength=self.tables.num_classes)
        if truths_removed is not None:
            real = real & ~truths_removed
        boxes = np.bincount(truths.label[real], minlength=self.tables.num_classes)
        place = np.flatnonzero(kept)
        # Stable, so that each class keeps its order of scores.
        place = place[np.argsort(label[place], kind="stable")]
        ends = np.searchsorted(label[place], np.arange(self.tables.num_classes + 1))
        values = []
        for i in np.flatnonzero(before):
            flags = right[place[ends[i] : ends[i + 1]]]
            nothing_to_find = float(len(flags) == 0)
            values.append(average_precision(flags, int(boxes[i])) if boxes[i] else nothing_to_find)
        return float(np.mean(values)) if values else None

    def ap_pointed(self, error: int, target: np.ndarray, matches: Matches) -> float | None:
        """With the class or location errors put right, see `ErrorBreakdown`."""
        wrong = np.flatnonzero(self.kind == error)
        free = wrong[matches.found_by[target[wrong]] < 0]
        # Detections go best first, so the first one at each truth is the best.
        _, first = np.unique(target[free], return_index=True)
        mended = free[first]
        removed = self.kind == error
        removed[mended] = False
        right = self.kind == _RIGHT
        right[mended] = True
        label = self.tables.found.label.copy()
        label[mended] = self.tables.truths.label[target[mended]]
        return self.ap(removed=removed, right=right, label=label)
