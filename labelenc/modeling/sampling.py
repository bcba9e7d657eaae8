"""Which references of an image a loss is computed from."""

from __future__ import annotations

import torch
from torch import Tensor


class BalancedSampler:
    """Draws references at random, with an upper bound on the share of positives (Girshick, ICCV 2015, 2.3).

    Args:
        batch_size: references per image; fewer where an image has fewer.
        positive_fraction: at most this part of ``batch_size`` is positive; negatives fill up the rest.
    """

    def __init__(self, batch_size: int, positive_fraction: float) -> None:
        self.batch_size = batch_size
        self.max_positives = int(batch_size * positive_fraction)

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (..., R), one image per row, to a bool mask (..., R) of the drawn.

        Positive labels are positives, 0 is a negative, what is below is never drawn. Random numbers come
        from torch's generator of the labels' device, one per label.
        """
        keys = torch.rand(labels.shape, device=labels.device)
        positives = _draw(keys, labels > 0, self.max_positives)
        free = self.batch_size - positives.sum(dim=-1, keepdim=True)
        return positives | _draw(keys, labels == 0, self.batch_size, free)

    def number(self, labels: Tensor) -> Tensor:
        """How many of each row are drawn (...,): chance decides which, not how many."""
        positives = (labels > 0).sum(dim=-1).clamp(max=self.max_positives)
        return (positives + (labels == 0).sum(dim=-1)).clamp(max=self.batch_size)


def _draw(keys: Tensor, candidates: Tensor, most: int, number: Tensor | int | None = None) -> Tensor:
    """Mask of the candidates of highest key: ``number`` per row, at most ``most``."""
    keys = keys.masked_fill(~candidates, -1.0)
    values, index = keys.topk(min(most, keys.shape[-1]), dim=-1)
    drawn = values >= 0
    if number is not None:
        drawn &= torch.arange(drawn.shape[-1], device=drawn.device) < number
    return torch.zeros_like(candidates).scatter_(-1, index, drawn)
