"""Our operators in ONNX, each alone, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from labelenc import ops
from labelenc.export.operators import nms_mask

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def through_onnx(function, inputs: Sequence[Tensor], opset: int = 18) -> Tensor:
    from labelenc.export.onnx_operators import TRANSLATIONS

    class Module(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return function(*tensors)

    names = [f"x{index}" for index in range(len(inputs))]
    converted = torch.onnx.export(
        Module().eval(), tuple(inputs), input_names=names, opset_version=opset,
        custom_translation_table=TRANSLATIONS, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(
        converted.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


def test_nms_counts_the_last_pixel(seed):
    # Inclusive 10 x 10 and 10 x 5: IoU 50 / 100. Without the last pixel it would be 36 / 81.
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 4], [30, 30, 40, 40]]])
    scores = torch.tensor([[[0.9, 0.8, -1.0], [-1.0, 0.0, 0.7]]])
    kept = through_onnx(lambda *tensors: nms_mask(*tensors, 0.47), [boxes, scores])
    assert kept.tolist() == [[[True, False, False], [False, True, True]]]


def test_nms_of_many(seed):
    boxes = torch.rand(2, 200, 4) * 50
    boxes[..., 2:] += boxes[..., :2]
    scores = torch.rand(2, 5, 200)
    scores[torch.rand(2, 5, 200) < 0.5] = -1
    kept = through_onnx(lambda *tensors: nms_mask(*tensors, 0.4), [boxes, scores])
    assert torch.equal(kept, nms_mask(boxes, scores, 0.4))
    assert 50 < int(kept.sum()) < int((scores >= 0).sum()) - 50


@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("empty_level", [False, True])
def test_roi_align_over_levels(sampling, empty_level, seed):
    features = [torch.randn(2, 3, 32, 48), torch.randn(2, 3, 16, 24), torch.randn(2, 3, 8, 12)]
    corners = torch.rand(40, 4) * torch.tensor([200, 140, 200, 140]) - 10
    corners[:, 2:] = corners[:, :2] + torch.rand(40, 2) * 60
    rois = torch.cat([torch.randint(0, 2, (40, 1)).float(), corners], dim=1)
    levels = torch.randint(0, 3, (40,))
    if empty_level:
        levels[levels == 1] = 2

    def pool(rois, levels, *features):
        scales = [1 / 4, 1 / 8, 1 / 16]
        return ops.multilevel_roi_align(features, rois, levels, (5, 4), scales, sampling)

    pooled = through_onnx(pool, [rois, levels, *features])
    torch.testing.assert_close(pooled, pool(rois, levels, *features), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution(modulated, seed):
    x, weight, bias = torch.randn(2, 8, 9, 11), torch.randn(6, 4, 3, 3), torch.randn(6)
    offset = torch.randn(2, 2 * 2 * 9, 5, 6) * 2
    mask = torch.rand(2, 2 * 9, 5, 6)

    def convolve(x, offset, weight, bias, *mask):
        one = mask[0] if mask else None
        return ops.deform_conv2d(x, offset, one, weight, bias, 2, 1, groups=2, deformable_groups=2)

    inputs = [x, offset, weight, bias, *([mask] if modulated else [])]
    torch.testing.assert_close(through_onnx(convolve, inputs, 19), convolve(*inputs), rtol=1e-4, atol=1e-4)
