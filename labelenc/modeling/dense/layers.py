"""What dense heads are made of."""

from __future__ import annotations

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
    count, _, height, width = output.shape
    return (
        output.view(count, -1, values, height, width)
        .permute(0, 3, 4, 1, 2)
        .reshape(count, -1, values)
        .float()
    )
