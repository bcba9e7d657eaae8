"""Sigmoid focal loss on integer targets, with its gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import library, reference

SCHEMA = "focal_loss(Tensor logits, Tensor targets, float gamma, float alpha, bool total) -> Tensor"
BACKWARD_SCHEMA = (
    "focal_loss_backward(Tensor grad, Tensor logits, Tensor targets, float gamma, float alpha) -> Tensor"
)
# Elements that the plain form works on at a time, of which it keeps about ten copies.
STAND_IN_CHUNK = 1 << 20


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
        float32 (float64 for float64 logits), under autocast too: it has nothing to change here. ``log p`` is
        clamped at the smallest normal float32 and ``log(1 - p)`` is computed without cancellation, so that
        finite logits give finite losses; the gradient is the unclamped one. It can be differentiated once.
        A sum takes no memory besides the logits; the gradient is computed from them on the way back.

    Raises:
        ValueError: on wrong shapes or types, an unknown reduction, or (on the CPU) a target outside -1..C.
    """
    _check(logits, targets, gamma, reduction)
    loss: Tensor = torch.ops.labelenc.focal_loss(
        logits, targets.to(torch.int64), float(gamma), float(alpha), reduction == "sum"
    )
    return loss


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
    # Looking at values would stall a GPU's stream and break a compiled graph: the kernel asserts there.
    if targets.device.type == "cpu" and targets.numel() and not torch.compiler.is_compiling():
        low, high = (int(v) for v in targets.aminmax())
        if low < -1 or high > logits.shape[1]:
            raise ValueError(
                f"targets must lie in -1..{logits.shape[1]} (the number of columns), got {low}..{high}"
            )


def _loss_type(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _stand_in(logits: Tensor, targets: Tensor, gamma: float, alpha: float, total: bool) -> Tensor:
    losses = [
        reference.sigmoid_focal_loss(x.to(_loss_type(logits)), t, gamma, alpha)
        for x, t in _chunks(logits, targets)
    ]
    return torch.stack([loss.sum() for loss in losses]).sum() if total else torch.cat(losses)


def _backward_stand_in(grad: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    slopes = [
        reference.sigmoid_focal_loss_slope(x.to(_loss_type(logits)), t, gamma, alpha).mul_(g).to(logits.dtype)
        for x, t, g in _chunks(logits, targets, grad.expand(logits.shape))
    ]
    return torch.cat(slopes)


def _chunks(*tensors: Tensor) -> Any:
    rows = max(1, STAND_IN_CHUNK // max(1, tensors[0].shape[1]))
    return zip(*(t.split(rows) for t in tensors), strict=True)


def _fake(logits: Tensor, targets: Tensor, gamma: float, alpha: float, total: bool) -> Tensor:
    return logits.new_empty(() if total else logits.shape, dtype=_loss_type(logits))


def _backward_fake(grad: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    return logits.new_empty(logits.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, targets, ctx.gamma, ctx.alpha, _ = inputs
    ctx.save_for_backward(logits, targets)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits, targets = ctx.saved_tensors
    slope = torch.ops.labelenc.focal_loss_backward(grad, logits, targets, ctx.gamma, ctx.alpha)
    return slope, None, None, None, None


library.complete(SCHEMA, _stand_in, _fake)
library.complete(BACKWARD_SCHEMA, _backward_stand_in, _backward_fake)
torch.library.register_autograd("labelenc::focal_loss", _backward, setup_context=_keep)
library.once_differentiable("focal_loss_backward", "sigmoid_focal_loss")
