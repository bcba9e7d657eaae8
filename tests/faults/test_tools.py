"""tools/train_net.py with data workers: killed, asked to stop, robbed of a worker, of memory, of the disk."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/train_net.py"


needs_workers = pytest.mark.skipif(
    (os.cpu_count() or 1) < 2, reason="with one core there may be no data workers"
)


@pytest.fixture(scope="module")
def train(start, tiny_root):
    """train(folder, *options, …) -> the tool, started, with two data workers."""

    def launch(folder: Path, *words: object, **environment: object):
        options = ("DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_ITER", 24, "OUTPUT_DIR", folder)
        config = ("--config-file", tiny_root / "config.yaml", "--skip-test")
        return start(TOOL, *config, *options, *words, **environment)

    return launch


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tool")
    program = train(folder)
    assert program.wait() == 0, program.told()
    return folder


def test_killed_then_asked_to_stop_twice(
    train, undisturbed, tmp_path, waiting, count_rows, assert_same_run
) -> None:
    """All processes get each signal, as from a terminal, a launcher or a scheduler."""
    program = train(tmp_path)
    waiting(lambda: [*tmp_path.glob("model_*.tmp")] or count_rows(tmp_path) > 5, "a checkpoint")
    program.signal_all(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    waiting(lambda: not program.others(), "the workers' end", 10)
    for signum in (signal.SIGTERM, signal.SIGINT):
        known = count_rows(tmp_path)
        program = train(tmp_path)
        waiting(lambda known=known: count_rows(tmp_path) > known, "an iteration")
        program.signal_all(signum)
        assert program.wait() == 128 + signum, program.told()
        assert re.search(rf"stopped by {signum.name} after iteration \d+ of 24, saved in", program.told())
        assert "Traceback" not in program.told()
        waiting(lambda program=program: not program.others(), "the workers' end", 10)
    program = train(tmp_path)
    assert program.wait() == 0, program.told()
    assert_same_run(undisturbed, tmp_path)


@needs_workers
def test_killed_worker_is_explained(train, tmp_path, waiting, count_rows) -> None:
    program = train(tmp_path, "SOLVER.MAX_ITER", 10000)
    waiting(lambda: count_rows(tmp_path) >= 4, "a checkpoint")
    os.kill(max(program.others()), signal.SIGKILL)
    assert program.wait(60) == 1
    for part in ("a data worker failed", "Killed", "Out of memory", "/dev/shm", "DATALOADER.NUM_WORKERS"):
        assert part in program.told()
    assert "Traceback" not in program.told()
    waiting(lambda: not program.others(), "the other worker's end", 10)


@needs_workers
def test_missing_shared_memory_is_explained(train, tmp_path) -> None:
    """Files in shared memory obey the same limit as others."""
    program = train(
        tmp_path, "INPUT.MIN_SIZE_TRAIN", "(512,)", "INPUT.MAX_SIZE_TRAIN", 512, largest_file=10**6
    )
    assert program.wait(60) == 1, program.told()
    for part in ("a data worker failed", "File too large", "--shm-size", "DATALOADER.NUM_WORKERS"):
        assert part in program.told()
    assert "Traceback" not in program.told()


def test_full_disk_keeps_the_last_checkpoint(train, undisturbed, tmp_path, assert_same_run) -> None:
    size = (undisturbed / "model_final.pth").stat().st_size
    first = train(tmp_path, "SOLVER.MAX_ITER", 3)
    assert first.wait() == 0, first.told()
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    kept = (tmp_path / "model_0000003.pth").read_bytes()
    full = train(tmp_path, largest_file=size // 2)
    assert full.wait() == 1
    assert re.search(r"error: cannot write .*model_0000006\.pth: .*File too large.*free space", full.told())
    assert "Traceback" not in full.told()
    assert not [*tmp_path.glob("*.tmp")]
    assert (tmp_path / "model_0000003.pth").read_bytes() == kept
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert train(tmp_path).wait() == 0
    models = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (undisturbed, tmp_path)]
    assert all(torch.equal(models[0]["model"][name], tensor) for name, tensor in models[1]["model"].items())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt"])
def test_full_disk_while_recording(start, tmp_path, name) -> None:
    """Without its log a run goes on, without its record it ends."""
    (tmp_path / name).symlink_to("/dev/full")
    program = start(Path(__file__).with_name("drill.py"), tmp_path)
    assert program.wait() == (1 if name == "metrics.jsonl" else 0), program.told()
    assert len(re.findall(rf"cannot write .*{re.escape(name)}.*No space left", program.told())) == 1
    assert "Traceback" not in program.told()
