"""An exponential moving average of the weights, which is often better than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of a model's trainable parameters over the updates.

    After update k (from 0) every average a of a parameter w becomes ``d a + (1 - d) w`` with
    ``d = min(decay, (1 + k) / (10 + k))``, the rule of TensorFlow's ExponentialMovingAverage: the smaller
    decay of the beginning lets the average forget the initial weights in a short run too.

    Buffers, such as the running statistics of batch norm, are not averaged: the model's own serve both.

    Args:
        model: on its device, with its initial weights. Parameters without ``requires_grad`` are left out for
            good, so freeze what a schedule freezes only for a while *after* this call.
        decay: between 0 and 1; 0.9998 averages over about the last 5000 updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def update(self, iteration: int) -> None:
        """Take in the weights after update ``iteration`` (from 0)."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + iteration) / (10 + iteration)))
        average(list(self._averages.values()), list(self._parameters.values()), None)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters; tensors of this object, not copies."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averages; ``state`` may hold other names too. KeyError if one is missing."""
        for name, average in self._averages.items():
            average.copy_(state[name])

    def restart(self) -> None:
        """Begin anew at the present weights."""
        self.load_state_dict({name: parameter.detach() for name, parameter in self._parameters.items()})

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model has the average as its weights; don't update or save it there."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            average = self._averages[name]
            held = parameter.clone()
            parameter.copy_(average)
            average.copy_(held)


def build_average(cfg: Any, model: nn.Module) -> WeightAverage | None:
    """The average that ``cfg.SOLVER.EMA_DECAY`` asks for; None where it is 0."""
    return WeightAverage(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None


def average_in_use(average: WeightAverage | None) -> contextlib.AbstractContextManager[None]:
    """`WeightAverage.in_use`, or nothing without an average."""
    return contextlib.nullcontext() if average is None else average.in_use()
