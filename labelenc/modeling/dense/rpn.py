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
        sizes = [(width, height) for height, width in images.image_sizes]
        boxes = torch.stack([box_ops.clip(*of_image) for of_image in zip(boxes, sizes, strict=True)])
        counts = [of_level.shape[1] for _, of_level in levels]
        kept = torch.stack(
            [_survivors(*of_image, counts, settings) for of_image in zip(boxes, scores, strict=True)]
        )
        found = []
        for index, rows in enumerate(_best_over_levels(scores, kept, settings)):
            found.append(BoxList(boxes[index, rows], sizes[index]))
            found[-1].add_field("objectness", scores[index, rows])
        return found

    def _best_of_level(
        self, anchors: Tensor, logits: Tensor, offsets: Tensor, top_n: int
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, K, 4) and objectness (N, K), best first, of the at most ``top_n`` best anchors."""
        scores, rows = logits.sigmoid().nan_to_num(nan=0.0).topk(min(top_n, logits.shape[1]), dim=1)
        chosen = offsets.gather(1, rows.unsqueeze(2).expand(-1, -1, 4))
        boxes = self.box_coder.decode(chosen.flatten(0, 1), anchors[rows].flatten(0, 1))
        return boxes.unflatten(0, rows.shape), scores


def _survivors(boxes: Tensor, scores: Tensor, counts: Sequence[int], settings: ProposalSettings) -> Tensor:
    """(K,) bool: what small sizes, NMS and ``post_nms_top_n`` leave of the candidates of one image.

    They lie level by level, ``counts`` of each, best first. In NMS the host waits for a GPU.
    """
    widths, heights = box_ops.widths_heights(boxes)
    # False for a box that is not finite, too.
    large = (widths >= settings.min_size) & (heights >= settings.min_size)
    levels = torch.cat([torch.full((n,), i, device=boxes.device) for i, n in enumerate(counts)])
    # Ranked last, the small ones remove none of the others.
    ranked = scores.masked_fill(~large, -torch.inf)
    keep = ops.batched_nms(boxes, ranked, levels, settings.nms_threshold, legacy_offset=True)
    kept = torch.zeros_like(large).index_fill(0, keep, True) & large
    return torch.cat([level & (level.cumsum(0) <= settings.post_nms_top_n) for level in kept.split(counts)])


def _best_over_levels(scores: Tensor, kept: Tensor, settings: ProposalSettings) -> list[Tensor]:
    """Of each image the candidates that become proposals, from scores, at least 0, and masks (N, K).

    They come best first or, with ``per_batch``, as they lie. The host waits once to learn how many they are.
    """
    ranked = scores.masked_fill(~kept, -1)
    if settings.per_batch:
        values, index = ranked.flatten().topk(min(settings.top_n, ranked.numel()))
        chosen = torch.zeros_like(kept).flatten().scatter(0, index, values >= 0).view_as(kept)
        order = chosen.int().argsort(dim=1, descending=True, stable=True)
    else:
        values, order = ranked.topk(min(settings.top_n, ranked.shape[1]), dim=1)
        chosen = values >= 0
    return [rows[:count] for rows, count in zip(order, chosen.sum(dim=1).tolist(), strict=True)]
