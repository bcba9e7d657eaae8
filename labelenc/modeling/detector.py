"""The detector: a backbone, a dense head, and in two-stage models the heads of the second stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from labelenc.modeling.backbone.fpn import Backbone
from labelenc.modeling.dense.fcos import FCOS
from labelenc.modeling.dense.retinanet import RetinaNet
from labelenc.modeling.dense.rpn import RPN
from labelenc.modeling.roi.box_head import RoIHeads
from labelenc.structures import BoxList, ImageBatch


class DetectorParts(NamedTuple):
    """What a detector consists of; ``rpn`` is the checkpoints' name for the dense head of every kind.

    ``roi_heads`` detects in the proposals of an RPN; one-stage detectors have none.
    """

    backbone: Backbone
    rpn: RetinaNet | FCOS | RPN
    roi_heads: RoIHeads | None = None


class Detector(nn.Module):
    """A complete detector."""

    def __init__(self, parts: DetectorParts) -> None:
        super().__init__()
        self.backbone = parts.backbone
        self.rpn = parts.rpn
        self.roi_heads = parts.roi_heads

    def forward(
        self, images: ImageBatch, targets: Sequence[BoxList] | None = None
    ) -> dict[str, Tensor] | list[BoxList]:
        """In training mode a dict of scalar losses, in eval mode a BoxList per image.

        ``images.tensors`` is the normalised float batch; ``targets`` carry ``labels`` 1..C and are needed
        in training mode only. Detections have ``scores`` and ``labels``, are in the coordinates of the
        batch and come best first.
        """
        if not images.tensors.is_floating_point():
            raise TypeError("the detector takes normalised pixels; call ImageBatch.normalize first")
        features = self.backbone(images.tensors)
        if not self.training:
            return self.detect(images, features)
        if targets is None:
            raise ValueError("targets are needed in training mode; call model.eval() to detect")
        [losses] = self.head_losses(images, [features], targets)
        return losses

    def head_losses(
        self, images: ImageBatch, pyramids: Sequence[Sequence[Tensor]], targets: Sequence[BoxList]
    ) -> list[dict[str, Tensor]]:
        """The detection losses of each of several pyramids of features, be they of the images or encodings
        of their labels. What only the targets decide is computed once, and the heads run once on all."""
        if not isinstance(self.rpn, RPN):
            return self.rpn.losses(images, pyramids, targets)
        assert self.roi_heads is not None
        losses, sampled = [], []
        for of_pyramid, proposals in self.rpn.losses_and_proposals(images, pyramids, targets):
            losses.append(of_pyramid)
            sampled.append([self.roi_heads.sample(*pair) for pair in zip(proposals, targets, strict=True)])
        of_boxes = self.roi_heads.losses(pyramids, sampled)
        return [{**first, **second} for first, second in zip(losses, of_boxes, strict=True)]

    def detect(self, images: ImageBatch, features: Sequence[Tensor]) -> list[BoxList]:
        """Detections from pyramid features."""
        return [self.select(found) for found in self.candidates(images, features)]

    def candidates(self, images: ImageBatch, features: Sequence[Tensor]) -> list[BoxList]:
        """What the detections of each image are selected from: scored boxes before NMS, clipped.

        The two are apart so that the candidates of several views of an image can be selected from together.
        """
        if not isinstance(self.rpn, RPN):
            return self.rpn.candidates(images, features)
        assert self.roi_heads is not None
        return self.roi_heads.candidates(features, self.rpn.proposals(images, features))

    def select(self, candidates: BoxList) -> BoxList:
        """The detections among the candidates of one image, best first."""
        if not isinstance(self.rpn, RPN):
            return self.rpn.select(candidates)
        assert self.roi_heads is not None
        return self.roi_heads.select(candidates)

    def begin_iteration(self, iteration: int) -> dict[str, float]:
        """Keyword arguments of ``forward`` for a training iteration, counted from 0.

        Models whose losses change while training override it, and freeze or thaw here what the change
        concerns; the plain detector's never do.
        """
        return {}
