"""What every location of FCOS is to predict (Tian et al., FCOS, ICCV 2019, sections 3.1 and 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labelenc.modeling.matching import padded, pick, references_at_once
from labelenc.structures import BoxList, box_ops

# A level takes the boxes whose farthest side is up to this many strides away; the last takes all larger ones.
REACH_IN_STRIDES = 8


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
        boxes = padded([target.bbox for target in targets])
        classes = padded([target.get_field("labels") for target in targets])
        # Of infinite area, padding is never the smallest box.
        area = box_ops.area(boxes).masked_fill(classes == 0, math.inf)
        columns = (points[:, 0], points[:, 1], low, high, stride)
        rows = references_at_once(boxes)
        # One tensor for the results of all chunks, as in Matcher, and for the same reason.
        matches = classes.new_empty((len(targets), len(points)))
        chunks = zip(*(column.split(rows) for column in columns), matches.split(rows, dim=1), strict=True)
        for *chunk, slot in chunks:
            slot.copy_(self._match(boxes, area, *chunk))
        found, index = matches >= 0, matches.clamp(min=0)
        distances = box_distances(points, pick(boxes, index)) / (stride[:, None] if self.in_strides else 1)
        return torch.where(found, pick(classes, index), 0), torch.where(found[..., None], distances, 0)

    def _match(
        self, boxes: Tensor, area: Tensor, x: Tensor, y: Tensor, low: Tensor, high: Tensor, stride: Tensor
    ) -> Tensor:
        """(N, r) int64: the index of the box of each location (r,), -1 where it has none."""
        x0, y0, x1, y1 = boxes[..., None].unbind(dim=2)
        left, top, right, bottom = x - x0, y - y0, x1 - x, y1 - y
        nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
        farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
        suits = (farthest >= low) & (farthest <= high) & (nearest > 0)
        if self.center_radius > 0:
            off_center = torch.maximum((x - (x0 + x1) / 2).abs_(), (y - (y0 + y1) / 2).abs_())
            suits &= off_center < self.center_radius * stride
        smallest = torch.where(suits, area[..., None], math.inf).min(dim=1)
        return torch.where(smallest.values < math.inf, smallest.indices, -1)


def _column(locations: Sequence[Tensor], values: Sequence[float]) -> Tensor:
    """(R,) float32: the value of each location's level."""
    return torch.cat(
        [level.new_full((len(level),), value) for level, value in zip(locations, values, strict=True)]
    )
