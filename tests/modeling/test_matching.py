"""Matching and assignment over a batch of images: chunks, padding, memory, against loops by hand."""

import math

import numpy as np
import pytest
import torch

from labelenc.modeling import matching
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.anchors import AnchorGenerator
from labelenc.modeling.dense.fcos_targets import LocationTargets, grid_locations
from labelenc.modeling.matching import BELOW_LOW, BETWEEN, Matcher, assign, padded, pick

STRIDES = (8, 16, 32, 64, 128)
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
# Of the images of a batch: the numbers of their boxes.
COUNTS = [(5, 0, 1, 8), (0, 0), (3,), (1, 6)]


def random_boxes(count):
    """Whole pixels, so that boxes coincide and overlaps tie now and then."""
    corner = torch.randint(0, 20, (count, 2))
    return torch.cat([corner, corner + torch.randint(0, 12, (count, 2))], dim=1).float()


def iou(a, b):
    """In single precision, like tensors."""
    one, zero = np.float32(1), np.float32(0)
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + one, zero)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + one, zero)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def matches_by_hand(boxes, references, high, low, rescue):
    boxes, references = boxes.numpy(), references.numpy()
    table = [[iou(box, reference) for reference in references] for box in boxes]
    found = []
    for r in range(len(references)):
        best, index = -1.0, None
        for g, row in enumerate(table):
            if row[r] > best:
                best, index = row[r], g
        match = BELOW_LOW if best < np.float32(low) else BETWEEN if best < np.float32(high) else index
        if rescue and any(row[r] == max(row) > 0 for row in table):
            match = index
        found.append(match)
    return found


@pytest.mark.parametrize("pairs", [10**9, 300, 1])
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(("high", "low", "rescue"), [(0.5, 0.4, True), (0.7, 0.3, True), (0.5, 0.1, False)])
def test_matches(seed, monkeypatch, pairs, counts, high, low, rescue):
    monkeypatch.setattr(matching, "MAX_PAIRS", pairs)
    truth, references = [random_boxes(count) for count in counts], random_boxes(60)
    valid = torch.arange(max(1, *counts, 1)) < torch.tensor(counts)[:, None]
    found = Matcher(high, low, rescue)(padded(truth), valid, references)
    assert found.dtype == torch.int64
    for matches, boxes in zip(found.tolist(), truth, strict=True):
        assert matches == matches_by_hand(boxes, references, high, low, rescue)


def test_every_image_with_references_of_its_own(seed):
    truth, references = [random_boxes(4), random_boxes(2)], torch.stack([random_boxes(30), random_boxes(30)])
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    found = Matcher(0.5, 0.4, True)(padded(truth), valid, references)
    for matches, boxes, own in zip(found.tolist(), truth, references, strict=True):
        assert matches == matches_by_hand(boxes, own, 0.5, 0.4, True)


def encode_by_hand(box, reference):
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    rw, rh = reference[2] - reference[0] + 1, reference[3] - reference[1] + 1
    dx = (box[0] + w / 2 - reference[0] - rw / 2) / rw
    dy = (box[1] + h / 2 - reference[1] - rh / 2) / rh
    return [10 * dx, 10 * dy, 5 * math.log(w / rw), 5 * math.log(h / rh)]


@pytest.mark.parametrize("pairs", [10**9, 300])
@pytest.mark.parametrize("counts", COUNTS)
def test_assignment(seed, monkeypatch, pairs, counts):
    monkeypatch.setattr(matching, "MAX_PAIRS", pairs)
    truth, references = [random_boxes(count) for count in counts], random_boxes(60)
    names = [torch.randint(1, 81, (count,)) for count in counts]
    labels, offsets = assign(references, truth, names, Matcher(0.5, 0.4, True), CODER)
    assert labels.dtype == torch.int64
    assert offsets.shape == (len(counts), 60, 4)
    for image, boxes in enumerate(truth):
        rows = matches_by_hand(boxes, references, 0.5, 0.4, True)
        wanted = {BELOW_LOW: 0, BETWEEN: -1}
        assert labels[image].tolist() == [wanted[m] if m < 0 else names[image][m].item() for m in rows]
        for match, reference, found in zip(rows, references.tolist(), offsets[image].tolist(), strict=True):
            expected = [0.0] * 4 if match < 0 else encode_by_hand(boxes[match].tolist(), reference)
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_padding_and_picking():
    together = padded([torch.tensor([[1, 2]]), torch.zeros(0, 2).long(), torch.tensor([[3, 4], [5, 6]])])
    assert together.tolist() == [[[1, 2], [0, 0]], [[0, 0], [0, 0]], [[3, 4], [5, 6]]]
    assert padded([torch.zeros(0, 4)] * 2).shape == (2, 1, 4)
    rows = pick(together, torch.tensor([[0, 0, 1], [1, 0, 0], [1, 0, 1]]))
    assert rows[:, :, 0].tolist() == [[1, 1, 0], [0, 0, 0], [5, 3, 5]]


def test_a_thousand_boxes_in_each_of_two_large_images_need_little_memory(largest_tensor, make_target):
    """On the device "meta" tensors have sizes, but no numbers to compute."""
    sizes = [[32.0, 40, 50], [64, 80, 100], [128, 160, 200], [256, 320, 400], [512, 640, 800]]
    levels = [torch.zeros(1, 1, -(-800 // s), -(-1344 // s), device="meta") for s in STRIDES]
    anchors = torch.cat(AnchorGenerator(sizes, (0.5, 1.0, 2.0), STRIDES).to("meta")(levels))
    assert len(anchors) > 200_000
    targets = [make_target(torch.zeros(1000, 4), [1] * 1000, (800, 1333)).to("meta")] * 2
    boxes, classes = ([t.bbox for t in targets], [t.get_field("labels") for t in targets])
    with largest_tensor() as of_anchors:
        assign(anchors, boxes, classes, Matcher(0.5, 0.4, True), CODER)
    with largest_tensor() as of_locations:
        LocationTargets(STRIDES, 1.5)(grid_locations(levels, STRIDES), targets)
    # All pairs at once would be 800 MB of IoUs for an image. No more than six such tensors live at a time.
    assert 1e6 < of_anchors.size <= 17e6
    assert 1e6 < of_locations.size <= 17e6
