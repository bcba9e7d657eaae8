"""Step 1: learn the label encoding function (LabelEnc, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from yacs.config import CfgNode

from labelenc.modeling import Detector
from labelenc.modeling.build import build_parts
from labelenc.structures import BoxList, ImageBatch
from labelenc.supervision.adapter import feature_distance
from labelenc.supervision.build import build_supervision
from labelenc.supervision.label_encoder import random_box_scales
from labelenc.supervision.schedule import distance_loss_weight


class LabelEncStep1(Detector):
    """Label auto-encoder and auxiliary detector with one shared head.

    Args:
        cfg: the configuration of the detector.
        augment: draw each box's label map with a random strength, as training does.
    """

    def __init__(self, cfg: CfgNode, augment: bool = True) -> None:
        super().__init__(build_parts(cfg))
        channels = self.backbone.body.out_channels
        self.label_encoding_function, self.feature_adapt = build_supervision(cfg, channels)
        self.augment = augment
        self.warmup_iters = cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS

    def begin_iteration(self, iteration: int) -> dict[str, float]:
        """The weight of the distance loss; without it the adapter is frozen, and safe from weight decay."""
        weight = distance_loss_weight(iteration, self.warmup_iters)
        self.feature_adapt.requires_grad_(weight > 0)
        return {"distance_loss_weight": weight}

    def forward(
        self,
        images: ImageBatch,
        targets: Sequence[BoxList] | None = None,
        distance_loss_weight: float = 1.0,
    ) -> dict[str, Tensor] | list[BoxList]:
        """As ``Detector.forward``; in training mode also ``ae_…``, the detection losses of the encodings,
        and, unless its weight is 0, ``loss_distance``."""
        if not self.training or targets is None:
            return super().forward(images, targets)
        scales = random_box_scales(targets) if self.augment else None
        features = self.backbone(images.tensors)
        encodings = self.encode(images, targets, scales)
        losses, of_encodings = self.head_losses(images, [features, encodings], targets)
        losses.update({f"ae_{name}": loss for name, loss in of_encodings.items()})
        if distance_loss_weight:
            distance = feature_distance(features, encodings, self.feature_adapt)
            losses["loss_distance"] = distance_loss_weight * distance
        return losses

    def encode(
        self, images: ImageBatch, targets: Sequence[BoxList], scales: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """``g(labels)``: encodings shaped like the pyramid features of ``images``."""
        height, width = images.tensors.shape[-2:]
        return self.label_encoding_function(targets, (height, width), scales)

    def reconstruct(self, images: ImageBatch, targets: Sequence[BoxList]) -> list[BoxList]:
        """What the head detects from the encodings of ``targets`` alone: the auto-encoder's output."""
        return self.detect(images, self.encode(images, targets))
