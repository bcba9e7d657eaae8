"""Boxes as offsets from reference boxes (Girshick et al., CVPR 2014, appendix C), inclusive widths."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelenc.structures import box_ops

# Keeps exp() of a predicted log scale below 1000 / 16.
MAX_LOG_SCALE = math.log(1000.0 / 16)


class BoxCoder:
    """Encodes boxes as weighted ``(dx, dy, dw, dh)``: centre shifts in units of the reference's size, and
    logarithms of the size ratios."""

    def __init__(self, weights: tuple[float, float, float, float]) -> None:
        self.weights = weights

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Offsets (..., 4) that lead from ``references`` to ``boxes``, both (..., 4); they broadcast."""
        width, height = box_ops.widths_heights(boxes)
        ref_width, ref_height = box_ops.widths_heights(references)
        shift_x = (boxes[..., 0] + 0.5 * width - references[..., 0] - 0.5 * ref_width) / ref_width
        shift_y = (boxes[..., 1] + 0.5 * height - references[..., 1] - 0.5 * ref_height) / ref_height
        offsets = [shift_x, shift_y, torch.log(width / ref_width), torch.log(height / ref_height)]
        return torch.stack([o * weight for o, weight in zip(offsets, self.weights, strict=True)], dim=-1)

    def decode(self, offsets: Tensor, references: Tensor) -> Tensor:
        """Boxes (N, K * 4) of the offsets (N, K * 4) from ``references`` (N, 4)."""
        offsets = offsets.to(references.dtype)
        ref_width, ref_height = box_ops.widths_heights(references)
        center_x = references[:, 0] + 0.5 * ref_width
        center_y = references[:, 1] + 0.5 * ref_height
        dx, dy, dw, dh = (offsets[:, i::4] / weight for i, weight in enumerate(self.weights))
        x = dx * ref_width[:, None] + center_x[:, None]
        y = dy * ref_height[:, None] + center_y[:, None]
        half_width = 0.5 * dw.clamp(max=MAX_LOG_SCALE).exp() * ref_width[:, None]
        half_height = 0.5 * dh.clamp(max=MAX_LOG_SCALE).exp() * ref_height[:, None]
        corners = [
            x - half_width,
            y - half_height,
            x + half_width - box_ops.LEGACY_OFFSET,
            y + half_height - box_ops.LEGACY_OFFSET,
        ]
        return torch.stack(corners, dim=2).flatten(1)
