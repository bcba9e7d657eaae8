"""RoIAlign over a pyramid, and what its operators promise to PyTorch."""

from __future__ import annotations

import importlib

import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import library, reference

# The package has a function of the same name.
ROI_ALIGN = importlib.import_module("labelenc.ops.roi_align")
SCALES = (0.25, 0.125, 0.07)


def pyramid(channels: int = 5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    sizes = ((23, 30), (12, 15), (7, 9))
    return [torch.randn(2, channels, *size, dtype=dtype, requires_grad=True) for size in sizes]


def regions(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """RoIs on and around an image of about 100 pixels, in no order, and any level for each."""
    corner = torch.rand(count, 2, dtype=dtype) * 110 - 15
    boxes = torch.cat([corner, corner + torch.rand(count, 2, dtype=dtype) * 80 - 5], dim=1)
    return torch.cat([torch.randint(0, 2, (count, 1)), boxes], dim=1), torch.randint(0, 3, (count,))


def one_by_one(features: list[Tensor], rois: Tensor, levels: Tensor, ratio: int) -> Tensor:
    pooled = [
        torchvision.ops.roi_align(features[level], roi[None], (4, 3), SCALES[level], ratio)
        for roi, level in zip(rois, levels.tolist(), strict=True)
    ]
    return torch.cat(pooled)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_every_region_comes_from_its_level(seed: int, sampling_ratio: int) -> None:
    features, (rois, levels) = pyramid(dtype=torch.float64), regions(40, torch.float64)
    expected = one_by_one(features, rois, levels, sampling_ratio)
    found = ops.multilevel_roi_align(features, rois, levels, (4, 3), SCALES, sampling_ratio)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, features, upstream)
    torch.testing.assert_close(torch.autograd.grad(found, features, upstream), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_what_stands_in_for_the_kernels(seed: int, sampling_ratio: int) -> None:
    features, (rois, levels) = pyramid(), regions(30)
    features[1] = features[1].detach().to(memory_format=torch.channels_last).requires_grad_()
    settings = (4, 3, list(SCALES), sampling_ratio)
    found = ops.multilevel_roi_align(features, rois, levels, (4, 3), SCALES, sampling_ratio)
    expected = reference.multilevel_roi_align(features, rois, levels, *settings)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(expected)
    wanted = ROI_ALIGN._reference_backward(upstream, features, rois, levels, *settings)
    grads = torch.autograd.grad(found, features, upstream)
    torch.testing.assert_close(list(grads), wanted, rtol=1e-4, atol=1e-5)
    assert [g.stride() for g in grads] == [g.stride() for g in wanted]


def test_levels_without_regions_get_a_gradient_of_zeros(seed: int) -> None:
    features, (rois, levels) = pyramid(), regions(10)
    pooled = ops.multilevel_roi_align(features, rois, torch.ones_like(levels), (2, 2), SCALES, 2)
    grads = torch.autograd.grad(pooled.sum(), features)
    assert [bool(grad.any()) for grad in grads] == [False, True, False]
    none = ops.multilevel_roi_align(features, rois[:0], levels[:0], (2, 2), SCALES, 2)
    assert none.shape == (0, 5, 2, 2)
    assert not any(grad.any() for grad in torch.autograd.grad(none.sum(), features))


def test_the_same_with_any_number_of_threads(seed: int) -> None:
    features, (rois, levels) = pyramid(channels=100), regions(300)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            pooled = ops.multilevel_roi_align(features, rois, levels, (7, 7), SCALES, 2)
            upstream = torch.ones_like(pooled).cumsum(0)
            results.append([pooled, *torch.autograd.grad(pooled, features, upstream)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(seed: int, sampling_ratio: int) -> None:
    features, (rois, levels) = pyramid(channels=2, dtype=torch.float64), regions(6, torch.float64)

    def pool(*maps: Tensor) -> Tensor:
        return ops.multilevel_roi_align(maps, rois, levels, (2, 3), SCALES, sampling_ratio)

    assert torch.autograd.gradcheck(pool, features, fast_mode=True)


def test_operator_contracts(seed: int) -> None:
    features, (rois, levels) = pyramid(), regions(12)
    features[0] = features[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    settings = (4, 3, list(SCALES), 2)
    torch.library.opcheck(
        torch.ops.labelenc.multilevel_roi_align.default, (features, rois, levels, *settings)
    )
    plain = [feature.detach() for feature in features]
    torch.library.opcheck(
        torch.ops.labelenc.multilevel_roi_align_backward.default,
        (torch.randn(12, 5, 4, 3), plain, rois, levels, *settings),
    )


def test_can_be_compiled_without_a_break(seed: int) -> None:
    features, (rois, levels) = pyramid(), regions(12)

    def loss(features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        one = ops.roi_align(features[0], rois, (4, 3), SCALES[0], 2)
        return (one * ops.multilevel_roi_align(features, rois, levels, (4, 3), SCALES, 2)).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for count in (12, 7):
        given = (features, rois[:count], levels[:count])
        expected = torch.autograd.grad(loss(*given), features)
        torch.testing.assert_close(torch.autograd.grad(compiled(*given), features), expected)


def test_autocast_changes_no_types(seed: int) -> None:
    features, (rois, levels) = pyramid(), regions(12)
    halves = [feature.detach().bfloat16() for feature in features]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for maps in (features, halves):
            found = ops.multilevel_roi_align(maps, rois, levels, (4, 3), SCALES, 2)
            assert found.dtype == maps[0].dtype
    exact = ops.multilevel_roi_align([half.float() for half in halves], rois, levels, (4, 3), SCALES, 2)
    torch.testing.assert_close(found, exact.bfloat16())


def test_rois_get_no_gradient(seed: int) -> None:
    features, (rois, levels) = pyramid(), regions(5)
    rois.requires_grad_()
    ops.multilevel_roi_align(features, rois, levels, (4, 3), SCALES, 2).sum().backward()
    assert rois.grad is None


def test_second_derivative_is_an_error(seed: int) -> None:
    features, (rois, levels) = pyramid(), regions(5)
    upstream = torch.randn(5, 5, 4, 3, requires_grad=True)
    pooled = ops.multilevel_roi_align(features, rois, levels, (4, 3), SCALES, 2)
    grads = torch.autograd.grad(pooled, features, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="roi_align can be differentiated only once"):
        grads[0].sum().backward()


def test_wrong_arguments() -> None:
    features, (rois, levels) = pyramid(), regions(5)

    def pool(features=features, levels=levels, scales=SCALES) -> Tensor:
        return ops.multilevel_roi_align(features, rois, levels, (4, 3), scales, 2)

    with pytest.raises(ValueError, match="got none"):
        pool(features=[])
    with pytest.raises(ValueError, match="same images, channels and type"):
        pool(features=[*features[:2], features[2].half()])
    with pytest.raises(ValueError, match="3 levels have 2 scales"):
        pool(scales=SCALES[:2])
    with pytest.raises(ValueError, match=r"levels must be int64 \(5,\)"):
        pool(levels=levels[:3])
    with pytest.raises(ValueError, match=r"levels must be int64"):
        pool(levels=levels.int())
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"levels {wrong} to {wrong}; allowed: 0 to 2"):
            pool(levels=torch.full_like(levels, wrong))


def test_the_kernel_checks_what_a_compiled_program_does_not() -> None:
    if library.build is None:
        pytest.skip("needs compiled kernels")
    features, (rois, levels) = pyramid(), regions(5)
    settings = (4, 3, list(SCALES), 2)
    for wrong in (-3, 3):
        with pytest.raises(RuntimeError, match="allowed: 0 to 2"):
            torch.ops.labelenc.multilevel_roi_align(features, rois, levels + wrong, *settings)
        with pytest.raises(RuntimeError, match="allowed: 0 to 1"):
            torch.ops.labelenc.multilevel_roi_align(features, rois + wrong, levels, *settings)
