"""The detector as one graph: from pixels as they come out of a file, resized and padded, to detections."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labelenc.export.postprocess import Detections, detections
from labelenc.modeling import Detector


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
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor, image_sizes: Tensor) -> Detections:
        """uint8 BGR pixels (N, 3, H, W), padded at the right and bottom, and int64 (height, width) of each
        image without padding (N, 2), to `Detections` in pixels of the batch."""
        features = self.model.backbone(self._normalised(images, image_sizes))
        return detections(self.model.rpn, self.model.roi_heads, features, image_sizes)

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
