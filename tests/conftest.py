"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import batched_nms, box_iou

# Threads that wait for each other on a busy machine are far slower than one.
torch.set_num_threads(1)

# Fresh inputs in every run; a failure prints what reproduces it.
settings.register_profile("fresh", derandomize=False, print_blob=True, deadline=None, database=None)
settings.load_profile("fresh")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Runs set up the package's logging for good; here it lasts until the test ends."""
    logger = logging.getLogger("labelenc")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of reference records and sample data beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[1] / "../shared"
    if not folder.is_dir():
        pytest.skip("needs the folder 'shared' (reference records, sample data) beside the checkout")
    return folder.resolve()


@pytest.fixture(scope="session")
def recipe(shared_dir: Path) -> ModuleType:
    """The module that makes the weights, images and targets of the parity records."""
    spec = importlib.util.spec_from_file_location("parity_recipe", shared_dir / "parity/recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """free_port() -> a TCP port of this machine that nothing listens on.

    Not one that the system would pick itself: a client that waits for its server on such a port may be given
    the same port as its own, connect to itself, and keep the server from listening.
    """

    def pick() -> int:
        for _ in range(100):
            port = int(torch.randint(15000, 30000, (), generator=_entropy()))
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise RuntimeError("no free port between 15000 and 30000")

    return pick


@pytest.fixture(scope="session")
def clear_nms() -> Callable[..., Tensor | None]:
    """clear_nms(boxes, scores, labels, threshold, limit) -> which of them torchvision keeps, best first.

    None where rounding may decide: an overlap within ``slip`` of the threshold, or two scores that are no
    more than ``gap`` apart.
    """

    def select(
        boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, limit: int, slip=1e-5, gap=1e-6
    ) -> Tensor | None:
        # One more at the right and bottom makes torchvision's widths the inclusive ones.
        grown = boxes.double() + torch.tensor([0, 0, 1, 1])
        # The first that is left out must be clearly worse, too.
        keep, *others = (
            batched_nms(grown, scores.double(), labels, threshold + off)[: limit + 1]
            for off in (0, -slip, slip)
        )
        best, keep = scores[keep], keep[:limit]
        close = (scores[keep, None] - scores).abs() <= gap
        rivals = close & (labels[keep, None] == labels) & (box_iou(grown[keep], grown) > threshold - slip)
        clear = all(torch.equal(other[:limit], keep) for other in others)
        # Each is its own rival.
        clear = clear and bool((best[:-1] - best[1:] > gap).all()) and int(rivals.sum()) == len(keep)
        return keep if clear else None

    return select


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed, already given to torch and printed; pytest shows it when the test fails."""
    value = int(torch.empty((), dtype=torch.int64).random_(0, 2**31 - 1, generator=_entropy()))
    torch.manual_seed(value)
    print(f"seed of {request.node.name}: {value}")
    return value


def _entropy() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


class _Largest(TorchDispatchMode):
    """Keeps the size in bytes of the largest tensor that any operation returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.size = max(self.size, leaf.nbytes)
        return result


@pytest.fixture
def largest_tensor() -> type[_Largest]:
    """``with largest_tensor() as largest`` leaves the size of the largest tensor made in ``largest.size``."""
    return _Largest
