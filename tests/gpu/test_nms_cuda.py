"""The CUDA kernel of nms against the definition and the CPU kernel; skips without a GPU."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import library, reference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]


def random_boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2) * 500
    return torch.cat([corner, corner + torch.rand(n, 2) * 200], dim=1)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 1000, 4097, 16384, 16385, 40000])
@pytest.mark.parametrize("legacy", [False, True])
def test_same_as_the_cpu_kernel(seed: int, n: int, legacy: bool) -> None:
    boxes, groups = random_boxes(n), torch.randint(-2, 5, (n,))
    scores = torch.randint(0, 50, (n,)).float()
    for threshold in (0.3, 0.5, 0.75):
        alone = ops.nms(boxes.cuda(), scores.cuda(), threshold, legacy)
        assert alone.is_cuda
        assert torch.equal(alone.cpu(), ops.nms(boxes, scores, threshold, legacy))
        grouped = ops.batched_nms(boxes.cuda(), scores.cuda(), groups.cuda(), threshold, legacy)
        assert torch.equal(grouped.cpu(), ops.batched_nms(boxes, scores, groups, threshold, legacy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_as_the_definition_on_odd_boxes(seed: int, dtype: torch.dtype) -> None:
    boxes = random_boxes(300).to(dtype)
    boxes[::7] = boxes[::7].flip(1)
    boxes[::13, 0] = float("nan")
    boxes[::17, 3] = float("inf")
    for groups in (None, torch.randint(0, 3, (300,))):
        on_gpu = None if groups is None else groups.cuda()
        kept = torch.ops.labelenc.nms_sorted(boxes.cuda(), on_gpu, 0.4, True)
        assert torch.equal(kept.cpu(), reference.nms_sorted(boxes, groups, 0.4, True))


def test_same_as_torchvision_in_several_chunks(seed: int) -> None:
    boxes, scores = random_boxes(60000).cuda() * 4, torch.rand(60000).cuda()
    assert torch.equal(ops.nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5))


def test_a_million_boxes_in_bounded_memory(seed: int) -> None:
    """Four nearly equal boxes at each place: one of them survives."""
    n = 1_000_000
    place = torch.arange(n) // 4
    corner = torch.stack([place % 500, place // 500], dim=1) * 32.0
    boxes, scores = torch.cat([corner, corner + 24], dim=1) + torch.rand(n, 4), torch.rand(n)
    best = scores.view(-1, 4).argmax(1) + 4 * torch.arange(n // 4)
    boxes, scores, groups = boxes.cuda(), scores.cuda(), (place % 80).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert torch.equal(ops.nms(boxes, scores, 0.5).sort().values.cpu(), best)
    assert torch.equal(ops.batched_nms(boxes, scores, groups, 0.5).sort().values.cpu(), best)
    assert torch.cuda.max_memory_allocated() - before < 256 << 20


def test_scores_equal_infinite_and_nan(seed: int) -> None:
    boxes, scores = random_boxes(3000), torch.randint(0, 5, (3000,)).float()
    scores[scores == 0] = float("nan")
    scores[scores == 1] = float("inf")
    scores[scores == 2] = -float("inf")
    groups = torch.randint(0, 3, (3000,))
    found = ops.batched_nms(boxes.cuda(), scores.cuda(), groups.cuda(), 0.5)
    assert torch.equal(found.cpu(), ops.batched_nms(boxes, scores, groups, 0.5))


def test_only_the_size_of_the_result_is_waited_for(seed: int) -> None:
    boxes, scores, groups = (t.cuda() for t in (random_boxes(500), torch.rand(500), torch.arange(500) % 7))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ops.batched_nms(boxes, scores, groups, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchronizing" in str(w.message)]) == 1


def test_other_streams_and_half_types(seed: int) -> None:
    boxes, scores = random_boxes(500).half().cuda(), torch.rand(500).half().cuda()
    expected = ops.nms(boxes.cpu(), scores.cpu(), 0.5)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        kept = ops.nms(boxes, scores, 0.5)
    stream.synchronize()
    assert torch.equal(kept.cpu(), expected)


def test_operator_contract(seed: int) -> None:
    boxes, groups = random_boxes(50).cuda(), torch.randint(0, 3, (50,)).cuda()
    torch.library.opcheck(torch.ops.labelenc.nms_sorted.default, (boxes, groups, 0.5, False))
