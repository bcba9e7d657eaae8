"""ResNet and ResNeXt bodies (He et al., CVPR 2016; Xie et al., CVPR 2017).

Attribute names (``stem.conv1``, ``layer1.0.downsample.0`` …) are the checkpoint format.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from labelenc.modeling.backbone.deform import DeformableConv
from labelenc.modeling.backbone.norm import NormFactory, conv_norm

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# A whole stage of R-50, but not the 36 blocks of R-152's third at once.
BLOCKS_PER_CHECKPOINT = 6


@dataclass(frozen=True)
class ResNetSettings:
    """Sizes of a body. ``res2_channels`` are the channels of C2; each stage doubles them.

    ``stage_with_dcn`` says which stages have deformable convolutions, in place of every 3x3 of their
    bottlenecks: ``modulated`` or not, in ``deformable_groups``, with offsets that start at zero or don't.
    """

    depth: int = 50
    stem_channels: int = 64
    res2_channels: int = 256
    groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = True
    stage_with_dcn: tuple[bool, bool, bool, bool] = (False, False, False, False)
    modulated: bool = False
    deformable_groups: int = 1
    zero_init_offsets: bool = False


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A bias-free convolution with 'same' padding, initialised uniformly as the ancestors do."""
    layer = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return layer


def deformable_conv(channels: int, stride: int, settings: ResNetSettings) -> DeformableConv:
    """The deformable 3x3 of a bottleneck."""
    layer = DeformableConv(
        channels,
        channels,
        kernel=3,
        stride=stride,
        groups=settings.groups,
        deformable_groups=settings.deformable_groups,
        modulated=settings.modulated,
        bias=False,
    )
    if settings.zero_init_offsets:
        nn.init.zeros_(layer.offset.weight)
    return layer


class Projection(nn.Sequential):
    """A strided 1x1 convolution and its normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(self[0], self[1], x)


def shortcut(in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> Projection | None:
    """The projection of a residual block, or None where the identity fits."""
    if in_channels == out_channels and stride == 1:
        return None
    return Projection(conv(in_channels, out_channels, 1, stride), norm(out_channels))


class Stem(nn.Module):
    """7x7 convolution and max pooling: stride 4."""

    def __init__(self, channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_uniform_(self.conv1.weight, a=1)
        self.bn1 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(conv_norm(self.conv1, self.bn1, x)), 3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (R-18, R-34)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: NormFactory, settings: ResNetSettings
    ) -> None:
        super().__init__()
        self.downsample = shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = conv(in_channels, out_channels, 3, stride)
        self.bn1 = norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.bn2 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = conv_norm(self.conv2, self.bn2, out)
        return F.relu_(out.add_(x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1. The 3x3 may be grouped (ResNeXt) and deformable. The stride sits in the first 1x1 (MSRA)
    or the 3x3."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm: NormFactory,
        settings: ResNetSettings,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        widening = out_channels // settings.res2_channels
        inner = settings.groups * settings.width_per_group * widening
        first, second = (stride, 1) if settings.stride_in_1x1 else (1, stride)
        self.downsample = shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = conv(in_channels, inner, 1, first)
        self.bn1 = norm(inner)
        self.conv2 = (
            deformable_conv(inner, second, settings)
            if deformable
            else conv(inner, inner, 3, second, settings.groups)
        )
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = F.relu_(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        return F.relu_(out.add_(x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """(N, 3, H, W) to [C2, C3, C4, C5] with strides 4, 8, 16, 32.

    Args:
        settings: sizes.
        norm: makes the normalisation of a number of channels.
        freeze_at: the stem (1) and that many stages less one get no gradient; 0 or less freezes nothing.
        checkpointing: keep only the inputs of every few blocks for the backward pass, which computes the
            rest anew (Chen et al. 2016, arXiv 1604.06174); same numbers, less memory, a longer step. Layers
            that change in their forward pass, such as trained batch normalisation, would change twice.

    Raises:
        ValueError: deformable convolutions in R-18 or R-34.
    """

    def __init__(
        self, settings: ResNetSettings, norm: NormFactory, freeze_at: int, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.first_checkpointed = max(freeze_at, 1) if checkpointing else None
        block = BasicBlock if settings.depth in (18, 34) else Bottleneck
        if block is BasicBlock and any(settings.stage_with_dcn):
            raise ValueError(f"R-{settings.depth} has no bottlenecks to put deformable convolutions in")
        self.stem = Stem(settings.stem_channels, norm)
        self.out_channels = tuple(settings.res2_channels * 2**stage for stage in range(4))
        previous = settings.stem_channels
        for stage, (channels, count) in enumerate(
            zip(self.out_channels, BLOCKS[settings.depth], strict=True)
        ):
            make = partial(Bottleneck, deformable=True) if settings.stage_with_dcn[stage] else block
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(make(previous, channels, stride, norm, settings))
                previous = channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        for part in [self.stem, *self.stages()][: max(freeze_at, 0)]:
            part.requires_grad_(False)

    def stages(self) -> list[nn.Module]:
        """``layer1`` to ``layer4``, which make C2 to C5."""
        return [self.get_submodule(f"layer{stage}") for stage in (1, 2, 3, 4)]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        levels = []
        for stage, layer in enumerate(self.stages(), start=1):
            # What is frozen keeps nothing for the backward pass anyway.
            kept = self.first_checkpointed is None or stage < self.first_checkpointed
            x = layer(x) if kept or not torch.is_grad_enabled() else _checkpointed(layer, x)
            levels.append(x)
        return levels


def _checkpointed(layer: nn.Module, x: Tensor) -> Tensor:
    blocks = list(layer.children())
    for start in range(0, len(blocks), BLOCKS_PER_CHECKPOINT):
        part = nn.Sequential(*blocks[start : start + BLOCKS_PER_CHECKPOINT])
        # Nothing in a body draws random numbers.
        x = checkpoint(part, x, use_reentrant=False, preserve_rng_state=False)
    return x
