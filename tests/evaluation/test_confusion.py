"""The confusion matrix by hand, by a loop, and against supervision where the two definitions agree."""

from collections.abc import Callable

import numpy as np
import pytest
from pycocotools import mask

from labelenc.evaluation import analyse

Case = Callable[..., tuple[dict, list[dict]]]

A, B, FAR = [0, 0, 10, 10], [50, 0, 10, 10], [200, 200, 10, 10]


def test_by_hand(scene: Case) -> None:
    truths = [(1, 1, A), (1, 2, B), (2, 2, A), (1, 1, [300, 300, 100, 100], "crowd")]
    found = [
        (1, 2, A, 0.9),  # the best overlap with A, though of the wrong class
        (1, 1, [0, 0, 10, 8], 0.8),  # right class, but A is taken
        (1, 2, B, 0.29),  # too weak
        (2, 2, [0, 0, 10, 6], 0.3),  # just strong enough
        (1, 1, [310, 310, 10, 10], 0.9),  # on the crowd of its class
        (1, 2, [310, 310, 10, 10], 0.9),  # on the crowd of another class
        (2, 1, FAR, 0.7),
    ]
    matrix = analyse(*scene(truths, found, images=2, categories=2)).confusion
    assert matrix.counts.tolist() == [[0, 1, 0], [0, 1, 1], [2, 1, 0]]
    assert (matrix.score_threshold, matrix.iou_threshold) == (0.3, 0.5)


def by_loop(truth: dict, results: list[dict], threshold: float) -> np.ndarray:
    last = len(truth["categories"])
    counts = np.zeros((last + 1, last + 1), dtype=int)
    for image in truth["images"]:
        here = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        seen = [r for r in results if r["image_id"] == image["id"] and r["score"] >= threshold]
        free, alone, pairs = set(range(len(here))), set(range(len(seen))), []
        if here and seen:
            crowds = [a["iscrowd"] for a in here]
            table = mask.iou([r["bbox"] for r in seen], [a["bbox"] for a in here], crowds)
            pairs = sorted(((i, j) for i in alone for j in free), key=lambda pair: -table[pair])
        for i, j in pairs:
            if i in alone and j in free and table[i, j] >= 0.5 and not here[j]["iscrowd"]:
                alone.remove(i)
                free.remove(j)
                counts[here[j]["category_id"] - 1, seen[i]["category_id"] - 1] += 1
        for i, j in pairs:
            same = here[j]["category_id"] == seen[i]["category_id"]
            if here[j]["iscrowd"] and same and table[i, j] >= 0.5:
                alone.discard(i)
        for j in free:
            counts[here[j]["category_id"] - 1, last] += not here[j]["iscrowd"]
        for i in alone:
            counts[last, seen[i]["category_id"] - 1] += 1
    return counts


def test_against_a_loop(seed: int, random_case: Case) -> None:
    truth, results = random_case(images=20, categories=5)
    # Without the image of more than 100 detections of a class, of which COCO drops the weakest.
    results = [r for r in results if r["image_id"] != 1]
    for threshold in (0.3, 0.0, 0.85):
        counts = analyse(truth, results, threshold).confusion.counts
        assert np.array_equal(counts, by_loop(truth, results, threshold))


@pytest.mark.parametrize("classes", [1, 4])
def test_against_supervision(seed: int, scene: Case, classes: int) -> None:
    """It prefers pairs of equal class: the same for one class, and where boxes meet only one other."""
    supervision = pytest.importorskip("supervision")
    generator = np.random.default_rng(seed)
    truths, found = [], []
    for image in (1, 2, 3):
        # With several classes a coarse grid keeps neighbours apart.
        step = 40 if classes > 1 else 9
        for x in range(0, 10 * step, step):
            box = np.array([x, 5, 20, 20]) + generator.uniform(-1, 1, 4)
            if generator.random() < 0.8:
                truths.append((image, int(generator.integers(classes)) + 1, box.tolist()))
            if generator.random() < 0.8:
                moved = (box + generator.uniform(-4, 4, 4)).tolist()
                found.append((image, int(generator.integers(classes)) + 1, moved, float(generator.random())))
    sides = []
    for entries in (found, truths):
        side = []
        for image in (1, 2, 3):
            mine = [entry for entry in entries if entry[0] == image]
            boxes = np.array([entry[2] for entry in mine]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            scores = np.array([entry[3] for entry in mine]) if entries is found else None
            labels = np.array([entry[1] - 1 for entry in mine], dtype=int)
            side.append(supervision.Detections(boxes, class_id=labels, confidence=scores))
        sides.append(side)
    theirs = supervision.ConfusionMatrix.from_detections(
        *sides, classes=[str(i) for i in range(classes)], conf_threshold=0.3, iou_threshold=0.5
    )
    ours = analyse(*scene(truths, found, images=3, categories=classes)).confusion.counts
    assert np.array_equal(ours, theirs.matrix)
