"""Programs that drills can start quickly, disturb and watch; the small runs of the other folders."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0


def _module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Fixtures of the neighbours.
pipeline_fixtures = _module(ROOT / "tests/pipeline/conftest.py", "pipeline_fixtures")
tiny_root, tiny_cfg = pipeline_fixtures.tiny_root, pipeline_fixtures.tiny_cfg
tiny = _module(ROOT / "tests/engine/conftest.py", "engine_fixtures").tiny


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.004)


class Program:
    """A running program that leads a session of its own."""

    def __init__(self, ask: Callable[[dict], dict], order: dict) -> None:
        self._ask = ask
        self.output = Path(order["output"])
        self.pid: int = ask(order)["pid"]
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._ask({"pid": self.pid})["status"]
        return self._status

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit status, negative after a signal."""
        wait_for(lambda: self.poll() is not None, f"the end of what writes {self.output}", seconds)
        assert self._status is not None
        return self._status

    def told(self) -> str:
        return self.output.read_text(errors="replace")

    def signal_all(self, signum: int) -> None:
        os.killpg(self.pid, signum)

    def others(self) -> list[int]:
        """The other processes of the session that are alive, zombies apart."""
        alive = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[3] == str(self.pid) and fields[0] != "Z" and entry.name != str(self.pid):
                alive.append(int(entry.name))
        return alive


class Starter:
    """start(script, *arguments, …) -> Program; ends with everything that it has started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: list[Program] = []
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
        self._server = subprocess.Popen(
            command, env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        assert json.loads(self._server.stdout.readline())["ready"]

    def __call__(
        self, script: Path, *arguments: object, largest_file: int | None = None, **environ: object
    ) -> Program:
        """``largest_file``: bytes that a file may have, as if the disk were full then; ``environ``: more
        environment variables."""
        output = self._folder / f"output{len(self._programs)}.txt"
        output.touch()
        order = {
            "argv": [str(script), *map(str, arguments)],
            "environ": {name: str(value) for name, value in environ.items()},
            "output": str(output),
            "largest_file": largest_file,
        }
        self._programs.append(Program(self._ask, order))
        return self._programs[-1]

    def _ask(self, order: dict) -> dict:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                program.signal_all(signal.SIGKILL)
                program.wait()
        self._server.communicate(timeout=30)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("programs"))
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def start_pair(start: Starter, free_port: Callable[[], int]) -> Callable[..., list[Program]]:
    """start_pair(script, …) -> two programs that find each other as ranks 0 and 1."""

    def launch(*words: object, **environ: object) -> list[Program]:
        common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **environ}
        return [start(*words, RANK=rank, LOCAL_RANK=rank, **common) for rank in range(2)]

    return launch


@pytest.fixture(scope="session")
def waiting() -> Callable[..., None]:
    """waiting(condition, what, seconds=…) returns when the condition holds, and fails after that time."""
    return wait_for


@pytest.fixture(scope="session")
def count_rows() -> Callable[[Path], int]:
    """count_rows(folder) -> updates that metrics.jsonl tells of."""

    def count(folder: Path) -> int:
        path = folder / "metrics.jsonl"
        return path.read_text().count("\n") if path.is_file() else 0

    return count


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """Final checkpoints are equal bit for bit, random states included, and so are the metrics."""

    def rows(folder: Path) -> list[dict]:
        clocks = ("time", "data_time", "max_mem")
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key not in clocks} for row in found]

    def compare(first: Path, second: Path) -> None:
        finals = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (first, second)]
        assert finals[0].pop("kind") == finals[1].pop("kind")
        # The configuration in it names the folder.
        about = [final.pop("description") for final in finals]
        assert [entry and entry["class_names"] for entry in about] == [
            about[0] and about[0]["class_names"]
        ] * 2
        torch.testing.assert_close(*finals, rtol=0, atol=0)
        assert rows(first) == rows(second)

    return compare
