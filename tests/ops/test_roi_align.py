"""RoIAlign against torchvision's, closed forms and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import library, reference


def random_rois(count: int, images: int, extent: float) -> Tensor:
    """Mostly inside of ``extent`` pixels; some stick out, are swapped, empty, tiny or far away."""
    corner = torch.rand(count, 2) * extent * 1.2 - extent * 0.1
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * extent * 0.7], dim=1)
    boxes[::5] = boxes[::5].roll(2, dims=1)
    boxes[1::7, 2:] = boxes[1::7, :2]
    boxes[2::7] += 10 * extent
    boxes[3::7, 2:] = boxes[3::7, :2] + 0.01
    return torch.cat([torch.randint(0, images, (count, 1)), boxes], dim=1)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (3, 5)])
def test_same_as_torchvision(seed: int, size: tuple[int, int], sampling_ratio: int) -> None:
    features = torch.randn(3, 5, 19, 26, dtype=torch.float64, requires_grad=True)
    rois = random_rois(40, 3, 100.0).double()
    for scale in (0.25, 0.3):
        expected = torchvision.ops.roi_align(features, rois, size, scale, sampling_ratio, aligned=False)
        upstream = torch.randn_like(expected)
        (expected_grad,) = torch.autograd.grad(expected, features, upstream)
        found = ops.roi_align(features, rois, size, scale, sampling_ratio)
        (grad,) = torch.autograd.grad(found, features, upstream)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-10)


def test_many_regions_in_float32(seed: int) -> None:
    features, rois = torch.randn(2, 16, 50, 76), random_rois(300, 2, 300.0)
    for ratio in (0, 2):
        expected = torchvision.ops.roi_align(features, rois, (7, 7), 0.25, ratio)
        torch.testing.assert_close(
            ops.roi_align(features, rois, (7, 7), 0.25, ratio), expected, rtol=1e-4, atol=1e-4
        )


def test_a_map_that_grows_evenly_gives_the_middles_of_the_bins(seed: int) -> None:
    ys, xs = torch.arange(40.0), torch.arange(60.0)
    features = torch.stack([ys[:, None].expand(40, 60), xs.expand(40, 60)])[None]
    corner = torch.rand(20, 2) * 15
    boxes = torch.cat([corner, corner + 1 + torch.rand(20, 2) * 22], dim=1)
    steps = (torch.arange(4) + 0.5) / 4
    for ratio in (0, 2):
        rows, columns = ops.roi_align(
            features, torch.cat([torch.zeros(20, 1), 2 * boxes], 1), (4, 4), 0.5, ratio
        ).unbind(1)
        wanted = boxes[:, :2, None] + steps * (boxes[:, 2:] - boxes[:, :2])[..., None]
        torch.testing.assert_close(columns, wanted[:, 0, None].expand(20, 4, 4), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rows, wanted[:, 1, :, None].expand(20, 4, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        # One sample, half a cell from the start: on the map's corner cell, between cells, on the last one.
        (-0.5, 1.0),
        (0.25, 1.75),
        (2.5, 4.0),
        # Up to one cell before the first and after the last the border counts, beyond them nothing.
        (-1.5, 1.0),
        (-1.625, 0.0),
        (3.5, 4.0),
        (3.625, 0.0),
    ],
)
def test_border_by_hand(start: float, expected: float) -> None:
    features = torch.tensor([1.0, 2, 3, 4])
    for row, column in (((1, 4), (1, 2)), ((4, 1), (2, 1))):
        box = torch.zeros(5)
        box[column[0]] = start
        box[column[0] + 2] = start + 1
        box[column[1] + 2] = 1
        found = ops.roi_align(features.reshape(1, 1, *row), box[None], (1, 1), 1.0, 1)
        # Along the other axis the map is one cell, on which every sample from -1 to 1 lies.
        assert found.item() == expected


def test_a_region_is_at_least_one_cell() -> None:
    features = torch.arange(8.0).expand(1, 1, 8, 8)
    rois = torch.tensor([[0, 2.0, 2, 2, 2], [0, 2, 2, 3, 3], [0, 2, 3, -5, 2], [0, 2, 2, 2.5, 7]])
    found = ops.roi_align(features, rois, (1, 1), 1.0, 2).flatten()
    torch.testing.assert_close(found, torch.full((4,), 2.5))


def test_regions_that_are_not_finite_leave_the_others_alone(seed: int) -> None:
    features, rois = torch.randn(2, 3, 9, 9, requires_grad=True), random_rois(20, 2, 9.0)
    expected = ops.roi_align(features, rois, (2, 2), 1.0, 2).detach()
    for number, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        rois[number, 1 + number] = value
    expected[:3] = 0
    for ratio in (0, 2):
        found = ops.roi_align(features, rois, (2, 2), 1.0, ratio)
        assert not found[:3].any()
        assert torch.autograd.grad(found.sum(), features)[0].isfinite().all()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_cells_that_are_not_finite_show_where_they_are_sampled(seed: int, sampling_ratio: int) -> None:
    """Neither cells off which a sample was moved nor those next to one without a share are looked at."""
    features, rois = torch.randn(2, 3, 9, 11), random_rois(60, 2, 30.0)
    rois[:10, 1:] = rois[:10, 1:].round()
    for value in (torch.inf, -torch.inf, torch.nan):
        features[torch.rand_like(features) < 0.03] = value
    features[:, 0, 0] = features[:, 1, -1] = features[:, 2, :, 0] = torch.inf
    found = ops.roi_align(features, rois, (3, 2), 0.25, sampling_ratio)
    expected = reference.roi_align(features, rois, (3, 2), 0.25, sampling_ratio)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert 0.1 < float(found.isfinite().float().mean()) < 0.9
    far = ops.roi_align(features, torch.tensor([[1.0, 80, 80, 99, 99]]), (3, 2), 0.25, sampling_ratio)
    assert not far.any()


def test_a_sample_on_the_middle_of_a_cell_is_that_cell() -> None:
    features = torch.tensor([[torch.inf, 1.0, torch.nan], [2.0, 3.0, torch.inf]])[None, None]
    rois = torch.tensor([[0, 0.5, -0.5, 1.5, 0.5], [0, 0.5, 0.5, 1.5, 1.5], [0, -0.5, 0.5, 0.5, 1.5]])
    for pool in (ops.roi_align, reference.roi_align):
        assert pool(features, rois, (1, 1), 1.0, 1).flatten().tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_accumulated_in_float32(seed: int, dtype: torch.dtype) -> None:
    features, rois = torch.randn(2, 4, 20, 20).to(dtype).requires_grad_(), random_rois(30, 2, 80.0)
    found = ops.roi_align(features, rois, (7, 7), 0.25, 2)
    assert found.dtype == dtype
    expected = torchvision.ops.roi_align(features.float(), rois, (7, 7), 0.25, 2)
    torch.testing.assert_close(found, expected.to(dtype))
    found.sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == dtype


def test_layout_does_not_matter(seed: int) -> None:
    features, rois = torch.randn(2, 6, 12, 13), random_rois(15, 2, 40.0)
    expected = ops.roi_align(features, rois, (3, 3), 0.25, 2)
    wide = torch.randn(2, 12, 12, 26)
    wide[:, ::2, :, ::2] = features
    columns = rois.t().contiguous().t()
    for same in (features.to(memory_format=torch.channels_last), wide[:, ::2, :, ::2]):
        torch.testing.assert_close(ops.roi_align(same, columns, (3, 3), 0.25, 2), expected)
    assert expected.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 7, 16, 37])
def test_gradients_of_every_type_layout_and_number_of_channels(
    seed: int, dtype: torch.dtype, channels: int
) -> None:
    plain, rois = torch.randn(2, channels, 21, 35).to(dtype), random_rois(25, 2, 90.0)
    wide = torch.zeros(2, 21, 70, channels, dtype=dtype)
    wide[:, :, ::2] = plain.permute(0, 2, 3, 1)
    layouts = [plain, plain.to(memory_format=torch.channels_last), wide.permute(0, 3, 1, 2)[..., ::2]]
    compute = dtype if dtype == torch.float64 else torch.float32
    wanted = plain.to(compute).requires_grad_()
    expected = torchvision.ops.roi_align(wanted, rois.to(compute), (3, 4), 0.25, 2)
    upstream = torch.randn_like(expected).to(dtype)
    (wanted_grad,) = torch.autograd.grad(expected, wanted, upstream.to(compute))
    for layout in layouts:
        features = layout.detach().requires_grad_()
        found = ops.roi_align(features, rois, (3, 4), 0.25, 2)
        torch.testing.assert_close(found, expected.to(dtype))
        # Also where the gradient that arrives isn't contiguous.
        for up in (upstream, upstream.to(memory_format=torch.channels_last)):
            (grad,) = torch.autograd.grad(found, features, up, retain_graph=True)
            torch.testing.assert_close(grad, wanted_grad.to(dtype))
            assert grad.stride() == torch.empty_like(features).stride()


def test_regions_much_larger_than_the_map(seed: int) -> None:
    """The time doesn't grow with them: samples off the map are not looked at one by one."""
    features = torch.randn(1, 2, 12, 15, dtype=torch.float64)
    large = torch.tensor([[0, -300, -400, 700, 600], [0, -5000, 2, 9000, 9]], dtype=torch.float64)
    expected = torchvision.ops.roi_align(features, large, (1, 2), 0.25, 0)
    found = ops.roi_align(features, large, (1, 2), 0.25, 0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    if library.build is None:
        pytest.skip("plain PyTorch does look at all samples")
    endless = torch.tensor([[0, -1e30, -1e30, 1e30, 1e30], [0, -1e30, 2, 1e30, 8], [0, -1e8, -1e8, 1e8, 1e8]])
    assert ops.roi_align(features.float(), endless, (2, 2), 0.25, 0).abs().max() < 1e-6


def test_no_regions() -> None:
    for features in (
        torch.randn(2, 3, 5, 5, requires_grad=True),
        torch.zeros(0, 3, 5, 5, requires_grad=True),
    ):
        for ratio in (0, 2):
            found = ops.roi_align(features, torch.zeros(0, 5), (7, 6), 0.25, ratio)
            assert found.shape == (0, 3, 7, 6)
            (grad,) = torch.autograd.grad(found.sum(), features)
            assert not grad.any()


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(seed: int, sampling_ratio: int) -> None:
    features = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = random_rois(8, 2, 12.0).double()
    assert torch.autograd.gradcheck(
        lambda x: ops.roi_align(x, rois, (3, 2), 0.5, sampling_ratio), features, fast_mode=True
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_portions_make_no_difference(seed: int, monkeypatch: pytest.MonkeyPatch, sampling_ratio: int) -> None:
    features, rois = torch.randn(2, 3, 20, 20, requires_grad=True), random_rois(30, 2, 80.0)
    whole = ops.roi_align(features, rois, (2, 3), 0.25, sampling_ratio)
    monkeypatch.setattr(reference, "CORNERS_AT_ONCE", 250)
    parts = reference.roi_align(features, rois, (2, 3), 0.25, sampling_ratio)
    torch.testing.assert_close(parts, whole)
    upstream = torch.randn_like(whole)
    expected = torch.autograd.grad(whole, features, upstream)
    torch.testing.assert_close(torch.autograd.grad(parts, features, upstream), expected)


@pytest.mark.parametrize(
    ("features", "rois", "settings", "message"),
    [
        (torch.zeros(3, 4, 5), torch.zeros(1, 5), ((7, 7), 1.0, 2), r"features must be \(N, C, H, W\)"),
        (torch.zeros(1, 3, 0, 5), torch.zeros(1, 5), ((7, 7), 1.0, 2), "H, W > 0"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 4), ((7, 7), 1.0, 2), r"rois must be \(K, 5\)"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 5, dtype=torch.int64), ((7, 7), 1.0, 2), "floating point"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 5), ((7, 0), 1.0, 2), "output_size"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 5), ((7, 7), 0.0, 2), "spatial_scale"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 5), ((7, 7), 1.0, -1), "sampling_ratio"),
        (
            torch.zeros(1, 3, 4, 5),
            torch.ones(1, 5),
            ((7, 7), 1.0, 2),
            "images 1 to 1; allowed: 0 to 0",
        ),
        (torch.zeros(1, 3, 4, 5), -torch.ones(1, 5), ((7, 7), 1.0, 2), "allowed: 0 to 0"),
        (torch.zeros(1, 3, 4, 5), torch.full((1, 5), torch.nan), ((7, 7), 1.0, 2), "allowed: 0 to 0"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.int64), torch.zeros(1, 5), ((7, 7), 1.0, 2), "floating point"),
    ],
)
def test_wrong_arguments(features: Tensor, rois: Tensor, settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.roi_align(features, rois, *settings)
