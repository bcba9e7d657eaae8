"""Which ground-truth box a reference box stands for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labelenc.modeling.box_coder import BoxCoder
from labelenc.structures import box_ops

BELOW_LOW = -1
BETWEEN = -2
BACKGROUND = 0
IGNORED = -1
# Pairs of a box and a reference looked at together. A number about each is 17 MB, and at most ten such
# tensors live at a time: less than 200 MB however many pairs there are.
MAX_PAIRS = 1 << 22


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Tensors (n_i, ...) of N images as one (N, G, ...) with zeros at the ends; G is the largest n_i, but at
    least 1."""
    most = max(1, *map(len, rows))
    together = rows[0].new_zeros((len(rows), most, *rows[0].shape[1:]))
    for slot, of_image in zip(together, rows, strict=True):
        slot[: len(of_image)] = of_image
    return together


def pick(values: Tensor, index: Tensor) -> Tensor:
    """The rows (N, R, ...) of ``values`` (N, G, ...) at ``index`` (N, R)."""
    start = torch.arange(len(values), device=index.device)[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, (index + start).flatten()).unflatten(0, index.shape)


def references_at_once(truth: Tensor) -> int:
    """How many references may meet all boxes (N, G, ...) at a time."""
    return max(1, MAX_PAIRS // (truth.shape[0] * truth.shape[1]))


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

    def __call__(self, truth: Tensor, valid: Tensor, references: Tensor) -> Tensor:
        """What references (R, 4), or (N, R, 4), of N images stand for.

        Args:
            truth: (N, G, 4) boxes, G at least 1.
            valid: (N, G) bool; the other boxes are padding, whatever their coordinates.

        Returns:
            (N, R) int64: an index below G, BELOW_LOW or BETWEEN.
        """

        def quality(chunk: Tensor) -> Tensor:
            return box_ops.pairwise_iou(truth, chunk).masked_fill_(~valid[..., None], -1)

        rows = references_at_once(truth)
        chunks = references.split(rows, dim=-2)
        best_of_truth = None
        if self.allow_low_quality and len(chunks) > 1:
            # Twice the arithmetic, but the IoUs of all pairs need not be kept.
            best_of_truth = truth.new_zeros((*valid.shape, 1))
            for chunk in chunks:
                best_of_truth.copy_(torch.maximum(best_of_truth, quality(chunk).amax(dim=-1, keepdim=True)))
        # Small results kept from every chunk would lie between the large blocks of memory that come and go,
        # which the C library then cannot join any more: it asks for hundreds of MB.
        matches = valid.new_empty((len(truth), references.shape[-2]), dtype=torch.int64)
        for chunk, slot in zip(chunks, matches.split(rows, dim=-1), strict=True):
            slot.copy_(self.match_quality(quality(chunk), best_of_truth))
        return matches

    def match_quality(self, quality: Tensor, best_of_truth: Tensor | None = None) -> Tensor:
        """The same from ready IoUs (..., G, R), negative for padding; G must not be 0.

        ``best_of_truth`` (..., G, 1) is each box's best IoU with any reference, should there be more
        references than these R.
        """
        best, index = quality.max(dim=-2)
        matches = torch.where(best < self.low, BELOW_LOW, index)
        matches = torch.where((best >= self.low) & (best < self.high), BETWEEN, matches)
        if self.allow_low_quality and quality.shape[-1]:
            if best_of_truth is None:
                best_of_truth = quality.amax(dim=-1, keepdim=True)
            # A box that overlaps no reference has no best one: all would share its quality of 0.
            wanted = torch.where(best_of_truth > 0, best_of_truth, torch.inf)
            matches = torch.where((quality == wanted).any(dim=-2), index, matches)
        return matches


@torch.no_grad()
def assign(
    references: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    matcher: Matcher,
    box_coder: BoxCoder,
) -> tuple[Tensor, Tensor]:
    """What references are trained to say in each of N images. The host does not wait for a GPU.

    Args:
        references: (R, 4) boxes, the same in all images.
        boxes: the (G_i, 4) ground-truth boxes of each image.
        labels: (G_i,) int64, at least 1: what a match with each of them is called.
        matcher: references to ground truth.
        box_coder: offsets from references to ground truth.

    Returns:
        Labels (N, R) int64, of the match, BACKGROUND or IGNORED, and offsets (N, R, 4), 0 where there is no
        match.
    """
    truth, names = padded(boxes), padded(labels)
    matches = matcher(truth, names > 0, references)
    positive, index = matches >= 0, matches.clamp(min=0)
    assigned = torch.where(positive, pick(names, index), BACKGROUND)
    assigned = assigned.masked_fill(matches == BETWEEN, IGNORED)
    offsets = box_coder.encode(pick(truth, index), references)
    return assigned, torch.where(positive[..., None], offsets, 0)
