"""Feature pyramid network (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelenc.modeling.backbone.resnet import ResNet
from labelenc.modeling.backbone.timm_body import TimmBody

ConvFactory = Callable[[int, int, int], nn.Module]


def plain_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with bias and 'same' padding; uniform weights, zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    layer.bias = nn.Parameter(torch.zeros(out_channels))
    return layer


class ExtraLevelsP6P7(nn.Module):
    """P6 and P7 by strided convolutions, from C5 or from P5 (RetinaNet, FCOS)."""

    def __init__(self, in_channels: int, out_channels: int, from_c5: bool) -> None:
        super().__init__()
        self.from_c5 = from_c5
        self.p6 = plain_conv(in_channels, out_channels, 3, stride=2)
        self.p7 = plain_conv(out_channels, out_channels, 3, stride=2)

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        p6 = self.p6(c5 if self.from_c5 else p5)
        return [p6, self.p7(F.relu(p6))]


class ExtraLevelMaxPool(nn.Module):
    """P6 as every other position of P5 (Faster R-CNN)."""

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        return [F.max_pool2d(p5, 1, stride=2)]


class FPN(nn.Module):
    """[C2, C3, C4, C5] to pyramid levels of ``out_channels`` channels, high resolution first.

    Args:
        in_channels: channels of C2..C5; 0 leaves a level out (RetinaNet has no P2).
        out_channels: channels of every level.
        make_conv: (in, out, kernel) -> the lateral and output layers.
        top_blocks: makes further levels from C5 and P5, or None.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        make_conv: ConvFactory = plain_conv,
        top_blocks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.levels = [index for index, channels in enumerate(in_channels) if channels]
        for index in self.levels:
            self.add_module(f"fpn_inner{index + 1}", make_conv(in_channels[index], out_channels, 1))
            self.add_module(f"fpn_layer{index + 1}", make_conv(out_channels, out_channels, 3))
        self.top_blocks = top_blocks

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        merged: Tensor | None = None
        outputs: list[Tensor] = []
        for index in reversed(self.levels):
            lateral = self.get_submodule(f"fpn_inner{index + 1}")(features[index])
            if merged is not None:
                lateral = F.interpolate(merged, size=lateral.shape[-2:], mode="nearest").add_(lateral)
            merged = lateral
            outputs.insert(0, self.get_submodule(f"fpn_layer{index + 1}")(merged))
        if self.top_blocks is not None:
            outputs.extend(self.top_blocks(features[-1], outputs[-1]))
        return outputs


class Backbone(nn.Module):
    """A body and the pyramid over it: (N, 3, H, W) to pyramid levels, high resolution first."""

    def __init__(self, body: ResNet | TimmBody, fpn: FPN) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return self.fpn(self.body(pixels))
