"""What our operators are in ONNX. Importing this module needs onnxscript."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op
from onnxscript import opset19

# Between ABSENT and the lowest score.
_BELOW_SCORES = -0.5


def _constant(values: Any, kind: int) -> Any:
    shape = [len(values)] if isinstance(values, list) else []
    return op.Constant(value=onnx.helper.make_tensor("", kind, shape, values if shape else [values]))


def _ints(*values: int) -> Any:
    return _constant(list(values), onnx.TensorProto.INT64)


def _nms_mask(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    # One more at the right and bottom makes ONNX's widths the inclusive ones.
    grown = op.Add(boxes, _constant([0.0, 0.0, 1.0, 1.0], onnx.TensorProto.FLOAT))
    shape = op.Shape(scores)
    chosen = op.NonMaxSuppression(
        grown,
        scores,
        op.Gather(shape, _ints(2)),
        _constant([float(iou_threshold)], onnx.TensorProto.FLOAT),
        _constant([_BELOW_SCORES], onnx.TensorProto.FLOAT),
    )
    nothing = op.Expand(_constant([False], onnx.TensorProto.BOOL), shape)
    kept = op.Expand(
        _constant([True], onnx.TensorProto.BOOL), op.Slice(op.Shape(chosen), _ints(0), _ints(1), _ints(0))
    )
    return op.ScatterND(nothing, chosen, kept)


def _multilevel_roi_align(
    features: Sequence[Any],
    rois: Any,
    levels: Any,
    bins_high: int,
    bins_wide: int,
    scales: Sequence[float],
    sampling_ratio: int,
) -> Any:
    pooled, places = [], []
    for index, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        # Only the regions of this level are pooled from it.
        place = op.Squeeze(op.NonZero(op.Equal(levels, _ints(index))), _ints(0))
        chosen = op.Gather(rois, place)
        pooled.append(
            op.RoiAlign(
                feature,
                op.Slice(chosen, _ints(1), _ints(5), _ints(1)),
                _images_of(chosen),
                coordinate_transformation_mode="output_half_pixel",
                mode="avg",
                output_height=bins_high,
                output_width=bins_wide,
                sampling_ratio=sampling_ratio,
                spatial_scale=scale,
            )
        )
        places.append(place)
    order = op.Concat(*places, axis=0)
    count = op.Shape(order)
    zero, one = (_constant(number, onnx.TensorProto.INT64) for number in (0, 1))
    back = op.ScatterElements(order, order, op.Range(zero, op.Squeeze(count), one))
    return op.Gather(op.Concat(*pooled, axis=0), back)


def _images_of(rois: Any) -> Any:
    first = op.Gather(rois, _constant(0, onnx.TensorProto.INT64), axis=1)
    return op.Cast(first, to=onnx.TensorProto.INT64)


def _deform_conv2d(
    x: Any,
    offset: Any,
    mask: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    deformable_groups: int,
) -> Any:
    return opset19.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask,
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        offset_group=deformable_groups,
    )


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.labelenc.nms_mask.default: _nms_mask,
    torch.ops.labelenc.multilevel_roi_align.default: _multilevel_roi_align,
    torch.ops.labelenc.deform_conv2d.default: _deform_conv2d,
}
