"""Normalisation layers of the bodies and the FPN."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

NormFactory = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and fixed affine terms, all of them buffers.

    There is no epsilon: the MSRA weights already have it folded into ``running_var``.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The two numbers per channel, (C,) each, that make it ``x * scale + shift``."""
        scale = self.weight * self.running_var.rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift()
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))`` of a bias-free convolution.

    A frozen normalisation is multiplied into the weights, of which there are far fewer than outputs, and
    added as the bias. That is equal but for rounding, and spares two passes over the outputs and one over
    their gradients.
    """
    if type(conv) is not nn.Conv2d or not isinstance(norm, FrozenBatchNorm2d):
        return norm(conv(x))
    scale, shift = norm.scale_and_shift()
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def group_norm(num_groups: int, channels_per_group: int, eps: float) -> NormFactory:
    """GroupNorm by the number of groups, or by channels per group where that is positive.

    Raises:
        ValueError: (from the factory) the channels do not divide into the groups.
    """

    def make(channels: int) -> nn.Module:
        groups = channels // channels_per_group if channels_per_group > 0 else num_groups
        if groups < 1 or channels % groups:
            raise ValueError(
                f"{channels} channels do not divide into {groups} groups; "
                "set MODEL.GROUP_NORM.NUM_GROUPS or DIM_PER_GP to a divisor of every layer's channels"
            )
        return nn.GroupNorm(groups, channels, eps)

    return make


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every BatchNorm of ``model`` take its statistics over all processes, in place."""
    # timm's own conversion, because its layers may hold an activation, which PyTorch's would drop.
    convert_sync_batchnorm(model)
