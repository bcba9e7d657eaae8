"""How far AP, and the differences between runs, would move with other images: the paired bootstrap."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from labelenc.evaluation.average_precision import average_precisions, mean_of_known
from labelenc.evaluation.box_tables import BoxTables, box_tables
from labelenc.evaluation.inputs import (
    EvaluationError,
    detection_annotations,
    load_ground_truth,
    usable_ground_truth,
)
from labelenc.evaluation.overlaps import IOU_THRESHOLDS, Matches, match_by_score, overlapping_pairs
from labelenc.evaluation.plain import plain

NUMBERS = ("AP", "AP50", "AP75")

# Numbers held at once while resampling one class.
_CHUNK = 8_000_000


@dataclass(frozen=True)
class Interval:
    """``value`` of the whole set and its interval, ``low`` to ``high``; fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """A run less the first run. ``better``: the share of centred resamples in which that is above 0."""

    better: float


@dataclass(frozen=True)
class RunIntervals:
    """The intervals of one run; None stands where there is no ground truth.

    ``numbers`` and ``differences`` have the keys `NUMBERS`. ``class_ap`` and ``class_differences`` are of AP
    and have C entries by ascending category id. Both kinds of differences are None for the first run.
    """

    numbers: dict[str, Interval | None]
    class_ap: tuple[Interval | None, ...]
    differences: dict[str, Difference | None] | None
    class_differences: tuple[Difference | None, ...] | None


@dataclass(frozen=True)
class Bootstrap:
    """``runs`` in the order given, the first is what the others are compared with; ``class_names`` (C)."""

    runs: dict[str, RunIntervals]
    class_names: tuple[str, ...]
    samples: int
    confidence: float
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        content: dict[str, Any] = plain(self)
        return content


def bootstrap_ap(
    ground_truth: str | os.PathLike[str] | Mapping[str, Any],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Intervals of COCO's AP, AP50 and AP75 over images (Efron's bootstrap), all classes and each.

    A resample draws as many images as there are, with replacement; every run is evaluated on the same
    resamples, so that what is common to the runs cancels in their differences. Each resample has its
    exact AP: detections are matched once, then every image counts as often as it was drawn. (Equal scores of
    one class in one image stay together, where an evaluator would take turns among the copies.)

    The intervals tell what other images would change. They do not tell what another training seed would:
    two trainings of one recipe may differ by more than they say.

    A resample without ground truth of a class leaves that class out, as COCO's evaluation does.

    Repeated images make a coarser curve, whose interpolated precision is higher: with few boxes of a class,
    resamples have a higher AP than the set itself, on average, by as much as they spread. Therefore they are
    *centred*, that is, shifted so that their mean is the value of the whole set. An interval goes from one
    of their percentiles to another (for AP not beyond 0 and 1). It is about the AP on as many other images
    as there are; on very many images AP itself would be lower, for the same reason.

    On a terminal a progress bar is shown. 5000 images with 80 classes and 450,000 detections take about half
    a minute for each run with 1000 samples, on one core.

    Args:
        ground_truth: a COCO annotation file or its content, as for `evaluate_coco`, whose checks apply.
        runs: name -> results as `to_coco_results` makes them.
        samples: number of resamples, at least 1.
        confidence: of the intervals, above 0 and below 1.

    Raises:
        EvaluationError, FileNotFoundError: as `evaluate_coco`.
        ValueError: no runs, or ``samples`` or ``confidence`` out of range.
    """
    if not runs or samples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"a bootstrap needs a run, a sample and a confidence between 0 and 1, got {len(runs)} runs, "
            f"{samples} samples, confidence {confidence}"
        )
    truth = usable_ground_truth(load_ground_truth(ground_truth))
    weights = _weights(len(truth["images"]), samples, seed)
    resampled, names = _resampled(truth, runs, weights)
    first = next(iter(runs))
    intervals = {
        name: _run_intervals(values, None if name == first else resampled[first], confidence)
        for name, values in resampled.items()
    }
    return Bootstrap(intervals, names, samples, confidence, len(truth["images"]))


def _resampled(
    truth: Mapping[str, Any], runs: Mapping[str, Sequence[Mapping[str, Any]]], weights: np.ndarray
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Run -> NUMBERS of each class in each resample (C, numbers, samples + 1), and the classes' names."""
    resampled: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ()
    with tqdm(total=len(runs) * len(truth["categories"]), desc="bootstrap", disable=None, leave=False) as bar:
        for name, results in runs.items():
            try:
                tables = box_tables(truth, detection_annotations(results, truth))
            except EvaluationError as error:
                raise EvaluationError(f"{name}: {error}") from error
            names = tables.class_names
            rows = []
            for row in _resampled_classes(tables, weights):
                rows.append(row)
                bar.update()
            resampled[name] = np.array(rows).reshape(-1, len(NUMBERS), len(weights))
    return resampled, names


