"""From a head's raw outputs to detections, in tensors whose shapes no value decides.

The same detections as `modeling.selection` and the heads' ``candidates`` give, for a whole batch at once and
without lists of varying length: what is not there has the score ``ABSENT``. Graphs can hold this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from labelenc.export.operators import ABSENT, nms_mask
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.fcos import FCOS
from labelenc.modeling.dense.fcos_targets import boxes_at
from labelenc.modeling.dense.layers import per_anchor
from labelenc.modeling.dense.retinanet import RetinaNet
from labelenc.modeling.dense.rpn import RPN
from labelenc.modeling.roi.box_head import RoIHeads
from labelenc.modeling.selection import DenseDetectSettings, Selection
from labelenc.structures import box_ops


class Found(NamedTuple):
    """Of N images K places each: ``boxes`` (N, K, 4), ``scores`` (N, K), ABSENT where there is none, and
    ``labels`` int64 (N, K)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """What an exported detector returns: float32 ``boxes`` (N, K, 4) xyxy, float32 ``scores`` (N, K), int64
    ``labels`` (N, K), best first and filled up with zeros, and how many there are, int64 ``counts`` (N,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor


def detections(
    rpn: RetinaNet | FCOS | RPN, roi_heads: RoIHeads | None, features: Sequence[Tensor], image_sizes: Tensor
) -> Detections:
    """Detections from pyramid features (N, C, H, W); ``image_sizes`` (N, 2) are (height, width) unpadded."""
    if isinstance(rpn, RPN):
        assert roi_heads is not None
        boxes, exists = proposals(rpn, features, image_sizes)
        return _best(_second_stage(roi_heads, features, boxes, exists, image_sizes), roi_heads.select)
    levels = _retinanet_levels(rpn, features) if isinstance(rpn, RetinaNet) else _fcos_levels(rpn, features)
    boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    found = Found(box_ops.clip_each(boxes, image_sizes), scores, labels)
    return _best(_one_of_each_object(found, rpn.num_classes, rpn.select.nms_threshold), rpn.select)


def _retinanet_levels(rpn: RetinaNet, features: Sequence[Tensor]) -> list[Found]:
    levels = []
    outputs = zip(rpn.anchor_generator(features), *rpn.head(features), strict=True)
    for anchors, logits, offsets in outputs:
        scores = per_anchor(logits, rpn.num_classes).sigmoid()
        values, rows, labels = _best_scores(scores, rpn.detect_settings)
        boxes = _decoded(rpn.box_coder, _rows(per_anchor(offsets, 4), rows), anchors[rows])
        levels.append(Found(boxes, values, labels))
    return levels


def _fcos_levels(rpn: FCOS, features: Sequence[Tensor]) -> list[Found]:
    levels = []
    outputs = zip(rpn.locations(features), *rpn.head(features, in_pixels=True), strict=True)
    for points, logits, distances, centerness in outputs:
        scores, quality = per_anchor(logits, rpn.num_classes).sigmoid(), per_anchor(centerness, 1).sigmoid()
        values, rows, labels = _best_scores(scores, rpn.detect_settings, quality)
        boxes = boxes_at(points[rows], _rows(per_anchor(distances, 4), rows))
        levels.append(Found(boxes, torch.where(values >= 0, values.clamp(min=0).sqrt(), ABSENT), labels))
    return levels


def _best_scores(
    scores: Tensor, settings: DenseDetectSettings, quality: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`selection.best_scores` of scores (N, R, C) and ``quality`` (N, R, 1): values, rows and labels (N, K).

    K is ``pre_nms_top_n`` always."""
    weighted = scores if quality is None else scores * quality
    weighted = torch.where(scores > settings.score_threshold, weighted, ABSENT)
    values, index = _top(weighted.flatten(1), settings.pre_nms_top_n)
    columns = scores.shape[2]
    return values, index // columns, index % columns + 1


