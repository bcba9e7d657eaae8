"""Deformable convolution on a GPU against the same on the CPU; skips without a GPU."""

from __future__ import annotations

import pytest
import torch

from labelenc import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_deform_conv2d(seed: int, groups: int, modulated: bool) -> None:
    shapes = {
        "x": (2, 8, 13, 17),
        "offset": (2, 36, 7, 9),
        "mask": (2, 18, 7, 9),
        "weight": (6, 8 // groups, 3, 3),
    }
    tensors = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    results = []
    for device in ("cpu", "cuda"):
        given = {name: t.to(device).requires_grad_() for name, t in tensors.items()}
        mask = given["mask"] if modulated else None
        out = ops.deform_conv2d(
            given["x"], given["offset"], mask, given["weight"], None, 2, 1, 1, groups, deformable_groups=2
        )
        out.square().sum().backward()
        results.append([out.detach().cpu(), *(t.grad.cpu() for t in given.values() if t.grad is not None)])
    assert len(results[1]) == 4 + modulated
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)
