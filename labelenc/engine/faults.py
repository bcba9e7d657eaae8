"""What the system or another process did to this one, told so that it helps."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from torch import distributed as dist

from labelenc.engine.distributed import Process

# How PyTorch's loader and its collectives begin or contain what they say.
_WORKER_LOST = re.compile(r"DataLoader (worker \(pid|timed out)|unable to .*</torch_")
_CONNECTION_LOST = re.compile(
    r"gloo/transport|NCCL error|Connection (closed|reset) by peer|Application timeout caused pair closure"
)
# A process closes its connections a moment before it counts as ended.
_PATIENCE = 2.0
_STATES = {"Z": "has ended", "X": "has ended", "T": "is stopped", "t": "is stopped"}
_RESUME = "then start again: the run resumes from its last checkpoint."


class FaultError(RuntimeError):
    """Something outside this process, such as a data worker or another process, failed it."""


@contextlib.contextmanager
def explained_faults(process: Process) -> Iterator[None]:
    """Raise `FaultError` in place of what PyTorch raises where a data worker or another process is lost."""
    try:
        yield
    except RuntimeError as error:
        if _WORKER_LOST.search(str(error)):
            raise FaultError(_worker_message(error)) from error
        # Gloo has no type of its own.
        if isinstance(error, dist.DistError) or (
            type(error) is RuntimeError and _CONNECTION_LOST.search(str(error))
        ):
            raise FaultError(_connection_message(error, process)) from error
        raise


def _worker_message(error: RuntimeError) -> str:
    return (
        f"a data worker failed ({_reason(error)}). Most likely memory ran out, so that the system killed it "
        "('dmesg' then tells of 'Out of memory'; a container has a limit of its own), or shared memory did "
        "('df /dev/shm' shows it; with Docker, use --ipc=host or a larger --shm-size). Lower "
        "DATALOADER.NUM_WORKERS (0: no workers) or make the memory larger, " + _RESUME
    )


def _connection_message(error: RuntimeError, process: Process) -> str:
    if threading.current_thread() is threading.main_thread():
        # A launcher ends the others at once, and those would not come to say which one was lost.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + _PATIENCE
    while not (lost := _lost_peers(process)) and time.monotonic() < deadline:
        time.sleep(0.05)
    here = process.peers[process.rank].machine if process.peers else ""
    others = [rank for rank, peer in enumerate(process.peers) if peer.machine != here]
    if lost:
        guess = ", ".join(lost)
    elif others:
        guess = f"all processes of this machine run; those of other machines are {others}"
    else:
        guess = "all processes still run; one of them is stuck or waits for something else"
    return (
        f"lost the other processes ({_reason(error)}): {guess}. See what that process said last; if "
        "it said nothing, the system may have killed it ('dmesg' then tells of 'Out of memory'). Mend that, "
        + _RESUME
    )


def _reason(error: RuntimeError) -> str:
    lines = str(error).strip().splitlines()
    if "Traceback" in str(error):
        return lines[-1]
    # Gloo begins with a place in its sources.
    return re.sub(r"^\[\S+\] ", "", lines[0]).partition(". ")[0].rstrip(". ")


def _lost_peers(process: Process) -> list[str]:
    """The processes of this machine that don't run, in words."""
    lost = []
    here = process.peers[process.rank].machine if process.peers else ""
    for rank, peer in enumerate(process.peers):
        condition = _condition(peer.pid) if peer.machine == here else None
        if condition is not None:
            lost.append(f"process {rank} (pid {peer.pid}) {condition}")
    return lost


def _condition(pid: int) -> str | None:
    """What is wrong with a process of this machine; None if it runs, or where the system can't tell."""
    if not Path("/proc/self/stat").exists():
        return None
    try:
        # The name, in brackets, may hold anything; the state follows.
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return "has ended"
    return _STATES.get(state.split()[0])
