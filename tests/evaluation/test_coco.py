"""COCO evaluation against the published fixture, cases by hand, and the two evaluators against each other."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from labelenc.evaluation import COCO_NUMBERS, EVALUATORS, EvaluationError, evaluate_coco, to_coco_results
from labelenc.structures import BoxList

RandomCase = Callable[..., tuple[dict, list[dict]]]
both = pytest.mark.parametrize("evaluator", EVALUATORS)


def ground_truth(annotations: list[dict], images: int = 1, categories: int = 1) -> dict:
    """Numbers images and categories from 1 and fills the ids of the annotations."""
    filled = [{"id": i, "image_id": 1, "category_id": 1, **a} for i, a in enumerate(annotations, start=1)]
    return {
        "images": [{"id": i + 1, "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(categories)],
        "annotations": filled,
    }


def result(bbox: list[float], score: float, image_id: int = 1, category_id: int = 1) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def predicted(xyxy: list[list[float]], labels: list[int], scores: list[float]) -> BoxList:
    boxes = BoxList(torch.tensor(xyxy), (640, 480))
    boxes.add_field("labels", torch.tensor(labels))
    boxes.add_field("scores", torch.tensor(scores))
    return boxes


@both
def test_published_fixture(shared_dir: Path, evaluator: str) -> None:
    folder = shared_dir / "data" / "eval_fixture"
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    expected = json.loads((folder / "expected_bbox.json").read_text())
    summary = evaluate_coco(str(folder / "instances_val2014_100.json"), results, evaluator)
    assert tuple(summary.numbers) == COCO_NUMBERS
    for name, value in expected.items():
        assert summary.numbers[name] == pytest.approx(value, abs=1e-12), name
    assert summary.num_images == 100
    assert sum(row.boxes for row in summary.per_class) == 839 - 9, "crowd boxes are not counted"
    assert sum(row.detections for row in summary.per_class) == len(results) == 734
    measured = [row.ap for row in summary.per_class if row.ap is not None]
    assert sum(measured) / len(measured) == pytest.approx(expected["AP"], abs=1e-12)


@both
def test_precision_recall_by_hand(evaluator: str) -> None:
    truth = ground_truth([{"bbox": [10, 10, 100, 100]}, {"bbox": [300, 10, 100, 100]}])
    results = [
        result([10, 10, 100, 100], 0.9),
        result([10, 300, 100, 100], 0.8),
        result([300, 10, 100, 100], 0.7),
    ]
    numbers = evaluate_coco(truth, results, evaluator).numbers
    # Precision 1 for the 51 recall thresholds up to 0.5, then 2 of 3 for the other 50.
    by_hand = (51 + 50 * 2 / 3) / 101
    for name in ("AP", "AP50", "AP75", "APl"):
        assert numbers[name] == pytest.approx(by_hand, abs=1e-12), name
    assert (numbers["AR1"], numbers["AR10"], numbers["AR100"], numbers["ARl"]) == (0.5, 1.0, 1.0, 1.0)
    assert all(numbers[name] is None for name in ("APs", "APm", "ARs", "ARm"))


@both
def test_overlap_decides_by_hand(evaluator: str) -> None:
    truth = ground_truth([{"bbox": [0, 0, 100, 100]}])
    numbers = evaluate_coco(truth, [result([0, 0, 100, 72], 0.5)], evaluator).numbers
    # An IoU of 0.72 passes the thresholds 0.50 .. 0.70, five of ten.
    assert numbers["AP"] == pytest.approx(0.5)
    assert (numbers["AP50"], numbers["AP75"]) == (pytest.approx(1.0), 0.0)


@both
def test_detections_on_crowds_are_not_counted(evaluator: str) -> None:
    annotations = [{"bbox": [0, 0, 50, 50]}, {"bbox": [200, 200, 200, 200], "iscrowd": 1}]
    results = [result([210, 210, 40, 40], 0.9), result([0, 0, 50, 50], 0.5)]
    assert evaluate_coco(ground_truth(annotations), results, evaluator).numbers["AP"] == pytest.approx(1.0)
    annotations[1].pop("iscrowd")
    assert evaluate_coco(ground_truth(annotations), results, evaluator).numbers["AP"] < 0.5


def test_evaluators_agree_on_random_detections(seed: int, random_case: RandomCase) -> None:
    for _ in range(3):
        truth, results = random_case(images=25, categories=5)
        faster, reference = (evaluate_coco(truth, results, evaluator) for evaluator in EVALUATORS)
        for name in COCO_NUMBERS:
            assert faster.numbers[name] == pytest.approx(reference.numbers[name], abs=1e-12), name
        for ours, theirs in zip(faster.per_class, reference.per_class, strict=True):
            assert ours.ap == pytest.approx(theirs.ap, abs=1e-12), ours.name
            assert ours.ap50 == pytest.approx(theirs.ap50, abs=1e-12), ours.name
            assert (ours.boxes, ours.detections) == (theirs.boxes, theirs.detections)
        assert reference.per_class[-1].ap is None
        assert reference.per_class[-1].detections == 1


@both
def test_inputs_stay_unchanged_and_stdout_silent(
    seed: int, random_case: RandomCase, evaluator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, results = random_case(images=4, categories=3)
    kept = copy.deepcopy((truth, results))
    capsys.readouterr()
    evaluate_coco(truth, results, evaluator)
    assert (truth, results) == kept
    assert capsys.readouterr().out == ""


@both
def test_missing_fields_are_filled(evaluator: str) -> None:
    full = [{"bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}, {"bbox": [50, 50, 60, 60], "area": 3600}]
    bare = [{"bbox": annotation["bbox"], "iscrowd": None} for annotation in full]
    results = [result([0, 0, 20, 20], 0.9), result([50, 50, 60, 45], 0.8)]
    expected = evaluate_coco(ground_truth(full), results, evaluator)
    summary = evaluate_coco(ground_truth(bare), results, evaluator)
    assert summary == expected
    assert summary.numbers["APs"] == pytest.approx(1.0)
    assert summary.numbers["APl"] is None
    assert 0.0 < summary.numbers["APm"] < 1.0


@both
def test_annotation_ids_do_not_matter(evaluator: str) -> None:
    truth = ground_truth([{"bbox": [0, 0, 20, 20]}, {"bbox": [50, 50, 60, 60]}])
    results = [result([0, 0, 20, 20], 0.9), result([50, 50, 60, 60], 0.8)]
    for ids in ((0, 1), (7, 7), (None, None)):
        for annotation, number in zip(truth["annotations"], ids, strict=True):
            annotation["id"] = number
        assert evaluate_coco(truth, results, evaluator).numbers["AP"] == pytest.approx(1.0), ids


@both
def test_no_detections_and_no_ground_truth(evaluator: str) -> None:
    truth = ground_truth([{"bbox": [0, 0, 20, 20]}], images=3, categories=2)
    summary = evaluate_coco(truth, [], evaluator)
    assert summary.numbers["AP"] == 0.0
    assert summary.numbers["APs"] == 0.0
    assert summary.numbers["APm"] is None
    assert [row.ap for row in summary.per_class] == [0.0, None]
    for results in ([], [result([0, 0, 5, 5], 0.5)]):
        nothing = evaluate_coco(ground_truth([], images=2), results, evaluator)
        assert set(nothing.numbers.values()) == {None}
        assert "n/a" in nothing.table()


def test_unusable_annotations_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    broken = [
        {"bbox": [0, 0, float("nan"), 5]},
        {"bbox": [1, 2, 3]},
        {"bbox": None},
        {"bbox": [0, 0, 5, 5], "image_id": 99},
        {"bbox": [0, 0, 5, 5], "category_id": 99},
    ]
    truth = ground_truth([{"bbox": [0, 0, 20, 20]}, *broken])
    summary = evaluate_coco(truth, [result([0, 0, 20, 20], 0.9)])
    assert summary.numbers["AP"] == pytest.approx(1.0)
    assert summary.per_class[0].boxes == 1
    assert "5 of 6 annotations" in caplog.text


def test_bad_inputs_say_what_is_wrong(tmp_path: Path) -> None:
    truth = ground_truth([{"bbox": [0, 0, 20, 20]}])
    with pytest.raises(EvaluationError, match=r"image_id.*not in the ground truth.*4711"):
        evaluate_coco(truth, [result([0, 0, 20, 20], 0.9, image_id=4711)])
    with pytest.raises(EvaluationError, match=r"category_id.*not in the ground truth.*12"):
        evaluate_coco(truth, [result([0, 0, 20, 20], 0.9, category_id=12)])
    with pytest.raises(EvaluationError, match=r"unknown evaluator.*faster, pycocotools"):
        evaluate_coco(truth, [], "fast")
    with pytest.raises(EvaluationError, match="no list annotations"):
        evaluate_coco({"images": [], "categories": []}, [])
    with pytest.raises(EvaluationError, match=r"images\[0\].id.*'a'"):
        evaluate_coco({**truth, "images": [{"id": "a"}]}, [])
    with pytest.raises(FileNotFoundError):
        evaluate_coco(str(tmp_path / "none.json"), [])
    for content, message in (("{", "not valid JSON"), ("[]", "holds a list")):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(EvaluationError, match=f"broken.json.*{message}"):
            evaluate_coco(tmp_path / "broken.json", [])


def test_export_uses_inclusive_sizes_and_category_ids() -> None:
    predictions = {
        9: predicted([[10, 20, 29, 59]], [2], [0.25]),
        3: predicted([[0, 0, 0, 0], [1.5, 2.25, 3.125, 4.0]], [1, 2], [0.5, 0.125]),
        5: BoxList(torch.zeros(0, 4), (640, 480)),
    }
    results = to_coco_results(predictions, (7, 90))
    assert results == [
        {"image_id": 3, "category_id": 7, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.5},
        {"image_id": 3, "category_id": 90, "bbox": [1.5, 2.25, 2.625, 2.75], "score": 0.125},
        {"image_id": 9, "category_id": 90, "bbox": [10.0, 20.0, 20.0, 40.0], "score": 0.25},
    ]
    assert json.loads(json.dumps(results)) == results
    assert to_coco_results({}, (1,)) == []


def test_ground_truth_exported_as_detections_is_perfect(seed: int, random_case: RandomCase) -> None:
    truth, _ = random_case(images=12, categories=4)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    predictions = {}
    for image in truth["images"]:
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = BoxList(torch.tensor([a["bbox"] for a in own]).reshape(-1, 4), (640, 480), mode="xywh")
        boxes.add_field("labels", torch.tensor([a["category_id"] for a in own], dtype=torch.int64))
        boxes.add_field("scores", torch.rand(len(own)))
        predictions[image["id"]] = boxes.convert("xyxy")
    summary = evaluate_coco(truth, to_coco_results(predictions, (1, 2, 3, 4)))
    assert summary.numbers["AP"] == pytest.approx(1.0)


def test_export_refuses_what_the_server_would_refuse() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(EvaluationError, match=r"image 17.*not finite"):
            to_coco_results({17: predicted([[0, 0, bad, 5]], [1], [0.5])}, (1,))
        with pytest.raises(EvaluationError, match=r"image 17.*not finite"):
            to_coco_results({17: predicted([[0, 0, 5, 5]], [1], [bad])}, (1,))
    for label in (0, 3):
        with pytest.raises(EvaluationError, match=r"image 17.*labels 1\.\.2"):
            to_coco_results({17: predicted([[0, 0, 5, 5]], [label], [0.5])}, (1, 2))
