"""Features of boxes, each from the pyramid level that suits its size (Lin et al., CVPR 2017, equation 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labelenc import ops
from labelenc.structures import box_ops

CANONICAL_SIZE = 224
CANONICAL_LEVEL = 4


class Pooler(nn.Module):
    """RoIAlign over a pyramid.

    Args:
        resolution: side of the square output.
        scales: of the levels that are pooled from, high resolution first, each half the one before; 1/4 is
            level 2.
        sampling_ratio: of RoIAlign; 0 adapts to the size of the box.
    """

    def __init__(self, resolution: int, scales: Sequence[float], sampling_ratio: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.scales = tuple(scales)
        self.sampling_ratio = sampling_ratio
        self.lowest = round(-math.log2(scales[0]))

    def levels(self, boxes: Tensor) -> Tensor:
        """(K,) int64 positions in ``scales`` for boxes (K, 4)."""
        relative = torch.log2(box_ops.area(boxes).sqrt() / CANONICAL_SIZE + 1e-6)
        level = torch.floor(CANONICAL_LEVEL + relative) - self.lowest
        return level.clamp(0, len(self.scales) - 1).long()

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Levels (N, C, H, W), of which the first ``len(scales)`` are used, and the boxes (K_i, 4) of each
        image in pixels, to (sum of K_i, C, resolution, resolution)."""
        rois = torch.cat(
            [torch.cat([rows.new_full((len(rows), 1), i), rows], dim=1) for i, rows in enumerate(boxes)]
        )
        return self.pool(features, rois)

    def pool(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """The same for rows (K, 5) of the image's index and the box."""
        size = (self.resolution, self.resolution)
        used = features[: len(self.scales)]
        return ops.multilevel_roi_align(
            used, rois, self.levels(rois[:, 1:]), size, self.scales, self.sampling_ratio
        )
