"""Suppression of many boxes that mostly lie apart, which goes through a grid on the CPU."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import library, reference


def scattered(n: int, legacy: bool = False, extent: float = 3000.0) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes and shapes, many of them near another one; random scores."""
    corner = torch.rand(n, 2) * extent - extent / 3
    boxes = torch.cat([corner, corner + 2 + 2 ** (torch.rand(n, 2) * 8)], dim=1)
    boxes[n // 2 :] = boxes[: n - n // 2] + torch.randn(n - n // 2, 4) * 3
    boxes[:, 2:] -= float(legacy)
    return boxes, torch.rand(n)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grid_gives_what_torchvision_gives(seed: int, dtype: torch.dtype, threshold: float) -> None:
    boxes, scores = scattered(6000)
    boxes = boxes.to(dtype)
    expected = torchvision.ops.nms(boxes, scores.to(dtype), threshold)
    assert torch.equal(ops.nms(boxes, scores, threshold), expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_grid_gives_what_the_definition_gives(seed: int, legacy: bool) -> None:
    boxes, _ = scattered(4000, legacy)
    boxes[::70] = boxes[::70].flip(1)
    boxes[::110, 2:] = boxes[::110, :2]
    boxes[::130, 0] = float("nan")
    boxes[::170, 3] = float("inf")
    boxes[::190] *= 1e30
    groups = (torch.rand(4000) < 0.1).long()
    for group in (None, groups):
        expected = reference.nms_sorted(boxes, group, 0.4, legacy)
        assert torch.equal(torch.ops.labelenc.nms_sorted(boxes, group, 0.4, legacy), expected)


@pytest.mark.parametrize("threshold", ["1/10", "1/3", "1/2", "3/4", "1"])
def test_grid_is_exact_at_the_threshold(seed: int, threshold: str) -> None:
    """Integer boxes in pairs whose IoU is the threshold, or just above or below it.

    A tenth and a third are no binary fractions: where the overlap is one exactly, rounding decides.
    """
    exact = Fraction(threshold)
    width = 60
    kept = int(width * exact)
    position = torch.randperm(3000)[:1500, None] * torch.tensor([[100, 0]]) + torch.tensor([[0, 7]])
    whole = torch.cat([position, position + torch.tensor([width, 50])], dim=1)
    part = whole.clone()
    part[:, 2] = part[:, 0] + (kept + torch.randint(-1, 2, (1500,))).clamp(1, width)
    boxes = torch.cat([whole, part]).float()
    scores = torch.rand(3000)
    inside = (part[:, 2] - part[:, 0]).tolist()
    removed = [Fraction(i, width) > exact for i in inside]
    found = set(ops.nms(boxes, scores, float(exact)).tolist())
    for pair in range(1500):
        better, worse = sorted((pair, pair + 1500), key=lambda i: -float(scores[i]))
        assert better in found
        rounded = Fraction(float(exact)) != exact and Fraction(inside[pair], width) == exact
        assert (worse not in found) == removed[pair] or rounded


@pytest.mark.skipif(library.build is None, reason="plain PyTorch looks at the boxes one by one")
@pytest.mark.parametrize("groups", [None, 80])
def test_a_million_boxes(seed: int, groups: int | None) -> None:
    """Squares at whole multiples of 32 pixels, four nearly equal ones at each place: one of them survives."""
    n = 1_000_000
    place = torch.arange(n) // 4
    corner = torch.stack([place % 500, place // 500], dim=1) * 32.0
    boxes = torch.cat([corner, corner + 24], dim=1) + torch.rand(n, 4)
    scores = torch.rand(n)
    group = torch.zeros(n, dtype=torch.int64) if groups is None else place % groups
    start = time.perf_counter()
    kept = ops.nms(boxes, scores, 0.5) if groups is None else ops.batched_nms(boxes, scores, group, 0.5)
    assert time.perf_counter() - start < 60
    best = scores.view(-1, 4).argmax(1) + 4 * torch.arange(n // 4)
    assert torch.equal(kept.sort().values, best)
    assert (scores[kept].diff() <= 0).all()


def test_infinite_and_equal_scores_of_many_boxes(seed: int) -> None:
    boxes, _ = scattered(5000)
    scores = torch.randint(0, 4, (5000,)).float()
    scores[scores == 3] = float("inf")
    scores[scores == 0] = -float("inf")
    expected = torchvision.ops.nms(
        boxes, -scores.argsort(descending=True, stable=True).argsort().float(), 0.5
    )
    assert torch.equal(ops.nms(boxes, scores, 0.5), expected)
    scores[scores == -float("inf")] = float("nan")
    assert torch.equal(ops.nms(boxes, scores, 0.5), expected)
