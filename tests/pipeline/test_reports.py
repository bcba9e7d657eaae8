"""Training and evaluation end with a report, and none of them fails because of it."""

from __future__ import annotations

import json
import logging

from labelenc import pipeline


def test_training_and_evaluation_end_with_a_report(tiny_cfg, tmp_path, caplog):
    options = ("TEST.REPORT", True, "TEST.METHOD_IMAGES", 1)
    pipeline.train_step1(tiny_cfg(*options, out="step1"))
    page = (tmp_path / "step1/report/index.html").read_text(encoding="utf-8")
    for part in ("LabelEnc step 1", "tiny_val: evaluation", "tiny_val: reconstruction", "See the method"):
        assert part in page
    weight = ("MODEL.WEIGHT", tmp_path / "step1/model_final.pth")
    pipeline.evaluate(tiny_cfg("TEST.REPORT", True, *weight, out="tested"))
    assert "evaluation of a checkpoint" in (tmp_path / "tested/report/index.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "tested/run.json").read_bytes())["kind"] == "evaluation"
    # Testing in the folder of a training leaves its records as they are.
    pipeline.evaluate(tiny_cfg("TEST.REPORT", False, *weight, out="step1"))
    assert json.loads((tmp_path / "step1/run.json").read_bytes())["kind"] == "step1"


def test_a_failing_report_leaves_the_training_finished(tiny_cfg, tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "labelenc"):
        metrics = pipeline.train_baseline(tiny_cfg("TEST.REPORT", True, "SOLVER.MAX_ITER", 2))
    assert "eval/tiny_val/AP" in metrics
    assert (folder / "model_final.pth").is_file()
    assert "there is no report of this run" in caplog.text
