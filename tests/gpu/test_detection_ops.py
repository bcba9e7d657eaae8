"""RoIAlign on a GPU against the same on the CPU; skips without a GPU."""

from __future__ import annotations

import pytest
import torch

from labelenc import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_roi_align(seed: int, dtype: torch.dtype, sampling_ratio: int) -> None:
    features = torch.randn(2, 8, 30, 40).to(dtype).requires_grad_()
    corner = torch.rand(50, 2) * 150 - 10
    boxes = torch.cat([corner, corner + torch.rand(50, 2) * 90 - 5], dim=1)
    rois = torch.cat([torch.randint(0, 2, (50, 1)), boxes], dim=1)
    expected = ops.roi_align(features, rois, (7, 5), 0.25, sampling_ratio)
    upstream = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, features, upstream)
    copy = features.detach().cuda().requires_grad_()
    found = ops.roi_align(copy, rois.cuda(), (7, 5), 0.25, sampling_ratio)
    (grad,) = torch.autograd.grad(found, copy, upstream.cuda())
    assert found.dtype == grad.dtype == dtype
    tolerance = 1e-2 if dtype == torch.float16 else 1e-4
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(grad.cpu(), wanted, rtol=tolerance, atol=tolerance)
    assert ops.roi_align(copy, rois[:0].cuda(), (7, 5), 0.25, sampling_ratio).shape == (0, 8, 7, 5)
