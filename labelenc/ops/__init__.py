"""Operations with kernels of their own, and the plain PyTorch forms that they must agree with."""

from labelenc.ops.focal_loss import sigmoid_focal_loss
from labelenc.ops.label_map import label_map
from labelenc.ops.nms import batched_nms, nms

__all__ = ["batched_nms", "label_map", "nms", "sigmoid_focal_loss"]
