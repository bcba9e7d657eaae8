"""The report of a run has every part, says what the files say, and survives what files can lack."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from labelenc.reports import ReportError, report_after_run, report_of_folder, write_run_report

PARTS = [
    "AP and recall",
    "Classes",
    "Precision and recall",
    "Object sizes",
    "Causes of errors",
    "Worst images",
]


def test_every_part_is_there(config, make_run, parse, seed: int) -> None:
    folder = make_run(config("run"), "step1", 0.4, seed, reconstruction=True)
    moment = folder / "method/iteration_0000040"
    moment.mkdir(parents=True)
    cv2.imwrite(str(moment / "a.png"), np.zeros((4, 4, 3), np.uint8))
    picture = {"file": "a.png", "caption": "a < b", "image_id": 3, "level": None, "kind": "labels"}
    missing = {**picture, "file": "gone.png", "image_id": 4}
    (moment / "pictures.json").write_text(json.dumps([picture, missing]))
    # A distance that is not finite is written as null.
    (moment / "summary.json").write_text(json.dumps({"mean": {"3": 0.12345, "4": None}}))
    path = report_of_folder(folder)
    assert path == folder / "report/index.html"
    page = parse(path.read_text(encoding="utf-8"))
    page.assert_stands_alone()
    assert page.headings[0] == "run: LabelEnc step 1"
    first, second = (
        page.headings.index("val: evaluation"),
        page.headings.index("val: reconstruction of the labels"),
    )
    assert set(PARTS) <= set(page.headings[first:second])
    assert {"Scores and thresholds", "Confusion of classes"} <= set(page.headings[first:second])
    assert set(PARTS) <= set(page.headings[second:])
    assert {"Losses", "AP while training", "Learning rate and throughput"} <= set(page.headings)
    assert "See the method: run" in page.headings
    assert "Image 3" in page.headings
    assert "Image 4" not in page.headings
    assert ["3", "0.123"] in page.rows
    assert ["4", "n/a"] in page.rows
    assert "40 iterations of 4 images (160 images, repeats included)" in page.text
    # Of so few iterations the raw values are shown alone.
    assert "running means over" not in page.text
    numbers = json.loads((folder / "inference/val/results.json").read_bytes())
    shown = [row[1:] for row in page.rows if row[0] == "val" and len(row) == 13]
    assert shown == [["n/a" if v is None else f"{100 * v:.1f}" for v in numbers["numbers"].values()]]
    beside = json.loads((folder / "report/numbers_val.json").read_bytes())
    assert beside["summary"]["numbers"] == numbers["numbers"]
    for row in numbers["per_class"]:
        assert [row["name"], str(row["boxes"]), str(row["detections"])] in [
            [cells[0], *cells[3:]] for cells in page.rows if len(cells) == 5
        ]
    beside = {file.name for file in path.parent.iterdir()}
    assert {"val_precision_recall.png", "val_confusion.png", "losses.png", "speed_01.png"} <= beside
    assert len([name for name in beside if name.startswith("val_worst")]) == 16


def test_a_set_without_labels_shows_detections(config, make_run, parse, seed: int) -> None:
    labelled = make_run(config("labelled"), "baseline", 0.3, seed)
    bare = config("bare", lambda truth: truth.update(annotations=[]))
    folder = make_run(bare, "evaluation", 0.3, seed, iterations=0)
    found = (labelled / "inference/val/predictions.json").read_bytes()
    (folder / "inference/val/predictions.json").write_bytes(found)
    page = parse(write_run_report(bare, folder).read_text(encoding="utf-8"))
    page.assert_stands_alone()
    assert "no annotations, so there is nothing to score" in page.text
    assert "Some images" in page.headings
    assert not {"Training", "Worst images", "Precision and recall"} & set(page.headings)
    assert len(page.pictures()) == 16


def test_no_detection_at_all(config, make_run, parse, seed: int) -> None:
    cfg = config("empty")
    page = parse(write_run_report(cfg, make_run(cfg, "baseline", 2.0, seed)).read_text(encoding="utf-8"))
    assert "not a single detection" in page.text
    assert "Worst images" in page.headings
    assert "0 right, 0 false" in page.text


def test_one_class_and_many(config, make_run, parse, seed: int) -> None:
    def one(truth: dict) -> None:
        truth["categories"] = truth["categories"][:1]
        for entry in truth["annotations"]:
            entry["category_id"] = truth["categories"][0]["id"]

    def many(truth: dict) -> None:
        truth["categories"] += [{"id": 100 + k, "name": f"class {k} <b>"} for k in range(70)]

    for name, change, count in (("one", one, 1), ("many", many, 80)):
        cfg = config(name, change)
        page = parse(write_run_report(cfg, make_run(cfg, "baseline", 0.5, seed)).read_text(encoding="utf-8"))
        page.assert_stands_alone()
        assert {*PARTS, "Confusion of classes"} <= set(page.headings)
        assert (f"All {count} classes" in page.text) == (count > 20)
        assert ("val_confusion.png, beside this page, is larger" in page.text) == (count > 40)
    assert "class 69 <b>" in page.text


def test_numbers_stay_where_the_annotations_are_gone(config, make_run, parse, seed: int) -> None:
    cfg = config("gone", lambda truth: None)
    folder = make_run(cfg, "baseline", 0.5, seed)
    Path(cfg.DATASETS.REGISTER.val.annotations).unlink()
    page = parse(report_of_folder(folder).read_text(encoding="utf-8"))
    assert "the truth of this set can't be read" in page.text
    assert "AP and recall" in page.headings
    assert "Losses" in page.headings


def test_annotations_that_have_changed_are_told(config, make_run, parse, seed: int) -> None:
    cfg = config("changed", lambda truth: None)
    folder = make_run(cfg, "baseline", 0.5, seed)
    told = "have changed since the evaluation"
    assert told not in parse(report_of_folder(folder).read_text(encoding="utf-8")).text
    annotations = Path(cfg.DATASETS.REGISTER.val.annotations)
    truth = json.loads(annotations.read_bytes())
    truth["annotations"] = truth["annotations"][::2]
    annotations.write_text(json.dumps(truth))
    assert told in parse(report_of_folder(folder).read_text(encoding="utf-8")).text


def test_a_folder_that_is_no_run_is_refused(config, make_run, tmp_path: Path, seed: int) -> None:
    with pytest.raises(ReportError, match="there is no folder"):
        report_of_folder(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"has no config\.yml"):
        report_of_folder(tmp_path)
    folder = make_run(config("broken"), "baseline", 0.5, seed)
    (folder / "inference/val/predictions.json").write_text("[{")
    with pytest.raises(ReportError, match=r"predictions\.json is not valid JSON"):
        report_of_folder(folder)
    whole = make_run(config("whole"), "step1", 0.5, seed)
    (whole / "method/iteration_0000040").mkdir(parents=True)
    (whole / "method/iteration_0000040/pictures.json").write_text("[{")
    with pytest.raises(ReportError, match=r"pictures\.json is not valid JSON .*; take its folder away"):
        report_of_folder(whole)


def test_a_failing_report_fails_no_run(config, make_run, caplog, seed: int) -> None:
    cfg = config("run")
    folder = make_run(cfg, "baseline", 0.5, seed)
    (folder / "metrics.jsonl").write_text("[]\n{}\n")
    (folder / "report").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "labelenc"):
        report_after_run(cfg, 0)
    assert "there is no report of this run" in caplog.text
    caplog.clear()
    report_after_run(cfg, 1)
    assert caplog.text == ""
