"""The box head of Fast R-CNN over a pyramid (Girshick, ICCV 2015; Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.layers import joined
from labelenc.modeling.losses import mean_over_processes, smooth_l1_sum
from labelenc.modeling.matching import IGNORED, Matcher, assign
from labelenc.modeling.roi.pooler import Pooler
from labelenc.modeling.sampling import BalancedSampler
from labelenc.modeling.selection import Selection
from labelenc.structures import BoxList

BETA = 1.0


class TwoLayerExtractor(nn.Module):
    """Pooled features through two fully connected layers with ReLU: (K, hidden) for K boxes."""

    def __init__(self, pooler: Pooler, channels: int, hidden: int) -> None:
        super().__init__()
        self.pooler = pooler
        self.fc6 = nn.Linear(channels * pooler.resolution**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.layers(self.pooler(features, boxes))

    def layers(self, pooled: Tensor) -> Tensor:
        """(K, channels, resolution, resolution) to (K, hidden)."""
        return F.relu(self.fc7(F.relu(self.fc6(pooled.flatten(1)))))


class BoxPredictor(nn.Module):
    """(K, hidden) to class logits (K, 1 + classes), background first, and offsets (K, 4 * (1 + classes))."""

    def __init__(self, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, 1 + num_classes)
        self.bbox_pred = nn.Linear(hidden, 4 * (1 + num_classes))
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


class BoxHead(nn.Module):
    """Class logits (K, 1 + classes) and offsets (K, 1 + classes, 4), in float32, of all images' boxes."""

    def __init__(self, feature_extractor: TwoLayerExtractor, predictor: BoxPredictor) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.predictor = predictor

    def forward(self, features: Sequence[Tensor], boxes: Sequence[BoxList]) -> tuple[Tensor, Tensor]:
        return self._predict(self.feature_extractor(features, [of_image.bbox for of_image in boxes]))

    def of_regions(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """The same for rows (K, 5) of the image's index and the box."""
        pooled = self.feature_extractor.pooler.pool(features, rois)
        return self._predict(self.feature_extractor.layers(pooled))

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = self.predictor(x)
        return logits.float(), offsets.float().unflatten(1, (-1, 4))


class RoIHeads(nn.Module):
    """The second stage: sampling of proposals, losses and decoding around the box head.

    Labels are 1..classes, 0 is background.

    Args:
        box: the box head.
        matcher: proposals to ground truth.
        sampler: which proposals the losses are computed from.
        box_coder: offsets from proposals.
        score_threshold: class scores above it make candidates.
        select: from candidates to detections.
    """

    def __init__(
        self,
        box: BoxHead,
        matcher: Matcher,
        sampler: BalancedSampler,
        box_coder: BoxCoder,
        score_threshold: float,
        select: Selection,
    ) -> None:
        super().__init__()
        self.box = box
        self.matcher = matcher
        self.sampler = sampler
        self.box_coder = box_coder
        self.score_threshold = score_threshold
        self.select = select

    @torch.no_grad()
    def sample(self, proposals: BoxList, target: BoxList) -> BoxList:
        """The proposals of one image that are trained on, in their order, with the fields ``labels``
        (0 is background) and ``offsets`` (n, 4), which are 0 for background.

        Their number is known to the host: where fewer are drawn than the sampler may draw, others fill up,
        with the label IGNORED.
        """
        classes = target.get_field("labels")
        [labels], [offsets] = assign(proposals.bbox, [target.bbox], [classes], self.matcher, self.box_coder)
        drawn = self.sampler(labels)
        chosen = BoxList(proposals.bbox, proposals.size)
        chosen.add_field("labels", labels.masked_fill(~drawn, IGNORED))
        chosen.add_field("offsets", offsets)
        return chosen[drawn.int().topk(min(self.sampler.batch_size, len(drawn))).indices.sort().values]

    def losses(
        self, pyramids: Sequence[Sequence[Tensor]], sampled: Sequence[Sequence[BoxList]]
    ) -> list[dict[str, Tensor]]:
        """``loss_classifier``: cross entropy; ``loss_box_reg``: smooth L1 of the true class's offsets. Both
        are sums over the number of sampled proposals, averaged over the processes.

        Args:
            pyramids: features of the same images, or encodings of their labels.
            sampled: of each pyramid and image what ``sample`` gives.

        Returns:
            The losses of each pyramid.
        """
        every = [boxes for of_pyramid in sampled for boxes in of_pyramid]
        logits, offsets = self.box(joined(pyramids), every)
        rows = [sum(map(len, of_pyramid)) for of_pyramid in sampled]
        labels, wanted = (
            torch.cat([boxes.get_field(name) for boxes in every]).split(rows)
            for name in ("labels", "offsets")
        )
        drawn = torch.stack([(of_pyramid != IGNORED).sum() for of_pyramid in labels])
        counts = mean_over_processes(drawn.float()).clamp(min=1)
        losses = []
        for parts in zip(logits.split(rows), offsets.split(rows), labels, wanted, counts, strict=True):
            of_class, of_box, label, target, count = parts
            classification = F.cross_entropy(of_class, label, ignore_index=IGNORED, reduction="sum")
            of_label = of_box.gather(1, label.clamp(min=0)[:, None, None].expand(-1, 1, 4)).squeeze(1)
            regression = smooth_l1_sum(torch.where((label > 0)[:, None], of_label, target), target, BETA)
            losses.append({"loss_classifier": classification / count, "loss_box_reg": regression / count})
        return losses

    def candidates(self, features: Sequence[Tensor], proposals: Sequence[BoxList]) -> list[BoxList]:
        """What every image's detections are selected from: boxes with ``scores`` and ``labels``, clipped, in
        the coordinates of the proposals."""
        logits, offsets = self.box(features, proposals)
        counts = [len(boxes) for boxes in proposals]
        scores = logits.softmax(dim=1)
        return [
            self._decode(*of_image)
            for of_image in zip(proposals, scores.split(counts), offsets.split(counts), strict=True)
        ]

    def _decode(self, proposals: BoxList, scores: Tensor, offsets: Tensor) -> BoxList:
        rows, labels = (scores[:, 1:] > self.score_threshold).nonzero(as_tuple=True)
        labels = labels + 1
        boxes = self.box_coder.decode(offsets[rows, labels], proposals.bbox[rows])
        found = BoxList(boxes, proposals.size)
        found.add_field("scores", scores[rows, labels])
        found.add_field("labels", labels)
        return found.clip_to_image(remove_empty=False)
