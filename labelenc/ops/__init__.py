"""Operations with kernels of their own, and the plain PyTorch forms that they must agree with."""

from labelenc.ops.deform_conv import deform_conv2d
from labelenc.ops.focal_loss import sigmoid_focal_loss
from labelenc.ops.label_map import compact_label_map, label_map
from labelenc.ops.nms import batched_nms, nms
from labelenc.ops.roi_align import multilevel_roi_align, roi_align

__all__ = [
    "batched_nms",
    "compact_label_map",
    "deform_conv2d",
    "label_map",
    "multilevel_roi_align",
    "nms",
    "roi_align",
    "sigmoid_focal_loss",
]
