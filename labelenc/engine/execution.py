"""How a model is run: the order of its numbers in memory, and what torch.compile makes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
import torch._dynamo
from torch import nn

logger = logging.getLogger(__name__)

# Of one part: with and without levels of one cell, square, frozen, without gradient …
_VARIANTS_PER_PART = 8

Model = TypeVar("Model", bound=nn.Module)


def memory_format(dtype: str) -> torch.memory_format:
    """The layout of convolution weights when training in ``dtype``; activations follow them by themselves.

    Tensor cores take half types with the channels last, and other layouts are converted before and after
    every convolution; CPUs with bfloat16 arithmetic gain a few percent. In float32 CPUs gain nothing.
    """
    return torch.contiguous_format if dtype == "float32" else torch.channels_last


def place(model: Model, device: torch.device | str, dtype: str) -> Model:
    """``model`` on ``device``, laid out for training in ``dtype``; in place."""
    return model.to(device).to(memory_format=memory_format(dtype))


def compile_parts(model: nn.Module, names: Sequence[str], backend: str | Callable = "inductor") -> None:
    """Let torch.compile run the submodules of these names, as far as ``model`` has them; in place.

    Names in the state_dict stay. Sizes are symbols from the start: a part is compiled once for all sizes of
    images, so batches need no padding beyond DATALOADER.SIZE_DIVISIBILITY. Sizes of one cell, and
    parameters that are frozen or thawed, make it compile once more.
    """
    parts = dict(model.named_modules())
    found = [name for name in names if name in parts]
    # Parts that are nn.Sequential count as one and the same code.
    limit = max(torch._dynamo.config.recompile_limit, _VARIANTS_PER_PART * len(found))
    torch._dynamo.config.recompile_limit = limit
    for name in found:
        parts[name].compile(dynamic=True, backend=backend)
    if found:
        logger.info("torch.compile works on %s at the first iterations", ", ".join(found))


def eager() -> AbstractContextManager:
    """Within it nothing is compiled, and what was compiled runs as ordinary code.

    Evaluations see too many sizes and too few of each for compiling to pay.
    """
    return torch.compiler.set_stance("force_eager")
