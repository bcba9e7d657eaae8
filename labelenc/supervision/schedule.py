"""When the supervision is on: pure functions of the iteration, counted from 0."""

from __future__ import annotations


def distance_loss_weight(iteration: int, warmup_iters: int) -> float:
    """Step 1: 0 for the first ``warmup_iters`` iterations, then 1."""
    return 0.0 if iteration < warmup_iters else 1.0


def auxiliary_loss_weight(iteration: int, auxiliary_iters: int) -> float:
    """Step 2: 1 for the first ``auxiliary_iters`` iterations, then 0."""
    return 1.0 if iteration < auxiliary_iters else 0.0


BOTH_1X = "both steps take the 1x schedule also where the baseline takes 2x (configs/…_1x.yaml)"


def step1_advice(max_iter: int, warmup_iters: int) -> str | None:
    """What is unusual about step 1's schedule, or None; ``max_iter`` is without the warm-up."""
    key = f"MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS {warmup_iters}"
    if warmup_iters > max_iter:
        return f"{key} exceeds SOLVER.MAX_ITER {max_iter}; in the paper it is a third of it"
    if 0 < warmup_iters < max_iter / 5:
        return f"{key} is short for MAX_ITER {max_iter}; in the paper it is a third of it, and {BOTH_1X}"
    return None


def step2_advice(max_iter: int, auxiliary_iters: int) -> str | None:
    """What is unusual about step 2's schedule, or None. No auxiliary loss at all is a choice."""
    key = f"MODEL.LABELENC.AUXILIARY_LOSS_ITERS {auxiliary_iters}"
    if auxiliary_iters >= max_iter:
        return f"{key} reaches to the end of SOLVER.MAX_ITER {max_iter}; in the paper it is 8/9 of it"
    if 0 < auxiliary_iters < max_iter / 2:
        return f"{key} is short for MAX_ITER {max_iter}; in the paper it is 8/9 of it, and {BOTH_1X}"
    return None
