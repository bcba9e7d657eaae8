"""The detector: a backbone, a dense head, and for two-stage models a box head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from labelenc.structures import BoxList, ImageBatch


class Detector(nn.Module):
    """A complete detector.

    Args:
        backbone: ``nn.Sequential`` with ``body`` and ``fpn``: (N, 3, H, W) to pyramid levels.
        rpn: the dense head with ``losses`` and ``detect`` (called ``rpn`` in the checkpoints of every kind).
    """

    def __init__(self, backbone: nn.Module, rpn: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn

    def forward(self, images: ImageBatch, targets: Sequence[BoxList] | None = None):
        """In training mode a dict of scalar losses, in eval mode a BoxList per image.

        ``images.tensors`` is the normalised float batch; ``targets`` carry ``labels`` 1..C and are needed
        in training mode only. Detections have ``scores`` and ``labels`` and are in the coordinates of the
        batch.
        """
        if not images.tensors.is_floating_point():
            raise TypeError("the detector takes normalised pixels; call ImageBatch.normalize first")
        features = self.backbone(images.tensors)
        if not self.training:
            return self.detect(images, features)
        if targets is None:
            raise ValueError("targets are needed in training mode; call model.eval() to detect")
        return self.head_losses(images, features, targets)

    def head_losses(
        self, images: ImageBatch, features: Sequence[Tensor], targets: Sequence[BoxList]
    ) -> dict[str, Tensor]:
        """The detection losses of pyramid features, be they of the images or encodings of the labels."""
        return self.rpn.losses(images, features, targets)

    def detect(self, images: ImageBatch, features: Sequence[Tensor]) -> list[BoxList]:
        """Detections from pyramid features."""
        return self.rpn.detect(images, features)
