"""A study from beginning to end, with what may come in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from labelenc.study import run_study, train_study

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(tiny_root: Path, folder: Path, *words: object) -> subprocess.Popen:
    command = [sys.executable, "tools/run_labelenc.py", "--config-file", str(tiny_root / "config.yaml")]
    return subprocess.Popen(
        [*command, *map(str, words), "OUTPUT_DIR", str(folder)],
        env=ENVIRONMENT,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_stopped_changed_and_gone_on_with(tiny_root, tmp_path):
    """SIGTERM in step 2; then another configuration is refused, and the same command finishes."""
    folder = tmp_path / "study"
    words = ["--no-baseline", "SOLVER.MAX_ITER", 60, "TEST.REPORT", False, "TEST.METHOD_IMAGES", 0]
    program = start(tiny_root, folder, *words)
    deadline = time.monotonic() + 120
    while len(rows(folder / "step2")) < 2 and time.monotonic() < deadline:
        assert program.poll() is None, program.communicate()
        time.sleep(0.005)
    program.send_signal(signal.SIGTERM)
    told, _ = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM, told
    assert "[1/3] step 1: iterations 1 to 63\n" in told
    assert "[2/3] step 2: iterations 1 to 60\n" in told
    assert "stopped by SIGTERM after iteration" in told
    assert told.endswith("stopped by SIGTERM; the same command goes on from there\n")
    done = len(rows(folder / "step2"))
    assert 2 <= done < 60
    handed = (folder / "step1/label_encoding_function.pth").stat().st_mtime_ns

    program = start(tiny_root, folder, *words, "SOLVER.BASE_LR", 0.5)
    told, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    complaint = "was trained with another configuration: SOLVER.BASE_LR was 0.01, is 0.5"
    assert f"error: {folder / 'step1'} {complaint}" in told
    assert f"error: {folder / 'step2'} {complaint}" in told
    assert "--allow-changes" in told

    program = start(tiny_root, folder, *words)
    told, _ = program.communicate(timeout=120)
    assert program.returncode == 0, told
    assert f"[1/3] step 1: finished, in {folder / 'step1'}" in told
    assert f"[2/3] step 2: iterations {done + 1} to 60, about" in told
    assert (folder / "step1/label_encoding_function.pth").stat().st_mtime_ns == handed
    assert [row["iteration"] for row in rows(folder / "step2") if "loss" in row] == list(range(1, 61))
    assert "eval/tiny_val/AP" in rows(folder / "step2")[-1]
    assert (folder / "comparison/index.html").is_file()


def test_a_run_that_fails_ends_the_study(arguments, tmp_path, capfd):
    (tmp_path / "study").mkdir()
    # Where step 1 is to make its folder.
    (tmp_path / "study/step1").write_text("")
    args, cfg = arguments("--no-baseline", "--controls")
    assert run_study(args, cfg) == 1
    told = capfd.readouterr()
    assert (
        f"error: step 1 ended with status 1; its messages are also in {tmp_path}/study/step1/log.txt"
        in told.err
    )
    assert "step 2" not in told.out
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["step1"]


def test_changes_are_refused_unless_allowed(plan, pretended, capsys):
    for stage in plan().stages:
        pretended(stage)
    changed = replace(plan("SOLVER.WEIGHT_DECAY", 0.5), comparison=(sys.executable, "-c", ""))
    assert train_study(changed) == 1
    told = capsys.readouterr()
    assert told.err.count("error: ") == 3
    assert "--allow-changes" in told.err
    assert train_study(changed, allow_changes=True) == 0
    told = capsys.readouterr()
    assert told.err.count("warning: ") == 3
    assert told.out.count(": finished, in ") == 3


def test_a_finished_study_is_not_timed(arguments, plan, pretended, capsys):
    for stage in plan().stages:
        pretended(stage)
    assert run_study(*arguments("--dry-run")) == 0
    told = capsys.readouterr()
    assert "timing" not in told.err
    assert told.out.count("  finished  ") == 3


def test_under_torchrun_it_says_what_to_do(arguments, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_study(*arguments()) == 1
    assert "--nproc-per-node" in capsys.readouterr().err


def test_plan_without_timing_leaves_nothing(arguments, tmp_path, capsys):
    assert run_study(*arguments("--dry-run", "--no-timing")) == 0
    assert capsys.readouterr().out.startswith("run ")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nproc-per-node", "0"), "0 is no whole number from 1 up"),
        (("--equal-budgets",), "--equal-budgets"),
        (("SOLVER.BASELR", "1"), "did you mean SOLVER.BASE_LR?"),
    ],
)
def test_mistakes_end_with_one_line(tiny_root, tmp_path, words, message):
    program = start(tiny_root, tmp_path / "study", *words)
    told, _ = program.communicate(timeout=60)
    assert program.returncode == 2
    (line,) = told.splitlines()
    assert message in line
    assert not (tmp_path / "study").exists()
