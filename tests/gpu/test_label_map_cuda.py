"""The CUDA kernel of the label map against the CPU kernel, bit by bit; skips without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labelenc import ops
from labelenc.ops import library

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]


def random_boxes(n: int) -> Tensor:
    corner = torch.rand(n, 2) * torch.tensor([150.0, 110.0]) - 20
    boxes = torch.cat([corner, corner + torch.rand(n, 2) * 70], dim=1)
    boxes[::11, 2:] = boxes[::11, :2]
    boxes[::13, 0] = float("nan")
    boxes[::17, 3] = float("inf")
    return boxes


@pytest.mark.parametrize("width", [128, 133])
@pytest.mark.parametrize("counts", [[7, 0, 12], [700, 3], [0, 0]])
def test_same_as_the_cpu_kernel(seed: int, counts: list[int], width: int) -> None:
    boxes = [random_boxes(n) for n in counts]
    labels = [torch.randint(1, 5, (n,)) for n in counts]
    scales = [(2 * torch.rand(n)).clamp(max=1) for n in counts]
    on_gpu = [[t.cuda() for t in ts] for ts in (boxes, labels, scales)]
    for factors, gpu_factors in ((None, None), (scales, on_gpu[2])):
        expected = ops.label_map(boxes, labels, 4, 101, width, factors)
        found = ops.label_map(on_gpu[0], on_gpu[1], 4, 101, width, gpu_factors)
        assert found.is_cuda
        assert torch.equal(found.cpu(), expected)
        wanted = ops.compact_label_map(boxes, labels, 4, 101, width, factors)
        for where in (on_gpu[1], labels):
            compact = ops.compact_label_map(on_gpu[0], where, 4, 101, width, gpu_factors)
            for one, other in zip(compact, wanted, strict=True):
                assert torch.equal(one.cpu(), other)


def test_other_streams_without_waiting(seed: int) -> None:
    on_cpu = [torch.randint(1, 5, (20,))]
    boxes, labels = [random_boxes(20).cuda()], [on_cpu[0].cuda()]
    expected = ops.label_map(boxes, labels, 4, 100, 120)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            found = ops.label_map(boxes, labels, 4, 100, 120)
            ops.compact_label_map(boxes, on_cpu, 4, 100, 120)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    assert torch.equal(found, expected)


def test_operator_contract(seed: int) -> None:
    given = (random_boxes(9).cuda(), torch.randint(0, 3, (9,)).cuda(), torch.rand(9).cuda(), 3, 30, 32)
    torch.library.opcheck(torch.ops.labelenc.label_map.default, given)
