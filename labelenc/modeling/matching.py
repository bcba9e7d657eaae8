"""Which ground-truth box a reference box stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from labelenc.modeling.box_coder import BoxCoder
from labelenc.structures import BoxList, box_ops

BELOW_LOW = -1
BETWEEN = -2
BACKGROUND = 0
IGNORED = -1


class Matcher:
    """Matches every reference (anchor, proposal) to the ground-truth box of highest IoU.

    Args:
        high: IoU from which a reference is a match.
        low: IoU below which it is background; between the two it is ignored.
        allow_low_quality: references that are a ground-truth box's best keep it whatever the IoU.
    """

    def __init__(self, high: float, low: float, allow_low_quality: bool) -> None:
        if low > high:
            raise ValueError(f"low threshold {low} exceeds high threshold {high}")
        self.high = high
        self.low = low
        self.allow_low_quality = allow_low_quality

    def __call__(self, truth: Tensor, references: Tensor) -> Tensor:
        """(G, 4) and (R, 4) boxes to (R,) int64: an index below G, BELOW_LOW or BETWEEN."""
        if len(truth) == 0:
            return torch.full((len(references),), BELOW_LOW, dtype=torch.int64, device=references.device)
        return self.match_quality(box_ops.pairwise_iou(truth, references))

    def match_quality(self, quality: Tensor) -> Tensor:
        """The same from a ready (G, R) matrix of IoUs; G must not be 0."""
        best, index = quality.max(dim=0)
        matches = torch.where(best < self.low, BELOW_LOW, index)
        matches = torch.where((best >= self.low) & (best < self.high), BETWEEN, matches)
        if self.allow_low_quality:
            best_of_truth = quality.max(dim=1, keepdim=True).values
            # A box that overlaps no reference has no best one: all would share its quality of 0.
            rescued = (quality == best_of_truth) & (best_of_truth > 0)
            matches = torch.where(rescued.any(dim=0), index, matches)
        return matches


@torch.no_grad()
def assign(
    references: Tensor, target: BoxList, labels: Tensor, matcher: Matcher, box_coder: BoxCoder
) -> tuple[Tensor, Tensor]:
    """What references are trained to say.

    Args:
        references: (R, 4) boxes.
        target: G ground-truth boxes.
        labels: (G,) int64, what a match with each of them is called.
        matcher: references to ground truth.
        box_coder: offsets from references to ground truth.

    Returns:
        Labels (R,) int64, of the match, BACKGROUND or IGNORED, and offsets (R, 4), 0 where there is no match.
    """
    matches = matcher(target.bbox, references)
    assigned = torch.full_like(matches, BACKGROUND)
    assigned[matches == BETWEEN] = IGNORED
    positive = (matches >= 0).nonzero().squeeze(1)
    matched = matches[positive]
    assigned[positive] = labels[matched]
    offsets = torch.zeros_like(references)
    offsets[positive] = box_coder.encode(target.bbox[matched], references[positive])
    return assigned, offsets
