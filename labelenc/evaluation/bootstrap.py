"""Confidence intervals of AP over images, and of the differences between runs, by the bootstrap."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUMBERS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Interval:
    """``value`` of the whole set, and the percentile interval ``low``..``high``; fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """Of a run less the first run. ``better``: share of resamples in which it is above 0."""

    better: float


@dataclass(frozen=True)
class RunInterval:
    """One run. ``numbers`` and ``differences`` have the keys `NUMBERS`; the values are None without ground truth.

    ``class_ap`` and ``class_differences`` (C entries) are of AP, by ascending category id. Both differences are
    None for the first run.
    """

    numbers: dict[str, Interval | None]
    class_ap: tuple[Interval | None, ...]
    differences: dict[str, Difference | None] | None
    class_differences: tuple[Difference | None, ...] | None


@dataclass(frozen=True)
class Bootstrap:
    """``runs`` in the order given; ``class_names`` (C)."""

    runs: dict[str, RunInterval]
    class_names: tuple[str, ...]
    samples: int
    confidence: float
    num_images: int


def bootstrap_ap(
    ground_truth: str | os.PathLike[str] | Mapping[str, Any],
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool | None = None,
) -> Bootstrap:
    """Intervals."""
    raise NotImplementedError
