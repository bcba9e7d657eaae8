"""What is told of faults that come from outside."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
import torch

from labelenc.engine import CheckpointError, FaultError, Process, explained_faults, faults
from labelenc.engine.distributed import Peer

GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.7]:37786. "
    "This is typically caused by a remote worker crashing."
)
HERE = Peer("here", os.getpid())


def process(*peers: Peer) -> Process:
    return Process(0, max(len(peers), 1), 0, torch.device("cpu"), peers)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(faults, "_PATIENCE", 0.0)
    usual = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, usual)


@pytest.mark.parametrize(
    ("peers", "words"),
    [
        ((HERE, HERE), "all processes still run"),
        ((HERE, HERE, Peer("there", 1)), r"those of other machines are \[2\]"),
        ((HERE, Peer("there", 1), Peer("here", 2**22 + 1)), r"process 2 \(pid 4194305\) has ended"),
    ],
)
def test_lost_connection(peers: tuple[Peer, ...], words: str) -> None:
    with (
        pytest.raises(FaultError, match=rf"\(Connection closed by peer \[10\.0\.0\.7\]:37786\): .*{words}"),
        explained_faults(process(*peers)),
    ):
        raise RuntimeError(GLOO)


def test_dead_child_is_not_taken_for_a_living_process() -> None:
    """Launchers collect the status of those that ended only later."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with (
        pytest.raises(FaultError, match="has ended"),
        explained_faults(process(HERE, Peer("here", child.pid))),
    ):
        raise RuntimeError(GLOO)
    child.wait()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("DataLoader worker (pid 41) is killed by signal: Killed. ", "(pid 41) is killed by signal: Killed)"),
        ("DataLoader worker (pid(s) 41, 42) exited unexpectedly", "(pid(s) 41, 42) exited unexpectedly)"),
        ("DataLoader timed out after 900 seconds", "timed out after 900 seconds)"),
        (
            "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback …\n"
            "RuntimeError: unable to resize file </torch_11613_11_0> to the right size: No space left (28)\n",
            "to the right size: No space left (28))",
        ),
    ],
)
def test_lost_worker(text: str, told: str) -> None:
    with pytest.raises(FaultError) as caught, explained_faults(process()):
        raise RuntimeError(text)
    for part in (told, "DATALOADER.NUM_WORKERS", "Out of memory", "/dev/shm"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), CheckpointError("cannot write gloo/transport/a.pth"), KeyError("a")],
)
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained_faults(process(HERE, HERE)):
        raise error
    assert caught.value is error
