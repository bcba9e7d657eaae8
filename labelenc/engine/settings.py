"""Plain settings of a run, and the configuration they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from labelenc.config import ConfigError
from labelenc.engine.optim import GradientClip, build_clip

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ON_NONFINITE = ("stop", "skip")


@dataclass(frozen=True)
class LoopSettings:
    """Plain settings of a run.

    ``max_iter`` updates in all; a checkpoint every ``checkpoint_period`` updates; an evaluation every
    ``eval_period`` updates and after the last (0: none); autocast to ``dtype``; the evaluation's first number
    named ``best_metric`` or ``…/<best_metric>`` decides about the best checkpoint. An update sums the
    gradients of ``accumulation_steps`` micro-batches. ``on_nonfinite`` says what becomes of an update whose
    losses are not finite: "stop" the run, or "skip" the update.
    """

    max_iter: int
    checkpoint_period: int
    eval_period: int = 0
    dtype: str = "float32"
    clip: GradientClip | None = None
    best_metric: str = "AP"
    accumulation_steps: int = 1
    on_nonfinite: str = "stop"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"DTYPE is {self.dtype!r}; write one of {', '.join(DTYPES)}")
        if self.on_nonfinite not in ON_NONFINITE:
            raise ConfigError(
                f"SOLVER.ON_NONFINITE is {self.on_nonfinite!r}; write one of {', '.join(ON_NONFINITE)}"
            )


def build_settings(cfg: Any, extra_iters: int = 0) -> LoopSettings:
    """What ``cfg`` says about the loop; ``extra_iters`` come on top of SOLVER.MAX_ITER."""
    return LoopSettings(
        max_iter=cfg.SOLVER.MAX_ITER + extra_iters,
        checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
        eval_period=cfg.TEST.EVAL_PERIOD,
        dtype=cfg.DTYPE,
        clip=build_clip(cfg),
        accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        on_nonfinite=cfg.SOLVER.ON_NONFINITE,
    )
