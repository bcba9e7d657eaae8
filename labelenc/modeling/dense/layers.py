"""What dense heads are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Conv2d:
    """A convolution of a dense head: weights from N(0, 0.01), constant ``bias``."""
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    layer.bias = nn.Parameter(torch.full((out_channels,), bias))
    return layer


def per_anchor(output: Tensor, values: int) -> Tensor:
    """(N, A * values, H, W) to (N, H * W * A, values), the order of the anchors, in float32."""
    count, channels, height, width = output.shape
    # Written out, because symbolic sizes, when exporting, cannot be divided to find the rest.
    anchors = channels // values
    return (
        output.view(count, anchors, values, height, width)
        .permute(0, 3, 4, 1, 2)
        .reshape(count, height * width * anchors, values)
        .float()
    )


def joined(pyramids: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Pyramids of P x (N, C, H, W) levels as one of (P * N, C, H, W), so that a head runs once on all."""
    if len(pyramids) == 1:
        return list(pyramids[0])
    return [torch.cat(levels) for levels in zip(*pyramids, strict=True)]


def apart(outputs: Sequence[Tensor], values: int, pyramids: int) -> list[Tensor]:
    """A head's outputs (P * N, A * values, H, W) of all levels as P tensors (N, R, values), R in the order of
    the anchors."""
    together = torch.cat([per_anchor(level, values) for level in outputs], dim=1)
    # The gradient of chunks is copied, be it one.
    return [together] if pyramids == 1 else list(together.chunk(pyramids))
