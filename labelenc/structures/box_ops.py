"""Box arithmetic in the legacy inclusive convention: a box spans ``x1 - x0 + 1`` pixels.

The published weights were trained with it, so every width, area and overlap inside the package goes
through this module. All boxes are ``xyxy`` float tensors of shape (..., 4), in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEGACY_OFFSET = 1.0


def widths_heights(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Inclusive widths and heights of (..., 4) boxes."""
    return (
        boxes[..., 2] - boxes[..., 0] + LEGACY_OFFSET,
        boxes[..., 3] - boxes[..., 1] + LEGACY_OFFSET,
    )


def area(boxes: Tensor) -> Tensor:
    """Inclusive areas, shape (...)."""
    widths, heights = widths_heights(boxes)
    return widths * heights


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair: (..., N, 4) and (..., M, 4) give (..., N, M).

    The leading dimensions broadcast. Besides the result it takes twice its memory for a while.
    """
    areas = area(first)[..., :, None], area(second)[..., None, :]
    first, second = first[..., :, None, :], second[..., None, :, :]
    width = _overlap(first[..., 0], first[..., 2], second[..., 0], second[..., 2])
    height = _overlap(first[..., 1], first[..., 3], second[..., 1], second[..., 3])
    intersection = width.mul_(height)
    del height
    union = (areas[0] + areas[1]).sub_(intersection)
    return intersection.div_(union)


def _overlap(start: Tensor, end: Tensor, other_start: Tensor, other_end: Tensor) -> Tensor:
    """The inclusive lengths that intervals have in common, 0 where they lie apart."""
    length = torch.minimum(end, other_end).sub_(torch.maximum(start, other_start))
    return length.add_(LEGACY_OFFSET).clamp_(min=0)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip (..., 4) boxes to ``[0, width - 1] x [0, height - 1]``; ``image_size`` is (width, height)."""
    width, height = image_size
    x, y = boxes[..., 0::2].clamp(0, width - 1), boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x, y], dim=-1).flatten(-2)


def clip_each(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """:func:`clip` of boxes (N, K, 4), those of each of N images to its own size; ``image_sizes`` is a tensor
    (N, 2) of (height, width)."""
    last = image_sizes.flip(1).repeat(1, 2).unsqueeze(1).to(boxes.dtype) - LEGACY_OFFSET
    return torch.minimum(boxes.clamp(min=0), last)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(x, y, width, height) with inclusive sizes to corners; sizes below one pixel become one pixel."""
    corner = boxes[..., :2]
    return torch.cat([corner, corner + (boxes[..., 2:] - LEGACY_OFFSET).clamp(min=0)], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to (x, y, inclusive width, inclusive height)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2] + LEGACY_OFFSET], dim=-1)
