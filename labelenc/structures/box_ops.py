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
    """Intersection over union of every pair: (N, 4) and (M, 4) give (N, M)."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = (bottom_right - top_left + LEGACY_OFFSET).clamp_(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    return intersection / (area(first)[:, None] + area(second)[None, :] - intersection)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip (..., 4) boxes to ``[0, width - 1] x [0, height - 1]``; ``image_size`` is (width, height)."""
    width, height = image_size
    limit = boxes.new_tensor([width - 1, height - 1, width - 1, height - 1])
    return torch.minimum(boxes.clamp(min=0), limit)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(x, y, width, height) with inclusive sizes to corners; sizes below one pixel become one pixel."""
    corner = boxes[..., :2]
    return torch.cat([corner, corner + (boxes[..., 2:] - LEGACY_OFFSET).clamp(min=0)], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to (x, y, inclusive width, inclusive height)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2] + LEGACY_OFFSET], dim=-1)
