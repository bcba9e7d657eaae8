"""Ground-truth boxes drawn as an image with one channel per class, the input of the label encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import library, reference

SCHEMA = (
    "label_map(Tensor boxes, Tensor slots, Tensor? scales, SymInt count, SymInt height, SymInt width)"
    " -> Tensor"
)


@torch.no_grad()
def label_map(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    num_classes: int,
    height: int,
    width: int,
    scales: Sequence[Tensor] | None = None,
) -> Tensor:
    """Label maps of a batch (LabelEnc, section 3.2).

    A box ``(x0, y0, x1, y1)`` of size (w, h) and centre (cx, cy) has at pixel (x, y) the value
    ``1 - max(|x - cx| / w, |y - cy| / h)`` where that is at least 0.5, and 0 elsewhere. A channel is the
    maximum over the boxes of its class. Sizes are without the legacy ``+ 1``.

    Args:
        boxes: one (n_i, 4) tensor per image, xyxy in pixels of the padded batch, all on one device.
        labels: one integer tensor (n_i,) per image, classes 1..num_classes, on the boxes' device or the CPU.
        num_classes: number of channels.
        height, width: size of the padded batch in pixels.
        scales: one tensor (n_i,) per image of non-negative factors on each box's values (step 1 of training
            draws ``min(2u, 1)``), or None.

    Returns:
        float32 (len(boxes), num_classes, height, width) on the boxes' device, under autocast too. Boxes of no
        area or with coordinates that are not finite leave no trace. There is no gradient.

    Raises:
        ValueError: when lengths disagree or (on the CPU) a label is outside 1..num_classes; it names the
            image's index.
    """
    _check(boxes, labels, num_classes, scales)
    if not len(boxes):
        return torch.zeros(0, num_classes, height, width)
    flat, slots, factors = _flatten(boxes, labels, num_classes, scales)
    count = len(boxes) * num_classes
    slots = slots.to(flat.device, non_blocking=True)
    maps: Tensor = torch.ops.labelenc.label_map(flat, slots, factors, count, height, width)
    return maps.view(len(boxes), num_classes, height, width)


@torch.no_grad()
def compact_label_map(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    num_classes: int,
    height: int,
    width: int,
    scales: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The channels of :func:`label_map` whose class is present in their image; the others are 0.

    Arguments and errors are those of :func:`label_map`. With labels on a GPU the host waits once, to learn P;
    labels on the CPU spare that.

    Returns:
        ``(maps, images, channels)``: float32 (P, height, width) where the boxes are; int64 (P,) and (P,)
        where the labels are. P is the number of pairs of an image and a class that has a box in it, also one
        that leaves no trace. They are ordered by image, then class. With ``dense = label_map(...)``, ``maps``
        is ``dense[images, channels]``; the class of a channel is ``channel + 1``.
    """
    _check(boxes, labels, num_classes, scales)
    if not len(boxes):
        none = torch.zeros(0, dtype=torch.int64)
        return torch.zeros(0, height, width), none, none
    flat, slots, factors = _flatten(boxes, labels, num_classes, scales)
    present, rank = slots.unique(return_inverse=True)
    rank = torch.where(slots < 0, slots, rank).to(flat.device, non_blocking=True)
    maps = torch.ops.labelenc.label_map(flat, rank, factors, present.shape[0], height, width)
    return maps, present // num_classes, present % num_classes


def _check(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int, scales: Sequence[Tensor] | None
) -> None:
    if len(boxes) != len(labels) or (scales is not None and len(scales) != len(boxes)):
        raise ValueError(f"label_map: {len(boxes)} images have boxes; labels or scales are of another number")
    for image, image_boxes in enumerate(boxes):
        counts = [len(image_boxes), len(labels[image])]
        if scales is not None:
            counts.append(len(scales[image]))
        if len(set(counts)) > 1:
            raise ValueError(
                f"label_map: image {image} of the batch: boxes, labels, scales have lengths {counts}"
            )
        # Looking at values would stall a GPU's stream and break a compiled graph.
        if labels[image].device.type == "cpu" and len(image_boxes) and not torch.compiler.is_compiling():
            _check_range(image, labels[image], num_classes)


def _check_range(image: int, labels: Tensor, num_classes: int) -> None:
    low, high = (int(v) for v in labels.aminmax())
    if low < 1 or high > num_classes:
        raise ValueError(
            f"label_map: image {image} of the batch has label {low if low < 1 else high}, "
            f"allowed: 1..{num_classes}"
        )


def _flatten(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int, scales: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All boxes (K, 4), the channel of the whole batch that each is drawn in (K,), and their factors (K,)."""
    flat = torch.cat([b.reshape(-1, 4) for b in boxes]).detach().float()
    channels = [label.to(torch.int64) - 1 for label in labels]
    # A label out of range must not pass for one of the next image: -1 fails in the kernel.
    slots = [
        torch.where((c >= 0) & (c < num_classes), c + image * num_classes, -1)
        for image, c in enumerate(channels)
    ]
    factors = None if scales is None else torch.cat(list(scales)).detach().float()
    return flat, torch.cat(slots), factors


def _fake(boxes: Tensor, slots: Tensor, scales: Tensor | None, count: int, height: int, width: int) -> Tensor:
    return boxes.new_empty((count, height, width))


library.complete(SCHEMA, reference.label_map_slots, _fake)
