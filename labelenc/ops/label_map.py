"""Ground-truth boxes drawn as an image with one channel per class, the input of the label encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
        labels: one integer tensor (n_i,) per image, classes 1..num_classes.
        num_classes: number of channels.
        height, width: size of the padded batch in pixels.
        scales: one tensor (n_i,) per image of non-negative factors on each box's values (step 1 of training
            draws ``min(2u, 1)``), or None.

    Returns:
        float32 (len(boxes), num_classes, height, width) on the boxes' device. Boxes of no area or with
        coordinates that are not finite leave no trace.

    Raises:
        ValueError: when lengths disagree or a label is outside 1..num_classes; it names the image's index.
    """
    _check(boxes, labels, scales)
    device = boxes[0].device if len(boxes) else torch.device("cpu")
    out = torch.zeros(len(boxes), num_classes, height, width, device=device)
    if sum(len(b) for b in boxes) == 0:
        return out
    flat = torch.cat([b.reshape(-1, 4) for b in boxes]).float()
    factor = torch.cat(list(scales)).float() if scales is not None else None
    valid = flat.isfinite().all(dim=1) & (flat[:, 2] > flat[:, 0]) & (flat[:, 3] > flat[:, 1])
    # min(ax, ay) = 1 - max(...), and a factor >= 0 commutes with the minimum, so two profiles say it all.
    profile_x = _profile(flat[:, 0], flat[:, 2], width, factor)
    profile_y = _profile(flat[:, 1], flat[:, 3], height, factor)
    for image, i, channel, (x0, y0, x1, y1) in _windows(flat, valid, boxes, labels, out.shape):
        target = out[image, channel, y0:y1, x0:x1]
        value = torch.minimum(profile_y[i, y0:y1, None], profile_x[i, None, x0:x1])
        torch.maximum(target, value, out=target)
    return out


def _check(boxes: Sequence[Tensor], labels: Sequence[Tensor], scales: Sequence[Tensor] | None) -> None:
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


def _profile(low: Tensor, high: Tensor, size: int, factor: Tensor | None) -> Tensor:
    """Values along one axis (K, size): ``1 - |x - centre| / extent`` where at least 0.5, times factor."""
    position = torch.arange(size, device=low.device, dtype=torch.float32)
    centre, extent = (low + high) / 2, high - low
    value = 1 - (position - centre[:, None]).abs() / extent[:, None]
    value = torch.where(value >= 0.5, value, torch.zeros_like(value))
    return value if factor is None else value * factor[:, None]


def _windows(
    flat: Tensor, valid: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], shape: torch.Size
) -> list[tuple[int, int, int, tuple[int, int, int, int]]]:
    """(image, row of flat, channel, window) of the boxes that touch the image; one transfer to the host."""
    _, classes, height, width = shape
    limit = torch.tensor([width, height, width, height], device=flat.device)
    corners = torch.cat([flat[:, :2].floor(), flat[:, 2:].ceil() + 1], dim=1).nan_to_num()
    corners = corners.clamp(min=0).minimum(limit).long()
    classes_and_valid = torch.stack([torch.cat(list(labels)).long(), valid.long()], dim=1)
    table = torch.cat([corners, classes_and_valid], dim=1).tolist()
    images = [image for image, b in enumerate(boxes) for _ in range(len(b))]
    found = []
    for i, (image, (x0, y0, x1, y1, label, ok)) in enumerate(zip(images, table, strict=True)):
        if not 1 <= label <= classes:
            raise ValueError(
                f"label_map: image {image} of the batch has label {label}, allowed: 1..{classes}"
            )
        if ok and x1 > x0 and y1 > y0:
            found.append((image, i, label - 1, (x0, y0, x1, y1)))
    return found
