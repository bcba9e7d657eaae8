"""The linear rule for other batch sizes (Goyal et al. 2017, arXiv 1706.02677).

With k times the images per update, k times the learning rate and 1/k of the iterations give about the same
training. The warm-up of the learning rate keeps its iterations, as in the published configurations.
"""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from labelenc.config.errors import ConfigError

LABELENC_ITERS = ("DISTANCE_LOSS_WARMUP_ITERS", "AUXILIARY_LOSS_ITERS")


def linear_rule(cfg: CfgNode) -> dict[str, Any]:
    """By dotted key: the learning rate and the iterations that SOLVER.IMS_PER_BATCH asks for, if those in
    ``cfg`` are right for SOLVER.REFERENCE_IMS_PER_BATCH."""
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_IMS_PER_BATCH

    def iterations(number: int) -> int:
        # 0 switches things off, so what is on stays at 1 or more.
        return max(round(number * reference / images), 1) if number else 0

    values = {
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * images / reference,
        "SOLVER.MAX_ITER": iterations(cfg.SOLVER.MAX_ITER),
        "SOLVER.STEPS": tuple(iterations(step) for step in cfg.SOLVER.STEPS),
    }
    for name in LABELENC_ITERS:
        values[f"MODEL.LABELENC.{name}"] = iterations(cfg.MODEL.LABELENC[name])
    return values


def auto_scaled(cfg: CfgNode) -> tuple[dict[str, Any], str]:
    """What SOLVER.AUTO_SCALE changes in ``cfg``, by dotted key, and a sentence about it.

    The result is meant for its own batch size and has AUTO_SCALE False, so a configuration that was written
    out and read again is not scaled twice.

    Raises:
        ConfigError: two of SOLVER.STEPS become one.
    """
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_IMS_PER_BATCH
    done = {"SOLVER.AUTO_SCALE": False, "SOLVER.REFERENCE_IMS_PER_BATCH": images}
    if images == reference:
        return done, (
            f"SOLVER.AUTO_SCALE changes nothing: SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g} is meant for "
            f"{reference} images per update, which SOLVER.IMS_PER_BATCH has. If it is meant for another "
            "number, write that into SOLVER.REFERENCE_IMS_PER_BATCH"
        )
    values = linear_rule(cfg)
    steps = values["SOLVER.STEPS"]
    if len(set(steps)) < len(steps):
        raise ConfigError(
            f"SOLVER.AUTO_SCALE would turn SOLVER.STEPS {tuple(cfg.SOLVER.STEPS)} into {steps}, two steps at "
            "once; write the schedule for this batch size by hand"
        )
    return {**values, **done}, (
        f"SOLVER.AUTO_SCALE: {images} images per update instead of {reference}, so {_listed(values)}"
    )


def linear_rule_advice(cfg: CfgNode) -> str | None:
    """What the linear rule would change; None if it changes nothing or, as with AdamW, does not hold."""
    images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_IMS_PER_BATCH
    if images == reference or cfg.SOLVER.OPTIMIZER != "SGD":
        return None
    return (
        f"SOLVER.IMS_PER_BATCH is {images}, but SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g} and the iterations are "
        f"meant for {reference} images per update. The linear rule gives {_listed(linear_rule(cfg))}. "
        "Append SOLVER.AUTO_SCALE True to use these, or SOLVER.BASE_LR with a number of your choice"
    )


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
