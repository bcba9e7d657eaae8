"""Deformable convolution layer (Dai et al., ICCV 2017; modulated: Zhu et al., CVPR 2019).

Attribute names (``offset``, ``conv``) are the checkpoint format.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labelenc import ops


class DeformableConv(nn.Module):
    """A convolution with 'same' padding whose taps move by what another convolution reads off its input.

    ``offset`` gives 2 K channels of offsets per deformable group, K = ``kernel`` squared; where the layer is
    modulated, K per group of factors before the sigmoid follow. ``conv`` holds the weight and the bias. The
    weights start uniform within 1 / sqrt(fan in), those of ``offset`` within sqrt(3 / fan in).

    Args:
        in_channels: divisible by ``groups`` and ``deformable_groups``.
        out_channels: divisible by ``groups``.
        kernel: odd size of the kernel.
        stride, groups: of the convolution.
        deformable_groups: groups of input channels with offsets of their own.
        modulated: weigh the taps too (version 2).
        bias: whether ``conv`` has one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        groups: int,
        deformable_groups: int,
        modulated: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, kernel // 2
        self.groups, self.deformable_groups = groups, deformable_groups
        self.offset_channels = 2 * kernel * kernel * deformable_groups
        self.modulated = modulated
        predicted = self.offset_channels // 2 * (3 if modulated else 2)
        self.offset = nn.Conv2d(in_channels, predicted, kernel, stride, self.padding)
        nn.init.kaiming_uniform_(self.offset.weight, a=1)
        self.offset.bias = nn.Parameter(torch.zeros(predicted))
        # Here the ancestors start with what is PyTorch's default for the weight.
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, self.padding, groups=groups, bias=bias
        )
        if bias:
            self.conv.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.offset(x)
        offset, mask = predicted, None
        if self.modulated:
            offset, mask = predicted.tensor_split([self.offset_channels], dim=1)
            mask = torch.sigmoid(mask)
        return ops.deform_conv2d(
            x,
            offset,
            mask,
            self.conv.weight,
            self.conv.bias,
            self.stride,
            self.padding,
            groups=self.groups,
            deformable_groups=self.deformable_groups,
        )