def _weights(images: int, samples: int, seed: int) -> np.ndarray:
    """How often each image counts, (samples + 1, images) int16; the first row is the set as it is."""
    generator = np.random.default_rng(seed)
    weights = np.ones((samples + 1, images), dtype=np.int16)
    for row in weights[1:] if images else ():
        row[:] = np.bincount(generator.integers(0, images, images), minlength=images)
    return weights


def _resampled_classes(tables: BoxTables, weights: np.ndarray) -> Iterator[np.ndarray]:
    """For each class its `NUMBERS` in each resample, (3, samples + 1); NaN without ground truth."""
    found, truths = tables.found, tables.truths
    pairs = overlapping_pairs(tables, float(IOU_THRESHOLDS[0]), same_class=True)
    matches = [match_by_score(tables, pairs, threshold) for threshold in IOU_THRESHOLDS]
    # Stable, so that each class keeps its order of scores.
    order = np.argsort(found.label, kind="stable")
    ends = np.searchsorted(found.label[order], np.arange(tables.num_classes + 1))
    for label in range(tables.num_classes):
        mine = order[ends[label] : ends[label + 1]]
        real = truths.image[(truths.label == label) & ~truths.crowd]
        step = max(1, _CHUNK // max(len(mine), len(real), 1))
        parts = [
            _resampled_class(
                found.image[mine], [_of(match, mine) for match in matches], real, weights[i : i + step]
            )
            for i in range(0, len(weights), step)
        ]
        yield np.concatenate(parts, axis=1)


def _of(match: Matches, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return match.right[mine], ~match.ignored[mine]


def _resampled_class(
    image: np.ndarray,
    flags: list[tuple[np.ndarray, np.ndarray]],
    truth_image: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """The `NUMBERS` of one class, (3, S), from its N detections, best first, and ``weights`` (S, I).

    Args:
        image: (N) the image of each detection; truth_image: that of each truth.
        flags: for each IoU threshold, which detections are right and which count at all, (N) bool each.
    """
    boxes = weights.take(truth_image, axis=1).sum(axis=1, dtype=np.int64)
    values = np.empty((len(flags), len(weights)))
    counted = np.zeros(0, dtype=bool)
    for i, (right, counts) in enumerate(flags):
        # Which detections lie on crowds seldom depends on the threshold.
        if i == 0 or not np.array_equal(counts, counted):
            counted = counts
            detections = np.cumsum(weights.take(image[counted], axis=1), axis=1, dtype=np.int32)
        place = np.flatnonzero(right[counted])
        hits = np.cumsum(weights.take(image[right], axis=1), axis=1, dtype=np.int32)
        values[i] = average_precisions(hits, detections.take(place, axis=1), boxes)
    return np.stack([values.mean(axis=0), values[0], values[5]])


def _run_intervals(values: np.ndarray, first: np.ndarray | None, confidence: float) -> RunIntervals:
    """From (C, 3, samples + 1) of a run, and of the first run."""
    overall = mean_of_known(values)
    numbers = {name: _interval(row, confidence) for name, row in zip(NUMBERS, overall, strict=True)}
    class_ap = tuple(_interval(row[0], confidence) for row in values)
    if first is None:
        return RunIntervals(numbers, class_ap, None, None)
    gain = overall - mean_of_known(first)
    differences = {name: _difference(row, confidence) for name, row in zip(NUMBERS, gain, strict=True)}
    class_differences = tuple(_difference(row[0], confidence) for row in values - first)
    return RunIntervals(numbers, class_ap, differences, class_differences)


def _interval(values: np.ndarray, confidence: float) -> Interval | None:
    found = _centred(values)
    if found is None:
        return None
    low, high = np.clip(_bounds(found, confidence), 0, 1)
    return Interval(float(values[0]), float(low), float(high))


def _difference(values: np.ndarray, confidence: float) -> Difference | None:
    found = _centred(values)
    if found is None:
        return None
    low, high = _bounds(found, confidence)
    return Difference(float(values[0]), float(low), float(high), float((found > 0).mean()))


def _centred(values: np.ndarray) -> np.ndarray | None:
    """The known ones of the resamples ``values[1:]``, shifted to the mean ``values[0]``; None without any."""
    known = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or len(known) == 0:
        return None
    return known - (known.mean() - values[0])


def _bounds(values: np.ndarray, confidence: float) -> np.ndarray:
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
