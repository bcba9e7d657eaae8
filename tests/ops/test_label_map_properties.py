"""Label maps of whatever boxes: values, channels and places, and the compact form beside the dense one."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labelenc import ops

CLASSES = 4
# Finite ones near the map, far away and huge; then those that are no numbers.
coordinates = st.floats(-40, 60, width=32) | st.integers(-40, 60) | st.floats(width=32)


@st.composite
def images(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Boxes, labels and factors of up to three images; corners in any order."""
    counts = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    boxes = [[draw(st.tuples(*[coordinates] * 4)) for _ in range(n)] for n in counts]
    labels = [draw(st.lists(st.integers(1, CLASSES), min_size=n, max_size=n)) for n in counts]
    factors = [draw(st.lists(st.floats(0, 1, width=32), min_size=n, max_size=n)) for n in counts]
    return (
        [torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in boxes],
        [torch.tensor(row, dtype=torch.int64) for row in labels],
        [torch.tensor(row, dtype=torch.float32) for row in factors],
    )


def require_values_and_places(maps: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> None:
    """Without factors: 0, or 0.5 to 1 in the channel of a box that is there."""
    assert ((maps == 0) | ((maps >= 0.5) & (maps <= 1))).all()
    for drawn, corners, classes in zip(maps, boxes, labels, strict=True):
        inside = torch.zeros_like(drawn, dtype=torch.bool)
        y, x = torch.meshgrid(*(torch.arange(side) for side in drawn.shape[1:]), indexing="ij")
        finite = corners.isfinite().all(dim=1)
        for box, label in zip(corners[finite].tolist(), classes[finite].tolist(), strict=True):
            x0, y0, x1, y1 = box
            # Float32 may round what lies next to a border onto it.
            slack = 1e-4 + 1e-6 * max(map(abs, box))
            across = (x >= x0 - slack) & (x <= x1 + slack)
            inside[label - 1] |= across & (y >= y0 - slack) & (y <= y1 + slack)
        assert not (drawn[~inside] > 0).any()


@given(batch=images(), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=150)
def test_values_channels_and_places(batch, height: int, width: int):
    boxes, labels, factors = batch
    maps = ops.label_map(boxes, labels, CLASSES, height, width)
    assert maps.shape == (len(boxes), CLASSES, height, width)
    require_values_and_places(maps, boxes, labels)
    scaled = ops.label_map(boxes, labels, CLASSES, height, width, factors)
    assert ((scaled >= 0) & (scaled <= maps)).all()
    for factor in (0.0, 0.5, 1.0):
        alike = [torch.full_like(row, factor) for row in factors]
        assert torch.equal(ops.label_map(boxes, labels, CLASSES, height, width, alike), factor * maps)


@given(batch=images(), height=st.integers(1, 40), width=st.integers(1, 40))
@settings(max_examples=80)
def test_the_compact_form_has_the_classes_present(batch, height: int, width: int):
    boxes, labels, factors = batch
    dense = ops.label_map(boxes, labels, CLASSES, height, width, factors)
    maps, slots, channels = ops.compact_label_map(boxes, labels, CLASSES, height, width, factors)
    present = [(slot, label - 1) for slot, row in enumerate(labels) for label in sorted(set(row.tolist()))]
    assert list(zip(slots.tolist(), channels.tolist(), strict=True)) == present
    assert torch.equal(maps, dense[slots, channels])
    rest = dense.clone()
    rest[slots, channels] = 0
    assert not rest.any()
