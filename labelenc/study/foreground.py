"""Commands that run as if they stood alone in the terminal: a request to stop reaches them, once."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO

# A closed terminal asks for the same as SIGTERM: save and end.
_PASSED_AS = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    getattr(signal, "SIGHUP", signal.SIGTERM): signal.SIGTERM,
}


class Stopped(Exception):
    """This program was asked to stop, and the command that ran has ended; ``signum`` is the first signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class Foreground:
    """Runs one command after another; see `passing_signals_on`."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._received: list[int] = []
        self._passed = 0

    def receive(self, signum: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self._received.append(signum)
        self._pass_on()

    def run(self, command: Sequence[str], output: IO[bytes] | None = None) -> int:
        """Run ``command`` to its end; its output goes to the terminal or to the file ``output``.

        Returns:
            Its exit status; 128 + the number of the signal that ended it.

        Raises:
            Stopped: a request to stop came before or meanwhile.
        """
        if not self._received:
            # In a session of its own: Ctrl-C on the terminal would reach it a second time, past this program.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            # One may have come in between.
            self._pass_on()
            try:
                status = self._child.wait()
            finally:
                self._child = None
        if self._received:
            raise Stopped(self._received[0])
        return status if status >= 0 else 128 - status

    def _pass_on(self) -> None:
        while self._child is not None and self._passed < len(self._received):
            signum = self._received[self._passed]
            self._passed += 1
            self._child.send_signal(_PASSED_AS[signal.Signals(signum)])


@contextlib.contextmanager
def passing_signals_on() -> Iterator[Foreground]:
    """SIGINT, SIGTERM and SIGHUP go, inside, to the command that runs; one that is ignored stays so."""
    foreground = Foreground()
    usual = {signum: signal.getsignal(signum) for signum in _PASSED_AS}
    usual = {signum: handler for signum, handler in usual.items() if handler is not signal.SIG_IGN}
    for signum in usual:
        signal.signal(signum, foreground.receive)
    try:
        yield foreground
    finally:
        for signum, handler in usual.items():
            # None stands for a handler that was not set by Python.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
