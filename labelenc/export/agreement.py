"""Whether an exported file finds what the detector finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from labelenc.export.runtime import ExportedDetector
from labelenc.structures import BoxList, ImageBatch

BOX_TOLERANCE = 0.05
SCORE_TOLERANCE = 1e-3
# Of all detections: where an overlap or a score lies on a threshold, rounding decides.
LONELY_ALLOWED = 0.005
LARGEST_BATCH = 3


@dataclass
class Agreement:
    """What a comparison found.

    Attributes:
        images, detections: compared; the latter of both sides together.
        lonely: detections without a partner on the other side, which has the same label, a score within
            SCORE_TOLERANCE and corners within BOX_TOLERANCE pixels.
        box, score: largest differences of partners, in pixels and of scores.
        sorted: the exported file's scores never rise.
        seconds, own_seconds: per image, of the exported file and of the detector.
    """

    images: int = 0
    detections: int = 0
    lonely: int = 0
    box: float = 0.0
    score: float = 0.0
    sorted: bool = True
    seconds: float = 0.0
    own_seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return self.sorted and self.lonely <= LONELY_ALLOWED * self.detections

    def __str__(self) -> str:
        lines = [
            f"{self.detections} detections on {self.images} images compared, {self.lonely} without a partner "
            f"(same label, score within {SCORE_TOLERANCE:g}, corners within {BOX_TOLERANCE:g} pixels; "
            f"allowed: {LONELY_ALLOWED:.1%}, where rounding decides)",
            f"largest differences: {self.box:.2g} pixels, {self.score:.2g} in scores"
            + ("" if self.sorted else "; the order is wrong"),
            f"time per image: {self.seconds * 1000:.0f} ms, PyTorch {self.own_seconds * 1000:.0f} ms "
            f"({self.own_seconds / max(self.seconds, 1e-9):.2f} times as long)",
        ]
        if not self.detections:
            lines.append("nothing was found on these images, so little was compared: give others (--images)")
        return "\n".join(lines)


@torch.no_grad()
def compare(
    exported: ExportedDetector,
    detect: Callable[[ImageBatch], list[BoxList]],
    pictures: Sequence[np.ndarray],
) -> Agreement:
    """Run both on pictures, uint8 (H, W, 3), BGR; in batches of 1, 2 and 3 images in turn where batches are
    free.

    Args:
        exported: the file at work.
        detect: the detector's own detections of a uint8 BGR batch, in its pixels.
        pictures: at least one.
    """
    result = Agreement(images=len(pictures))
    first = exported.batch(pictures[:1])
    for warm_up in (exported.run, detect):
        warm_up(first)
    for batch, count in _batches(exported, pictures):
        start = time.perf_counter()
        theirs = exported.run(batch)
        middle = time.perf_counter()
        ours = detect(batch)
        result.seconds += (middle - start) / len(pictures)
        result.own_seconds += (time.perf_counter() - middle) / len(pictures)
        for pair in list(zip(ours, theirs, strict=True))[:count]:
            _add(result, *pair)
    return result


def _batches(exported: ExportedDetector, pictures: Sequence[np.ndarray]) -> Iterator[tuple[ImageBatch, int]]:
    """Batches, and how many pictures are in them. Those padded to the same size go together: wide padding is
    alike everywhere, and an untrained head may find many equal things there, in no order."""
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for picture in pictures:
        alike.setdefault(tuple(exported.batch([picture]).tensors.shape), []).append(picture)
    size = exported.interface["batch"] or 1
    for rest in alike.values():
        while rest:
            chunk, rest = rest[:size], rest[size:]
            yield exported.batch(chunk), len(chunk)
            size = exported.interface["batch"] or size % LARGEST_BATCH + 1


def _add(result: Agreement, ours: BoxList, theirs: BoxList) -> None:
    """Partners are sought from the best on; among several the nearest is taken."""
    scores = theirs.get_field("scores")
    boxes = (ours.bbox[:, None] - theirs.bbox[None]).abs().amax(dim=2)
    distance = (ours.get_field("scores")[:, None] - scores[None]).abs()
    fits = ours.get_field("labels")[:, None] == theirs.get_field("labels")[None]
    fits &= (boxes <= BOX_TOLERANCE) & (distance <= SCORE_TOLERANCE)
    partners = 0
    for row in range(len(ours)):
        if bool(fits[row].any()):
            column = int(boxes[row].masked_fill(~fits[row], torch.inf).argmin())
            fits[:, column] = False
            partners += 1
            result.box = max(result.box, float(boxes[row, column]))
            result.score = max(result.score, float(distance[row, column]))
    result.detections += len(ours) + len(theirs)
    result.lonely += len(ours) + len(theirs) - 2 * partners
    # With partners as near as this, the order can differ between near-equal scores only.
    result.sorted &= bool((scores.diff() <= 0).all())
