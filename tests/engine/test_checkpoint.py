"""Checkpoint files: whole or absent, harmless, and refused with a reason where they don't fit."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from labelenc.engine import Checkpointer, CheckpointError, load_file, save_atomic

# Dies where a power cut would hurt most: the new file is written but not yet in place.
DIE_BEFORE_REPLACE = """
import os, pathlib, signal, sys
from labelenc.engine import save_atomic
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
save_atomic({"new": 2}, sys.argv[1])
"""


class RunsCommand:
    """Pickles to a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def saved(tiny: ModuleType, folder: Path, names: tuple[str, ...] = ("model_0000004",), kind: str = "step1"):
    state = tiny.make_state()
    checkpointer = Checkpointer(folder, kind)
    for name in names:
        state.iteration = 4
        checkpointer.save(name, state)
    return state, checkpointer


def test_roundtrip_restores_everything(tiny: ModuleType, tmp_path: Path, seed: int) -> None:
    state, checkpointer = saved(tiny, tmp_path, names=())
    for _ in range(3):
        sum(state.model(torch.rand(2, 3, 8, 8)).values()).backward()
        state.optimizer.step()
        state.scheduler.step()
    state.iteration, state.extra = 3, {"best_value": 0.5, "names": ["a"]}
    checkpointer.save("model_0000003", state)
    drawn = torch.rand(5)

    fresh = tiny.make_state(seed=8)
    assert checkpointer.load_latest(fresh) == 3
    assert torch.equal(torch.rand(5), drawn)
    assert fresh.extra == state.extra
    assert fresh.scheduler.get_last_lr() == state.scheduler.get_last_lr()
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(fresh.model.state_dict()[name], tensor), name
    momenta = [entry["momentum_buffer"] for entry in state.optimizer.state_dict()["state"].values()]
    restored = [entry["momentum_buffer"] for entry in fresh.optimizer.state_dict()["state"].values()]
    assert len(momenta) == len(restored) == 10
    assert all(torch.equal(a, b) for a, b in zip(momenta, restored, strict=True))


def test_empty_folder_is_a_fresh_start(tiny: ModuleType, tmp_path: Path) -> None:
    assert Checkpointer(tmp_path / "new", "baseline").load_latest(tiny.make_state()) is None


