"""The detector: a backbone, a dense head, and for two-stage models a box head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from labelenc.modeling.backbone.fpn import Backbone
from labelenc.modeling.dense.retinanet import RetinaNet
from labelenc.structures import BoxList, ImageBatch


class Detector(nn.Module):
    """A complete detector.

    Args:
        backbone: body and pyramid.
        rpn: the dense head (called ``rpn`` in the checkpoints of every kind).
    """

    def __init__(self, backbone: Backbone, rpn: RetinaNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn

    def forward(
        self, images: ImageBatch, targets: Sequence[BoxList] | None = None
    ) -> dict[str, Tensor] | list[BoxList]:
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

    def begin_iteration(self, iteration: int) -> dict[str, float]:
        """Keyword arguments of ``forward`` for a training iteration, counted from 0.

        Models whose losses change while training override it, and freeze or thaw here what the change
        concerns; the plain detector's never do.
        """
        return {}
