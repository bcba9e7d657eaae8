"""Suppression against an exact brute force on integers, torchvision, and the recorded results."""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from labelenc import ops
from labelenc.ops import reference


def brute_force(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: Fraction, legacy: bool
) -> list[int]:
    """Greedy suppression in exact rational arithmetic; boxes hold integers."""
    corners = [[int(v) for v in box] for box in boxes.tolist()]
    group = groups.tolist() if groups is not None else [0] * len(corners)
    one = int(legacy)

    def area(x0: int, y0: int, x1: int, y1: int) -> int:
        return (x1 - x0 + one) * (y1 - y0 + one)

    kept: list[int] = []
    for i in sorted(range(len(corners)), key=lambda i: (-float(scores[i]), i)):
        for j in kept:
            a, b = corners[i], corners[j]
            w = min(a[2], b[2]) - max(a[0], b[0]) + one
            h = min(a[3], b[3]) - max(a[1], b[1]) + one
            common = max(w, 0) * max(h, 0)
            if group[i] == group[j] and common > threshold * (area(*a) + area(*b) - common):
                break
        else:
            kept.append(i)
    return kept


def integer_boxes(n: int, extent: int = 40, origin: int = 0) -> Tensor:
    corner = torch.randint(0, extent, (n, 2))
    size = torch.randint(1, extent // 2, (n, 2))
    return (torch.cat([corner, corner + size], dim=1) + origin).float()


def random_boxes(n: int, extent: float = 500.0, size: float = 200.0) -> Tensor:
    corner = torch.rand(n, 2) * extent
    return torch.cat([corner, corner + torch.rand(n, 2) * size], dim=1)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("threshold", ["0", "0.3", "0.5", "0.75", "1"])
def test_exact_on_integer_boxes_with_equal_scores(seed: int, threshold: str, legacy: bool) -> None:
    boxes, scores = integer_boxes(120), torch.randint(0, 15, (120,)).float()
    groups = torch.randint(0, 3, (120,))
    exact = Fraction(threshold)
    assert ops.nms(boxes, scores, float(exact), legacy).tolist() == brute_force(
        boxes, scores, None, exact, legacy
    )
    assert ops.batched_nms(boxes, scores, groups, float(exact), legacy).tolist() == brute_force(
        boxes, scores, groups, exact, legacy
    )


@pytest.mark.parametrize("n", [1, 2, 63, 255, 256, 257, 3000])
@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_same_as_torchvision(seed: int, n: int, threshold: float) -> None:
    for size in (20.0, 400.0):
        boxes, scores = random_boxes(n, size=size), torch.rand(n)
        assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_are_suppressed_one_by_one(seed: int, dtype: torch.dtype) -> None:
    boxes, groups = random_boxes(2000).to(dtype), torch.randint(-3, 9, (2000,))
    scores = torch.randperm(2000).to(dtype)
    alone = [
        members[torchvision.ops.nms(boxes[members], scores[members], 0.5)]
        for members in (torch.nonzero(groups == g)[:, 0] for g in groups.unique())
    ]
    expected = torch.cat(alone)
    expected = expected[scores[expected].argsort(descending=True)]
    assert torch.equal(ops.batched_nms(boxes, scores, groups, 0.5), expected)


def test_many_threads_give_what_one_gives(seed: int) -> None:
    boxes, scores = random_boxes(6000, extent=2000.0), torch.rand(6000)
    groups = torch.randint(0, 2, (6000,))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            alone = ops.nms(boxes, scores, 0.5)
            results.append((alone.tolist(), ops.batched_nms(boxes, scores, groups, 0.5).tolist()))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("values", [[0, 1], [-(2**63), 2**63 - 1], [10**12, -5]])
def test_group_values_are_unrestricted_and_coordinates_stay_exact(seed: int, values: list[int]) -> None:
    boxes = integer_boxes(60, origin=2**22)
    groups = torch.tensor(values)[torch.randint(0, 2, (60,))]
    scores = torch.rand(60)
    expected = brute_force(boxes, scores, groups, Fraction(1, 2), True)
    assert ops.batched_nms(boxes, scores, groups, 0.5, True).tolist() == expected


def test_small_integer_groups_are_accepted() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(4, 1)
    groups = torch.tensor([1, 0, 1, 0], dtype=torch.uint8)
    assert ops.batched_nms(boxes, torch.ones(4), groups, 0.5).tolist() == [0, 1]


def test_recorded_results(shared_dir: Path) -> None:
    record = {
        k: torch.from_numpy(v) for k, v in np.load(shared_dir / "parity/ops.npz").items() if "nms/" in k
    }
    boxes, scores, labels = record["nms/boxes"], record["nms/scores"], record["nms/labels"]
    for threshold in (0.3, 0.5, 0.7):
        kept = ops.nms(boxes, scores, threshold, legacy_offset=True)
        assert kept.sort().values.tolist() == record[f"nms/keep_{threshold}"].tolist()
    for threshold in (0.3, 0.6):
        kept = ops.batched_nms(boxes, scores, labels, threshold, legacy_offset=True)
        assert kept.sort().values.tolist() == record[f"ml_nms/keep_{threshold}"].tolist()


def test_legacy_offset_counts_the_last_pixel() -> None:
    # 10 and 5 pixels of a 10 x 10 box with the last pixel counted: IoU exactly 0.5; without: 4 / 9.
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 4, 9]])
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5, legacy_offset=True).tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.49, legacy_offset=True).tolist() == [0]
    assert ops.nms(boxes, scores, 0.49, legacy_offset=False).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(seed: int, dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(300).to(dtype), torch.rand(300).to(dtype)
    kept = ops.nms(boxes, scores, 0.5)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, torchvision.ops.nms(boxes.float(), scores.float(), 0.5))


