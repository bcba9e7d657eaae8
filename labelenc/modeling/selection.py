"""From many scored boxes of an image to its detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labelenc import ops
from labelenc.structures import BoxList


@dataclass(frozen=True)
class DenseDetectSettings:
    """Of a one-stage head: per level the ``pre_nms_top_n`` best class scores above ``score_threshold``
    become candidates."""

    score_threshold: float = 0.05
    pre_nms_top_n: int = 1000


@dataclass(frozen=True)
class Selection:
    """NMS per class at ``nms_threshold``; of what remains the best ``max_detections`` of an image."""

    nms_threshold: float
    max_detections: int = 100

    def __call__(self, candidates: BoxList) -> BoxList:
        """The detections among ``candidates`` (fields ``scores``, ``labels``) of one image, best first."""
        scores, labels = candidates.get_field("scores"), candidates.get_field("labels")
        keep = ops.batched_nms(candidates.bbox, scores, labels, self.nms_threshold, legacy_offset=True)
        return candidates[keep[: self.max_detections]]


def best_scores(
    scores: Tensor, settings: DenseDetectSettings, quality: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best class scores of a level: values, rows and labels 1..C, each (K,), best first.

    Args:
        scores: (R, C) class scores; those above the threshold stay.
        settings: threshold and number.
        quality: (R,), multiplied into the scores that stay, or None.
    """
    columns = scores.shape[1]
    flat = scores.flatten()
    candidates = (flat > settings.score_threshold).nonzero().squeeze(1)
    values = flat[candidates]
    if quality is not None:
        values = values * quality[candidates // columns]
    values, order = values.topk(min(settings.pre_nms_top_n, len(values)))
    candidates = candidates[order]
    return values, candidates // columns, candidates % columns + 1


def as_candidates(levels: Sequence[tuple[Tensor, Tensor, Tensor]], image_size: tuple[int, int]) -> BoxList:
    """(boxes, scores, labels) of all levels as one list, clipped; ``image_size`` is (height, width)."""
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
    height, width = image_size
    found = BoxList(boxes, (width, height))
    found.add_field("scores", scores)
    found.add_field("labels", labels)
    return found.clip_to_image(remove_empty=False)
