"""The state of torch's random number generators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def random_state() -> dict[str, Any]:
    """The state of torch's default generators: CPU and, once CUDA is in use, the current GPU."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Whatever runs inside leaves torch's default generators as they were."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
