"""Deformable convolution, with and without modulation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import deform_products, library, reference

_SETTINGS = "int[2] stride, int[2] padding, int[2] dilation, int groups, int deformable_groups"
_INPUTS = f"Tensor x, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, {_SETTINGS}"
SCHEMA = f"deform_conv2d({_INPUTS}) -> Tensor"
BACKWARD_SCHEMA = (
    f"deform_conv2d_backward(Tensor grad, {_INPUTS}, bool[5] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """Deformable convolution (Dai et al., ICCV 2017), modulated with a mask (Zhu et al., CVPR 2019, eq. 1).

    Each tap of the kernel is read at its place in an ordinary convolution plus an offset, bilinearly between
    four pixels of which those outside of the image are 0, and multiplied by the mask.

    Args:
        x: (N, C, H, W), any floating type and layout. Samples of half types are interpolated in float32 and
            rounded to the type once; sums over channels and taps run in float32. On the CPU float16 is not
            rounded before the end.
        offset: (N, 2 * deformable_groups * K, Ho, Wo) in pixels of ``x``, K = kernel height * width: channels
            ``2 (g K + k)`` and the next are dy and dx of tap k (row by row) in deformable group g.
        mask: (N, deformable_groups * K, Ho, Wo), factors such as the sigmoid of a convolution; channel
            ``g K + k``. None is the unmodulated form, as if all were 1.
        weight: (O, C / groups, kernel height, kernel width).
        bias: (O,) or None.
        stride, padding, dilation: of the convolution, one number or (vertical, horizontal).
        groups: of the convolution. ``deformable_groups`` divide the channels of ``x`` anew: consecutive
            channels that share offsets.

    Returns:
        (N, O, Ho, Wo) of the type of ``x``, channels last if ``x`` is, else contiguous. Gradients reach all
        tensors, once. Where an offset leads exactly onto a row or column, the derivative to it is the one
        toward larger coordinates. A sample a pixel or more off the image is 0 and has no gradients; one whose
        place is not a number is not a number either.

    Under autocast ``x``, ``weight`` and ``bias`` go to its type. Offsets and mask never do: places are
    computed in float32, so that no fraction of a pixel is rounded away.

    Only the arguments are kept for the backward pass, those that autocast converted as its copies. Memory is
    needed for ``deform_products.BYTES_AT_ONCE``; for channels-last copies of ``x``, the result and their
    gradients where they have another layout; and for the gradient of ``x`` in float32 where that has a half
    type. On a GPU this gradient is added up in any order: where ``x`` needs one,
    ``torch.use_deterministic_algorithms`` forbids the backward pass.

    Raises:
        ValueError: on wrong shapes, types, devices or settings.
    """
    strides, paddings, dilations = (
        _pair(name, value)
        for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
    )
    _check_tensors({"x": x, "offset": offset, "mask": mask, "weight": weight, "bias": bias})
    _check_settings(x, weight, bias, (*strides, *dilations), groups, deformable_groups)
    sizes = [
        (length + 2 * pad - spread * (taps - 1) - 1) // step + 1
        for length, pad, spread, taps, step in zip(
            x.shape[2:], paddings, dilations, weight.shape[2:], strides, strict=True
        )
    ]
    _check_fields(x, offset, mask, weight, sizes, deformable_groups)
    device = x.device.type
    # Not all devices know autocast: "meta" doesn't.
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        x = x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(device))
    accumulation_type = torch.float64 if x.dtype == torch.float64 else torch.float32
    out: Tensor = torch.ops.labelenc.deform_conv2d(
        x,
        offset.to(accumulation_type),
        None if mask is None else mask.to(accumulation_type),
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        strides,
        paddings,
        dilations,
        groups,
        deformable_groups,
    )
    return out


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name} must be one number or (vertical, horizontal), got {value}")
    return value


def _check_tensors(tensors: dict[str, Tensor | None]) -> None:
    given = {name: t for name, t in tensors.items() if t is not None}
    if not all(t.is_floating_point() for t in given.values()):
        found = ", ".join(f"{name} {t.dtype}" for name, t in given.items())
        raise ValueError(f"all tensors must be floating point, got {found}")
    if len({t.device for t in given.values()}) > 1:
        found = ", ".join(f"{name} on {t.device}" for name, t in given.items())
        raise ValueError(f"all tensors must be on one device, got {found}")


def _check_settings(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    steps: tuple[int, ...],
    groups: int,
    deformable_groups: int,
) -> None:
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f"x and weight must have four dimensions, got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if x.shape[1] == 0 or 0 in weight.shape:
        raise ValueError(
            "channels and kernel must not be empty, got x and weight "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if min(*steps, groups, deformable_groups) < 1:
        raise ValueError("stride, dilation, groups and deformable_groups must be at least 1")
    channels, out_channels = x.shape[1], weight.shape[0]
    if channels % groups or out_channels % groups or weight.shape[1] != channels // groups:
        raise ValueError(
            f"weight {tuple(weight.shape)} does not fit {channels} channels in {groups} groups: it must be "
            "(out channels, channels / groups, height, width)"
        )
    if channels % deformable_groups:
        raise ValueError(f"{channels} channels do not divide into {deformable_groups} deformable groups")
    if bias is not None and bias.shape != (out_channels,):
        raise ValueError(f"bias must be ({out_channels},), got {tuple(bias.shape)}")


def _check_fields(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    sizes: list[int],
    deformable_groups: int,
) -> None:
    if min(sizes) < 1:
        raise ValueError(f"x {tuple(x.shape)} is smaller than the kernel {tuple(weight.shape[2:])}")
    count = deformable_groups * weight.shape[2] * weight.shape[3]
    for name, field, channels in (("offset", offset, 2 * count), ("mask", mask, count)):
        if field is not None and field.shape != (x.shape[0], channels, *sizes):
            raise ValueError(
                f"{name} must be {(len(x), channels, *sizes)} for this x, kernel and number of deformable "
                f"groups, got {tuple(field.shape)}"
            )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:5])
    grads = torch.ops.labelenc.deform_conv2d_backward(grad, *ctx.saved_tensors, *ctx.settings, needed)
    found = (g if wanted else None for g, wanted in zip(grads, needed, strict=True))
    return *found, *[None] * len(ctx.settings)


def _stand_in(x: Tensor, *inputs: Any) -> Tensor:
    out = reference.deform_conv2d(x, *inputs)
    return out.contiguous(memory_format=deform_products.memory_format(x))


def _backward_stand_in(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    settings, needed = inputs[5:-1], inputs[-1]
    with library.autograd_inside():
        tensors: list[Any] = [
            t if t is None else t.detach().requires_grad_(wanted)
            for t, wanted in zip(inputs[:5], needed, strict=True)
        ]
        out = reference.deform_conv2d(*tensors, *settings)
        found = iter(
            torch.autograd.grad(out, [t for t in tensors if t is not None and t.requires_grad], grad)
        )
    return tuple(
        next(found).contiguous(memory_format=layout) if wanted else inputs[0].new_empty(0)
        for layout, wanted in zip(_layouts(inputs[0], inputs[3]), needed, strict=True)
    )


def _fake(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, *_: Any) -> Tensor:
    out = x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])
    return out.contiguous(memory_format=deform_products.memory_format(x))


def _layouts(x: Tensor, weight: Tensor) -> list[torch.memory_format]:
    """Of the gradients to x, offset, mask, weight and bias."""
    dense = torch.contiguous_format
    return [deform_products.memory_format(x), dense, dense, deform_products.memory_format(weight), dense]


def _fake_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    layouts = _layouts(inputs[0], inputs[3])
    return tuple(
        torch.empty_like(t, memory_format=layout) if wanted else inputs[0].new_empty(0)
        for t, layout, wanted in zip(inputs[:5], layouts, inputs[-1], strict=True)
    )


_KERNELS = ["deform_columns", "deform_columns_backward"]
library.compose(SCHEMA, deform_products.forward, _stand_in, _fake, _KERNELS)
library.compose(BACKWARD_SCHEMA, deform_products.backward, _backward_stand_in, _fake_backward, _KERNELS)
torch.library.register_autograd("labelenc::deform_conv2d", _backward, setup_context=_setup_context)
library.once_differentiable("deform_conv2d_backward", "deform_conv2d")
