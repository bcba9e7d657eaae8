"""The label encoding function: labels drawn as an image, encoded into pyramid features.

Hao et al., LabelEnc, ECCV 2020, section 3.2 and figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelenc import ops
from labelenc.structures import BoxList

# Of the paper: C2 has 256 channels, the first convolution 128.
PAPER_C2, PAPER_STEM = 256, 128


class EncoderBlock(nn.Module):
    """A bottleneck without normalisation; the stride sits in the 3x3.

    The convolutions are called ``con1`` to ``con3`` so that no ImageNet weight is ever matched to them.
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels or stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            )
        self.con1 = nn.Conv2d(in_channels, inner, 1)
        self.con2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1)
        self.con3 = nn.Conv2d(inner, out_channels, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.con1(x), inplace=True)
        out = F.relu(self.con2(out), inplace=True)
        out = self.con3(out)
        out = out + (x if self.downsample is None else self.downsample(x))
        return F.relu(out, inplace=True)


class LabelEncoderBody(nn.Module):
    """Label maps to [E2, E3, E4, E5], shaped like the image body's C2..C5.

    Args:
        num_classes: foreground classes C, the channels of a label map.
        out_channels: channels of the image body's C2..C5, each the next stage's input.
        width: scales the inner widths; 1.0 is the paper, where C2..C5 are 256..2048.
    """

    def __init__(self, num_classes: int, out_channels: Sequence[int], width: float = 1.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.out_channels = tuple(out_channels)
        c2, c3, c4, c5 = self.out_channels
        stem = max(1, round(c2 * PAPER_STEM / PAPER_C2 * width))
        inner = [max(1, round(channels / 4 * width)) for channels in self.out_channels]
        self.stage1 = nn.Conv2d(num_classes, stem, 7, stride=2, padding=3)
        self.stage2 = EncoderBlock(stem, inner[0], c2, 2)
        self.stage3 = nn.Sequential(EncoderBlock(c2, inner[1], c3, 2), EncoderBlock(c3, inner[1], c3, 1))
        self.stage4 = nn.Sequential(EncoderBlock(c3, inner[2], c4, 2), EncoderBlock(c4, inner[2], c4, 1))
        self.stage5 = EncoderBlock(c4, inner[3], c5, 2)

    def forward(
        self, targets: Sequence[BoxList], size: tuple[int, int], scales: Sequence[Tensor] | None
    ) -> list[Tensor]:
        x = encode_label_maps(self.stage1, targets, size, scales)
        levels = []
        for stage in (self.stage2, self.stage3, self.stage4, self.stage5):
            x = stage(x)
            levels.append(x)
        return levels


def encode_label_maps(
    first: nn.Conv2d,
    targets: Sequence[BoxList],
    size: tuple[int, int],
    scales: Sequence[Tensor] | None,
) -> Tensor:
    """``first`` applied to the label maps of ``targets``: (N, stem, H / 2, W / 2).

    A label map has a channel per class, of which all but those of the classes in the image are 0. Only these
    are drawn and convolved, with their slice of the weight. That is the dense convolution less its products
    with 0; the weight's gradient has its full shape.
    """
    maps, images, channels = ops.compact_label_map(
        [target.bbox for target in targets],
        [target.cpu_field("labels") for target in targets],
        first.in_channels,
        *size,
        scales,
    )
    counts = images.bincount(minlength=len(targets)).tolist()
    channels = channels.to(first.weight.device, non_blocking=True)
    encoded = []
    for drawn, present in zip(maps.split(counts), channels.split(counts), strict=True):
        if len(drawn) == 0:
            # One empty map: the weight takes part, so that no process waits for its gradient.
            drawn, present = maps.new_zeros(1, *size), channels.new_zeros(1)
        weight = first.weight.index_select(1, present)
        encoded.append(
            F.conv2d(drawn[None].to(weight.dtype), weight, first.bias, first.stride, first.padding)
        )
    return torch.cat(encoded)


class LabelEncoder(nn.Module):
    """The label encoding function ``g``: body and its own FPN.

    Args:
        body: the encoder's body.
        fpn: of the class and shape that the detector uses.
    """

    def __init__(self, body: LabelEncoderBody, fpn: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn

    def forward(
        self,
        targets: Sequence[BoxList],
        size: tuple[int, int],
        scales: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Encodings, shaped like the detector's pyramid features.

        Args:
            targets: boxes in batch coordinates with ``labels`` 1..C; images without boxes are welcome.
            size: (height, width) of the padded batch.
            scales: factors of each box's drawn values, or None.
        """
        return self.fpn(self.body(targets, size, scales))


def random_box_scales(targets: Sequence[BoxList]) -> list[Tensor]:
    """Step 1's augmentation: ``min(2u, 1)`` with ``u ~ U(0, 1)`` per box, drawn on the CPU in order."""
    return [
        (2 * torch.rand(len(target))).clamp(max=1).to(target.bbox.device, non_blocking=True)
        for target in targets
    ]
