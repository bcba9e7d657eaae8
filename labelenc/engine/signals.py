"""Signals that ask a run to stop: recorded when they come, obeyed between two updates."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from labelenc.engine.distributed import is_main

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ANSWER = (
    b"\nasked to stop: the run will save its state after this iteration (and evaluation, if one is on) and "
    b"end. Ctrl-C once more ends it at once, without saving.\n"
)


class Interrupted(RuntimeError):
    """A run that was asked to stop has saved its state and ends; ``signum`` is the signal that asked."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """A request to stop, which all processes obey at the same iteration.

    ``signum`` is the first signal that came to this process, None as long as there was none. It travels with
    the losses of an iteration: each process adds its `vote` to what is averaged over the processes, and
    `count` reads the result. ``granted`` then is the same everywhere.
    """

    VOTE = "stop_request"

    signum: int | None = None
    granted: bool = False

    def __init__(self, answer: bytes = _ANSWER) -> None:
        self._answer = answer

    def vote(self, device: torch.device) -> dict[str, Tensor]:
        """A scalar that is positive if this process was asked to stop, by its name."""
        # Filled on the device: copying it there would make the host wait.
        return {self.VOTE: torch.full((), float(self.signum is not None), device=device)}

    def count(self, means: dict[str, float]) -> None:
        """Take the mean of all votes out of ``means``."""
        self.granted = means.pop(self.VOTE) > 0

    def interruption(self, iteration: int, max_iter: int, saved: Path | None) -> Interrupted:
        """The error that ends a run after ``iteration`` updates, saved in the file ``saved``; also logged."""
        # Another process may have got the signal.
        signum = signal.SIGTERM if self.signum is None else signal.Signals(self.signum)
        message = (
            f"stopped by {signum.name} after iteration {iteration} of {max_iter}, saved in {saved}. "
            "Start again to go on from there."
        )
        logger.warning(message)
        return Interrupted(message, signum)

    def record(self, signum: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signum is not None:
            return
        self.signum = signum
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            # The system's own reaction: a handler of Python's would wait for whatever runs in C++.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if is_main():
            # Past Python's buffers: the signal may have interrupted another print.
            os.write(2, self._answer)


@contextlib.contextmanager
def stop_requests(answer: bytes = _ANSWER) -> Iterator[StopRequest]:
    """SIGINT and SIGTERM are recorded inside, instead of ending the process; a second SIGINT ends it.

    ``answer`` is printed when one comes.

    A signal that the process ignores stays ignored, and outside the main thread, which alone may handle
    signals, nothing is recorded. A request that the block left unheeded takes its usual effect at the end.
    """
    request = StopRequest(answer)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    usual = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    usual = {signum: handler for signum, handler in usual.items() if handler is not signal.SIG_IGN}
    for signum in usual:
        signal.signal(signum, request.record)
    try:
        yield request
    finally:
        for signum, handler in usual.items():
            # None stands for a handler that was not set by Python.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    if request.signum is not None:
        signal.raise_signal(request.signum)
