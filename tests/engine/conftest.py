"""Fixtures of the engine's tests: the small runs as modules and as a program."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

PROGRAM = Path(__file__).with_name("tiny.py")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are faster on one thread, far more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load_module(path: Path) -> ModuleType:
    """A file beside this one, imported under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/engine/tiny.py, imported."""
    return load_module(PROGRAM)


@pytest.fixture(scope="session")
def divided() -> ModuleType:
    """tests/engine/divided.py, imported."""
    return load_module(PROGRAM.with_name("divided.py"))


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen]:
    """Starts tests/engine/tiny.py with arguments and extra environment variables."""

    def start_program(*arguments: object, **environment: object) -> subprocess.Popen:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {
            **os.environ,
            "PYTHONPATH": path,
            **{key: str(value) for key, value in environment.items()},
        }
        command = [sys.executable, str(PROGRAM), *map(str, arguments)]
        return subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start_program


@pytest.fixture(scope="session")
def pair(
    start: Callable[..., subprocess.Popen],
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
) -> tuple[Path, list[dict]]:
    """What two processes found, and the folder they wrote into."""
    folder = tmp_path_factory.mktemp("pair")
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    programs = [start("pair", folder, RANK=rank, LOCAL_RANK=rank, **common) for rank in range(2)]
    try:
        outputs = [program.communicate(timeout=120)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0, 0], "\n".join(outputs)
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture
def restored_logger() -> Iterator[logging.Logger]:
    """The package's logger, whose handlers and level are put back after the test."""
    logger = logging.getLogger("labelenc")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers.clear()
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
