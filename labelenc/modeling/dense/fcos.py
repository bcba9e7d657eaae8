"""FCOS and its improved form (Tian et al., Fully Convolutional One-Stage Object Detection, ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelenc import ops
from labelenc.modeling.backbone.deform import DeformableConv
from labelenc.modeling.dense.fcos_targets import LocationTargets, boxes_at, centerness_of, grid_locations
from labelenc.modeling.dense.layers import apart, conv3x3, joined, per_anchor
from labelenc.modeling.losses import iou_loss_sum, mean_over_processes
from labelenc.modeling.selection import DenseDetectSettings, Selection, as_candidates, best_scores
from labelenc.structures import BoxList, ImageBatch

# Of the towers' GroupNorm, whatever MODEL.GROUP_NORM says; config/checks.py knows it too.
NORM_GROUPS = 32


@dataclass(frozen=True)
class FCOSLossSettings:
    """``alpha``, ``gamma`` of the focal loss; ``iou`` is the kind of ``losses.iou_loss_sum``."""

    alpha: float = 0.25
    gamma: float = 2.0
    iou: str = "iou"


class Scale(nn.Module):
    """Multiplies by a learned number, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _deformable_conv3x3(channels: int) -> DeformableConv:
    layer = DeformableConv(
        channels, channels, kernel=3, stride=1, groups=1, deformable_groups=1, modulated=True, bias=True
    )
    nn.init.normal_(layer.offset.weight, std=0.01)
    return layer


class FCOSHead(nn.Module):
    """Two towers of 3x3 convolutions with GroupNorm, shared by all levels, and three predictions.

    Args:
        channels: of the pyramid levels; a multiple of 32.
        num_classes: foreground classes.
        strides: pixels per cell, per level.
        num_convs: convolutions of each tower.
        prior: the class scores at the start.
        distances_in_strides: predict distances by ReLU in units of the stride instead of by exp in pixels.
        centerness_on_boxes: predict centerness from the box tower instead of the class tower.
        deformable: the last convolution of each tower is a modulated deformable one.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        num_convs: int = 4,
        prior: float = 0.01,
        distances_in_strides: bool = False,
        centerness_on_boxes: bool = False,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.distances_in_strides = distances_in_strides
        self.centerness_on_boxes = centerness_on_boxes
        self.cls_tower = self._tower(channels, num_convs, deformable)
        self.bbox_tower = self._tower(channels, num_convs, deformable)
        self.cls_logits = conv3x3(channels, num_classes, -math.log((1 - prior) / prior))
        self.bbox_pred = conv3x3(channels, 4)
        self.centerness = conv3x3(channels, 1)
        self.scales = nn.ModuleList([Scale() for _ in self.strides])

    @staticmethod
    def _tower(channels: int, num_convs: int, deformable: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for index in range(num_convs):
            deforms = deformable and index == num_convs - 1
            layers += [
                _deformable_conv3x3(channels) if deforms else conv3x3(channels, channels),
                nn.GroupNorm(NORM_GROUPS, channels),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers)

    def forward(
        self, features: Sequence[Tensor], in_pixels: bool = False
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per level class logits (N, classes, H, W), distances to the left, top, right and bottom side
        (N, 4, H, W) in float32, and centerness logits (N, 1, H, W).

        Distances are in the unit of the targets, which ``in_pixels`` turns into pixels.
        """
        logits, distances, centerness = [], [], []
        for feature, stride, scale in zip(features, self.strides, self.scales, strict=True):
            for_class, for_box = self.cls_tower(feature), self.bbox_tower(feature)
            logits.append(self.cls_logits(for_class))
            centerness.append(self.centerness(for_box if self.centerness_on_boxes else for_class))
            scaled = scale(self.bbox_pred(for_box).float())
            if self.distances_in_strides:
                distances.append(F.relu(scaled) * (stride if in_pixels else 1))
            else:
                distances.append(scaled.exp())
        return logits, distances, centerness


class FCOS(nn.Module):
    """The head with its locations, target assignment, losses and decoding.

    Kept as the detector's attribute ``rpn``; labels are 1..classes, 0 is background.
    """

    def __init__(
        self,
        head: FCOSHead,
        assign: LocationTargets,
        num_classes: int,
        loss: FCOSLossSettings,
        detect: DenseDetectSettings,
        select: Selection,
    ) -> None:
        super().__init__()
        self.head = head
        self.assign = assign
        self.num_classes = num_classes
        self.loss_settings = loss
        self.detect_settings = detect
        self.select = select

    def locations(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Per level (H * W, 2) in pixels: where predictions are made."""
        return grid_locations(features, self.head.strides)

    def losses(
        self, images: ImageBatch, pyramids: Sequence[Sequence[Tensor]], targets: Sequence[BoxList]
    ) -> list[dict[str, Tensor]]:
        """``loss_cls``: focal loss; ``loss_centerness``: cross entropy; both over the number of positives.
        ``loss_reg``: loss of the boxes' overlap, weighted by the centerness that is wanted, over its sum.
        Number and sum are averaged over the processes. One dict for each of the pyramids, which are of the
        same images."""
        settings = self.loss_settings
        labels, wanted = (part.flatten(0, 1) for part in self.assign(self.locations(pyramids[0]), targets))
        positive = labels > 0
        # Choosing the positives would make the host wait for their number: the others get the harmless target
        # 1, which they meet, and no weight.
        wanted = torch.where(positive[:, None], wanted, 1)
        central = torch.where(positive, centerness_of(wanted), 0)
        counts = mean_over_processes(torch.stack([positive.sum(), central.sum()]))
        positives, weight = counts[0].clamp(min=1), counts[1].clamp(min=1e-6)
        outputs = [
            apart(levels, values, len(pyramids))
            for levels, values in zip(self.head(joined(pyramids)), (self.num_classes, 4, 1), strict=True)
        ]
        losses = []
        for logits, distances, centerness in zip(*outputs, strict=True):
            classification = ops.sigmoid_focal_loss(
                logits.flatten(0, 1), labels, gamma=settings.gamma, alpha=settings.alpha, reduction="sum"
            )
            distances = torch.where(positive[:, None], distances.flatten(0, 1), wanted)
            regression = iou_loss_sum(distances, wanted, central, settings.iou)
            centrality = F.binary_cross_entropy_with_logits(
                torch.where(positive, centerness.flatten(), 0),
                central,
                weight=positive.float(),
                reduction="sum",
            )
            losses.append(
                {
                    "loss_cls": classification / positives,
                    "loss_reg": regression / weight,
                    "loss_centerness": centrality / positives,
                }
            )
        return losses

    def candidates(self, images: ImageBatch, features: Sequence[Tensor]) -> list[BoxList]:
        """What every image's detections are selected from: boxes with ``scores`` (the geometric mean of class
        score and centerness) and ``labels``, clipped, in the coordinates of the images as they are in the
        batch."""
        all_logits, all_distances, all_centerness = self.head(features, in_pixels=True)
        scores = [per_anchor(level, self.num_classes).sigmoid() for level in all_logits]
        distances = [per_anchor(level, 4) for level in all_distances]
        quality = [per_anchor(level, 1).sigmoid().squeeze(2) for level in all_centerness]
        locations = self.locations(features)
        found = []
        for index, size in enumerate(images.image_sizes):
            levels = []
            for level, points in enumerate(locations):
                values, rows, labels = best_scores(
                    scores[level][index], self.detect_settings, quality[level][index]
                )
                boxes = boxes_at(points[rows], distances[level][index][rows])
                levels.append((boxes, values.sqrt(), labels))
            found.append(as_candidates(levels, size))
        return found
