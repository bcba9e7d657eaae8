"""The summary as text and JSON, and the files of an evaluation."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from labelenc.evaluation import COCO_NUMBERS, ClassResult, CocoSummary, evaluate_coco, write_evaluation

GROUND_TRUTH = {
    "info": {},
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "long-tailed duck"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 100, 100], "area": 10000, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0},
    ],
}
RESULTS = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 100, 72], "score": 0.5}]


def summary_of(classes: int) -> CocoSummary:
    rows = [ClassResult(i, f"class {i}", i / 1000, None, 10 * i, 0) for i in range(1, classes + 1)]
    return CocoSummary(dict.fromkeys(COCO_NUMBERS, 0.1234), rows, "faster", 1)


def test_files_and_round_trip(tmp_path: Path) -> None:
    summary = evaluate_coco(GROUND_TRUTH, RESULTS)
    folder = write_evaluation(tmp_path / "run", "pets_val", RESULTS, summary)
    assert folder == tmp_path / "run" / "inference" / "pets_val"
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.json", "results.json"]
    assert json.loads((folder / "predictions.json").read_text()) == RESULTS
    content = json.loads((folder / "results.json").read_text())
    assert content["dataset"] == "pets_val"
    assert CocoSummary.from_dict(content) == summary
    assert content["numbers"]["APm"] is None
    assert 0 < content["numbers"]["AP"] < 1


def test_predictions_file_works_in_pycocotools(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    summary = evaluate_coco(GROUND_TRUTH, RESULTS)
    folder = write_evaluation(tmp_path, "pets_val", RESULTS, summary)
    (tmp_path / "truth.json").write_text(json.dumps(GROUND_TRUTH))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    for name, value in zip(COCO_NUMBERS, evaluation.stats, strict=True):
        assert (summary.numbers[name] is None) == (value == -1), name
        assert summary.numbers[name] in (None, pytest.approx(value, abs=1e-12)), name


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    summary = evaluate_coco(GROUND_TRUTH, RESULTS)
    folder = write_evaluation(tmp_path, "pets_val", RESULTS, summary)
    with pytest.raises(ValueError):
        write_evaluation(tmp_path, "pets_val", [{**RESULTS[0], "score": float("nan")}], summary)
    assert json.loads((folder / "predictions.json").read_text()) == RESULTS
    assert len(list(folder.iterdir())) == 2


def test_table_shows_percent_and_all_classes() -> None:
    text = evaluate_coco(GROUND_TRUTH, RESULTS).table()
    assert [name for name in text.split() if name in COCO_NUMBERS][:12] == list(COCO_NUMBERS)
    # One of two boxes found at 5 of 10 thresholds: recall up to 0.5 is 51 of 101 points.
    assert f"{100 * 0.5 * 51 / 101:.1f}" in text
    assert "n/a" in text
    assert "long-tailed duck" in text
    assert "duck" not in evaluate_coco(GROUND_TRUTH, RESULTS).table(per_class=False)


@pytest.mark.parametrize("classes", [1, 20, 21, 80, 365])
def test_table_folds_long_class_lists(classes: int) -> None:
    text = summary_of(classes).table()
    assert max(map(len, text.splitlines())) <= 130
    for number in range(1, classes + 1):
        assert text.count(f"class {number} ") == 1
