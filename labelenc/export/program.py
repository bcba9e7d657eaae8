"""The detector as one graph: from pixels as they come out of a file, resized and padded, to detections."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from labelenc.export.errors import ExportError
from labelenc.export.postprocess import detections
from labelenc.modeling import Detector
from labelenc.modeling.backbone.norm import FrozenBatchNorm2d

# The largest stride of a body; images of such sizes leave no rest in it.
BODY_STRIDE = 32
LONGEST_SIDE = 2**14


@dataclass(frozen=True)
class Layout:
    """The shape of an exported detector's input; None is free.

    ``divisor`` divides heights and widths. Free ones are at least twice as large.
    """

    batch: int | None
    height: int | None
    width: int | None
    divisor: int

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            size = getattr(self, name)
            if size is not None and (size < 1 or size % self.divisor):
                nearest = max(math.ceil(size / self.divisor), 1) * self.divisor
                raise ExportError(
                    f"a {name} of {size} pixels is no multiple of {self.divisor}; take {nearest}"
                )
        if self.batch is not None and self.batch < 1:
            raise ExportError(f"a batch of {self.batch} images cannot be; take 1 or more")


class ExportableDetector(nn.Module):
    """Normalisation, network and selection of detections, with shapes that no value decides.

    Args:
        model: copied, on the CPU and in float32, as evaluations compute.
        mean, std: of the model's channels, in units of 0..255.
        bgr: the model takes BGR; otherwise the channels are turned round inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Detector, mean: Sequence[float], std: Sequence[float], bgr: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        self.model.to(memory_format=torch.contiguous_format)
        _fold_frozen_norms(self.model)
        _pad_as_sizes_ask(self.model)
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """uint8 BGR pixels (N, 3, H, W), padded at the right and bottom, and int64 (height, width) of each
        image without padding (N, 2), to the fields of `Detections`, in pixels of the batch."""
        features = self.model.backbone(self._normalised(images, image_sizes))
        found = detections(self.model.rpn, self.model.roi_heads, features, image_sizes)
        # torch.export saves plain tuples.
        return tuple(found)

    def _normalised(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """`ImageBatch.normalize` in fixed shapes."""
        pixels = images.to(torch.float32)
        if not self.bgr:
            pixels = pixels.flip(1)
        height, width = images.shape[2:]
        rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
        inside = (rows.view(-1, 1) < image_sizes[:, 0].view(-1, 1, 1)) & (
            columns < image_sizes[:, 1].view(-1, 1, 1)
        )
        return torch.where(inside.unsqueeze(1), (pixels - self.mean) / self.std, 0.0)


def _fold_frozen_norms(model: nn.Module) -> None:
    """Multiply frozen normalisations into the convolutions before them, as `norm.conv_norm` does."""
    for parent in model.modules():
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if type(conv) is nn.Conv2d and isinstance(norm, FrozenBatchNorm2d):
                scale, shift = norm.scale_and_shift()
                conv.weight.mul_(scale.view(-1, 1, 1, 1))
                conv.bias = nn.Parameter(shift, requires_grad=False)
                setattr(parent, name, nn.Identity())


def _pad_as_sizes_ask(model: nn.Module) -> None:
    """TensorFlow's 'same' padding depends on the size of the input; where strides divide that, as they do
    here, it is always the same. Formulas of it in symbolic sizes would take torch.export forever."""
    for parent in list(model.modules()):
        for name, conv in list(parent.named_children()):
            if type(conv) is Conv2dSame:
                spans = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
                high, wide = (max((kernel - 1) * by + 1 - stride, 0) for kernel, by, stride in spans)
                padding = nn.ZeroPad2d((wide // 2, wide - wide // 2, high // 2, high - high // 2))
                setattr(parent, name, nn.Sequential(padding, _without_padding(conv)))


def _without_padding(conv: nn.Conv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain


def trace(program: ExportableDetector, layout: Layout) -> torch.export.ExportedProgram:
    """The program as a graph of PyTorch's operators, for inputs of ``layout``.

    Raises:
        ExportError: something in the body depends on values or sizes in a way that a graph cannot hold.
    """
    step, dim = layout.divisor, torch.export.Dim
    fixed = dim.STATIC
    free = {
        0: fixed if layout.batch else dim("batch", min=1, max=2**16),
        2: fixed if layout.height else step * dim("rows", min=2, max=LONGEST_SIDE // step),
        3: fixed if layout.width else step * dim("columns", min=2, max=LONGEST_SIDE // step),
    }
    # Different sizes, or they would be taken for one; nothing is computed.
    images = torch.zeros(
        layout.batch or 2, 3, layout.height or 6 * step, layout.width or 8 * step, dtype=torch.uint8
    )
    sizes = torch.tensor([images.shape[2:]] * len(images))
    try:
        with torch.no_grad():
            return torch.export.export(
                program,
                (images, sizes),
                dynamic_shapes={"images": free, "image_sizes": {0: free[0]}},
                strict=False,
            )
    # Tracing fails in too many ways to list.
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        advice = "" if layout.height and layout.width else "; a fixed --size H W may help"
        raise ExportError(f"this network cannot be exported: {first}{advice}") from error
