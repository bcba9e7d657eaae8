"""Step 2: train the final detector under the supervision of label encodings (LabelEnc, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from labelenc.modeling import Detector
from labelenc.modeling.build import build_parts
from labelenc.structures import BoxList, ImageBatch
from labelenc.supervision.adapter import feature_distance
from labelenc.supervision.build import build_supervision
from labelenc.supervision.schedule import auxiliary_loss_weight


class LabelEncStep2(Detector):
    """The detector with a frozen label encoding function and a feature adapter beside it.

    Args:
        cfg: the configuration of the detector.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(build_parts(cfg))
        channels = self.backbone.body.out_channels
        self.label_encoding_function, self.feature_adapt = build_supervision(cfg, channels)
        self.label_encoding_function.requires_grad_(False)
        self.auxiliary_iters = cfg.MODEL.LABELENC.AUXILIARY_LOSS_ITERS

    def begin_iteration(self, iteration: int) -> dict[str, float]:
        """The weight of the auxiliary loss; once it is 0 the adapter is frozen."""
        weight = auxiliary_loss_weight(iteration, self.auxiliary_iters)
        self.feature_adapt.requires_grad_(weight > 0)
        return {"auxiliary_loss_weight": weight}

    def forward(
        self,
        images: ImageBatch,
        targets: Sequence[BoxList] | None = None,
        auxiliary_loss_weight: float = 1.0,
    ) -> dict[str, Tensor] | list[BoxList]:
        """As ``Detector.forward``; in training mode also ``loss_auxiliary``, unless its weight is 0: then
        neither the encoder nor the adapter is run."""
        if not self.training or targets is None:
            return super().forward(images, targets)
        features = self.backbone(images.tensors)
        [losses] = self.head_losses(images, [features], targets)
        if auxiliary_loss_weight:
            height, width = images.tensors.shape[-2:]
            with torch.no_grad():
                encodings = self.label_encoding_function(targets, (height, width))
            distance = feature_distance(features, encodings, self.feature_adapt)
            losses["loss_auxiliary"] = auxiliary_loss_weight * distance
        return losses
