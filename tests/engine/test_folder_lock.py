"""Two trainings in one folder would mix their checkpoints and metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labelenc.engine import CheckpointError, folder_lock, sole_use

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from labelenc.engine import sole_use
with sole_use(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_refused_until_the_first_has_died(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(CheckpointError, match="another training is running in"), sole_use(tmp_path):
                pass
        finally:
            other.kill()
        other.wait(timeout=60)
    with sole_use(tmp_path):
        pass


def test_the_folder_is_free_again_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0.2)
    with pytest.raises(ZeroDivisionError), sole_use(tmp_path):
        raise ZeroDivisionError
    with sole_use(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_and_trained_on(tmp_path, monkeypatch, caplog):
    def refuse(*_args, **_keywords):
        raise NotImplementedError("this file system has no flock")

    monkeypatch.setattr(folder_lock.FileLock, "acquire", refuse)
    with sole_use(tmp_path):
        pass
    assert "cannot be locked against a second training: this file system has no flock" in caplog.text
