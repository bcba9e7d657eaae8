"""A study from beginning to end, with what may come in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labelenc.study import run_study

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
    """SIGTERM in step 1; then another configuration is refused, and the same command finishes."""
    folder, many = tmp_path / "study", ("SOLVER.MAX_ITER", 60, "TEST.REPORT", False)
    program = start(tiny_root, folder, *many)
    deadline = time.monotonic() + 120
    while len(rows(folder / "step1")) < 2 and time.monotonic() < deadline:
        assert program.poll() is None, program.communicate()
        time.sleep(0.005)
    program.send_signal(signal.SIGTERM)
    told, _ = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM, told
    assert "stopped by SIGTERM after iteration" in told
    assert told.endswith("stopped by SIGTERM; the same command goes on from there\n")
    done = len(rows(folder / "step1"))
    assert 2 <= done < 63
    assert not (folder / "step2").exists()
    weights = (folder / "baseline/model_final.pth").stat().st_mtime_ns

    program = start(tiny_root, folder, *many, "SOLVER.BASE_LR", 0.5)
    told, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    assert (
        f"{folder / 'baseline'} was trained with another configuration: SOLVER.BASE_LR was 0.01, is 0.5"
        in (told)
    )
    assert "--allow-changes" in told

    program = start(tiny_root, folder, *many)
    told, _ = program.communicate(timeout=120)
    assert program.returncode == 0, told
    assert f"[1/4] baseline: finished, in {folder / 'baseline'}" in told
    assert f"[2/4] step 1: iterations {done + 1} to 63, about" in told
    assert "[3/4] step 2: iterations 1 to 60\n" in told
    assert (folder / "baseline/model_final.pth").stat().st_mtime_ns == weights
    updates = [row["iteration"] for row in rows(folder / "step1") if "loss" in row]
    assert updates == list(range(1, 64))
    assert "eval/tiny_val/AP" in rows(folder / "step2")[-1]


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
        (("--nproc-per-node", "0"), "0 is not 1 or more"),
        (("--equal-budgets",), "--equal-budgets"),
        (("SOLVER.BASELR", "1"), "did you mean SOLVER.BASE_LR?"),
    ],
)
def test_mistakes_end_with_one_line(tiny_root, tmp_path, words, message):
    program = start(tiny_root, tmp_path / "study", *words)
    told, _ = program.communicate(timeout=60)
    assert program.returncode == 2
    assert message in told.splitlines()[-1]
    assert not (tmp_path / "study").exists()
