"""The CUDA kernels of deformable convolution against torchvision and the CPU; skips without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import deform_products, library

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(not library.has_cuda_kernels, reason="labelenc.ops was built without CUDA kernels"),
]

# in channels, out channels, kernel, stride, padding, dilation, groups, deformable groups
SHAPES: list[tuple[Any, ...]] = [
    (64, 32, (3, 3), 1, 1, 1, 1, 1),
    (48, 32, (3, 3), 2, 1, 1, 2, 1),
    (64, 32, (3, 3), 1, 2, 2, 4, 2),
    (6, 4, (3, 3), 1, 1, 1, 2, 3),
    (300, 2, (1, 1), 1, 0, 1, 1, 1),
    (40, 4, (5, 5), 1, 2, 1, 1, 5),
    (2, 3, (3, 1), (2, 1), (1, 0), (2, 1), 1, 2),
]


def random_input(shape: tuple[Any, ...], images: int = 2, spread: float = 2.0) -> dict[str, Tensor]:
    channels, outs, kernel, *pairs, groups, deformable_groups = shape
    stride, padding, dilation = ((p, p) if isinstance(p, int) else p for p in pairs)
    size = (int(torch.randint(9, 24, ())), int(torch.randint(9, 24, ())))
    where = [(size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    fields = deformable_groups * kernel[0] * kernel[1]
    tensors = {
        "x": torch.randn(images, channels, *size),
        "offset": torch.randn(images, 2 * fields, *where) * spread,
        "mask": torch.rand(images, fields, *where),
        "weight": torch.randn(outs, channels // groups, *kernel),
        "bias": torch.randn(outs),
    }
    return {name: tensor.double() for name, tensor in tensors.items()}


def results(t: dict[str, Tensor], shape: tuple[Any, ...], modulated: bool = True) -> list[Tensor]:
    """Result and gradients on the CPU, where the upstream gradient is the same in every call."""
    given = {name: tensor.detach().requires_grad_() for name, tensor in t.items()}
    mask = given["mask"] if modulated else None
    out = ops.deform_conv2d(given["x"], given["offset"], mask, given["weight"], given["bias"], *shape[3:])
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    wanted = [tensor for name, tensor in given.items() if modulated or name != "mask"]
    return [t.detach().cpu() for t in (out, *torch.autograd.grad(out, wanted, upstream.to(out)))]


def moved(t: dict[str, Tensor], *to: Any) -> dict[str, Tensor]:
    return {name: tensor.to(*to) for name, tensor in t.items()}


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_on_the_cpu(seed: int, shape: tuple[Any, ...], modulated: bool) -> None:
    tensors = random_input(shape, spread=6.0)
    tensors["offset"][torch.rand_like(tensors["offset"]) < 0.2] = 1.0
    tensors["offset"][torch.rand_like(tensors["offset"]) < 0.02] = torch.inf
    expected = results(tensors, shape, modulated)
    for found, wanted in zip(results(moved(tensors, "cuda"), shape, modulated), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_smaller_types(seed: int, shape: tuple[Any, ...], dtype: torch.dtype) -> None:
    # Offsets away from whole numbers: there the gradient jumps, and rounding decides on which side it is.
    tensors = random_input(shape)
    tensors["offset"] = tensors["offset"].floor() + 0.2 + 0.6 * torch.rand_like(tensors["offset"])
    given = {name: t.float() if name in ("offset", "mask") else t.to(dtype) for name, t in tensors.items()}
    expected = results(moved(given, torch.float64), shape)
    for found, wanted in zip(results(moved(given, "cuda"), shape), expected, strict=True):
        scale = float(wanted.abs().max())
        tolerance = 8 * torch.finfo(dtype).eps if dtype != torch.float32 else 5e-3
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(100, 152, 128), (25, 38, 512)])
def test_same_as_torchvision_at_the_size_of_a_training_step(
    seed: int, size: tuple[int, int, int], channels_last: bool
) -> None:
    height, width, channels = size
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, channels, height, width, device="cuda").contiguous(memory_format=layout)
    offset, mask = torch.randn(2, 18, height, width).cuda() * 2, torch.rand(2, 9, height, width).cuda()
    weight = torch.randn(channels, channels, 3, 3, device="cuda") / (3 * channels**0.5)
    given = [t.requires_grad_() for t in (x, offset, mask, weight)]
    expected = torchvision.ops.deform_conv2d(x, offset, weight, None, 1, 1, 1, mask)
    found = ops.deform_conv2d(x, offset, mask, weight, None, 1, 1, 1)
    assert found.is_contiguous(memory_format=layout)
    upstream = torch.randn_like(expected)
    for one, other in zip(
        (found, *torch.autograd.grad(found, given, upstream)),
        (expected, *torch.autograd.grad(expected, given, upstream)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3 * float(other.detach().abs().max()))


@pytest.mark.parametrize("shape", SHAPES[:4])
def test_pieces_do_not_matter(seed: int, shape: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = moved(random_input(shape), "cuda")
    expected = results(tensors, shape)
    monkeypatch.setitem(deform_products.BYTES_AT_ONCE, "cuda", 8 * 9 * shape[0] * 37)
    for found, wanted in zip(results(tensors, shape), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_offset_that_is_not_a_number_shows() -> None:
    offset = torch.zeros(1, 18, 4, 4, device="cuda")
    offset[0, 3, 1, 2] = torch.nan
    x, weight = torch.ones(1, 1, 4, 4, device="cuda"), torch.ones(1, 1, 3, 3, device="cuda")
    found = ops.deform_conv2d(x, offset, None, weight, None, padding=1)
    assert found.isnan().nonzero().tolist() == [[0, 0, 1, 2]]


def test_no_images() -> None:
    x = torch.zeros(0, 4, 5, 6, device="cuda", requires_grad=True)
    weight = torch.randn(6, 4, 3, 3, device="cuda", requires_grad=True)
    found = ops.deform_conv2d(x, torch.zeros(0, 18, 5, 6, device="cuda"), None, weight, None, 1, 1)
    assert found.shape == (0, 6, 5, 6)
    assert not torch.autograd.grad(found.sum(), (x, weight))[1].any()


def test_under_autocast(seed: int) -> None:
    given = moved(random_input(SHAPES[0]), "cuda", torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        found = ops.deform_conv2d(**given, padding=1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), ops.deform_conv2d(**given, padding=1), rtol=0.05, atol=0.5)


def test_deterministic_algorithms_are_demanded_of_the_backward_pass_only(seed: int) -> None:
    tensors = moved(random_input(SHAPES[0]), "cuda")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.warns(UserWarning, match="deform_conv2d_backward does not have a deterministic"):
            results(tensors, SHAPES[0])
    finally:
        torch.use_deterministic_algorithms(False)


def test_strict_determinism_forbids_the_gradient_of_the_image_only(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it, PyTorch refuses the matrix products before anything else.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    given = moved(random_input(SHAPES[0]), "cuda")
    given["weight"].requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        once, again = (
            torch.autograd.grad(ops.deform_conv2d(**given, padding=1).sum(), given["weight"])[0]
            for _ in range(2)
        )
        assert torch.equal(once, again)
        out = ops.deform_conv2d(**{**given, "x": given["x"].requires_grad_()}, padding=1)
        with pytest.raises(RuntimeError, match="deform_conv2d_backward does not have a deterministic"):
            out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("names", [["weight"], ["x"], ["mask", "bias"], ["offset", "weight"], ["bias"]])
def test_any_choice_of_gradients(seed: int, names: list[str]) -> None:
    given = moved(random_input(SHAPES[0]), "cuda")
    expected = dict(zip(given, results(given, SHAPES[0])[1:], strict=True))
    wanted = [given[name].requires_grad_() for name in names]
    out = ops.deform_conv2d(*given.values(), *SHAPES[0][3:])
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    for name, grad in zip(names, torch.autograd.grad(out, wanted, upstream.to(out)), strict=True):
        torch.testing.assert_close(grad.cpu(), expected[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_waits_for_the_host(seed: int, dtype: torch.dtype) -> None:
    given = {name: t.requires_grad_() for name, t in moved(random_input(SHAPES[0]), "cuda", dtype).items()}
    # The first call may have to set up the library of matrix products.
    torch.autograd.grad(ops.deform_conv2d(**given, padding=1).sum(), list(given.values()))
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = ops.deform_conv2d(**given, padding=1)
        grads = torch.autograd.grad(out, list(given.values()), torch.ones_like(out))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(grad.isfinite().all() for grad in grads)


def test_opcheck_and_compile(seed: int) -> None:
    given = moved(random_input(SHAPES[0]), "cuda", torch.float32)
    inputs = [t.requires_grad_() for t in given.values()]
    torch.library.opcheck(
        torch.ops.labelenc.deform_conv2d.default,
        (*inputs, [1, 1], [1, 1], [1, 1], 1, 1),
        rtol=1e-3,
        atol=1e-3,
    )
    compiled = torch.compile(ops.deform_conv2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs, padding=1), ops.deform_conv2d(*inputs, padding=1))


def test_on_another_stream(seed: int) -> None:
    given = moved(random_input(SHAPES[0]), "cuda", torch.float32)
    expected = ops.deform_conv2d(**given, padding=1)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = ops.deform_conv2d(**given, padding=1)
    stream.synchronize()
    torch.testing.assert_close(found, expected)
