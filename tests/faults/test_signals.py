"""SIGINT and SIGTERM: a checkpoint, a message, an exit status, and a resumed run that nothing sets apart."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from labelenc.engine import Interrupted
from labelenc.engine.signals import stop_requests

DRILL = Path(__file__).with_name("drill.py")
BOTH = (signal.SIGINT, signal.SIGTERM)


def signalling(tiny, at: int, signum: int):
    """The losses of the small run; during update ``at`` (from 1) the signal comes."""

    def losses(model, batch, k: int):
        if k + 1 == at:
            os.kill(os.getpid(), signum)
        return tiny.model_losses(model, batch, k)

    return losses


@pytest.mark.parametrize("signum", BOTH)
def test_saves_and_goes_on_bit_for_bit(tiny, tmp_path, assert_same_run, seed, signum, capfd) -> None:
    at = int(torch.randint(1, 12, ()))
    usual = [signal.getsignal(each) for each in BOTH]
    tiny.run(tmp_path / "through", 12)
    with pytest.raises(
        Interrupted, match=rf"{signum.name} after iteration {at} of 12.*Start again"
    ) as caught:
        tiny.run(tmp_path / "stopped", 12, losses=signalling(tiny, at, signum))
    assert caught.value.signum == signum
    assert (tmp_path / "stopped/last_checkpoint").read_text() == f"model_{at:07d}.pth"
    assert "Ctrl-C once more" in capfd.readouterr().err
    assert [signal.getsignal(each) for each in BOTH] == usual
    tiny.run(tmp_path / "stopped", 12)
    assert_same_run(tmp_path / "through", tmp_path / "stopped")


def test_asked_in_the_last_iteration(tiny, tmp_path, assert_same_run) -> None:
    tiny.run(tmp_path / "through", 4)
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "stopped", 4, losses=signalling(tiny, 4, signal.SIGTERM))
    tiny.run(tmp_path / "stopped", 4)
    assert_same_run(tmp_path / "through", tmp_path / "stopped")


def test_state_is_safe_before_a_due_evaluation(tiny, tmp_path) -> None:
    """And the evaluation counts, so that the resumed run knows the same best value."""
    seen = []

    def evaluate(model, iteration: int) -> dict:
        seen.append((tmp_path / "last_checkpoint").read_text())
        return {"eval/AP": 0.5}

    losses = signalling(tiny, 6, signal.SIGTERM)
    with pytest.raises(Interrupted):
        tiny.run(tmp_path, 12, losses=losses, evaluate=evaluate, eval_period=6)
    assert seen == ["model_0000006.pth"]
    saved = torch.load(tmp_path / "model_0000006.pth", weights_only=True)
    assert saved["extra"] == {"best_value": 0.5}


def test_ignored_signals_stay_ignored() -> None:
    """As those of a job in the background of a shell."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.signum is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert request.signum == signal.SIGTERM
            request.signum = None
    finally:
        signal.signal(signal.SIGINT, usual)


def test_request_that_came_too_late_takes_its_usual_effect() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests():
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_handled() -> None:
    usual = [signal.getsignal(each) for each in BOTH]
    seen = []

    def inside() -> None:
        with stop_requests() as request:
            seen.append((request.signum, [signal.getsignal(each) for each in BOTH]))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(None, usual)]


def test_second_interrupt_ends_at_once(start, tmp_path, waiting) -> None:
    program = start(DRILL, tmp_path, "--slow-disk", 30)
    waiting(lambda: [*tmp_path.glob("model_*.tmp")], "a checkpoint")
    program.signal_all(signal.SIGINT)
    waiting(lambda: "Ctrl-C once more" in program.told(), "an answer")
    program.signal_all(signal.SIGINT)
    assert program.wait(10) == -signal.SIGINT
    assert not [*tmp_path.glob("*.pth")]


@pytest.mark.parametrize("asked", [(0,), (1,), (0, 1)])
def test_all_processes_stop_at_one_iteration(start_pair, tmp_path, waiting, count_rows, asked) -> None:
    """Whichever was asked; each leaves with the status of the signal."""
    programs = start_pair(DRILL, tmp_path, "--delay", 0.02)
    waiting(lambda: count_rows(tmp_path) >= 3, "three iterations")
    for rank in asked:
        programs[rank].signal_all(signal.SIGTERM)
    assert [program.wait() for program in programs] == [128 + signal.SIGTERM] * 2
    done = count_rows(tmp_path)
    assert 3 <= done < 24
    saved = torch.load(tmp_path / f"model_{done:07d}.pth", weights_only=True)
    assert saved["iteration"] == done
    assert len(saved["random_states"]) == 2
    assert f"stopped by SIGTERM after iteration {done}" in programs[0].told()
    for program in programs:
        assert "Traceback" not in program.told()
