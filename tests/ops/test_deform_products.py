"""How deformable convolution computes: types, layouts, pieces, threads, memory, torch.compile."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from labelenc import ops
from labelenc.ops import deform_products, library

# The package has a function of the same name.
DEFORM_CONV = importlib.import_module("labelenc.ops.deform_conv")
# groups, deformable groups
GROUPS = [(1, 1), (2, 1), (1, 3), (6, 2)]


def random_input(groups: tuple[int, int], channels: int = 12, size: int = 9) -> dict[str, Tensor]:
    """Two float64 images, channels last, for a 3x3 kernel with stride 1."""
    fields = 9 * groups[1]
    tensors = {
        "x": torch.randn(2, size, size, channels).permute(0, 3, 1, 2),
        "offset": torch.randn(2, 2 * fields, size, size) * 2,
        "mask": torch.rand(2, fields, size, size),
        "weight": torch.randn(6, channels // groups[0], 3, 3),
        "bias": torch.randn(6),
    }
    return {name: tensor.double() for name, tensor in tensors.items()}


def convolve(t: dict[str, Tensor], groups: tuple[int, int] = (1, 1)) -> Tensor:
    return ops.deform_conv2d(**t, padding=1, groups=groups[0], deformable_groups=groups[1])


def results(
    t: dict[str, Tensor], groups: tuple[int, int] = (1, 1), convolution: Callable[..., Tensor] = convolve
) -> list[Tensor]:
    """Result and gradients, where the upstream gradient is the same in every call."""
    copies = {name: tensor.detach().clone().requires_grad_() for name, tensor in t.items()}
    out = convolution(copies, groups)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad(out, list(copies.values()), upstream.to(out))]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_under_autocast(seed: int) -> None:
    """The product runs in the autocast type, whatever that of the arguments; gradients have their type."""
    tensors = {name: t.float().requires_grad_() for name, t in random_input((1, 1)).items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(tensors)
        grads = torch.autograd.grad(found.sum(), list(tensors.values()))
        mixed = convolve({**tensors, "x": tensors["x"].bfloat16(), "mask": tensors["mask"].bfloat16()})
    assert found.dtype == mixed.dtype == torch.bfloat16
    assert all(grad.dtype == torch.float32 for grad in grads)
    rounded = {name: t if name in ("offset", "mask") else t.bfloat16() for name, t in tensors.items()}
    assert torch.equal(found, convolve(rounded))
    torch.testing.assert_close(mixed, found, rtol=0.05, atol=0.2)
    torch.testing.assert_close(found.float(), convolve(tensors), rtol=0.05, atol=0.2)


def test_autocast_does_not_round_offsets() -> None:
    """1000.25 is no bfloat16: the sample would move by a quarter of a pixel."""
    x = torch.zeros(1, 1, 1, 1002)
    x[..., 1000:] = torch.tensor([4.0, 8.0])
    offset = torch.tensor([0.0, 1000.25]).reshape(1, 2, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.deform_conv2d(x, offset, None, torch.ones(1, 1, 1, 1), None, stride=1002)
    assert found.item() == 5.0


def test_float16_on_the_cpu_is_float32_rounded_once(seed: int) -> None:
    narrow = {name: t.half().requires_grad_() for name, t in random_input((2, 3)).items()}
    wide = {name: t.detach().float().requires_grad_() for name, t in narrow.items()}
    out, exact = convolve(narrow, (2, 3)), convolve(wide, (2, 3))
    assert torch.equal(out, exact.half())
    upstream = torch.randn_like(out)
    grads = torch.autograd.grad(out, list(narrow.values()), upstream)
    for grad, wanted in zip(
        grads, torch.autograd.grad(exact, list(wide.values()), upstream.float()), strict=True
    ):
        assert torch.equal(grad, wanted.half())


def test_layout_does_not_matter(seed: int) -> None:
    tensors = random_input((6, 2))
    expected = convolve({name: t.contiguous() for name, t in tensors.items()}, (6, 2))
    spread = {name: torch.stack([t, -t], dim=-1)[..., 0] for name, t in tensors.items()}
    last = {
        name: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
        for name, t in tensors.items()
    }
    for same in (tensors, spread, last):
        torch.testing.assert_close(convolve(same, (6, 2)), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_of_results(seed: int, layout: torch.memory_format) -> None:
    """Result and gradient of x are laid out as x."""
    tensors = random_input((1, 1))
    x = tensors["x"].contiguous(memory_format=layout).requires_grad_()
    found = convolve({**tensors, "x": x})
    assert found.is_contiguous(memory_format=layout)
    (grad,) = torch.autograd.grad(found, x, torch.randn(2, 6, 9, 9, dtype=torch.float64))
    assert grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("rows", [1, 7, 50])
def test_pieces_do_not_matter(
    seed: int, groups: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = random_input(groups)
    expected = results(tensors, groups)
    monkeypatch.setitem(deform_products.BYTES_AT_ONCE, "cpu", rows * 8 * 12 * 9)
    assert_same(results(tensors, groups), expected)


@pytest.mark.parametrize("groups", [(1, 1), (1, 2), (6, 1)])
@pytest.mark.parametrize("images", [1, 2])
def test_threads_do_not_matter(seed: int, groups: tuple[int, int], images: int) -> None:
    """Large enough that threads share the channels of a deformable group."""
    tensors = random_input(groups, channels=96, size=40)
    for name in ("x", "offset", "mask"):
        tensors[name] = tensors[name][:images]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(tensors, groups)
        torch.set_num_threads(4)
        assert_same(results(tensors, groups), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("stand_in", [False, True])
@pytest.mark.parametrize("names", [["weight"], ["x"], ["mask", "bias"], ["offset", "weight"], ["bias"]])
def test_any_choice_of_gradients(seed: int, names: list[str], stand_in: bool) -> None:
    tensors = random_input((2, 1))
    inputs = (*tensors.values(), [1, 1], [1, 1], [1, 1], 2, 1)
    grad = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    backward = DEFORM_CONV._backward_stand_in if stand_in else torch.ops.labelenc.deform_conv2d_backward
    every = torch.ops.labelenc.deform_conv2d_backward(grad, *inputs, [True] * 5)
    some = backward(grad, *inputs, [name in names for name in tensors])
    for name, found, expected in zip(tensors, some, every, strict=True):
        torch.testing.assert_close(found, expected if name in names else expected.new_empty(0))


@pytest.mark.skipif(library.build is None, reason="labelenc.ops was not compiled")
@pytest.mark.parametrize(("name", "kernel"), [("weight", "deform_columns"), ("bias", None)])
def test_gradients_that_nobody_asks_for_are_not_computed(seed: int, name: str, kernel: str | None) -> None:
    tensors = random_input((1, 1))
    tensors[name].requires_grad_()
    out = convolve(tensors)
    with torch.profiler.profile() as profile:
        out.sum().backward()
    called = {event.name for event in profile.events() if event.name.startswith("labelenc::deform_columns")}
    assert called == (set() if kernel is None else {f"labelenc::{kernel}"})


def test_only_the_arguments_are_kept_for_the_backward_pass(seed: int) -> None:
    tensors = {name: t.float().requires_grad_() for name, t in random_input((1, 1)).items()}
    kept: list[int] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t.data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        convolve(tensors)
    assert set(kept) == {t.data_ptr() for t in tensors.values()}


def test_second_derivative_is_an_error(seed: int) -> None:
    tensors = {name: t.requires_grad_() for name, t in random_input((1, 1)).items()}
    (grad,) = torch.autograd.grad(convolve(tensors).square().sum(), tensors["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="deform_conv2d can be differentiated only once"):
        grad.sum().backward()


@pytest.mark.parametrize("groups", [(1, 1), (6, 2)])
@pytest.mark.parametrize("modulated", [True, False])
def test_opcheck(seed: int, groups: tuple[int, int], modulated: bool) -> None:
    t = {name: tensor.float().requires_grad_() for name, tensor in random_input(groups).items()}
    mask = t["mask"] if modulated else None
    inputs = (t["x"], t["offset"], mask, t["weight"], t["bias"], [1, 1], [1, 1], [1, 1], *groups)
    torch.library.opcheck(torch.ops.labelenc.deform_conv2d.default, inputs)
    plain = [i.detach() if isinstance(i, Tensor) else i for i in inputs]
    grad = torch.randn_like(torch.ops.labelenc.deform_conv2d(*plain))
    every = [True, True, modulated, True, True]
    for needed in (every, [False, False, False, True, False], [False, True, False, False, True]):
        given = (grad, *plain, needed)
        torch.library.opcheck(torch.ops.labelenc.deform_conv2d_backward.default, given)
    # What takes the place of kernels that were not compiled agrees with them, layouts included.
    expected = torch.ops.labelenc.deform_conv2d(*plain)
    assert DEFORM_CONV._stand_in(*plain).stride() == expected.stride()
    torch.testing.assert_close(DEFORM_CONV._stand_in(*plain), expected, rtol=1e-3, atol=1e-3)
    found = torch.ops.labelenc.deform_conv2d_backward(grad, *plain, every)
    for one, other in zip(found, DEFORM_CONV._backward_stand_in(grad, *plain, every), strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(library.build is None, reason="labelenc.ops was not compiled")
def test_the_kernels_change_what_they_say(seed: int) -> None:
    x, offset, mask, columns = (
        torch.randn(shape) for shape in ((2, 5, 6, 4), (2, 36, 5, 6), (2, 18, 5, 6), (40, 2, 9, 2))
    )
    grads = [torch.zeros_like(t) for t in (x, offset, mask)]
    rest = (7, [3, 2, 1, 1, 1, 1, 1, 1])
    kernels = torch.ops.labelenc
    torch.library.opcheck(
        kernels.deform_columns.default, (x, offset, mask, columns, *rest), test_utils="test_schema"
    )
    torch.library.opcheck(
        kernels.deform_columns_backward.default,
        (x, offset, mask, columns, *grads, *rest),
        test_utils="test_schema",
    )


@pytest.mark.skipif(library.build is None, reason="labelenc.ops was not compiled")
def test_the_kernels_refuse_what_does_not_fit() -> None:
    x, offset, columns = torch.zeros(1, 4, 5, 6), torch.zeros(1, 18, 4, 5), torch.zeros(20, 1, 9, 6)
    settings = [3, 1, 1, 1, 1, 1, 1, 1]
    kernel = torch.ops.labelenc.deform_columns
    kernel(x, offset, None, columns, 0, settings)
    for changed in (
        {"x": x.transpose(1, 2)},
        {"offset": torch.zeros(1, 20, 4, 5)},
        {"offset": offset.double()},
        {"mask": torch.zeros(1, 8, 4, 5)},
        {"columns": torch.zeros(21, 1, 9, 6)},
        {"columns": torch.zeros(20, 2, 9, 6)},
        {"columns": columns.half()},
        {"first": -1},
        {"first": 1},
        {"geometry": settings[:7]},
    ):
        given = {"x": x, "offset": offset, "mask": None, "columns": columns, "first": 0, "geometry": settings}
        with pytest.raises(RuntimeError, match="deform_columns"):
            kernel(**{**given, **changed})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_as_a_whole(seed: int) -> None:
    tensors = {name: t.float() for name, t in random_input((2, 1)).items()}
    compiled = torch.compile(convolve, fullgraph=True, backend="aot_eager")
    for found, expected in zip(results(tensors, (2, 1), compiled), results(tensors, (2, 1)), strict=True):
        torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(tensors, (2, 1)).dtype == torch.bfloat16


def test_the_same_again_on_the_cpu(seed: int) -> None:
    tensors = random_input((1, 1))
    torch.use_deterministic_algorithms(True)
    try:
        once, again = results(tensors), results(tensors)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
