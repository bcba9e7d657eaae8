"""When the supervision is on: pure functions of the iteration, counted from 0."""

from __future__ import annotations


def distance_loss_weight(iteration: int, warmup_iters: int) -> float:
    """Step 1: 0 for the first ``warmup_iters`` iterations, then 1."""
    return 0.0 if iteration < warmup_iters else 1.0


def auxiliary_loss_weight(iteration: int, auxiliary_iters: int) -> float:
    """Step 2: 1 for the first ``auxiliary_iters`` iterations, then 0."""
    return 1.0 if iteration < auxiliary_iters else 0.0
