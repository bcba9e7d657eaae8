"""Losses and their normalisers."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def smooth_l1_sum(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Huber-like loss summed over all numbers (Girshick, ICCV 2015); quadratic below ``beta``."""
    return F.smooth_l1_loss(prediction.float(), target, beta=beta, reduction="sum")


def mean_over_processes(count: Tensor) -> Tensor:
    """A count (float scalar) averaged over the processes.

    A loss that divides by it has, after gradients are averaged, the gradient of one process that holds
    the whole batch.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count
