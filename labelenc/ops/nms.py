"""Non-maximum suppression, per set and per group."""

from __future__ import annotations

import torch
from torch import Tensor

from . import library, reference

SCHEMA = "nms_sorted(Tensor boxes, Tensor? groups, float iou_threshold, bool legacy_offset) -> Tensor"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, legacy_offset: bool = False) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) xyxy in pixels, any floating type and layout; half types are computed in float32.
        scores: (N,) floating point, on the same device.
        iou_threshold: a box goes when its IoU with a better kept box is *greater* than this.
        legacy_offset: count a box's last pixel, width ``x1 - x0 + 1``, as the published weights expect.

    Returns:
        int64 indices of the kept boxes by decreasing score; of equal scores the lower index comes first.

    A NaN score ranks like -inf. A box with a NaN coordinate is kept and removes nothing.

    Raises:
        ValueError: on wrong shapes or types, or a threshold that is NaN.
    """
    _check(boxes, scores, None, iou_threshold)
    return _suppress(boxes, scores, None, iou_threshold, legacy_offset)


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, legacy_offset: bool = False
) -> Tensor:
    """Greedy non-maximum suppression in which only boxes of the same group compete.

    ``groups`` is an integer tensor (N,) of any values: class labels, image numbers, FPN levels. Coordinates
    are used as they are (no shift per group), so precision doesn't depend on the number of groups.
    Everything else as in :func:`nms`; the indices are by decreasing score over all groups.
    """
    _check(boxes, scores, groups, iou_threshold)
    return _suppress(boxes, scores, groups, iou_threshold, legacy_offset)


def _check(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4), (0, 4) when there are none; got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must be ({boxes.shape[0]},) like the boxes, got {tuple(scores.shape)}")
    if not (boxes.is_floating_point() and scores.is_floating_point()):
        raise ValueError(f"boxes and scores must be floating point, got {boxes.dtype} and {scores.dtype}")
    if groups is not None and (groups.shape != scores.shape or groups.is_floating_point()):
        raise ValueError(
            f"groups must be integers ({boxes.shape[0]},), got {groups.dtype} {tuple(groups.shape)}"
        )
    if iou_threshold != iou_threshold:
        raise ValueError("iou_threshold is NaN")


def _suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool
) -> Tensor:
    ranked = scores.detach().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = ranked.argsort(descending=True, stable=True)
    boxes = boxes.detach()
    compute_type = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    boxes = boxes.index_select(0, order).to(compute_type)
    if groups is not None:
        groups = groups.to(torch.int64).index_select(0, order)
    keep = torch.ops.labelenc.nms_sorted(boxes, groups, iou_threshold, legacy_offset)
    # order[keep] would start threads for this little work, which costs milliseconds on a busy machine.
    return order.masked_select(keep)


def _through_cpu(boxes: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool) -> Tensor:
    # The plain form looks at every box in turn, which would stall a GPU each time.
    on_cpu = None if groups is None else groups.cpu()
    keep: Tensor = torch.ops.labelenc.nms_sorted(boxes.cpu(), on_cpu, iou_threshold, legacy_offset)
    return keep.to(boxes.device)


def _fake(boxes: Tensor, groups: Tensor | None, iou_threshold: float, legacy_offset: bool) -> Tensor:
    return boxes.new_empty(boxes.shape[0], dtype=torch.bool)


library.complete(SCHEMA, reference.nms_sorted, _fake, on_gpu=_through_cpu)
