"""What a study consists of, and that its commands are what the real tools understand."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from labelenc import pipeline
from labelenc.config import load_config
from labelenc.study import StudyError, plan_study
from labelenc.study.plan import shown
from labelenc.study.run import plan_text

ROOT = Path(__file__).resolve().parents[2]


def names(study) -> list[str]:
    return [stage.name for stage in study.stages]


def understood(command, monkeypatch) -> tuple[str, object, tuple]:
    """The training function that a command calls, with its configuration and other arguments."""
    calls: list[tuple] = []
    for function in ("train_baseline", "train_step1", "train_step2"):

        def record(cfg, *rest, function=function):
            calls.append((function, cfg, rest))

        monkeypatch.setattr(pipeline, function, record)
    assert command[0] == sys.executable
    monkeypatch.setattr(sys, "argv", list(command[1:]))
    scope = {"__name__": "__main__"}
    exec(compile((ROOT / command[1]).read_text(), command[1], "exec"), scope)
    [call] = calls
    return call


def test_switches_choose_the_runs(plan):
    usual = ["baseline", "step1", "step2"]
    more = ["baseline_equal_budget", "step2_no_auxiliary_loss", "step2_no_step1_start"]
    assert names(plan()) == usual
    assert names(plan(baseline=False)) == usual[1:]
    assert names(plan(equal_budget=True)) == [*usual, more[0]]
    assert names(plan(controls=True)) == [*usual, *more[1:]]
    assert names(plan(equal_budget=True, controls=True)) == [*usual, *more]


def test_iterations_and_folders(plan, tmp_path):
    """Worked out by hand from MAX_ITER 8, STEPS (6,), a warm-up of 3 and 4 images an update."""
    study = plan(equal_budget=True, controls=True)
    by_name = {stage.name: stage for stage in study.stages}
    assert [stage.iterations for stage in study.stages] == [8, 11, 8, 19, 8, 8]
    assert [stage.images for stage in study.stages] == [32, 44, 32, 76, 32, 32]
    assert {stage.folder for stage in study.stages} == {tmp_path / "study" / name for name in by_name}
    # 6 of 8 is 14.25 of 19.
    assert by_name["baseline_equal_budget"].cfg.SOLVER.STEPS == (14,)
    assert by_name["baseline_equal_budget"].cfg.SOLVER.WARMUP_ITERS == 4
    no_loss, no_start = by_name["step2_no_auxiliary_loss"].cfg, by_name["step2_no_step1_start"].cfg
    assert (no_loss.MODEL.LABELENC.AUXILIARY_LOSS_ITERS, no_loss.MODEL.LABELENC.START_FROM_STEP1) == (0, True)
    assert (no_start.MODEL.LABELENC.AUXILIARY_LOSS_ITERS, no_start.MODEL.LABELENC.START_FROM_STEP1) == (
        6,
        False,
    )


@pytest.mark.parametrize("opts", [(), ("SOLVER.BASE_LR", 0.03, "SEED", -1)])
def test_commands_mean_what_the_plan_says(plan, monkeypatch, opts):
    for stage in plan(*opts, equal_budget=True, controls=True).stages:
        function, cfg, rest = understood(shlex.split(shown(stage.command)), monkeypatch)
        assert function == f"train_{stage.kind}"
        assert cfg.dump() == stage.cfg.dump()
        handed = (str(stage.folder.parent / "step1/label_encoding_function.pth"),)
        assert rest == (*(handed if stage.kind == "step2" else ()), False)


def test_scaled_schedules_are_not_scaled_twice(plan, monkeypatch):
    """The linear rule from 8 to 4 images: half the rate, twice the iterations."""
    opts = ("SOLVER.REFERENCE_IMS_PER_BATCH", 8, "SOLVER.AUTO_SCALE", True)
    study = plan(*opts, equal_budget=True, controls=True)
    assert [stage.iterations for stage in study.stages] == [16, 22, 16, 38, 16, 16]
    for stage in study.stages:
        _, cfg, _ = understood(stage.command, monkeypatch)
        assert cfg.SOLVER.dump() == stage.cfg.SOLVER.dump()
        assert stage.kind == "baseline" or cfg.MODEL.LABELENC == stage.cfg.MODEL.LABELENC
        assert pytest.approx(0.005) == cfg.SOLVER.BASE_LR


def test_several_processes_are_launched(plan, monkeypatch):
    one, four = plan(), plan(processes=4)
    for alone, together in zip(one.stages, four.stages, strict=True):
        executable, *launcher = together.command[: len(together.command) - len(alone.command) + 1]
        assert executable == sys.executable
        assert launcher == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
        assert together.command[5:] == alone.command[1:]
    assert one.comparison == four.comparison


def test_folder_from_the_config_file(tiny_root, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"_BASE_: {tiny_root / 'config.yaml'}\nOUTPUT_DIR: some/where\n")
    study = plan_study(str(file), [], load_config(file))
    assert [str(stage.folder) for stage in study.stages] == [
        f"some/where/{name}" for name in ("baseline", "step1", "step2")
    ]


def test_nothing_to_compare_on_is_refused(plan):
    with pytest.raises(StudyError, match=r"DATASETS\.TEST is empty"):
        plan("DATASETS.TEST", "()")


def test_the_printed_plan(plan, pretended):
    study = plan("SOLVER.IMS_PER_BATCH", 1000)
    pretended(study.stages[0])
    pretended(study.stages[1], 7, "model_0000006.pth")
    header, *lines = plan_text(study, {}).splitlines()
    assert header.split() == ["run", "iterations", "images", "time", "left", "state", "folder"]
    cells = [line.split("  ") for line in lines[:3]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    folders = [str(stage.folder) for stage in study.stages]
    assert cells == [
        ["baseline", "8", "8,000", "-", "finished", folders[0]],
        ["step 1", "11", "11,000", "?", "6 iterations done", folders[1]],
        ["step 2", "8", "8,000", "?", "to do", folders[2]],
    ]
    assert [line.strip() for line in lines[-4:]] == [
        *(shown(stage.command) for stage in study.stages),
        shown(study.comparison),
    ]
