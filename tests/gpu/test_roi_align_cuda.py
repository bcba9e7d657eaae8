"""The CUDA kernels of RoIAlign against the CPU kernels and torchvision; skips without a GPU."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.modeling.roi.pooler import Pooler
from labelenc.ops import library

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]
SCALES = (0.25, 0.125, 0.07)
SIZES = ((30, 41), (15, 20), (9, 11))
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float32: 1e-4, torch.float64: 1e-10}


def pyramid(channels: int, dtype: torch.dtype, channels_last: bool = False) -> list[Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [torch.randn(2, channels, *size).to(dtype).to(memory_format=layout) for size in SIZES]


def regions(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """On the image and over its borders; some are swapped, empty, far away, huge or not finite."""
    corner = torch.rand(count, 2, dtype=dtype) * 160 - 15
    boxes = torch.cat([corner, corner + torch.rand(count, 2, dtype=dtype) * 90 - 5], dim=1)
    boxes[::7] = boxes[::7].roll(2, dims=1)
    boxes[1::9, 2:] = boxes[1::9, :2]
    boxes[2::11] += 1e4
    boxes[3::13, :2] -= 2e4
    boxes[4::17, 1] = torch.nan
    return torch.cat([torch.randint(0, 2, (count, 1)), boxes], dim=1), torch.randint(0, 3, (count,))


def both_ways(
    features: list[Tensor], rois: Tensor, levels: Tensor, size: tuple[int, int], ratio: int, upstream: Tensor
) -> list[Tensor]:
    """Result and gradients, all on the CPU."""
    maps = [feature.detach().requires_grad_() for feature in features]
    pooled = ops.multilevel_roi_align(maps, rois, levels, size, SCALES, ratio)
    grads = torch.autograd.grad(pooled, maps, upstream)
    assert [g.stride() for g in grads] == [torch.empty_like(f).stride() for f in features]
    return [t.detach().cpu() for t in (pooled, *grads)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 6, 64, 264])
@pytest.mark.parametrize("dtype", TYPES)
def test_same_as_the_cpu_kernels(seed: int, dtype: torch.dtype, channels: int, channels_last: bool) -> None:
    features, (rois, levels) = pyramid(channels, dtype, channels_last), regions(70)
    on_gpu = [feature.cuda() for feature in features]
    for size, ratio in (((7, 7), 2), ((7, 5), 0), ((1, 1), 1), ((14, 14), 3)):
        upstream = torch.randn(70, channels, *size).to(dtype)
        expected = both_ways(features, rois, levels, size, ratio, upstream)
        found = both_ways(on_gpu, rois.cuda(), levels.cuda(), size, ratio, upstream.cuda())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_any_number_of_regions(seed: int, count: int) -> None:
    features, (rois, levels) = pyramid(8, torch.float64), regions(count, torch.float64)
    upstream = torch.randn(count, 8, 3, 3, dtype=torch.float64)
    expected = both_ways(features, rois, levels, (3, 3), 2, upstream)
    on_gpu = [feature.cuda() for feature in features]
    found = both_ways(on_gpu, rois.cuda(), levels.cuda(), (3, 3), 2, upstream.cuda())
    torch.testing.assert_close(found, expected)


def test_unusual_layouts(seed: int) -> None:
    features, (rois, levels) = pyramid(8, torch.float32), regions(30)
    upstream = torch.randn(30, 8, 4, 4)
    expected = both_ways(features, rois, levels, (4, 4), 2, upstream)
    moved = [f.cuda().permute(2, 1, 3, 0).contiguous().permute(3, 1, 0, 2) for f in features]
    cut = [torch.stack([f, f], dim=-1).cuda()[..., 0] for f in features]
    for same in (moved, cut):
        found = both_ways(same, rois.cuda(), levels.cuda(), (4, 4), 2, upstream.cuda())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_same_as_torchvision_at_the_size_of_a_training_step(seed: int) -> None:
    features = torch.randn(2, 256, 200, 304, device="cuda", requires_grad=True)
    corner = torch.rand(1000, 2, device="cuda") * 700
    boxes = torch.cat([corner, corner + torch.rand(1000, 2, device="cuda") * 200], dim=1)
    rois = torch.cat([torch.arange(1000, device="cuda")[:, None] % 2, boxes], dim=1)
    expected = torchvision.ops.roi_align(features, rois, (7, 7), 0.25, 2)
    found = ops.roi_align(features, rois, (7, 7), 0.25, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, features, upstream)
    torch.testing.assert_close(
        torch.autograd.grad(found, features, upstream)[0], wanted, rtol=1e-3, atol=1e-3
    )


def test_images_and_levels_that_do_not_exist_give_nothing(seed: int) -> None:
    features, (rois, levels) = pyramid(8, torch.float32), regions(20)
    upstream = torch.randn(20, 8, 2, 2)
    wrong_rois, wrong_levels, masked = rois.clone(), levels.clone(), upstream.clone()
    wrong_rois[0, 0], wrong_rois[1, 0], wrong_rois[2, 0] = -1, 2, torch.nan
    wrong_levels[3], wrong_levels[4] = -1, 3
    masked[:5] = 0
    expected = both_ways(features, rois, levels, (2, 2), 2, masked)
    expected[0][:5] = 0
    on_gpu = [feature.cuda() for feature in features]
    found = both_ways(on_gpu, wrong_rois.cuda(), wrong_levels.cuda(), (2, 2), 2, upstream.cuda())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_run_gives_the_same_and_nothing_waits_for_the_host(seed: int) -> None:
    features, (rois, levels) = pyramid(64, torch.bfloat16, True), regions(500)
    on_gpu = [feature.cuda().requires_grad_() for feature in features]
    rois, levels, runs = rois.cuda(), levels.cuda(), []
    upstream = torch.randn(500, 64, 7, 7, device="cuda", dtype=torch.bfloat16)
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            pooled = ops.multilevel_roi_align(on_gpu, rois, levels, (7, 7), SCALES, 2)
            runs.append([pooled, *torch.autograd.grad(pooled, on_gpu, upstream)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_the_pooler_does_not_wait_for_the_host_either(seed: int) -> None:
    features, boxes = pyramid(8, torch.float32), [regions(9)[0][:, 1:], regions(5)[0][:, 1:]]
    pooler = Pooler(7, (1 / 4, 1 / 8, 1 / 16), 2)
    on_gpu, boxes_on_gpu = [f.cuda() for f in features], [b.cuda() for b in boxes]
    expected = pooler(features, boxes)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = pooler(on_gpu, boxes_on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_other_streams(seed: int) -> None:
    features, (rois, levels) = pyramid(16, torch.float32), regions(40)
    upstream = torch.randn(40, 16, 7, 7)
    expected = both_ways(features, rois, levels, (7, 7), 2, upstream)
    on_gpu = [feature.cuda() for feature in features]
    arguments = (on_gpu, rois.cuda(), levels.cuda(), (7, 7), 2, upstream.cuda())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = both_ways(*arguments)
    stream.synchronize()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_operator_contracts(seed: int) -> None:
    features, (rois, levels) = pyramid(8, torch.float32), regions(12)
    on_gpu = [feature.cuda().requires_grad_() for feature in features]
    settings = (rois.cuda(), levels.cuda(), 4, 3, list(SCALES), 2)
    torch.library.opcheck(torch.ops.labelenc.multilevel_roi_align.default, (on_gpu, *settings))
    plain = [feature.detach() for feature in on_gpu]
    torch.library.opcheck(
        torch.ops.labelenc.multilevel_roi_align_backward.default,
        (torch.randn(12, 8, 4, 3, device="cuda"), plain, *settings),
    )
    doubles = [feature.detach().double().requires_grad_() for feature in on_gpu]
    assert torch.autograd.gradcheck(
        lambda *maps: ops.multilevel_roi_align(maps, *settings[:2], (2, 2), SCALES, 2),
        doubles,
        fast_mode=True,
    )
