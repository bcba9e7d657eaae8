"""The operations in plain PyTorch: the definition that compiled kernels and fast forms must agree with.

They run on any device and follow the formulas line by line. They also step in where nothing was compiled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLT_MIN = torch.finfo(torch.float32).tiny


def box_iou_one_to_many(box: Tensor, others: Tensor, legacy_offset: bool) -> Tensor:
    """Intersection over union of one box (4,) with boxes (N, 4), xyxy in pixels; returns (N,).

    With ``legacy_offset`` a box that ends at pixel 9 and starts at 0 is 10 wide, otherwise 9.
    """
    offset = 1.0 if legacy_offset else 0.0
    top_left = torch.maximum(box[:2], others[:, :2])
    bottom_right = torch.minimum(box[2:], others[:, 2:])
    overlap = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2] + offset).prod()
    areas = (others[:, 2:] - others[:, :2] + offset).prod(dim=1)
    return overlap / (area + areas - overlap)


def nms_sorted(boxes: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool) -> Tensor:
    """Which boxes survive greedy suppression: boxes (N, 4) by decreasing score -> bool (N,).

    A surviving box removes every later box of its own group whose IoU with it is greater than the threshold.
    ``groups`` is int64 (N,), or None when all boxes compete. Comparisons with NaN are false: a box with a NaN
    coordinate neither removes nor is removed.
    """
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes) - 1):
        if not keep[i]:
            continue
        removed = box_iou_one_to_many(boxes[i], boxes[i + 1 :], legacy_offset) > iou_threshold
        if groups is not None:
            removed &= groups[i + 1 :] == groups[i]
        keep[i + 1 :] &= ~removed
    return keep


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of every element, logits (N, C) and targets int64 (N,) -> (N, C); Lin et al. 2017, eq. 5.

    Targets: -1 ignored (the row is 0), 0 background, c is class c in column c - 1.
    """
    columns = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    positive = targets[:, None] == columns
    p = torch.sigmoid(logits)
    log_p = torch.log(p.clamp(min=FLT_MIN))
    log_not_p = -torch.nn.functional.softplus(logits, threshold=50.0)
    loss = torch.where(positive, -alpha * (1 - p) ** gamma * log_p, (alpha - 1) * p**gamma * log_not_p)
    return torch.where(targets[:, None] >= 0, loss, torch.zeros_like(loss))


def label_map(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    num_classes: int,
    height: int,
    width: int,
    scales: Sequence[Tensor] | None = None,
) -> Tensor:
    """Boxes drawn as images with one channel per class -> float32 (N, num_classes, height, width).

    LabelEnc section 3.2: at pixel (x, y) a box of size (w, h) and centre (cx, cy) has the value
    ``1 - max(|x - cx| / w, |y - cy| / h)`` where that is at least 0.5, else 0; a channel is the maximum over
    the boxes of its class. ``labels`` are 1..num_classes, ``scales`` multiply each box's values.
    """
    device = boxes[0].device if len(boxes) else None
    out = torch.zeros(len(boxes), num_classes, height, width, device=device)
    ys = torch.arange(height, device=device, dtype=torch.float32)[:, None]
    xs = torch.arange(width, device=device, dtype=torch.float32)[None, :]
    for image, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
        for i, (x0, y0, x1, y1) in enumerate(image_boxes.float()):
            w, h = x1 - x0, y1 - y0
            if not (w > 0 and h > 0 and torch.isfinite(w) and torch.isfinite(h)):
                continue
            value = 1 - torch.maximum((xs - (x0 + x1) / 2).abs() / w, (ys - (y0 + y1) / 2).abs() / h)
            value = torch.where(value >= 0.5, value, torch.zeros_like(value))
            if scales is not None:
                value = value * scales[image][i].float()
            channel = out[image, int(image_labels[i]) - 1]
            torch.maximum(channel, value, out=channel)
    return out
