"""One of two processes dies or hangs: the other ends and names it, and torchrun starts both again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRILL = Path(__file__).with_name("drill.py")


def test_survivor_names_the_dead(start_pair, tmp_path) -> None:
    programs = start_pair(DRILL, tmp_path, "--die-at", 6)
    assert programs[0].wait(60) == 1
    told = programs[0].told()
    assert f"process 1 (pid {programs[1].pid}) has ended" in told
    assert "resumes from its last checkpoint" in told
    assert "Traceback" not in told
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


def test_survivor_names_the_stuck_after_the_timeout(start_pair, tmp_path) -> None:
    programs = start_pair(DRILL, tmp_path, "--hang-at", 6, "--timeout", 4)
    started = time.monotonic()
    assert programs[0].wait(60) == 1
    assert time.monotonic() - started > 4
    told = programs[0].told()
    assert f"process 1 (pid {programs[1].pid}) is stopped" in told
    assert "timed out" in told.lower() or "timeout" in told.lower()
    assert "Traceback" not in told


@pytest.mark.slow
def test_torchrun_resumes_by_itself(start_pair, tmp_path, free_port, assert_same_run) -> None:
    """The restarted run ends like one that nothing disturbed, and torchrun's report names the rank."""
    programs = start_pair(DRILL, tmp_path / "through")
    assert [program.wait() for program in programs] == [0, 0]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1"]
    command += [f"--master_port={free_port()}", str(DRILL), str(tmp_path / "killed"), "--die-at", "10"]
    command += ["--timeout", "60"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "local_rank: 1" in told, told
    assert "resuming from" in told
    assert_same_run(tmp_path / "through", tmp_path / "killed")
