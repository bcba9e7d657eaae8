"""Label maps against values worked out by hand, the recorded ones, and the pixel-by-pixel definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labelenc import ops
from labelenc.ops import reference


def test_one_box_by_hand() -> None:
    drawn = ops.label_map([torch.tensor([[2.0, 1, 6, 5]])], [torch.tensor([2])], 3, 6, 9)
    expected = torch.zeros(1, 3, 6, 9)
    # Centre (4, 3), size 4: 1 in the centre, a quarter less for every ring.
    expected[0, 1, 1:6, 2:7] = 0.5
    expected[0, 1, 2:5, 3:6] = 0.75
    expected[0, 1, 3, 4] = 1.0
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, expected)


def test_factors_multiply_after_the_threshold_and_the_larger_value_wins() -> None:
    box = torch.tensor([2.0, 1, 6, 5])
    boxes, labels = [torch.stack([box, box + 1])], [torch.tensor([1, 1])]
    first = ops.label_map([box[None]], [labels[0][:1]], 1, 9, 9)
    second = ops.label_map([box[None] + 1], [labels[0][:1]], 1, 9, 9)
    drawn = ops.label_map(boxes, labels, 1, 9, 9, scales=[torch.tensor([0.25, 0.5])])
    assert torch.equal(drawn, torch.maximum(first * 0.25, second * 0.5))
    assert float(drawn[0, 0, 1, 2]) == 0.125


def test_recorded_results(shared_dir: Path) -> None:
    record = {
        k: torch.from_numpy(v) for k, v in np.load(shared_dir / "parity/ops.npz").items() if "box_enc" in k
    }
    boxes = [record[f"box_encode/boxes_image{i}"] for i in (0, 1)]
    labels = [record[f"box_encode/labels_image{i}"] for i in (0, 1)]
    scales = list(record["box_encode/aug_factors_seed77"].split([5, 1]))
    for function in (ops.label_map, reference.label_map):
        torch.testing.assert_close(function(boxes, labels, 5, 32, 40), record["box_encode/out"])
        augmented = function(boxes, labels, 5, 32, 40, scales)
        torch.testing.assert_close(augmented, record["box_encode/out_aug_seed77"])


def test_windows_give_what_the_definition_gives(seed: int) -> None:
    counts = [7, 0, 12]
    boxes = []
    for n in counts:
        corner = torch.rand(n, 2) * 60 - 15
        boxes.append(torch.cat([corner, corner + torch.rand(n, 2) * 50], dim=1))
    labels = [torch.randint(1, 5, (n,)) for n in counts]
    scales = [(2 * torch.rand(n)).clamp(max=1) for n in counts]
    for factors in (None, scales):
        drawn = ops.label_map(boxes, labels, 4, 33, 47, factors)
        assert torch.equal(drawn, reference.label_map(boxes, labels, 4, 33, 47, factors))


def test_many_images_classes_and_boxes(seed: int) -> None:
    boxes = []
    for n in (300, 1):
        corner = torch.rand(n, 2) * torch.tensor([130.0, 90.0]) - 10
        boxes.append(torch.cat([corner, corner + torch.rand(n, 2) * 60], dim=1))
    labels = [torch.randint(1, 4, (300,)), torch.tensor([2])]
    expected = reference.label_map(boxes, labels, 3, 100, 133)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(ops.label_map(boxes, labels, 3, 100, 133), expected)
    finally:
        torch.set_num_threads(threads)


def test_compact_map_holds_the_classes_present(seed: int) -> None:
    corner = torch.rand(6, 2) * 20
    boxes = [
        torch.cat([corner, corner + 5 + torch.rand(6, 2) * 9], dim=1),
        torch.zeros(0, 4),
        corner.repeat(1, 2),
    ]
    labels = [
        torch.tensor([4, 2, 2, 4, 4, 2]),
        torch.zeros(0, dtype=torch.int64),
        torch.tensor([5, 1, 1, 1, 1, 1]),
    ]
    scales = [torch.rand(len(b)) for b in boxes]
    for factors in (None, scales):
        maps, images, channels = ops.compact_label_map(boxes, labels, 5, 30, 36, factors)
        assert images.tolist() == [0, 0, 2, 2]
        assert channels.tolist() == [1, 3, 0, 4]
        dense = ops.label_map(boxes, labels, 5, 30, 36, factors)
        assert torch.equal(maps, dense[images, channels])
        dense[images, channels] = 0
        assert not dense.any()
        # The boxes of the third image have no area: their classes are there, but nothing is drawn.
        assert maps[:2].flatten(1).any(1).all()
        assert not maps[2:].any()


def test_compact_map_of_nothing() -> None:
    no_boxes, no_labels = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    for arguments in ((no_boxes, no_labels), ([], [])):
        maps, images, channels = ops.compact_label_map(*arguments, 3, 4, 5)
        assert (maps.shape, images.shape, channels.shape) == ((0, 4, 5), (0,), (0,))
        assert images.dtype == channels.dtype == torch.int64


def test_autocast_and_gradients_change_nothing() -> None:
    box, label = torch.tensor([[2.0, 1, 6, 5]], requires_grad=True), torch.tensor([1])
    with torch.autocast("cpu", torch.bfloat16):
        drawn = ops.label_map([box], [label], 1, 9, 9)
        maps, _, _ = ops.compact_label_map([box], [label], 1, 9, 9)
    assert drawn.dtype == maps.dtype == torch.float32
    assert not drawn.requires_grad
    assert not maps.requires_grad


def test_operator_contract(seed: int) -> None:
    corner = torch.rand(5, 2) * 10
    boxes, slots = torch.cat([corner, corner + 6], dim=1), torch.randint(0, 3, (5,))
    for scales in (None, torch.rand(5)):
        given = (boxes, slots, scales, 3, 12, 14)
        torch.library.opcheck(torch.ops.labelenc.label_map.default, given)
        assert torch.equal(torch.ops.labelenc.label_map(*given), reference.label_map_slots(*given))
    spread = torch.stack([boxes, boxes], dim=2)[:, :, 0]
    every_second = torch.stack([slots, slots], dim=1)[:, 0]
    found = torch.ops.labelenc.label_map(spread, every_second, None, 3, 12, 14)
    assert torch.equal(found, reference.label_map_slots(boxes, slots, None, 3, 12, 14))
    for wrong in (-1, 3):
        with pytest.raises((RuntimeError, ValueError)):
            torch.ops.labelenc.label_map(boxes, torch.full_like(slots, wrong), None, 3, 12, 14)
        with pytest.raises(ValueError):
            reference.label_map_slots(boxes, torch.full_like(slots, wrong), None, 3, 12, 14)


def test_compiles_as_one_graph(seed: int) -> None:
    corner = torch.rand(5, 2) * 10
    arguments = ([torch.cat([corner, corner + 6], dim=1)], [torch.randint(1, 4, (5,))], 3, 12, 14)
    dense = torch.compile(ops.label_map, fullgraph=True, backend="aot_eager")(*arguments)
    assert torch.equal(dense, ops.label_map(*arguments))
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compact = torch.compile(ops.compact_label_map, fullgraph=True, backend="aot_eager")(*arguments)
    for found, expected in zip(compact, ops.compact_label_map(*arguments), strict=True):
        assert torch.equal(found, expected)


def test_boxes_that_leave_no_trace() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [
            [3.0, 3, 3, 8],  # no width
            [3, 3, 8, 3],  # no height
            [8, 8, 3, 3],  # inverted
            [nan, 3, 8, 8],
            [3, 3, inf, 8],
            [-inf, 3, inf, 8],
            [-30, -30, -20, -20],  # outside
            [40, 2, 50, 8],
        ]
    )
    labels = torch.ones(len(boxes), dtype=torch.int64)
    assert ops.label_map([boxes], [labels], 2, 12, 16).abs().max() == 0


@pytest.mark.parametrize("draw", [ops.label_map, reference.label_map])
def test_nothing_is_drawn_beside_an_enormous_box(draw: Callable[..., Tensor]) -> None:
    box = torch.tensor([[4.0, 3, 1e30, 1e30]])
    drawn = draw([box], [torch.tensor([1])], 1, 9, 12)[0, 0]
    expected = torch.zeros(9, 12)
    expected[3:, 4:] = 0.5
    assert torch.equal(drawn, expected)
    low = draw([-box.flip(1)], [torch.tensor([1])], 1, 9, 12)
    assert not low.any()


def test_no_boxes_and_no_images() -> None:
    empty = ops.label_map([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2, 3, 4, 5)
    assert torch.equal(empty, torch.zeros(2, 3, 4, 5))
    assert ops.label_map([], [], 3, 4, 5).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_and_layouts_give_float32(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[2.0, 1, 6, 5], [0, 0, 3, 7]])
    columns = boxes.to(dtype).t().contiguous().t()
    labels = torch.tensor([1, 2], dtype=torch.int32)
    drawn = ops.label_map([columns], [labels], 2, 9, 9)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, ops.label_map([boxes], [labels.long()], 2, 9, 9))


ONE = torch.tensor([[1.0, 1, 5, 5]])


@pytest.mark.parametrize(
    ("boxes", "labels", "scales", "message"),
    [
        ([ONE], [torch.tensor([3])], None, r"image 0 .*label 3.*1\.\.2"),
        ([ONE, ONE], [torch.tensor([1]), torch.tensor([0])], None, r"image 1 .*label 0.*1\.\.2"),
        ([ONE], [torch.tensor([1, 1])], None, "image 0"),
        ([ONE], [torch.tensor([1])], [torch.ones(2)], "image 0"),
        ([ONE], [], None, "1 images have boxes"),
        ([ONE], [torch.tensor([1])], [], "1 images have boxes"),
    ],
)
def test_wrong_arguments(
    boxes: list[Tensor], labels: list[Tensor], scales: list[Tensor] | None, message: str
) -> None:
    for function in (ops.label_map, ops.compact_label_map):
        with pytest.raises(ValueError, match=message):
            function(boxes, labels, 2, 8, 8, scales)
