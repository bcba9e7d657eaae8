"""Matching against pycocotools' own records, against loops, and by hand."""

import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from labelenc.evaluation import overlaps
from labelenc.evaluation.box_tables import BoxTables, box_tables, rank_in_group
from labelenc.evaluation.inputs import detection_annotations, usable_ground_truth
from labelenc.evaluation.overlaps import (
    IOU_THRESHOLDS,
    Pairs,
    match_by_iou,
    match_by_score,
    overlapping_pairs,
)

RandomCase = Callable[..., tuple[dict, list[dict]]]


def tables_of(truth: dict, results: list[dict]) -> tuple[BoxTables, dict, list[dict]]:
    usable = usable_ground_truth(truth)
    found = detection_annotations(results, usable)
    return box_tables(usable, found), usable, found


def coco_matches(truth: dict, found: list[dict]) -> tuple[dict, dict]:
    """(threshold index, place in the results) -> annotation id, 0 without; and -> ignored."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in (truth, dict(truth, annotations=found)):
            side = COCO()
            side.dataset = content
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.evaluate()
    match, ignored = {}, {}
    for entry in filter(None, evaluation.evalImgs):
        for (i, j), annotation in np.ndenumerate(entry["dtMatches"]):
            key = (i, entry["dtIds"][j] - 1)
            match[key], ignored[key] = int(annotation), bool(entry["dtIgnore"][i, j])
    return match, ignored


def test_matching_by_score_is_that_of_pycocotools(seed: int, random_case: RandomCase) -> None:
    tables, truth, found = tables_of(*random_case(images=25, categories=4))
    match, ignored = coco_matches(truth, found)
    pairs = overlapping_pairs(tables, 0.5, same_class=True)
    wide = overlapping_pairs(tables, 0.1)
    for i, threshold in enumerate(IOU_THRESHOLDS):
        ours = match_by_score(tables, pairs, threshold)
        again = match_by_score(tables, wide, threshold)
        assert np.array_equal(ours.truth, again.truth)
        assert np.array_equal(ours.ignored, again.ignored)
        for j, source in enumerate(tables.found.source):
            theirs = match.pop((i, source))
            assert ours.ignored[j] == ignored[i, source]
            if not ours.ignored[j]:
                assert ours.truth[j] + 1 == theirs
        taken = np.flatnonzero(ours.found_by >= 0)
        assert np.array_equal(ours.truth[ours.found_by[taken]], taken)
        assert len(taken) == ours.right.sum()
    assert not match, "as many detections as COCO looks at"


def test_pairs_have_the_overlaps_of_pycocotools(
    seed: int, random_case: RandomCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, truth, found = tables_of(*random_case(images=12, categories=3))
    expected = {}
    for image in truth["images"]:
        here = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        seen = [d for d in found if d["image_id"] == image["id"]]
        if here and seen:
            boxes, crowds = [a["bbox"] for a in here], [a["iscrowd"] for a in here]
            table = mask.iou([d["bbox"] for d in seen], boxes, crowds)
            for (i, j), iou in np.ndenumerate(table):
                if iou >= 0.1:
                    expected[seen[i]["id"] - 1, here[j]["id"] - 1] = iou
    # Of image 1 only the best 100 of each class are looked at.
    kept = set(tables.found.source.tolist())
    expected = {key: iou for key, iou in expected.items() if key[0] in kept}
    for chunk in (2_000_000, 7):
        monkeypatch.setattr(overlaps, "_CHUNK", chunk)
        pairs = overlapping_pairs(tables, 0.1)
        keys = zip(tables.found.source[pairs.detection].tolist(), pairs.truth.tolist(), strict=True)
        assert dict(zip(keys, pairs.iou.tolist(), strict=True)) == pytest.approx(expected, abs=1e-12)
        assert len(pairs.iou) == len(expected)


def test_matching_by_iou_is_a_loop_over_the_best_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(30):
        found, truths = generator.integers(1, 30, 2)
        detection, truth = np.nonzero(generator.random((found, truths)) < generator.random())
        # Coarse values, so that many are equal.
        pairs = Pairs(detection, truth, generator.integers(1, 8, len(detection)) / 8)
        expected = np.full(found, -1)
        for _, i, j in sorted(zip(-pairs.iou, detection, truth, strict=True)):
            if expected[i] < 0 and j not in expected:
                expected[i] = j
        assert np.array_equal(match_by_iou(pairs, found, truths).truth, expected)


def test_rank_in_group() -> None:
    assert rank_in_group(np.array([5, 2, 5, 5, 2])).tolist() == [0, 0, 1, 2, 1]
    assert rank_in_group(np.zeros(0, np.int64)).tolist() == []
