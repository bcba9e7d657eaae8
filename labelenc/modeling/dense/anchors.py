"""Anchors: reference boxes on a grid per level (Ren et al., NeurIPS 2015; Lin et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn


def cell_anchors(stride: int, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """The (len(ratios) * len(sizes), 4) anchors of the first cell, ratio first, then size.

    The shape of a ratio is rounded to whole pixels at the size of one cell and then scaled, as the
    published weights expect.
    """
    center = 0.5 * (stride - 1)
    rows = []
    for ratio in aspect_ratios:
        base_width = np.round(np.sqrt(stride * stride / ratio))
        base_height = np.round(base_width * ratio)
        for size in sizes:
            half_width = 0.5 * (base_width * size / stride - 1)
            half_height = 0.5 * (base_height * size / stride - 1)
            rows.append(
                [center - half_width, center - half_height, center + half_width, center + half_height]
            )
    return torch.from_numpy(np.array(rows, dtype=np.float32))


class BufferList(nn.Module):
    """Tensors saved under their position, ``0``, ``1`` …"""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        super().__init__()
        for index, buffer in enumerate(buffers):
            self.register_buffer(str(index), buffer)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.buffers())


class AnchorGenerator(nn.Module):
    """Anchors of every level.

    Args:
        sizes: per level, the anchor sizes in pixels (square root of the area at ratio 1).
        aspect_ratios: height over width.
        strides: pixels per cell, per level.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.cell_anchors = BufferList(
            [cell_anchors(stride, level, aspect_ratios) for stride, level in zip(strides, sizes, strict=True)]
        )

    @property
    def per_cell(self) -> int:
        return next(iter(self.cell_anchors)).shape[0]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per level (H * W * A, 4) boxes in pixels, ordered by row, column, anchor."""
        levels = []
        for feature, stride, cell in zip(features, self.strides, self.cell_anchors, strict=True):
            height, width = feature.shape[-2:]
            x = torch.arange(width, dtype=torch.float32, device=cell.device) * stride
            y = torch.arange(height, dtype=torch.float32, device=cell.device) * stride
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1)
            levels.append((shifts[:, :, None] + cell).reshape(-1, 4))
        return levels


def inside_images(anchors: Tensor, image_sizes: Sequence[tuple[int, int]], straddle: float) -> Tensor:
    """``inside_image`` of N images: (N, R)."""
    return torch.stack([inside_image(anchors, size, straddle) for size in image_sizes])


def inside_image(anchors: Tensor, image_size: tuple[int, int], straddle: float) -> Tensor:
    """(R,) bool: the anchor leaves the image (height, width) by less than ``straddle`` pixels; a negative
    ``straddle`` accepts all."""
    if straddle < 0:
        return torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
    height, width = image_size
    return (
        (anchors[:, 0] >= -straddle)
        & (anchors[:, 1] >= -straddle)
        & (anchors[:, 2] < width + straddle)
        & (anchors[:, 3] < height + straddle)
    )
