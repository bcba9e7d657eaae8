"""The operator that exported detectors contain besides PyTorch's: NMS with fixed shapes.

Importing this module registers it, which `torch.export.load` needs before it reads a ``.pt2`` file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labelenc import ops

# The score of a place that holds no box; real scores are 0 or more.
ABSENT = -1.0


@torch.library.custom_op("labelenc::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes survive NMS in each of several groups, as ONNX's NonMaxSuppression counts them.

    Args:
        boxes: (B, K, 4) xyxy with inclusive corners.
        scores: (B, G, K) of every box in every group; below 0: the box is not in the group.
        iou_threshold: a box goes when its IoU with a better one of its group is greater.

    Returns:
        bool (B, G, K).
    """
    batch, group, row = (scores >= 0).nonzero(as_tuple=True)
    values = scores[batch, group, row]
    groups = batch * scores.shape[1] + group
    keep = ops.batched_nms(boxes[batch, row], values, groups, iou_threshold, legacy_offset=True)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[batch[keep], group[keep], row[keep]] = True
    return mask


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
