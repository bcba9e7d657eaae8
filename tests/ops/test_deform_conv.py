"""Deformable convolution against torchvision's, ordinary convolutions and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from labelenc import ops
from labelenc.ops import reference

# in channels, out channels, kernel, stride, padding, dilation, groups, deformable groups
SHAPES: list[tuple[Any, ...]] = [
    (4, 6, (3, 3), 1, 1, 1, 1, 1),
    (4, 6, (3, 3), 2, 1, 1, 2, 1),
    (8, 4, (3, 3), 1, 2, 2, 4, 2),
    (6, 6, (3, 3), 1, 1, 1, 6, 3),
    (4, 2, (1, 1), 1, 0, 1, 1, 4),
    (2, 3, (3, 1), (2, 1), (1, 0), (2, 1), 1, 2),
    (3, 5, (2, 4), (1, 2), (0, 3), (3, 1), 1, 1),
]


def output_size(size: tuple[int, int], shape: tuple[Any, ...]) -> list[int]:
    kernel, *rest = shape[2:6]
    pairs = [(value, value) if isinstance(value, int) else value for value in rest]
    return [
        (size[a] + 2 * pairs[1][a] - pairs[2][a] * (kernel[a] - 1) - 1) // pairs[0][a] + 1 for a in (0, 1)
    ]


def random_input(shape: tuple[Any, ...], spread: float = 2.0) -> dict[str, Tensor]:
    """Two images in float64 with offsets of ``spread`` pixels; some tensors are not dense."""
    channels, outs, kernel, _, _, _, groups, deformable_groups = shape
    size = (int(torch.randint(6, 12, ())), int(torch.randint(6, 12, ())))
    fields = deformable_groups * kernel[0] * kernel[1]
    where = output_size(size, shape)
    tensors = {
        "x": torch.randn(2, *size, channels).permute(0, 3, 1, 2),
        "offset": torch.randn(2, 2 * fields, *where) * spread,
        "mask": torch.rand(2, 2 * fields, *where)[:, ::2],
        "weight": torch.randn(outs, channels // groups, *kernel),
        "bias": torch.randn(outs),
    }
    return {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}


def convolve(t: dict[str, Tensor], shape: tuple[Any, ...], mask: bool = True, bias: bool = True) -> Tensor:
    return ops.deform_conv2d(
        t["x"], t["offset"], t["mask"] if mask else None, t["weight"], t["bias"] if bias else None, *shape[3:]
    )


@pytest.mark.parametrize(("mask", "bias"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_torchvision(seed: int, shape: tuple[Any, ...], mask: bool, bias: bool) -> None:
    tensors = random_input(shape)
    used = [t for name, t in tensors.items() if (name != "mask" or mask) and (name != "bias" or bias)]
    expected = torchvision.ops.deform_conv2d(
        tensors["x"],
        tensors["offset"],
        tensors["weight"],
        tensors["bias"] if bias else None,
        *shape[3:6],
        mask=tensors["mask"] if mask else None,
    )
    found = convolve(tensors, shape, mask, bias)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn_like(expected)
    for grad, wanted in zip(
        torch.autograd.grad(found, used, upstream),
        torch.autograd.grad(expected, used, upstream),
        strict=True,
    ):
        torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[7] == 1])
def test_without_offsets_it_is_a_convolution(seed: int, shape: tuple[Any, ...]) -> None:
    tensors = random_input(shape, spread=0.0)
    expected = F.conv2d(tensors["x"], tensors["weight"], tensors["bias"], *shape[3:7])
    torch.testing.assert_close(convolve(tensors, shape, mask=False), expected)
    with torch.no_grad():
        tensors["mask"].fill_(0.25)
    expected = F.conv2d(tensors["x"], tensors["weight"] / 4, tensors["bias"], *shape[3:7])
    torch.testing.assert_close(convolve(tensors, shape), expected)


def test_whole_offsets_move_the_image(seed: int) -> None:
    """The first half of the channels is read two lower and one to the left; zeros come in from outside."""
    x, weight = torch.randn(1, 4, 7, 8), torch.randn(3, 4, 3, 3)
    offset = torch.zeros(1, 36, 7, 8)
    offset[:, :18:2], offset[:, 1:18:2] = 2.0, -1.0
    padded = F.pad(x, (4, 4, 4, 4))
    moved = torch.cat([padded[:, :2, 5:14, 2:12], padded[:, 2:, 3:12, 3:13]], dim=1)
    found = ops.deform_conv2d(x, offset, None, weight, None, padding=1, deformable_groups=2)
    torch.testing.assert_close(found, F.conv2d(moved, weight), rtol=1e-5, atol=1e-5)


def test_far_offsets_give_the_bias_and_no_gradient(seed: int) -> None:
    x, weight = torch.randn(2, 3, 5, 6, requires_grad=True), torch.randn(4, 3, 3, 3)
    for distance in (12.0, -12.0, 1e30, torch.inf, -torch.inf):
        offset = torch.full((2, 18, 5, 6), distance, requires_grad=True)
        found = ops.deform_conv2d(x, offset, torch.rand(2, 9, 5, 6), weight, torch.arange(4.0), padding=1)
        torch.testing.assert_close(found, torch.arange(4.0)[:, None, None].expand(2, 4, 5, 6))
        for grad in torch.autograd.grad(found.sum(), (x, offset)):
            assert not grad.any()


def test_an_offset_that_is_not_a_number_shows() -> None:
    offset = torch.zeros(1, 18, 4, 4)
    offset[0, 3, 1, 2] = torch.nan
    found = ops.deform_conv2d(torch.ones(1, 1, 4, 4), offset, None, torch.ones(1, 1, 3, 3), None, padding=1)
    assert found.isnan().nonzero().tolist() == [[0, 0, 1, 2]]


def test_on_a_pixel_the_slope_is_the_one_toward_larger_coordinates() -> None:
    x = torch.tensor([1.0, 4, 9, 16]).reshape(1, 1, 1, 4)
    offset = torch.zeros(1, 2, 1, 4, requires_grad=True)
    ops.deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1), None).sum().backward()
    assert offset.grad is not None
    # Below the only row and right of the last column lie zeros.
    assert offset.grad[0, 0, 0].tolist() == [-1, -4, -9, -16]
    assert offset.grad[0, 1, 0].tolist() == [3, 5, 7, -16]


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[5]])
def test_gradcheck(seed: int, shape: tuple[Any, ...]) -> None:
    tensors = random_input(shape)
    with torch.no_grad():
        # Away from whole numbers, where the derivative jumps.
        offset = tensors["offset"]
        offset.copy_(offset.floor() + 0.2 + 0.6 * torch.rand_like(offset))
    names = list(tensors)
    assert torch.autograd.gradcheck(
        lambda *given: convolve(dict(zip(names, given, strict=True)), shape),
        tuple(tensors.values()),
        fast_mode=True,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_smaller_types(seed: int, dtype: torch.dtype) -> None:
    tensors = {name: t.detach().to(dtype).requires_grad_() for name, t in random_input(SHAPES[1]).items()}
    found = convolve(tensors, SHAPES[1])
    assert found.dtype == dtype
    exact = convolve({name: t.double() for name, t in tensors.items()}, SHAPES[1])
    # Samples are rounded to the type, sums of their products only at the end.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found, exact.to(dtype), rtol=3 * eps, atol=max(eps * float(exact.detach().abs().max()), 1e-5)
    )
    found.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == dtype for t in tensors.values())


def gradients(
    t: dict[str, Tensor], shape: tuple[Any, ...], convolution: Callable[..., Tensor] = convolve
) -> list[Tensor]:
    """Result and gradients, where the upstream gradient is the same in every call."""
    copies = {name: tensor.detach().clone().requires_grad_() for name, tensor in t.items()}
    out = convolution(copies, shape)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad(out, list(copies.values()), upstream.to(out))]


def by_reference(t: dict[str, Tensor], shape: tuple[Any, ...]) -> Tensor:
    pairs = [(value, value) if isinstance(value, int) else value for value in shape[3:6]]
    return reference.deform_conv2d(
        t["x"], t["offset"], t["mask"], t["weight"], t["bias"], *pairs, shape[6], shape[7]
    )


def some(t: Tensor, share: float) -> Tensor:
    return torch.rand_like(t) < share


def awkward_places(shape: tuple[Any, ...]) -> dict[str, Tensor]:
    """Random input of which many samples lie exactly on rows, columns and edges, or far off the map."""
    tensors = {name: t.detach() for name, t in random_input(shape, spread=6.0).items()}
    offset, kernel = tensors["offset"], shape[2]
    stride, padding, dilation = ((p, p) if isinstance(p, int) else p for p in shape[3:6])
    by_tap = offset.unflatten(1, (shape[7], *kernel, 2))
    for axis in (0, 1):
        steps = torch.arange(offset.shape[2 + axis]).double() * stride[axis] - padding[axis]
        taps = torch.arange(kernel[axis]).double() * dilation[axis]
        start = (steps[:, None] if axis == 0 else steps) + taps.reshape([-1, *[1] * (3 - axis)])
        move, size = by_tap[:, :, :, :, axis], tensors["x"].shape[2 + axis]
        start = start.expand_as(move)
        # Where a row or column is, the first and last ones, and where the map ends on either side.
        for place in (move.round() + start, *(torch.full_like(move, p) for p in (-1, 0, size - 1, size))):
            chosen = some(move, 0.1)
            move[chosen] = (place - start)[chosen]
    offset[some(offset, 0.02)] = torch.inf
    offset[some(offset, 0.02)] = -1e30
    return tensors


@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_the_reference_at_every_place(seed: int, shape: tuple[Any, ...]) -> None:
    """On rows, columns, corners and edges of the map, just off it, far off and infinite, with gradients."""
    tensors = awkward_places(shape)
    for found, expected in zip(
        gradients(tensors, shape), gradients(tensors, shape, by_reference), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_the_reference_with_numbers_that_are_not_finite(seed: int, shape: tuple[Any, ...]) -> None:
    tensors = awkward_places(shape)
    for value in (torch.inf, torch.nan):
        tensors["x"][some(tensors["x"], 0.005)] = value
        tensors["offset"][some(tensors["offset"], 0.005)] = value
    found, expected = gradients(tensors, shape), gradients(tensors, shape, by_reference)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)
    # A place that is not a number takes no part of the image, so it has no gradient to give to it.
    lost = tensors["offset"].new_full(tensors["offset"].shape, torch.nan)
    for convolution in (convolve, by_reference):
        assert not gradients({**tensors, "offset": lost}, shape, convolution)[1].any()


def test_what_lies_off_the_map_is_zero_whatever_the_image_holds() -> None:
    x = torch.full((1, 1, 3, 3), torch.inf)
    x[..., 1, 1] = 1.0
    offset = torch.zeros(1, 2, 3, 3)
    offset[:, :, 0, 0] = 1.0
    offset[:, :, 2, 2] = torch.tensor([100.0, -1.0])
    found = ops.deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1), None)
    assert found[0, 0, 2, 2] == 0


def test_no_images() -> None:
    x, weight = torch.zeros(0, 4, 5, 6, requires_grad=True), torch.randn(6, 2, 3, 3, requires_grad=True)
    offset, mask = torch.zeros(0, 36, 3, 3), torch.zeros(0, 18, 3, 3)
    found = ops.deform_conv2d(x, offset, mask, weight, None, 2, 1, 1, 2, 2)
    assert found.shape == (0, 6, 3, 3)
    assert not torch.autograd.grad(found.sum(), (x, weight))[1].any()


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        ({"x": torch.zeros(4, 8, 8)}, {}, "four dimensions"),
        ({}, {"stride": 0}, "at least 1"),
        ({}, {"deformable_groups": 0}, "at least 1"),
        ({}, {"groups": 3}, r"weight \(6, 4, 3, 3\) does not fit 4 channels in 3 groups"),
        ({}, {"groups": 2}, "does not fit 4 channels in 2 groups"),
        ({}, {"deformable_groups": 3}, "4 channels do not divide into 3 deformable groups"),
        ({"bias": torch.zeros(4)}, {}, r"bias must be \(6,\)"),
        ({"offset": torch.zeros(2, 9, 8, 8)}, {}, r"offset must be \(2, 18, 8, 8\)"),
        ({"offset": torch.zeros(1, 18, 8, 8)}, {}, r"offset must be \(2, 18, 8, 8\)"),
        ({"mask": torch.zeros(2, 9, 6, 6)}, {}, r"mask must be \(2, 9, 8, 8\)"),
        ({}, {"stride": 2}, r"offset must be \(2, 18, 4, 4\)"),
        ({}, {"deformable_groups": 2}, r"offset must be \(2, 36, 8, 8\)"),
        ({}, {"dilation": 9}, "smaller than the kernel"),
        ({"x": torch.zeros(2, 4, 8, 8, dtype=torch.int64)}, {}, "floating point, got x torch.int64"),
        ({"bias": torch.zeros(6, dtype=torch.int64)}, {}, "bias torch.int64"),
        ({"offset": torch.zeros(2, 18, 8, 8, device="meta")}, {}, "one device, got x on cpu, offset on meta"),
        ({"x": torch.zeros(2, 0, 8, 8), "weight": torch.zeros(6, 0, 3, 3)}, {}, "must not be empty"),
        ({"weight": torch.zeros(6, 4, 0, 3)}, {}, "must not be empty"),
        ({"weight": torch.zeros(0, 4, 3, 3)}, {}, "must not be empty"),
        (
            {},
            {"stride": (1, 1, 1)},
            r"stride must be one number or \(vertical, horizontal\), got \(1, 1, 1\)",
        ),
        ({}, {"padding": (1,)}, "padding must be one number"),
    ],
)
def test_wrong_arguments(changed: dict[str, Tensor], settings: dict[str, Any], message: str) -> None:
    tensors = {
        "x": torch.zeros(2, 4, 8, 8),
        "offset": torch.zeros(2, 18, 8, 8),
        "mask": torch.zeros(2, 9, 8, 8),
        "weight": torch.zeros(6, 4, 3, 3),
        "bias": torch.zeros(6),
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        ops.deform_conv2d(**tensors, **{"padding": 1, **settings})


def test_tensors_without_data_give_one() -> None:
    with torch.device("meta"):
        x, weight = torch.zeros(2, 4, 8, 8), torch.zeros(6, 4, 3, 3, requires_grad=True)
        found = ops.deform_conv2d(x, torch.zeros(2, 18, 8, 8), None, weight, None, padding=1)
    assert found.shape == (2, 6, 8, 8)
    assert torch.autograd.grad(found.sum(), weight)[0].shape == weight.shape
