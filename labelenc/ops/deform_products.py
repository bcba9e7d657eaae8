"""Deformable convolution and its gradients as matrix products with compiled kernels around them.

The kernels write one row per position of the output, its samples of the image tap by tap ("columns"), and
turn gradients of that matrix into gradients of image, offsets and mask. The matrix is 9 times as large as the
image for a 3x3 kernel, so it exists for some positions at a time only and is never kept for the backward
pass: there the kernel reads the same corners of the image anyway and writes the samples anew over the
gradients.

On the CPU float16 is computed in float32 and rounded at the end, because products of float16 are many times
slower there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library

# What one piece of the matrix may take. On the CPU it should stay in the cache from kernel to product, and
# threads should not wait for each other too often.
BYTES_AT_ONCE = {"cpu": 8 << 20, "cuda": 256 << 20}


class Settings(NamedTuple):
    """Of the convolution, as the operation takes them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deformable_groups: int

    def geometry(self, weight: Tensor) -> list[int]:
        """What the kernels want to know beyond the shapes of their tensors."""
        return [weight.shape[3], self.deformable_groups, *self.stride, *self.padding, *self.dilation]


def memory_format(x: Tensor) -> torch.memory_format:
    """Layout of ``x``, its gradient and the result for input ``x``."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def forward(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: Any
) -> Tensor:
    """Arguments as of ``torch.ops.labelenc.deform_conv2d``, which this is where kernels were compiled."""
    s, compute_type = Settings(*settings), _compute_type(x)
    cells = x.permute(0, 2, 3, 1).contiguous().to(compute_type)
    matrix = _matrix(weight.to(compute_type), s.groups).transpose(1, 2)
    out = cells.new_empty((len(x), *offset.shape[2:], len(weight)))
    buffer = _buffer(cells, weight, s.groups, out)
    for first, last in _pieces(out, len(buffer)):
        columns = buffer[: last - first]
        torch.ops.labelenc.deform_columns(cells, offset, mask, columns, first, s.geometry(weight))
        _product(columns.flatten(2).transpose(0, 1), matrix, _rows(out, s.groups, first, last))
    if bias is not None:
        out += bias
    return _image(out, x)


def backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, ...]:
    """Gradients to x, offset, mask, weight and bias; empty where ``needed``, the last argument, is false.

    It is false for an absent mask or bias. If image, offset and mask need none, columns are all it takes.
    """
    s, needed = Settings(*settings[:-1]), settings[-1]
    if x.is_cuda and needed[0]:
        library.alert_not_deterministic("labelenc::deform_conv2d_backward")
    compute_type = _compute_type(x)
    grad = grad.permute(0, 2, 3, 1).contiguous().to(compute_type)
    cells = x.permute(0, 2, 3, 1).contiguous().to(compute_type)
    matrix = _matrix(weight.to(compute_type), s.groups)
    sums = _place_gradients(cells, offset, mask) if any(needed[:3]) else None
    grad_matrix = torch.zeros_like(matrix)
    buffer = _buffer(cells, weight, s.groups, grad)
    for first, last in _pieces(grad, len(buffer)) if any(needed[:4]) else ():
        columns = buffer[: last - first]
        flat, rows = columns.flatten(2).transpose(0, 1), _rows(grad, s.groups, first, last)
        where = (first, s.geometry(weight))
        if sums is None:
            torch.ops.labelenc.deform_columns(cells, offset, mask, columns, *where)
        else:
            _product(rows, matrix, flat)
            torch.ops.labelenc.deform_columns_backward(cells, offset, mask, columns, *sums, *where)
        if needed[3]:
            grad_matrix = _add_product(grad_matrix, rows.transpose(1, 2), flat)
    grad_cells, grad_offset, grad_mask = (None, None, None) if sums is None else sums
    grads = (
        _image(grad_cells, x) if needed[0] and grad_cells is not None else None,
        grad_offset,
        grad_mask,
        _weight(grad_matrix.to(weight.dtype), weight),
        grad.sum((0, 1, 2)).to(weight.dtype) if needed[4] else None,
    )
    return tuple(
        g if g is not None and wanted else x.new_empty(0) for g, wanted in zip(grads, needed, strict=True)
    )


def _place_gradients(
    cells: Tensor, offset: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Where the kernel adds up the gradient of ``cells`` and puts those of offset and mask."""
    dense = torch.contiguous_format
    return (
        torch.zeros_like(cells, dtype=offset.dtype),
        torch.empty_like(offset, memory_format=dense),
        None if mask is None else torch.empty_like(mask, memory_format=dense),
    )


def _compute_type(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype == torch.float16 and x.device.type == "cpu" else x.dtype


def _matrix(weight: Tensor, groups: int) -> Tensor:
    """(O, C / groups, h, w) -> (groups, O / groups, h w C / groups), in the order of the columns."""
    return weight.unflatten(0, (groups, -1)).flatten(3).transpose(2, 3).flatten(2)


def _image(cells: Tensor, like: Tensor) -> Tensor:
    return cells.permute(0, 3, 1, 2).to(like.dtype).contiguous(memory_format=memory_format(like))


def _weight(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_matrix`."""
    taps = like.shape[2] * like.shape[3]
    weight = matrix.unflatten(2, (taps, -1)).transpose(2, 3).reshape(like.shape)
    return weight.contiguous(memory_format=memory_format(like))


def _buffer(cells: Tensor, weight: Tensor, groups: int, out: Tensor) -> Tensor:
    """Room for the columns of as many positions of ``out`` (N, H, W, O) as may be taken at once."""
    taps, positions = weight.shape[2] * weight.shape[3], len(out) * out.shape[1] * out.shape[2]
    most = BYTES_AT_ONCE[cells.device.type] // (cells.element_size() * cells.shape[3] * taps)
    return cells.new_empty((min(max(most, 1), positions), groups, taps, cells.shape[3] // groups))


def _pieces(out: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """The positions of ``out`` (N, H, W, O) in ranges of about equal length, at most ``most``."""
    positions = len(out) * out.shape[1] * out.shape[2]
    count = -(-positions // most) if positions else 0
    for i in range(count):
        yield positions * i // count, positions * (i + 1) // count


def _rows(out: Tensor, groups: int, first: int, last: int) -> Tensor:
    """View of some positions of ``out`` (N, H, W, O) as matrices (groups, positions, O / groups)."""
    return out.flatten(0, 2)[first:last].unflatten(1, (groups, -1)).transpose(0, 1)


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    if len(a) == 1:
        torch.mm(a[0], b[0], out=out[0])
    else:
        torch.bmm(a, b, out=out)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # Half types hold a sum over few positions well, but not one of many such sums.
    if total.dtype in (torch.float16, torch.bfloat16) or total.dtype != a.dtype:
        return total.float() + torch.bmm(a, b)
    if len(a) == 1:
        total[0].addmm_(a[0], b[0])
        return total
    return total.baddbmm_(a, b)
