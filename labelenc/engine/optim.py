"""Optimizers, learning-rate schedules and gradient clipping. Only the ``build_*`` functions read a config."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from labelenc.config import ConfigError

WARMUP_METHODS = ("linear", "constant")
CLIP_TYPES = ("norm", "value")
FUSED_DEVICES = ("cpu", "cuda")
KERNEL_FLAGS = ("fused", "foreach", "capturable")


def parameter_groups(model: nn.Module, solver: Any) -> list[dict[str, Any]]:
    """Trainable parameters grouped by equal (lr, weight_decay), in order of first appearance.

    Names containing "bias" get ``BASE_LR * BIAS_LR_FACTOR`` and ``WEIGHT_DECAY_BIAS``; offset convolutions of
    deformable layers (``….offset.weight``, ``….offset.bias``) get ``DCONV_OFFSETS_LR_FACTOR`` on top; weights
    of norm layers and learnt scales count as weights.

    Args:
        model: parameters without ``requires_grad`` are left out for good, so freeze what a schedule freezes
            only for a while *after* this call.
        solver: the node ``cfg.SOLVER``.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, weight_decay = solver.BASE_LR, solver.WEIGHT_DECAY
        if "bias" in name:
            lr, weight_decay = lr * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS
        if name.endswith((".offset.weight", ".offset.bias")):
            lr *= solver.DCONV_OFFSETS_LR_FACTOR
        group = groups.setdefault((lr, weight_decay), {"params": [], "lr": lr, "weight_decay": weight_decay})
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(cfg: Any, model: nn.Module) -> Optimizer:
    """The optimizer that ``cfg.SOLVER`` asks for; see `parameter_groups` for who gets which learning rate.

    The model must be on its device. On CPU and GPU the fused kernels are used, one pass over all parameters.
    With a GradScaler these learn on the GPU itself that a gradient overflowed; others would wait for it.

    Raises:
        ConfigError: unknown ``SOLVER.OPTIMIZER``, or a model without trainable parameters.
    """
    groups = parameter_groups(model, cfg.SOLVER)
    if not groups:
        raise ConfigError("the model has no trainable parameter; check MODEL.BACKBONE.FREEZE_CONV_BODY_AT")
    parameters = (parameter for group in groups for parameter in group["params"])
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in parameters) or None
    if cfg.SOLVER.OPTIMIZER == "SGD":
        sgd = SGD(groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, fused=fused)
        _complete_momentum(sgd)
        return sgd
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        return AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=fused)
    raise ConfigError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; write 'SGD' or 'AdamW'")


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict(saved)`` such that a run can go on on another kind of device.

    Which kernels compute a step stays as ``optimizer`` has it, and its state is laid out in memory like the
    parameters, as fused kernels need it.

    Raises:
        ValueError: ``saved`` has other groups.
    """
    saved_groups = saved["param_groups"]
    if len(saved_groups) != len(optimizer.param_groups):
        raise ValueError(
            f"{len(saved_groups)} parameter groups were saved, not {len(optimizer.param_groups)}"
        )
    # Told before loading: the flags also decide on which device AdamW's step counters lie.
    groups = [
        {**group, **{flag: own[flag] for flag in KERNEL_FLAGS if flag in own}}
        for group, own in zip(saved_groups, optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                values[name] = torch.empty_like(parameter).copy_(value)
    if isinstance(optimizer, SGD):
        _complete_momentum(optimizer)


def _complete_momentum(optimizer: SGD) -> None:
    """Give each parameter the momentum 0 that it starts from, where it has none.

    The fused kernel needs all at once: parameters that get their first gradient later than others (the
    adapter of step 1) would make it fail, and float16 gradients that overflow at the first step would leave
    momenta that were never written.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def warmup_factor(iteration: int, iters: int, start: float, method: str) -> float:
    """Factor of the warm-up: ``start``, growing linearly to 1 or staying, for ``iters`` iterations; then 1.

    Args:
        iteration: number of updates already done.
        iters: length of the warm-up; 0 for none.
        start: first factor.
        method: ``"linear"`` or ``"constant"``.

    Raises:
        ConfigError: unknown ``method``.
    """
    if method not in WARMUP_METHODS:
        raise ConfigError(f"SOLVER.WARMUP_METHOD is {method!r}; write one of {', '.join(WARMUP_METHODS)}")
    if iteration >= iters:
        return 1.0
    if method == "constant":
        return start
    progress = iteration / iters
    return start * (1 - progress) + progress


def multistep_factor(iteration: int, steps: Sequence[int], gamma: float) -> float:
    """``gamma`` to the number of ``steps`` ``iteration`` has reached; ConfigError unless they increase."""
    if list(steps) != sorted(set(steps)):
        raise ConfigError(f"SOLVER.STEPS must increase, got {tuple(steps)}")
    return gamma ** bisect_right(steps, iteration)


def cosine_factor(iteration: int, total: int) -> float:
    """Half a cosine from 1 at iteration 0 to 0 at ``total`` (SGDR, arXiv 1608.03983, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(iteration, total) / total))


def schedule(solver: Any, extra_iters: int = 0) -> Callable[[int], float]:
    """The factor on every learning rate as a function of the number of updates already done.

    Args:
        solver: the node ``cfg.SOLVER``.
        extra_iters: iterations on top of ``MAX_ITER`` (step 1's distance-loss warm-up); they shift ``STEPS``
            and stretch the cosine; the learning-rate warm-up stays at the start.

    Raises:
        ConfigError: unknown ``LR_SCHEDULE`` or ``WARMUP_METHOD``, or ``STEPS`` that don't increase.
    """
    warmup = (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD)
    steps = tuple(step + extra_iters for step in solver.STEPS)
    gamma, total = solver.GAMMA, solver.MAX_ITER + extra_iters
    if solver.LR_SCHEDULE == "multistep":
        return lambda iteration: warmup_factor(iteration, *warmup) * multistep_factor(iteration, steps, gamma)
    if solver.LR_SCHEDULE == "cosine":
        return lambda iteration: warmup_factor(iteration, *warmup) * cosine_factor(iteration, total)
    raise ConfigError(f"SOLVER.LR_SCHEDULE is {solver.LR_SCHEDULE!r}; write 'multistep' or 'cosine'")


def build_scheduler(cfg: Any, optimizer: Optimizer, extra_iters: int = 0) -> LambdaLR:
    """`schedule` attached to ``optimizer``; call ``step()`` after every update."""
    return LambdaLR(optimizer, schedule(cfg.SOLVER, extra_iters))


@dataclass(frozen=True)
class GradientClip:
    """How gradients are limited: ``clip_type`` "norm" (over all parameters) or "value" (each entry)."""

    clip_type: str
    value: float
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        if self.clip_type not in CLIP_TYPES:
            raise ConfigError(
                f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {self.clip_type!r}; write one of {', '.join(CLIP_TYPES)}"
            )
        if not self.value > 0:
            raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE must be positive, got {self.value}")


def build_clip(cfg: Any) -> GradientClip | None:
    """What ``cfg.SOLVER.CLIP_GRADIENTS`` asks for; None where it is not enabled."""
    node = cfg.SOLVER.CLIP_GRADIENTS
    return GradientClip(node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE) if node.ENABLED else None


def clip_gradients(parameters: Iterable[Tensor], clip: GradientClip) -> None:
    """Limit the gradients of ``parameters`` in place; those without a gradient are skipped."""
    if clip.clip_type == "norm":
        nn.utils.clip_grad_norm_(parameters, clip.value, clip.norm_type)
    else:
        nn.utils.clip_grad_value_(parameters, clip.value)