def test_layout_does_not_matter(seed: int) -> None:
    boxes, scores, groups = random_boxes(100), torch.rand(100), torch.randint(0, 4, (100,))
    spread = torch.stack([boxes, -boxes], dim=2)[:, :, 0]
    assert not spread.is_contiguous()
    expected = ops.batched_nms(boxes, scores, groups, 0.5)
    strided = torch.stack([scores, scores], 1)[:, 0], torch.stack([groups, groups], 1)[:, 0]
    assert torch.equal(ops.batched_nms(spread, *strided, 0.5), expected)
    # The operation itself, below the wrapper that makes everything dense.
    order = scores.argsort(descending=True)
    columns = boxes[order].t().contiguous().t()
    direct = torch.ops.labelenc.nms_sorted(columns, groups[order], 0.5, False)
    assert torch.equal(order[direct], expected)


def test_nothing_and_one_box() -> None:
    for dtype in (torch.float32, torch.float16, torch.float64):
        none = torch.zeros(0, 4, dtype=dtype)
        assert ops.nms(none, none[:, 0], 0.5).tolist() == []
        assert ops.batched_nms(none, none[:, 0], torch.zeros(0, dtype=torch.int64), 0.5).dtype == torch.int64
    assert ops.nms(torch.ones(1, 4), torch.ones(1), 0.5).tolist() == [0]


def test_not_a_number_and_infinity() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49], [60, 60, 69, 69]])
    scores = torch.tensor([nan, -inf, inf, 0.0])
    assert ops.nms(boxes, scores, 0.5).tolist() == [2, 3, 0, 1]
    for position in range(4):
        broken = torch.tensor([[0.0, 0, 9, 9]]).repeat(3, 1)
        broken[1, position] = nan
        assert ops.nms(broken, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1]
        assert ops.nms(broken, torch.tensor([0.8, 0.9, 0.7]), 0.5).tolist() == [1, 0]
    endless = torch.tensor([[-inf, 0, inf, 9], [0, 0, 9, 9], [-inf, 0, inf, 9]])
    assert ops.nms(endless, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]


def test_kernel_and_reference_agree_on_odd_boxes(seed: int) -> None:
    """Inverted, empty, infinite and NaN boxes: no truth but the definition itself."""
    boxes = random_boxes(400, extent=50.0, size=60.0)
    boxes[::7] = boxes[::7].flip(1)
    boxes[::11, 2:] = boxes[::11, :2]
    boxes[::13, 0] = float("nan")
    boxes[::17, 3] = float("inf")
    groups = torch.randint(0, 2, (400,))
    for group, legacy in itertools.product((None, groups), (False, True)):
        expected = reference.nms_sorted(boxes, group, 0.4, legacy)
        assert torch.equal(torch.ops.labelenc.nms_sorted(boxes, group, 0.4, legacy), expected)


def test_operator_contract(seed: int) -> None:
    boxes, groups = random_boxes(50), torch.randint(0, 3, (50,))
    torch.library.opcheck(torch.ops.labelenc.nms_sorted.default, (boxes, None, 0.5, False))
    torch.library.opcheck(torch.ops.labelenc.nms_sorted.default, (boxes.double(), groups, 0.5, True))


def test_compiles_as_one_graph(seed: int) -> None:
    boxes, scores, groups = random_boxes(200), torch.rand(200), torch.randint(0, 3, (200,))
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(ops.batched_nms, fullgraph=True, backend="aot_eager")
        kept = compiled(boxes, scores, groups, 0.5)
    assert torch.equal(kept, ops.batched_nms(boxes, scores, groups, 0.5))


def test_gradients_do_not_pass(seed: int) -> None:
    boxes, scores = random_boxes(10).requires_grad_(), torch.rand(10, requires_grad=True)
    assert not ops.nms(boxes, scores, 0.5).requires_grad


@pytest.mark.parametrize(
    ("boxes", "scores", "groups", "threshold", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3), None, 0.5, r"boxes must be \(N, 4\)"),
        (torch.zeros(4), torch.zeros(1), None, 0.5, r"boxes must be \(N, 4\)"),
        (torch.zeros(3, 4), torch.zeros(2), None, 0.5, r"scores must be \(3,\)"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3), None, 0.5, "floating point"),
        (torch.zeros(3, 4), torch.zeros(3), torch.zeros(3), 0.5, "groups must be integers"),
        (
            torch.zeros(3, 4),
            torch.zeros(3),
            torch.zeros(2, dtype=torch.int64),
            0.5,
            "groups must be integers",
        ),
        (torch.zeros(3, 4), torch.zeros(3), None, float("nan"), "NaN"),
    ],
)
def test_wrong_arguments(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, message: str
) -> None:
    call = ops.nms if groups is None else functools.partial(ops.batched_nms, groups=groups)
    with pytest.raises(ValueError, match=message):
        call(boxes, scores, iou_threshold=threshold)