def _top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row of (N, R) and their columns; ABSENT, and any column, where R ends."""
    # As many places in front make sure that there are enough, whatever R is.
    best, index = F.pad(values, (count, 0), value=ABSENT).topk(count, dim=1)
    return best, (index - count).clamp(min=0)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """(N, R, D) and (N, K) to (N, K, D)."""
    return values.gather(1, rows.unsqueeze(2).expand(-1, -1, values.shape[2]))


def _decoded(coder: BoxCoder, offsets: Tensor, references: Tensor) -> Tensor:
    """Boxes (N, K, 4) of offsets and references (N, K, 4)."""
    return coder.decode(offsets.flatten(0, 1), references.flatten(0, 1)).view_as(offsets)


def proposals(rpn: RPN, features: Sequence[Tensor], image_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """`RPN.proposals`: boxes (N, K, 4), best first, and a mask (N, K) of those that exist."""
    settings = rpn.test_settings
    levels = []
    for anchors, logits, offsets in zip(rpn.anchor_generator(features), *rpn.head(features), strict=True):
        scores, rows = _top(
            per_anchor(logits, 1).squeeze(2).sigmoid().nan_to_num(nan=0.0), settings.pre_nms_top_n
        )
        boxes = _decoded(rpn.box_coder, _rows(per_anchor(offsets, 4), rows), anchors[rows])
        levels.append((box_ops.clip_each(boxes, image_sizes), scores))
    boxes, scores = (torch.stack(parts, dim=1) for parts in zip(*levels, strict=True))
    widths, heights = box_ops.widths_heights(boxes)
    large = (widths >= settings.min_size) & (heights >= settings.min_size)
    scores = torch.where(large, scores, ABSENT)
    # Each level of each image by itself.
    kept = nms_mask(boxes.flatten(0, 1), scores.flatten(0, 1).unsqueeze(1), settings.nms_threshold)
    kept = kept.view_as(scores)
    kept = kept & (kept.long().cumsum(2) <= settings.post_nms_top_n)
    best, order = _top(torch.where(kept, scores, ABSENT).flatten(1), settings.top_n)
    return _rows(boxes.flatten(1, 2), order), best >= 0


def _second_stage(
    heads: RoIHeads, features: Sequence[Tensor], boxes: Tensor, exists: Tensor, image_sizes: Tensor
) -> Found:
    """What `RoIHeads` finds in the proposals (N, P, 4): of every class its P boxes, after NMS."""
    images, count = boxes.shape[:2]
    index = torch.arange(images, device=boxes.device, dtype=boxes.dtype).view(-1, 1, 1).expand(-1, count, 1)
    logits, offsets = heads.box.of_regions(features, torch.cat([index, boxes], dim=2).flatten(0, 1))
    scores = logits.softmax(dim=1)[:, 1:].view(images, count, -1)
    scores = torch.where((scores > heads.score_threshold) & exists.unsqueeze(2), scores, ABSENT)
    decoded = heads.box_coder.decode(offsets[:, 1:].flatten(1), boxes.flatten(0, 1))
    classes = scores.shape[2]
    by_class = box_ops.clip_each(decoded.view(images, -1, 4), image_sizes)
    by_class = by_class.view(images, count, classes, 4).transpose(1, 2)
    scores = scores.transpose(1, 2)
    # The boxes of a class are its own, so every class counts as an image here.
    kept = nms_mask(
        by_class.flatten(0, 1), scores.flatten(0, 1).unsqueeze(1), heads.select.nms_threshold
    ).view_as(scores)
    labels = torch.arange(1, classes + 1, device=boxes.device).view(1, -1, 1).expand_as(scores)
    return Found(by_class.flatten(1, 2), torch.where(kept, scores, ABSENT).flatten(1), labels.flatten(1))


def _one_of_each_object(found: Found, classes: int, threshold: float) -> Found:
    """NMS per class."""
    numbers = torch.arange(1, classes + 1, device=found.labels.device).view(1, -1, 1)
    scores = torch.where(found.labels.unsqueeze(1) == numbers, found.scores.unsqueeze(1), ABSENT)
    kept = nms_mask(found.boxes, scores, threshold).any(dim=1)
    return found._replace(scores=torch.where(kept, found.scores, ABSENT))


def _best(found: Found, select: Selection) -> Detections:
    scores, index = _top(found.scores, select.max_detections)
    exists = scores >= 0
    boxes, labels = _rows(found.boxes, index), found.labels.gather(1, index)
    return Detections(
        torch.where(exists.unsqueeze(2), boxes, 0.0),
        torch.where(exists, scores, 0.0),
        torch.where(exists, labels, 0),
        exists.sum(dim=1),
    )
