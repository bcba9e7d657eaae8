"""The CUDA kernels of the focal loss against the definition and the CPU kernels; skips without a GPU."""

from __future__ import annotations

import pytest
import torch

from labelenc import ops
from labelenc.ops import library, reference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (57, 6), (1000, 80), (3, 5000), (20011, 81)])
def test_same_as_the_cpu_kernel(seed: int, shape: tuple[int, int], dtype: torch.dtype, gamma: float) -> None:
    logits = (torch.randn(shape) * 4).to(dtype).requires_grad_()
    targets = torch.randint(-1, shape[1] + 1, shape[:1])
    copy = logits.detach().cuda().requires_grad_()
    for reduction in ("sum", "none"):
        expected = ops.sigmoid_focal_loss(logits, targets, gamma, 0.25, reduction)
        found = ops.sigmoid_focal_loss(copy, targets.cuda(), gamma, 0.25, reduction)
        assert found.is_cuda
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found.cpu(), expected, rtol=3e-6, atol=1e-10)
        upstream = torch.rand_like(expected)
        (wanted,) = torch.autograd.grad(expected, logits, upstream)
        (grad,) = torch.autograd.grad(found, copy, upstream.cuda())
        assert grad.dtype == dtype
        if dtype in (torch.float32, torch.float64):
            torch.testing.assert_close(grad.cpu(), wanted, rtol=3e-6, atol=1e-10)
        else:
            torch.testing.assert_close(grad.cpu(), wanted)


def test_same_as_the_definition_in_float64(seed: int) -> None:
    logits, targets = torch.randn(300, 7, dtype=torch.float64) * 3, torch.randint(-1, 8, (300,))
    found = ops.sigmoid_focal_loss(logits.cuda(), targets.cuda(), 1.7, 0.3, "none")
    torch.testing.assert_close(found.cpu(), reference.sigmoid_focal_loss(logits, targets, 1.7, 0.3))
    wide = logits[:20].cuda().requires_grad_()
    for reduction in ("sum", "none"):
        assert torch.autograd.gradcheck(
            lambda x, how=reduction: ops.sigmoid_focal_loss(x, targets[:20].cuda(), 2.0, 0.25, how), wide
        )


def test_layouts_and_offsets(seed: int) -> None:
    logits, targets = torch.randn(50, 8).cuda(), torch.randint(-1, 9, (50,)).cuda()
    expected = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, "none")
    columns = logits.t().contiguous().t()
    assert torch.equal(ops.sigmoid_focal_loss(columns, targets, 2.0, 0.25, "none"), expected)
    # Not on a multiple of 16 bytes.
    moved = torch.cat([logits.new_zeros(1), logits.flatten()])[1:].view(50, 8)
    assert torch.equal(ops.sigmoid_focal_loss(moved, targets, 2.0, 0.25, "none"), expected)
    assert ops.sigmoid_focal_loss(logits[:0], targets[:0], 2.0, 0.25).item() == 0


def test_sum_is_the_same_in_every_run(seed: int) -> None:
    logits, targets = torch.randn(30000, 80).cuda(), torch.randint(-1, 81, (30000,)).cuda()
    first = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    for _ in range(5):
        assert torch.equal(ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25), first)


def test_other_streams_without_waiting(seed: int) -> None:
    logits, targets = torch.randn(3000, 80).cuda().requires_grad_(), torch.randint(-1, 81, (3000,)).cuda()
    expected = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    (wanted,) = torch.autograd.grad(expected, logits)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            loss = ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
            (grad,) = torch.autograd.grad(loss, logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    assert torch.equal(loss, expected)
    assert torch.equal(grad, wanted)


def test_a_sum_takes_no_memory(seed: int) -> None:
    logits, targets = torch.randn(100000, 80).cuda(), torch.randint(-1, 81, (100000,)).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25)
    assert torch.cuda.max_memory_allocated() - before < 1 << 20


def test_operator_contract(seed: int) -> None:
    logits, targets = torch.randn(20, 4).cuda(), torch.randint(-1, 5, (20,)).cuda()
    for total in (True, False):
        given = (logits.clone().requires_grad_(), targets, 2.0, 0.25, total)
        torch.library.opcheck(torch.ops.labelenc.focal_loss.default, given)
    for grad in (torch.rand(20, 4).cuda(), torch.rand(()).cuda()):
        given = (grad, logits, targets, 2.0, 0.25)
        torch.library.opcheck(torch.ops.labelenc.focal_loss_backward.default, given)
