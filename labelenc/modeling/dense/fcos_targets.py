"""What every location of FCOS is to predict (Tian et al., FCOS, ICCV 2019, sections 3.1 and 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labelenc.structures import BoxList

# A level takes the boxes whose farthest side is up to this many strides away; the last takes all larger ones.
REACH_IN_STRIDES = 8
# Location-box pairs looked at together: bounds the memory at about 100 MB however many boxes there are.
MAX_PAIRS = 1 << 20


def grid_locations(features: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Per level (H * W, 2) float32: x and y in pixels of the middle of every cell, row by row."""
    levels = []
    for feature, stride in zip(features, strides, strict=True):
        height, width = feature.shape[-2:]
        x = torch.arange(width, dtype=torch.float32, device=feature.device) * stride + stride // 2
        y = torch.arange(height, dtype=torch.float32, device=feature.device) * stride + stride // 2
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        levels.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))
    return levels


def box_distances(locations: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) from locations (..., 2) to the left, top, right and bottom side of boxes (..., 4),
    negative where the location lies outside (equation 1). The leading dimensions broadcast."""
    return torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)


def boxes_at(locations: Tensor, distances: Tensor) -> Tensor:
    """The inverse of ``box_distances``: boxes (..., 4) around locations (..., 2)."""
    return torch.cat([locations - distances[..., :2], locations + distances[..., 2:]], dim=-1)


def centerness_of(distances: Tensor) -> Tensor:
    """How central a location lies in its box, (N,) in (0, 1], from positive distances (N, 4) (equation 3)."""
    pairs = distances.view(-1, 2, 2)
    ratios = pairs.amin(dim=1) / pairs.amax(dim=1)
    return ratios.prod(dim=1).sqrt()


class LocationTargets:
    """Assigns a ground-truth box, or background, to every location of the pyramid.

    A location stands for a box that it lies inside of and whose farthest side is within the range of the
    location's level: up to 64 pixels for stride 8, 64 to 128 for stride 16 … Of several boxes it takes the
    smallest.

    Args:
        strides: pixels per cell, per level.
        center_radius: where positive, the location must also lie this many strides or less from the box's
            centre, along both axes (center sampling).
        in_strides: give distances in units of the level's stride instead of pixels.
    """

    def __init__(self, strides: Sequence[int], center_radius: float = 0.0, in_strides: bool = False) -> None:
        self.strides = tuple(strides)
        self.center_radius = center_radius
        self.in_strides = in_strides

    @torch.no_grad()
    def __call__(self, locations: Sequence[Tensor], targets: Sequence[BoxList]) -> tuple[Tensor, Tensor]:
        """The targets of a batch.

        Args:
            locations: per level (R_l, 2), from ``grid_locations``; R is their sum.
            targets: the boxes of each of N images, with ``labels`` 1..C.

        Returns:
            Labels (N, R) int64, 0 for background, and distances (N, R, 4) float32 left, top, right, bottom,
            0 for background; the levels follow one another.
        """
        points = torch.cat(list(locations))
        bounds = [REACH_IN_STRIDES * stride for stride in self.strides[:-1]]
        low = _column(locations, [-1, *bounds])
        high = _column(locations, [*bounds, math.inf])
        stride = _column(locations, self.strides)
        labels, distances = [], []
        for target in targets:
            if len(target) == 0:
                labels.append(torch.zeros(len(points), dtype=torch.int64, device=points.device))
                distances.append(points.new_zeros(len(points), 4))
                continue
            found, index = self._match(target, points, low, high, stride)
            labels.append(target.get_field("labels")[index] * found)
            distances.append(box_distances(points, target.bbox[index]) * found[:, None])
        unit = stride[:, None] if self.in_strides else 1
        return torch.stack(labels), torch.stack(distances) / unit

    def _match(
        self, target: BoxList, points: Tensor, low: Tensor, high: Tensor, stride: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(R,) bool: a box was found, and (R,) int64: which one, any where none was found."""
        boxes, area = target.bbox, target.area()
        rows = max(1, MAX_PAIRS // len(boxes))
        best, index = [], []
        columns = (column.split(rows) for column in (points, low, high, stride))
        for point, lowest, highest, step in zip(*columns, strict=True):
            sides = box_distances(point[:, None], boxes)
            farthest = sides.amax(dim=2)
            suits = (farthest >= lowest[:, None]) & (farthest <= highest[:, None]) & (sides.amin(dim=2) > 0)
            if self.center_radius > 0:
                from_center = (point[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(dim=2)
                suits &= from_center < self.center_radius * step[:, None]
            smallest = torch.where(suits, area, math.inf).min(dim=1)
            best.append(smallest.values)
            index.append(smallest.indices)
        return torch.cat(best) < math.inf, torch.cat(index)


def _column(locations: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """(R,) float32: the value of each location's level."""
    return torch.cat(
        [level.new_full((len(level),), value) for level, value in zip(locations, values, strict=True)]
    )
