"""Detections from several views of an image (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Iterable

from labelenc.modeling.detector import Detector
from labelenc.structures import BoxList, ImageBatch


def detect_views(model: Detector, views: Iterable[tuple[ImageBatch, bool]]) -> list[BoxList]:
    """Detections of every image, chosen from the candidates of all its views together.

    Args:
        model: a detector in eval mode.
        views: the same images in every view, normalised, at any size, and whether to look at their mirror
            images too. They are asked for one at a time, so that one alone need be in memory.

    Returns:
        One BoxList per image as ``Detector.forward`` gives it, in the coordinates of the first view.
    """
    collected: list[list[BoxList]] = []
    for images, mirrored_too in views:
        found = [_candidates(model, images)]
        if mirrored_too:
            mirrored = _candidates(model, images.flip_left_right())
            found.append([boxes.flip_left_right() for boxes in mirrored])
        collected = collected or [[] for _ in range(len(images))]
        for view in found:
            for boxes, before in zip(view, collected, strict=True):
                before.append(boxes.resize(before[0].size) if before else boxes)
    return [model.select(BoxList.cat(boxes)) for boxes in collected]


def _candidates(model: Detector, images: ImageBatch) -> list[BoxList]:
    return model.candidates(images, model.backbone(images.tensors))
