"""Calibration, score thresholds, and quality by image, by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from labelenc.evaluation import analyse, most_different

Scene = Callable[..., tuple[dict, list[dict]]]

# Boxes of 10 x 10 that do not touch.
A, B, C, FAR = [0, 0, 10, 10], [50, 0, 10, 10], [100, 0, 10, 10], [200, 200, 10, 10]


def test_bins_and_expected_error(scene: Scene) -> None:
    truth, results = scene(
        [(1, 1, A), (1, 1, B), (1, 2, C), (1, 1, [300, 300, 100, 100], "crowd")],
        [
            (1, 1, A, 0.95),
            (1, 1, A, 0.92),  # a duplicate
            (1, 2, C, 0.5),  # on a limit: belongs to the bin above it
            (1, 1, FAR, 0.55),
            (1, 1, [310, 310, 10, 10], 0.8),  # on the crowd: not counted
            (1, 2, FAR, 1.0),
        ],
        categories=2,
    )
    found = analyse(truth, results).calibration
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    assert found.precision[[5, 9]].tolist() == [0.5, pytest.approx(1 / 3)]
    assert found.mean_score[[5, 9]].tolist() == pytest.approx([0.525, 2.87 / 3])
    assert np.isnan(found.precision[0])
    assert np.isnan(found.mean_score[0])
    assert found.expected_error == pytest.approx((2 * 0.025 + 3 * (2.87 - 1) / 3) / 5)


def test_thresholds(scene: Scene) -> None:
    truth, results = scene(
        [(1, 1, A), (1, 1, B), (1, 1, C), (1, 2, FAR)],
        [(1, 1, A, 0.9), (1, 1, B, 0.6), (1, 1, FAR, 0.6), (1, 1, C, 0.3), (1, 2, A, 0.7)],
        categories=3,
    )
    found = analyse(truth, results).calibration
    # Class 1: F1 is 2/4 at 0.9, 4/6 at 0.6 (equal scores stay together), 6/7 at 0.3.
    best = found.best_per_class[0]
    assert best is not None
    assert (best.threshold, best.precision, best.recall, best.f1) == (0.3, 0.75, 1.0, pytest.approx(6 / 7))
    assert found.best_per_class[1:] == (None, None)
    # All: 2/5, 2/6, 4/8, 6/9.
    assert found.best is not None
    assert (found.best.threshold, found.best.f1) == (0.3, pytest.approx(6 / 9))
    assert (found.best.precision, found.best.recall) == (3 / 5, 3 / 4)
    at = {round(t, 2): i for i, t in enumerate(found.thresholds)}
    assert found.precision_at[at[0.65]] == 0.5
    assert found.recall_at[at[0.65]] == 0.25
    assert found.f1_at[at[0.5]] == pytest.approx(4 / 8)
    assert np.isnan(found.precision_at[at[0.95]])
    assert found.recall_at[at[0.95]] == found.f1_at[at[0.95]] == 0


def test_equally_good_thresholds_give_the_highest(scene: Scene) -> None:
    # F1 is 2/3 with one of one right, and again with two of four.
    truth, results = scene(
        [(1, 1, A), (1, 1, B)], [(1, 1, A, 0.9), (1, 1, FAR, 0.8), (1, 1, C, 0.7), (1, 1, B, 0.6)]
    )
    best = analyse(truth, results).calibration.best
    assert best is not None
    assert (best.threshold, best.precision, best.recall) == (0.9, 1.0, 0.5)


def test_quality_of_images(scene: Scene) -> None:
    truths = [(1, 1, A), (1, 2, B), (2, 1, A), (3, 1, A, "crowd"), (5, 1, A), (5, 1, B)]
    found = [
        (1, 1, [0, 0, 10, 8], 0.9),  # right, IoU 0.8
        (1, 1, B, 0.6),  # wrong class
        (1, 2, B, 0.2),  # right, but too weak
        (3, 1, A, 0.9),
        (4, 1, A, 0.5),
    ]
    truth, results = scene(truths, found, images=6, categories=2)
    quality = analyse(truth, results).images
    assert quality.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert quality.true_positives.tolist() == [1, 0, 0, 0, 0, 0]
    assert quality.false_positives.tolist() == [1, 0, 0, 1, 0, 0]
    assert quality.false_negatives.tolist() == [1, 1, 0, 0, 2, 0]
    assert quality.loss.tolist() == pytest.approx([1 + 0.6 + 0.2, 1, 0, 0.5, 2, 0])
    assert quality.worst(10) == [5, 1, 2, 4]
    assert quality.worst(1) == [5]
    other = analyse(truth, [*results, {**results[0], "image_id": 2, "score": 0.4}][2:]).images
    # Image 1: 1.0 + 1.0; image 2: IoU 0.8 with a score above the threshold.
    assert most_different(quality, other, 3) == ([2], [1])
    with pytest.raises(ValueError, match="same images"):
        most_different(quality, analyse(*scene([], [], images=2)).images, 3)