def test_kill_between_write_and_replace_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_atomic({"old": 1}, path)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", DIE_BEFORE_REPLACE, str(path)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load_file(path) == {"old": 1}
    assert path.with_name("model.pth.tmp").exists()
    save_atomic({"new": 2}, path)
    assert load_file(path) == {"new": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_unwritable_folder_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*model\.pth"):
        save_atomic({}, tmp_path / "file" / "model.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_never_runs(tmp_path: Path, zipped: bool) -> None:
    trap = tmp_path / "it_ran"
    path = tmp_path / "model.pth"
    content = {"model": RunsCommand(f"touch {trap}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"model\.pth holds more than tensors .*system.*refused"):
        load_file(path)
    with path.open("wb") as stream:
        pickle.dump(content, stream, protocol=2)
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        load_file(path)
    assert not trap.exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_weight(path: Path) -> None:
    """Leaves a file that PyTorch loads without complaint."""
    content = bytearray(path.read_bytes())
    place = content.index(load_file(path)["model"]["body.0.weight"].numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    load_file(path)


SPOILT = [
    (_truncate, "damaged or no file of weights"),
    (_flip_a_weight, "check sum"),
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_text("<html>404 not found</html>"), "damaged or no file of weights"),
    (lambda path: torch.save([1, 2], path), "holds a list"),
    (lambda path: torch.save(nn.Linear(1, 1), path), "holds more than tensors"),
    (lambda path: torch.save({"model": RunsCommand(f"touch {path}.ran")}, path), "holds more than tensors"),
    (lambda path: path.unlink(), "there is no checkpoint file"),
]


def _write_many(tiny: ModuleType, folder: Path, iterations: dict[str, int], kind: str = "step1"):
    """Checkpoints by name; the first weight of each is its iteration."""
    state, checkpointer = tiny.make_state(), Checkpointer(folder, kind)
    for name, iteration in iterations.items():
        state.iteration = iteration
        nn.init.constant_(state.model.head.bias, iteration)
        checkpointer.save(name, state)
    return checkpointer


@pytest.mark.parametrize(("spoil", "words"), SPOILT)
def test_spoilt_file_falls_back_aloud(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil, words: str
) -> None:
    """To the highest iteration that is whole, whatever the files are called."""
    names = {"model_0000002": 2, "model_best": 6, "model_0000004": 4, "model_0000008": 8, "model_0000010": 10}
    checkpointer = _write_many(tiny, tmp_path, names)
    spoil(tmp_path / "model_0000010.pth")
    _truncate(tmp_path / "model_0000008.pth")
    torch.save({"iteration": 9, "model": {}}, tmp_path / "model_other.pth")
    state = tiny.make_state()
    assert checkpointer.load_latest(state) == 6
    assert float(state.model.head.bias[0].detach()) == 6
    for part in (
        words,
        "model_0000010.pth",
        f"falling back to {tmp_path / 'model_best.pth'}, of iteration 6",
    ):
        assert part in caplog.text
    assert not [*tmp_path.glob("*.ran")]


@pytest.mark.parametrize(("spoil", "words"), SPOILT)
def test_without_a_whole_file_the_error_names_the_remedy(
    tiny: ModuleType, tmp_path: Path, spoil, words: str
) -> None:
    checkpointer = _write_many(tiny, tmp_path, {"model_0000002": 2, "model_0000004": 4})
    spoil(tmp_path / "model_0000004.pth")
    _truncate(tmp_path / "model_0000002.pth")
    with pytest.raises(CheckpointError) as caught:
        checkpointer.load_latest(tiny.make_state())
    for part in (words, str(tmp_path / "model_0000004.pth"), "no other checkpoint", "remove"):
        assert part in str(caught.value)
    # The remedy works.
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.load_latest(tiny.make_state()) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"model_00000", b"\0\0\0\0", b"\xff\xfe\x00garbage"])
def test_spoilt_marker_falls_back_aloud(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    checkpointer = _write_many(tiny, tmp_path, {"model_0000004": 4, "model_0000008": 8})
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert checkpointer.last_path() is not None
    assert checkpointer.load_latest(tiny.make_state()) == 8
    assert "falling back" in caplog.text


def test_files_of_other_runs_are_no_way_back(tiny: ModuleType, tmp_path: Path) -> None:
    """Neither those of another kind nor later ones, which a run before this one left behind."""
    _write_many(tiny, tmp_path, {"model_0000003": 3}, kind="step2")
    checkpointer = _write_many(tiny, tmp_path, {"model_0000020": 20, "model_0000002": 2, "model_0000004": 4})
    _truncate(tmp_path / "model_0000004.pth")
    assert checkpointer.load_latest(tiny.make_state()) == 2


def test_sound_newest_file_is_the_only_one_read(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = _write_many(tiny, tmp_path, {f"model_{number:07d}": number for number in range(2, 9)})
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: (read.append(path), load(path, **options))[1])
    assert checkpointer.load_latest(tiny.make_state()) == 8
    assert set(read) == {tmp_path / "model_0000008.pth"}


def test_folder_of_another_step_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    saved(tiny, tmp_path, kind="step1")
    with pytest.raises(CheckpointError, match=r"kind 'step1'.*kind 'step2'.*another OUTPUT_DIR"):
        Checkpointer(tmp_path, "step2").load_latest(tiny.make_state())


def test_full_path_in_last_checkpoint_is_read(tiny: ModuleType, tmp_path: Path) -> None:
    _, checkpointer = saved(tiny, tmp_path)
    (tmp_path / "last_checkpoint").write_text("/somewhere/else/exps/model_0000004.pth\n")
    assert checkpointer.load_latest(tiny.make_state()) == 4


def test_checkpoint_of_another_program_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    state = tiny.make_state()
    torch.save({"model": state.model.state_dict(), "iteration": 7}, tmp_path / "model_0000007.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    with pytest.raises(CheckpointError, match=r"lacks optimizer.*set MODEL\.WEIGHT"):
        Checkpointer(tmp_path, "baseline").load_latest(state)


def test_other_model_is_refused_by_name(tiny: ModuleType, tmp_path: Path) -> None:
    _, checkpointer = saved(tiny, tmp_path)
    other = tiny.make_state()
    other.model.head = nn.Linear(4, 9)
    with pytest.raises(
        CheckpointError, match=r"(?s)model_0000004\.pth does not fit.*head\.weight.*OUTPUT_DIR"
    ):
        checkpointer.load_latest(other)


def test_resuming_is_said_aloud(tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, checkpointer = saved(tiny, tmp_path)
    with caplog.at_level(logging.WARNING, "labelenc"):
        checkpointer.load_latest(tiny.make_state())
    assert f"resuming from {tmp_path / 'model_0000004.pth'} at iteration 4" in caplog.messages


def test_kept_learning_rates_are_said_aloud(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, checkpointer = saved(tiny, tmp_path)
    other = tiny.make_state()
    other.optimizer.param_groups[0]["initial_lr"] = 0.7
    with caplog.at_level(logging.WARNING, "labelenc"):
        checkpointer.load_latest(other)
    assert any("0.7" in message and "0.05" in message and "kept" in message for message in caplog.messages)


def test_other_number_of_processes_reseeds_aloud(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, checkpointer = saved(tiny, tmp_path)
    path = tmp_path / "model_0000004.pth"
    content = load_file(path)
    torch.save({**content, "random_states": content["random_states"] * 3}, path)
    drawn = []
    for _ in range(2):
        torch.seed()
        with caplog.at_level(logging.WARNING, "labelenc"):
            checkpointer.load_latest(tiny.make_state())
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn), "the new seed depends on the checkpoint alone"
    assert any("3 process(es)" in message and "afresh" in message for message in caplog.messages)


def test_orphaned_checkpoints_are_mentioned(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, checkpointer = saved(tiny, tmp_path)
    (tmp_path / "last_checkpoint").unlink()
    with caplog.at_level(logging.WARNING, "labelenc"):
        assert checkpointer.load_latest(tiny.make_state()) is None
    assert any("model_0000004.pth" in message for message in caplog.messages)
