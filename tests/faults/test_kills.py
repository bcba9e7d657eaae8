"""SIGKILL at random points and in the middle of writing a checkpoint: resuming loses next to nothing."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from labelenc.engine import CheckpointError, load_file

DRILL = Path(__file__).with_name("drill.py")
PERIOD = 4  # of checkpoints, in tiny.run
SLOW = ("--delay", 0.003, "--slow-disk", 0.02)


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(DRILL, folder, *SLOW).wait() == 0
    return folder


def saved_iteration(folder: Path) -> int:
    """The iteration of the newest checkpoint; none of the files may be torn."""
    iterations = [load_file(path)["iteration"] for path in folder.glob("model_*.pth")]
    return max(iterations, default=0)


def kill(program, folder: Path, random_numbers, while_writing: bool, waiting, count_rows) -> int:
    """Kill at a random time, or at the next checkpoint; returns how many files were half written."""
    known = count_rows(folder)
    waiting(lambda: count_rows(folder) != known or program.poll() is not None, "an iteration")
    time.sleep(random_numbers.uniform(0, 0.2))
    if while_writing:
        waiting(lambda: [*folder.glob("*.tmp")] or program.poll() is not None, "a checkpoint")
        time.sleep(random_numbers.uniform(0, 0.01))
    if program.poll() is None:
        program.signal_all(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    assert not program.others()
    return len([*folder.glob("model_*.tmp")])


@pytest.mark.parametrize("draw", range(10))
def test_kills_lose_at_most_one_period(
    draw, start, undisturbed, tmp_path, waiting, count_rows, assert_same_run, seed
) -> None:
    random_numbers = random.Random(seed)
    torn = 0
    for while_writing in (False, True):
        program = start(DRILL, tmp_path, *SLOW)
        torn += kill(program, tmp_path, random_numbers, while_writing, waiting, count_rows)
        assert count_rows(tmp_path) - saved_iteration(tmp_path) <= PERIOD
    last = start(DRILL, tmp_path, *SLOW)
    assert last.wait() == 0, last.told()
    print(f"{torn} checkpoints were half written")
    assert_same_run(undisturbed, tmp_path)
    assert not [*tmp_path.glob("*.tmp")]


def test_drill_hits_half_written_files(start, tmp_path, waiting) -> None:
    """What a kill leaves in the middle of a write is no checkpoint, and resuming removes it."""
    program = start(DRILL, tmp_path, "--slow-disk", 0.5)
    waiting(lambda: [*tmp_path.glob("model_*.tmp")], "a checkpoint")
    program.signal_all(signal.SIGKILL)
    program.wait()
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["model_0000004.pth.tmp"]
    assert not [*tmp_path.glob("*.pth")]
    with pytest.raises(CheckpointError):
        load_file(tmp_path / "last_checkpoint")
    again = start(DRILL, tmp_path)
    assert again.wait() == 0
    assert not [*tmp_path.glob("*.tmp")]
