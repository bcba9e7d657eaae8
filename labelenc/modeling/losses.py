"""Losses and their normalisers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def smooth_l1_sum(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Huber-like loss summed over all numbers (Girshick, ICCV 2015); quadratic below ``beta``."""
    return F.smooth_l1_loss(prediction.float(), target, beta=beta, reduction="sum")


def iou_loss_sum(prediction: Tensor, target: Tensor, weights: Tensor, kind: str) -> Tensor:
    """Loss of the overlap between boxes around the same points, times ``weights``, summed.

    Args:
        prediction: (N, 4) distances from the points to the left, top, right and bottom side, not negative.
        target: the same of the true boxes, float32, in the same unit.
        weights: (N,); where they sum to 0 they are taken as 1.
        kind: "iou": -log IoU (Yu et al., UnitBox, ACM MM 2016); "linear_iou": 1 - IoU; "giou": 1 - GIoU
            (Rezatofighi et al., CVPR 2019). IoU is (intersection + 1) / (union + 1), so that it is never 0.
    """
    prediction = prediction.float()
    inner, outer = torch.minimum(prediction, target), torch.maximum(prediction, target)
    intersection = _area_of_distances(inner)
    union = _area_of_distances(prediction) + _area_of_distances(target) - intersection
    iou = (intersection + 1) / (union + 1)
    if kind == "iou":
        losses = -iou.log()
    elif kind == "linear_iou":
        losses = 1 - iou
    elif kind == "giou":
        enclosing = _area_of_distances(outer) + 1e-7
        losses = 1 - iou + (enclosing - union) / enclosing
    else:
        raise ValueError(f"kind must be iou, linear_iou or giou, not {kind!r}")
    return (losses * torch.where(weights.sum() > 0, weights, torch.ones_like(weights))).sum()


def _area_of_distances(distances: Tensor) -> Tensor:
    """(N,) areas of boxes given by distances (N, 4); without the inclusive pixel, as FCOS counts them."""
    left, top, right, bottom = distances.unbind(dim=1)
    return (left + right) * (top + bottom)


def mean_over_processes(count: Tensor) -> Tensor:
    """A count (float scalar), or several in one tensor, averaged over the processes.

    A loss that divides by it has, after gradients are averaged, the gradient of one process that holds
    the whole batch.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        count /= dist.get_world_size()
    return count
