"""What is finished, what is not, and what must not be mixed."""

from __future__ import annotations

import pytest

from labelenc.study import StudyError
from labelenc.study.progress import is_finished, iterations_done, objections, seconds_per_iteration


def test_finished_runs(plan, pretended):
    study = plan(equal_budget=True, controls=True)
    assert not any(map(is_finished, study.stages))
    for stage in study.stages:
        pretended(stage)
    assert all(map(is_finished, study.stages))
    assert [iterations_done(stage) for stage in study.stages] == [8, 11, 8, 19, 8, 8]
    assert objections(study.stages) == []
    assert seconds_per_iteration(study.stages, "step1") == 0.5


@pytest.mark.parametrize(
    "lack",
    ["label_encoding_function.pth", "model_final.pth", "metrics.jsonl", "last_checkpoint", "reconstruction"],
)
def test_what_a_finished_step_1_must_have(plan, pretended, lack):
    stage = plan().stages[1]
    pretended(stage)
    if lack == "reconstruction":
        file = stage.folder / "metrics.jsonl"
        file.write_text(file.read_text().replace("_reconstruction", "_other"))
    else:
        (stage.folder / lack).unlink()
    assert not is_finished(stage)


def test_results_count_only_with_the_last_weights(plan, pretended):
    """A run that was evaluated, then given more iterations and stopped among them."""
    stage = plan().stages[0]
    result = {"iteration": 8, "eval/tiny_val/AP": 0.1}
    pretended(stage, 8, "model_0000006.pth", result)
    assert not is_finished(stage)
    pretended(stage, 6, "model_final.pth", {"iteration": 6, "eval/tiny_val/AP": 0.1})
    assert not is_finished(stage)
    pretended(stage, 8, "model_final.pth", result)
    assert is_finished(stage)
    assert not is_finished(plan("DATASETS.TEST", "('tiny_val', 'tiny_train')").stages[0])


def test_torn_and_long_metrics(plan, pretended):
    stage = plan("SOLVER.MAX_ITER", 3000).stages[0]
    pretended(stage)
    file = stage.folder / "metrics.jsonl"
    assert file.stat().st_size > 1 << 17
    assert is_finished(stage)
    file.write_text(file.read_text() + '{"iteration": 30')
    assert is_finished(stage)


def test_how_far_a_run_is(plan, pretended):
    stage = plan().stages[0]
    assert iterations_done(stage) == 0
    pretended(stage, 7, "model_0000006.pth")
    assert iterations_done(stage) == 6


@pytest.mark.parametrize(
    ("words", "concerned"),
    [
        (("SOLVER.WEIGHT_DECAY", 0.5), {"baseline", "step1", "step2"}),
        (("SOLVER.MAX_ITER", 9), {"baseline", "step1", "step2"}),
        (("MODEL.WEIGHT", "a.pth"), {"baseline", "step1", "step2"}),
        (("TEST.BBOX_AUG.ENABLED", True), {"baseline", "step1", "step2"}),
        (("MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS", 4), {"step1"}),
        (("MODEL.LABELENC.AUXILIARY_LOSS_ITERS", 4), {"step2"}),
        (("MODEL.LABELENC.ENCODER_WIDTH", 2.0), {"step1", "step2"}),
        (("SOLVER.LOG_PERIOD", 7, "DATALOADER.NUM_WORKERS", 1, "TEST.EVAL_PERIOD", 2), set()),
    ],
)
def test_changes_are_told_of_the_runs_they_concern(plan, pretended, words, concerned):
    for stage in plan().stages:
        pretended(stage)
    lines = objections(plan(*words).stages)
    assert {name for name in ("baseline", "step1", "step2") for line in lines if f"{name} was" in line} == (
        concerned
    )
    assert len(lines) == len(concerned)
    assert all(words[0] in line and "Choose another OUTPUT_DIR" in line for line in lines)
    if "step1" in concerned:
        [line] = [line for line in lines if "step1 was" in line]
        assert "study/step1 and " in line
        assert line.endswith("study/step2 to train anew")


def test_values_that_a_run_fills_in_are_no_change(plan, pretended):
    drawn, fixed = plan("SEED", -1), plan("SEED", 3, "MODEL.NUM_CLASSES", 6)
    for stage in fixed.stages:
        pretended(stage)
    assert objections(drawn.stages) == []


def test_another_batch_size_is_refused(plan, pretended):
    pretended(plan().stages[0])
    with pytest.raises(StudyError, match=r"study/baseline: .*IMS_PER_BATCH 4.*cannot resume with 8"):
        objections(plan("SOLVER.IMS_PER_BATCH", 8).stages)


def test_step_2_of_a_step_1_that_is_gone(plan, pretended):
    study = plan()
    pretended(study.stages[2], 4, "model_0000003.pth")
    [line] = objections(study.stages)
    assert "step2 was begun with another step 1" in line
    assert line.endswith(f"Remove {study.stages[2].folder} to train it anew")
    pretended(study.stages[1])
    assert objections(study.stages) == []
