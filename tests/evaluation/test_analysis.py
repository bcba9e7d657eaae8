"""The whole analysis: against the evaluator's numbers, and where something is missing."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelenc.evaluation import Analysis, EvaluationError, analyse, evaluate_coco

Case = Callable[..., tuple[dict, list[dict]]]


def check_against_evaluator(analysis: Analysis, truth: dict, results: list[dict]) -> None:
    summary = evaluate_coco(truth, results, "pycocotools")
    numbers = summary.numbers
    curves = analysis.precision_recall
    assert curves.precision.mean(axis=1).tolist() == pytest.approx(
        [numbers["AP50"], numbers["AP75"], numbers["AP"]], abs=1e-12
    )
    assert analysis.errors.ap50 == pytest.approx(numbers["AP50"], abs=1e-12)
    for value, name in zip(analysis.sizes.ap, ("APs", "APm", "APl"), strict=True):
        assert value == pytest.approx(numbers[name], abs=1e-12)
    for i, row in enumerate(summary.per_class):
        assert (analysis.category_ids[i], analysis.class_names[i]) == (row.category_id, row.name)
        assert analysis.sizes.boxes_per_class[i].sum() == row.boxes
        if row.ap is None:
            assert np.isnan(curves.per_class[i]).all()
        else:
            assert curves.per_class[i, 2].mean() == pytest.approx(row.ap, abs=1e-12)
            assert curves.per_class[i, 0].mean() == pytest.approx(row.ap50, abs=1e-12)
    assert analysis.summary.numbers == pytest.approx(numbers)


def test_published_fixture(shared_dir: Path) -> None:
    folder = shared_dir / "data/eval_fixture"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    analysis = analyse(truth, results)
    check_against_evaluator(analysis, truth, results)
    assert analysis.sizes.boxes.sum() == 839 - 9
    areas = np.array([a["area"] for a in truth["annotations"] if not a["iscrowd"]])
    assert analysis.sizes.boxes.tolist() == [
        (areas < 1024).sum(),
        ((areas >= 1024) & (areas < 9216)).sum(),
        (areas >= 9216).sum(),
    ]


def test_random_detections(seed: int, random_case: Case) -> None:
    for categories in (2, 6):
        truth, results = random_case(images=20, categories=categories)
        analysis = analyse(truth, results, score_threshold=0.4)
        check_against_evaluator(analysis, truth, results)
        real = sum(1 - a["iscrowd"] for a in truth["annotations"])
        assert analysis.confusion.counts[:-1].sum() == real
        images = analysis.images
        assert (images.true_positives + images.false_negatives).sum() == real
        assert (images.score_threshold, analysis.confusion.score_threshold) == (0.4, 0.4)
        read = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))
        assert read["confusion"]["counts"] == analysis.confusion.counts.tolist()
        assert read["sizes"]["ap_per_class"][-1] == [None, None, None]


BOX = [10, 10, 50, 50]
NOTHING = {
    "no images": ([], [], 0),
    "no truth, no detections": ([], [], 2),
    "no truth": ([], [(1, 1, BOX, 0.5)], 2),
    "no detections": ([(1, 2, BOX)], [], 2),
    "only a crowd": ([(1, 1, BOX, "crowd")], [(1, 1, BOX, 0.5)], 1),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_missing_is_absent_without_warnings(scene: Case, name: str) -> None:
    truths, found, images = NOTHING[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analysis = analyse(*scene(truths, found, images, categories=3))
    content = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))
    real = sum(len(truth) == 3 for truth in truths)
    assert (analysis.errors.ap50 is None) == (real == 0)
    assert (analysis.errors.gain["missed"] is None) == (real == 0)
    assert content["precision_recall"]["precision"][0][0] == (0.0 if real else None)
    assert content["calibration"]["best"] is None
    assert (analysis.calibration.expected_error is None) == (len(found) == 0 or name == "only a crowd")
    assert len(analysis.images.image_ids) == images
    assert analysis.confusion.counts.shape == (4, 4)
    assert analysis.confusion.counts.sum() == (1 if name in ("no truth", "no detections") else 0)


def test_inputs_are_checked_as_by_the_evaluator(scene: Case) -> None:
    truth, results = scene([], [(7, 1, BOX, 0.5)])
    with pytest.raises(EvaluationError, match="image_id"):
        analyse(truth, results)
    with pytest.raises(EvaluationError, match="no list annotations"):
        analyse({"images": [], "categories": []}, [])
