"""Commands in the foreground: their status, and signals on the way to them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from labelenc.study.foreground import Stopped, passing_signals_on

# Says that it is ready, then counts the signals until the third or until it is told to end.
COUNTING = """
import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda n, f: got.append(n))
open(sys.argv[1], "w").write("ready")
while len(got) < int(sys.argv[2]):
    time.sleep(0.005)
time.sleep(0.1)
open(sys.argv[1], "a").write(str([int(n) for n in got]))
"""


@pytest.fixture(autouse=True)
def usual_signals():
    """Under nohup the tests would be started with SIGHUP ignored, and wait for it for ever."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def python(code: str, *words: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, words)]


def test_statuses():
    with passing_signals_on() as foreground:
        assert foreground.run(python("")) == 0
        assert foreground.run(python("raise SystemExit(3)")) == 3
        assert foreground.run(python("import os; os.kill(os.getpid(), 9)")) == 128 + 9


def test_output_goes_to_a_file(tmp_path):
    with passing_signals_on() as foreground, (tmp_path / "log").open("wb") as log:
        foreground.run(python("import sys; print('out'); print('err', file=sys.stderr)"), log)
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        ([signal.SIGTERM], [15]),
        ([signal.SIGHUP], [15]),
        ([signal.SIGINT, signal.SIGINT], [2, 2]),
    ],
)
def test_signals_reach_the_command_once_each(tmp_path, sent, arrived):
    told = tmp_path / "told"
    usual = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def disturb():
        while not told.exists() or told.read_text() != "ready":
            time.sleep(0.005)
        for signum in sent:
            os.kill(os.getpid(), signum)
            time.sleep(0.05)

    thread = threading.Thread(target=disturb)
    with passing_signals_on() as foreground:
        thread.start()
        with pytest.raises(Stopped) as caught:
            foreground.run(python(COUNTING, told, len(sent)))
        # And nothing further is started.
        with pytest.raises(Stopped):
            foreground.run(python("open(__import__('sys').argv[1], 'w')", tmp_path / "further"))
    thread.join()
    assert caught.value.signum == sent[0]
    assert told.read_text() == f"ready{arrived}"
    assert not (tmp_path / "further").exists()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == usual


def test_ignored_signals_stay_ignored():
    """As SIGHUP is under nohup."""
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with passing_signals_on() as foreground:
            os.kill(os.getpid(), signal.SIGHUP)
            assert foreground.run(python("")) == 0
    finally:
        signal.signal(signal.SIGHUP, usual)
