"""The operations on a GPU that is not the current one; skips without a second GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from labelenc import ops
from labelenc.ops import library

pytestmark = [
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]


def random_boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2, dtype=torch.float64) * 40
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, dtype=torch.float64) * 30], dim=1)


def roi_align(features: Tensor, boxes: Tensor) -> Tensor:
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    return ops.roi_align(features, rois, (3, 3), 0.5, 2)


def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return ops.deform_conv2d(x, offset, None, weight, None, padding=1)


def focal_loss(logits: Tensor) -> Tensor:
    targets = torch.arange(len(logits), device=logits.device) % 6 - 1
    return ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)


def on_both(call: Callable[..., Tensor], *inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradients of the first input on the CPU and on the second GPU."""
    found = []
    for device in ("cpu", "cuda:1"):
        given = [t.detach().to(device) for t in inputs]
        given[0].requires_grad_()
        out = call(*given)
        grads = torch.autograd.grad(out.sum(), given[0]) if out.requires_grad else ()
        assert all(t.device == torch.device(device) for t in (out, *grads))
        found.append([t.detach().cpu() for t in (out, *grads)])
    return found[0], found[1]


def test_every_operation_runs_where_its_tensors_are(seed: int) -> None:
    torch.cuda.set_device(0)
    boxes, scores, labels = random_boxes(300), torch.rand(300), torch.randint(1, 4, (300,))
    cases: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda b, s: ops.nms(b, s, 0.5), (boxes, scores)),
        (lambda b, s, g: ops.batched_nms(b, s, g, 0.5), (boxes, scores, labels)),
        (lambda b, g: ops.label_map([b], [g], 3, 70, 70), (boxes, labels)),
        (roi_align, (torch.randn(1, 8, 36, 36, dtype=torch.float64), boxes)),
        (focal_loss, (torch.randn(60, 4, dtype=torch.float64),)),
        (
            deform_conv2d,
            tuple(torch.randn(s, dtype=torch.float64) for s in ((2, 4, 9, 9), (2, 18, 9, 9), (3, 4, 3, 3))),
        ),
    ]
    for call, inputs in cases:
        on_cpu, on_gpu = on_both(call, *inputs)
        torch.testing.assert_close(on_gpu, on_cpu)
        assert torch.cuda.current_device() == 0
