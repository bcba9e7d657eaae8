"""Sigmoid focal loss on integer targets, with its gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FLT_MIN = torch.finfo(torch.float32).tiny
CPU_CHUNK = 1 << 18


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, gamma: float, alpha: float, reduction: str = "sum"
) -> Tensor:
    """Focal loss of one-vs-all classification (Lin et al. 2017, eq. 5).

    Args:
        logits: (N, C) before the sigmoid, any floating type; float16 and bfloat16 are computed in float32.
        targets: integers (N,): -1 the row is ignored, 0 background, c = class c, which is column c - 1.
        gamma: focusing exponent, at least 0.
        alpha: weight of the positive column; the others weigh ``1 - alpha``.
        reduction: "sum" gives a scalar, "none" (N, C).

    Returns:
        float32 (float64 for float64 logits). ``log p`` is clamped at the smallest normal float32 and
        ``log(1 - p)`` is computed without cancellation, so that finite logits give finite losses; the
        gradient is the unclamped one. It can be differentiated once.

    Raises:
        ValueError: on wrong shapes or types, an unknown reduction, or (on the CPU) a target outside -1..C.
    """
    _check(logits, targets, gamma, reduction)
    return _FocalLoss.apply(logits, targets, float(gamma), float(alpha), reduction == "sum")


def _check(logits: Tensor, targets: Tensor, gamma: float, reduction: str) -> None:
    if logits.dim() != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be (N, C) and targets (N,), got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    if not logits.is_floating_point() or targets.is_floating_point():
        raise ValueError(f"logits must be floating point, targets integers: {logits.dtype}, {targets.dtype}")
    if reduction not in ("sum", "none"):
        raise ValueError(f"reduction must be 'sum' or 'none', got {reduction!r}")
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    # Looking at values would stall a GPU's stream and break a compiled graph: there the gather fails instead.
    if targets.device.type == "cpu" and targets.numel() and not torch.compiler.is_compiling():
        low, high = (int(v) for v in targets.aminmax())
        if low < -1 or high > logits.shape[1]:
            raise ValueError(
                f"targets must lie in -1..{logits.shape[1]} (the number of columns), got {low}..{high}"
            )


class _FocalLoss(torch.autograd.Function):
    """For the sum the slope is found along with the loss and kept in place of the logits, else later."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, gamma: float, alpha: float, total: bool) -> Tensor:
        ctx.gamma, ctx.alpha, ctx.total = gamma, alpha, total
        keep_slope = total and ctx.needs_input_grad[0]
        slope = torch.empty_like(logits) if keep_slope else None
        losses, row = [], 0
        for x, t in _chunks(logits, targets):
            loss, chunk_slope = _elements(x, t, gamma, alpha, with_slope=keep_slope)
            losses.append(loss.sum() if total else loss)
            if slope is not None and chunk_slope is not None:
                slope[row : row + len(x)] = chunk_slope
            row += len(x)
        if slope is not None:
            ctx.save_for_backward(slope)
        elif not total:
            ctx.save_for_backward(logits, targets)
        return torch.stack(losses).sum() if total else torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.total:
            (slope,) = ctx.saved_tensors
            return slope * grads[0].to(slope.dtype), None, None, None, None
        logits, targets = ctx.saved_tensors
        grad, row = torch.empty_like(logits), 0
        for x, t in _chunks(logits, targets):
            _, slope = _elements(x, t, ctx.gamma, ctx.alpha, with_slope=True)
            if slope is not None:
                grad[row : row + len(x)] = slope.mul_(grads[0][row : row + len(x)])
            row += len(x)
        return grad, None, None, None, None


def _chunks(logits: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Row blocks small enough for the caches of a CPU; a GPU takes everything at once."""
    rows = CPU_CHUNK // max(1, logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    rows = max(1, rows)
    return list(zip(logits.split(rows), targets.split(rows), strict=True))


def _elements(
    logits: Tensor, targets: Tensor, gamma: float, alpha: float, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Loss and, if asked for, d loss / d logit of every element.

    A row has at most one positive column: everything is computed as background, then that column is replaced.
    """
    x = logits if logits.dtype == torch.float64 else logits.float()
    p = torch.sigmoid(x)
    minus_log_not_p = torch.nn.functional.softplus(x)
    weight = (p * p if gamma == 2 else p.pow(gamma)).mul_(1 - alpha)
    loss = weight * minus_log_not_p
    slope = None
    if with_slope:
        slope = minus_log_not_p.mul_(1 - p).mul_(gamma).add_(p).mul_(weight)
    if x.shape[1]:
        column = (targets.long() - 1).clamp_(min=0)[:, None]
        _patch_positive(loss, slope, p.gather(1, column), column, targets[:, None], gamma, alpha)
    return loss, slope


def _patch_positive(
    loss: Tensor, slope: Tensor | None, p: Tensor, column: Tensor, targets: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the positive columns and clears the ignored rows, in place; p, column, targets are (N, 1)."""
    log_p = p.clamp(min=FLT_MIN).log_()
    weight = (1 - p).pow(gamma).mul_(alpha)
    positive, ignored = targets > 0, targets < 0
    loss.scatter_(1, column, torch.where(positive, -weight * log_p, loss.gather(1, column)))
    loss.masked_fill_(ignored, 0)
    if slope is not None:
        value = weight * (gamma * p * log_p + p - 1)
        slope.scatter_(1, column, torch.where(positive, value, slope.gather(1, column)))
        slope.masked_fill_(ignored, 0)
