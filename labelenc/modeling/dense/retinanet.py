"""RetinaNet (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labelenc import ops
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.anchors import AnchorGenerator, inside_images
from labelenc.modeling.dense.layers import apart, conv3x3, joined, per_anchor
from labelenc.modeling.losses import mean_over_processes, smooth_l1_sum
from labelenc.modeling.matching import IGNORED, Matcher, assign
from labelenc.modeling.selection import DenseDetectSettings, Selection, as_candidates, best_scores
from labelenc.structures import BoxList, ImageBatch


@dataclass(frozen=True)
class RetinaNetLossSettings:
    """``alpha``, ``gamma`` of the focal loss; ``beta`` of the smooth L1 loss, which is divided by
    ``box_weight``; anchors that leave the image by ``straddle`` pixels or more are ignored (negative:
    none)."""

    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 0.11
    box_weight: float = 4.0
    straddle: float = -1


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, shared by all levels.

    Maps levels (N, channels, H, W) to class logits (N, A * classes, H, W) and box offsets (N, A * 4, H, W)
    per level. The class bias starts at the logit of ``prior``.
    """

    def __init__(self, channels: int, num_classes: int, per_cell: int, num_convs: int, prior: float) -> None:
        super().__init__()
        self.cls_tower = self._tower(channels, num_convs)
        self.bbox_tower = self._tower(channels, num_convs)
        self.cls_logits = conv3x3(channels, per_cell * num_classes, -math.log((1 - prior) / prior))
        self.bbox_pred = conv3x3(channels, per_cell * 4)

    @staticmethod
    def _tower(channels: int, num_convs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers += [conv3x3(channels, channels), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [self.cls_logits(self.cls_tower(feature)) for feature in features]
        offsets = [self.bbox_pred(self.bbox_tower(feature)) for feature in features]
        return logits, offsets


class RetinaNet(nn.Module):
    """The head with its anchors, target assignment, losses and decoding.

    Kept as the detector's attribute ``rpn``; labels are 1..classes, 0 is background.
    """

    def __init__(
        self,
        head: RetinaNetHead,
        anchor_generator: AnchorGenerator,
        matcher: Matcher,
        box_coder: BoxCoder,
        num_classes: int,
        loss: RetinaNetLossSettings,
        detect: DenseDetectSettings,
        select: Selection,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchor_generator = anchor_generator
        self.matcher = matcher
        self.box_coder = box_coder
        self.num_classes = num_classes
        self.loss_settings = loss
        self.detect_settings = detect
        self.select = select

    def assign(
        self, anchors: Tensor, image_sizes: Sequence[tuple[int, int]], targets: Sequence[BoxList]
    ) -> tuple[Tensor, Tensor]:
        """Labels (N, R) int64 (IGNORED, BACKGROUND or a class) and offsets (N, R, 4) of the anchors (R, 4).

        ``image_sizes`` are (height, width) without padding.
        """
        classes = [target.get_field("labels") for target in targets]
        boxes = [target.bbox for target in targets]
        labels, offsets = assign(anchors, boxes, classes, self.matcher, self.box_coder)
        inside = inside_images(anchors, image_sizes, self.loss_settings.straddle)
        return labels.masked_fill(~inside, IGNORED), offsets

    def losses(
        self, images: ImageBatch, pyramids: Sequence[Sequence[Tensor]], targets: Sequence[BoxList]
    ) -> list[dict[str, Tensor]]:
        """``loss_retina_cls``: focal loss over (positives + images); ``loss_retina_reg``: smooth L1 over
        (box_weight x positives). Both counts are averaged over the processes. One dict for each of the
        pyramids, which are of the same images."""
        settings = self.loss_settings
        anchors = torch.cat(self.anchor_generator(pyramids[0]))
        labels, wanted = self.assign(anchors, images.image_sizes, targets)
        positive = labels > 0
        positives = mean_over_processes(positive.sum().float())
        all_logits, all_offsets = self.head(joined(pyramids))
        losses = []
        for logits, offsets in zip(
            apart(all_logits, self.num_classes, len(pyramids)),
            apart(all_offsets, 4, len(pyramids)),
            strict=True,
        ):
            classification = ops.sigmoid_focal_loss(
                logits.flatten(0, 1),
                labels.flatten(),
                gamma=settings.gamma,
                alpha=settings.alpha,
                reduction="sum",
            )
            # Choosing the positives instead would make the host wait for their number.
            offsets = torch.where(positive[..., None], offsets, wanted)
            regression = smooth_l1_sum(offsets, wanted, settings.beta)
            losses.append(
                {
                    "loss_retina_cls": classification / (positives + len(targets)),
                    "loss_retina_reg": regression / (settings.box_weight * positives).clamp(min=1),
                }
            )
        return losses

    def candidates(self, images: ImageBatch, features: Sequence[Tensor]) -> list[BoxList]:
        """What every image's detections are selected from: boxes with ``scores`` and ``labels``, clipped, in
        the coordinates of the images as they are in the batch."""
        anchors = self.anchor_generator(features)
        all_logits, all_offsets = self.head(features)
        scores = [per_anchor(level, self.num_classes).sigmoid() for level in all_logits]
        offsets = [per_anchor(level, 4) for level in all_offsets]
        found = []
        for index, size in enumerate(images.image_sizes):
            levels = []
            for level, level_anchors in enumerate(anchors):
                values, rows, labels = best_scores(scores[level][index], self.detect_settings)
                boxes = self.box_coder.decode(offsets[level][index][rows], level_anchors[rows])
                levels.append((boxes, values, labels))
            found.append(as_candidates(levels, size))
        return found
