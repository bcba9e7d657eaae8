"""Checks that several groups of keys below MODEL share; each raises ConfigError naming the key."""

from __future__ import annotations

import math
from collections.abc import Sequence

from yacs.config import CfgNode

from labelenc.config.errors import ConfigError


def check_shares(cfg: CfgNode, group: str, names: Sequence[str]) -> None:
    """Values from 0 to 1."""
    for name in names:
        value = cfg.MODEL[group][name]
        if not 0 <= value <= 1:
            raise ConfigError(f"MODEL.{group}.{name} must lie between 0 and 1, not {value}")


def check_nms(cfg: CfgNode, group: str, name: str) -> None:
    """An overlap from which boxes are suppressed. 0 meant no suppression in the ancestors."""
    value = cfg.MODEL[group][name]
    if not 0 < value <= 1:
        raise ConfigError(
            f"MODEL.{group}.{name} must be above 0 and at most 1, not {value}; with 1 no box is suppressed"
        )


def check_thresholds(cfg: CfgNode, group: str) -> None:
    """The overlaps that make a positive and a negative."""
    check_shares(cfg, group, ("FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD"))
    positive, negative = cfg.MODEL[group].FG_IOU_THRESHOLD, cfg.MODEL[group].BG_IOU_THRESHOLD
    if negative > positive:
        raise ConfigError(
            f"MODEL.{group}.BG_IOU_THRESHOLD {negative} exceeds FG_IOU_THRESHOLD {positive}; below the first "
            "is background, from the second on an object"
        )


def check_positive(cfg: CfgNode, group: str, names: Sequence[str]) -> None:
    """Lists of positive, finite numbers."""
    for name in names:
        values = cfg.MODEL[group][name]
        if not values or not all(0 < value < math.inf for value in values):
            raise ConfigError(f"MODEL.{group}.{name} must be positive, finite numbers, not {values}")
