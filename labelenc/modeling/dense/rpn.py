"""Region proposal network over a pyramid (Ren et al., NeurIPS 2015; Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelenc import ops
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.anchors import AnchorGenerator, inside_images
from labelenc.modeling.dense.layers import joined, per_anchor
from labelenc.modeling.losses import mean_over_processes, smooth_l1_sum
from labelenc.modeling.matching import IGNORED, Matcher, assign
from labelenc.modeling.sampling import BalancedSampler
from labelenc.structures import BoxList, ImageBatch, box_ops

BETA = 1 / 9


@dataclass(frozen=True)
class ProposalSettings:
    """How many proposals there are, and which.

    Per image and level the ``pre_nms_top_n`` anchors of highest objectness are decoded and clipped, those
    narrower or lower than ``min_size`` pixels dropped, and after NMS at ``nms_threshold`` the
    ``post_nms_top_n`` best kept; then the ``top_n`` best over all levels, of each image or, with
    ``per_batch``, of all images of the batch together.
    """

    pre_nms_top_n: int
    post_nms_top_n: int
    top_n: int
    nms_threshold: float
    min_size: float
    per_batch: bool = False


class RPNHead(nn.Module):
    """A 3x3 convolution and two 1x1 siblings, shared by all levels.

    Maps levels (N, channels, H, W) to objectness logits (N, A, H, W) and box offsets (N, A * 4, H, W) per
    level.
    """

    def __init__(self, channels: int, per_cell: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, per_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, per_cell * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        shared = [F.relu(self.conv(feature)) for feature in features]
        return [self.cls_logits(x) for x in shared], [self.bbox_pred(x) for x in shared]


class RPN(nn.Module):
    """The head with its anchors, target assignment, losses and proposals.

    Args:
        head: objectness and box offsets of every anchor.
        anchor_generator: one anchor size per level.
        matcher: anchors to ground truth.
        sampler: which anchors the losses are computed from.
        box_coder: offsets from anchors.
        straddle: anchors that leave the image by this many pixels or more are not trained on; negative: all
            are.
        train: the proposals of ``losses_and_proposals``.
        test: those of ``proposals``.
    """

    def __init__(
        self,
        head: RPNHead,
        anchor_generator: AnchorGenerator,
        matcher: Matcher,
        sampler: BalancedSampler,
        box_coder: BoxCoder,
        straddle: float,
        train: ProposalSettings,
        test: ProposalSettings,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchor_generator = anchor_generator
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder
        self.straddle = straddle
        self.train_settings = train
        self.test_settings = test

    def assign(
        self, anchors: Tensor, image_sizes: Sequence[tuple[int, int]], targets: Sequence[BoxList]
    ) -> tuple[Tensor, Tensor]:
        """Labels (N, R) int64 (1, BACKGROUND or IGNORED) and offsets (N, R, 4) of the anchors (R, 4).

        ``image_sizes`` are (height, width) without padding.
        """
        boxes = [target.bbox for target in targets]
        objects = [torch.ones(len(target), dtype=torch.int64, device=anchors.device) for target in targets]
        labels, offsets = assign(anchors, boxes, objects, self.matcher, self.box_coder)
        return labels.masked_fill(~inside_images(anchors, image_sizes, self.straddle), IGNORED), offsets

    def losses_and_proposals(
        self, images: ImageBatch, pyramids: Sequence[Sequence[Tensor]], targets: Sequence[BoxList]
    ) -> Iterator[tuple[dict[str, Tensor], list[BoxList]]]:
        """For each pyramid the losses, and proposals to train the second stage on: those of the network, then
        the ground-truth boxes. The anchors of a pyramid are drawn when it is its turn.

        ``loss_objectness``: binary cross entropy; ``loss_rpn_box_reg``: smooth L1 of the positives. Both are
        sums over the number of sampled anchors, averaged over the processes.
        """
        anchors = self.anchor_generator(pyramids[0])
        labels, wanted = self.assign(torch.cat(anchors), images.image_sizes, targets)
        count = mean_over_processes(self.sampler.number(labels).sum().float()).clamp(min=1)
        outputs = (
            [level.chunk(len(pyramids)) for level in levels] for levels in self._predict(joined(pyramids))
        )
        for logits, offsets in zip(*(zip(*levels, strict=True) for levels in outputs), strict=True):
            losses = self._losses(logits, offsets, labels, wanted)
            found = self._propose(images, anchors, logits, offsets, self.train_settings)
            proposals = [
                BoxList(torch.cat([boxes.bbox, target.bbox]), boxes.size)
                for boxes, target in zip(found, targets, strict=True)
            ]
            yield {name: loss / count for name, loss in losses.items()}, proposals

    def proposals(self, images: ImageBatch, features: Sequence[Tensor]) -> list[BoxList]:
        """Boxes that may hold an object, best first, with the field ``objectness`` (0..1), per image."""
        anchors = self.anchor_generator(features)
        return self._propose(images, anchors, *self._predict(features), self.test_settings)

    def _predict(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level logits (N, R) and offsets (N, R, 4) in the order of the anchors, float32."""
        logits, offsets = self.head(features)
        return [per_anchor(x, 1).squeeze(2) for x in logits], [per_anchor(x, 4) for x in offsets]

    def _losses(
        self, logits: Sequence[Tensor], offsets: Sequence[Tensor], labels: Tensor, wanted: Tensor
    ) -> dict[str, Tensor]:
        """Sums over anchors drawn at random. The others get harmless values: choosing would make the host
        wait."""
        sampled, positive = self.sampler(labels), labels > 0
        objectness = F.binary_cross_entropy_with_logits(
            torch.where(sampled, torch.cat(list(logits), dim=1), 0),
            positive.float(),
            weight=sampled.float(),
            reduction="sum",
        )
        drawn = (sampled & positive)[..., None]
        predicted = torch.where(drawn, torch.cat(list(offsets), dim=1), wanted)
        return {"loss_objectness": objectness, "loss_rpn_box_reg": smooth_l1_sum(predicted, wanted, BETA)}

    @torch.no_grad()
    def _propose(
        self,
        images: ImageBatch,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        offsets: Sequence[Tensor],
        settings: ProposalSettings,
    ) -> list[BoxList]:
        levels = [
            self._best_of_level(*level, settings.pre_nms_top_n)
            for level in zip(anchors, logits, offsets, strict=True)
        ]
        boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        numbers = torch.cat(
            [torch.full_like(of_level[0], i, dtype=torch.int64) for i, (_, of_level) in enumerate(levels)]
        )
        found = []
        for index, (height, width) in enumerate(images.image_sizes):
            candidates = BoxList(boxes[index], (width, height)).clip_to_image(remove_empty=False)
            candidates.add_field("objectness", scores[index])
            found.append(_suppress(candidates, numbers, settings))
        return _best_over_levels(found, settings)

    def _best_of_level(
        self, anchors: Tensor, logits: Tensor, offsets: Tensor, top_n: int
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, K, 4) and objectness (N, K), best first, of the at most ``top_n`` best anchors."""
        scores, rows = logits.sigmoid().nan_to_num(nan=0.0).topk(min(top_n, logits.shape[1]), dim=1)
        chosen = offsets.gather(1, rows.unsqueeze(2).expand(-1, -1, 4))
        boxes = self.box_coder.decode(chosen.flatten(0, 1), anchors[rows].flatten(0, 1))
        return boxes.unflatten(0, rows.shape), scores


def _suppress(candidates: BoxList, levels: Tensor, settings: ProposalSettings) -> BoxList:
    """What small sizes, NMS and ``post_nms_top_n`` leave of one image, level by level, best first in each."""
    widths, heights = box_ops.widths_heights(candidates.bbox)
    # False for a box that is not finite, too.
    large = (widths >= settings.min_size) & (heights >= settings.min_size)
    candidates, levels = candidates[large], levels[large]
    scores = candidates.get_field("objectness")
    keep = ops.batched_nms(candidates.bbox, scores, levels, settings.nms_threshold, legacy_offset=True)
    keep = keep[levels[keep].argsort(stable=True)]
    kept_levels = levels[keep]
    rank = torch.arange(len(keep), device=keep.device) - torch.searchsorted(kept_levels, kept_levels)
    return candidates[keep[rank < settings.post_nms_top_n]]


def _best_over_levels(found: Sequence[BoxList], settings: ProposalSettings) -> list[BoxList]:
    if not settings.per_batch:
        return [
            boxes[boxes.get_field("objectness").topk(min(settings.top_n, len(boxes))).indices]
            for boxes in found
        ]
    scores = torch.cat([boxes.get_field("objectness") for boxes in found])
    best = torch.zeros_like(scores, dtype=torch.bool)
    best[scores.topk(min(settings.top_n, len(scores))).indices] = True
    masks = best.split([len(boxes) for boxes in found])
    return [boxes[mask] for boxes, mask in zip(found, masks, strict=True)]
