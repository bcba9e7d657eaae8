"""What FCOS's locations are to predict, against loops written out by hand and the recorded targets."""

import math

import pytest
import torch

from labelenc.modeling import matching
from labelenc.modeling.dense.fcos_targets import (
    LocationTargets,
    box_distances,
    boxes_at,
    centerness_of,
    grid_locations,
)

FIVE, THREE = (8, 16, 32, 64, 128), (8, 16, 32)
SIZE = (512, 640)
# Of each level of five, or of three, the least and the largest distance to a box's farthest side.
RANGES = {
    FIVE: ((-1, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)),
    THREE: ((-1, 64), (64, 128), (128, math.inf)),
}


def make_locations(strides, height, width):
    levels = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]
    return grid_locations(levels, strides)


@pytest.fixture
def random_target(make_target):
    """Draw boxes: corners in eighths of a pixel, so that distances are exact and equal the borders now and
    then."""

    def draw(count, height=512, width=640):
        corner = torch.rand(count, 2) * torch.tensor([width - 20, height - 20])
        limit = torch.tensor([width, height])
        # Small, middle and large ones.
        size = torch.rand(count, 2) * limit * torch.tensor([0.1, 0.4, 1.0])[torch.randint(3, (count, 1))]
        boxes = torch.cat([corner, torch.minimum(corner + size, limit)], dim=1)
        labels = torch.randint(1, 81, (count,)).tolist()
        return make_target((boxes * 8).round() / 8, labels, (height, width))

    return draw


def target_by_hand(x, y, stride, bounds, boxes, labels, radius):
    """Label and distances in pixels of one location."""
    best, found = math.inf, (0, [0.0] * 4)
    for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
        sides = [x - x0, y - y0, x1 - x, y1 - y]
        if min(sides) <= 0 or not bounds[0] <= max(sides) <= bounds[1]:
            continue
        off = max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2))
        if radius > 0 and off >= radius * stride:
            continue
        area = (x1 - x0 + 1) * (y1 - y0 + 1)
        if area < best:
            best, found = area, (label, sides)
    return found


@pytest.mark.parametrize("in_strides", [False, True])
@pytest.mark.parametrize("radius", [0.0, 1.5, 2.25])
@pytest.mark.parametrize("strides", [FIVE, THREE], ids=["five", "three"])
def test_targets(seed, random_target, make_target, strides, radius, in_strides):
    targets = [random_target(6), random_target(1), make_target([], [], SIZE)]
    locations = make_locations(strides, 512, 640)
    labels, distances = LocationTargets(strides, radius, in_strides)(locations, targets)
    count = sum(len(level) for level in locations)
    assert labels.shape == (3, count)
    assert labels.dtype == torch.int64
    assert distances.shape == (3, count, 4)
    assert distances.dtype == torch.float32
    for image, target in enumerate(targets):
        wanted = []
        for points, stride, bounds in zip(locations, strides, RANGES[strides], strict=True):
            for x, y in points.tolist():
                label, sides = target_by_hand(
                    x, y, stride, bounds, target.bbox.tolist(), target.get_field("labels").tolist(), radius
                )
                wanted.append((label, [side / (stride if in_strides else 1) for side in sides]))
        assert labels[image].tolist() == [label for label, _ in wanted]
        assert distances[image].tolist() == [sides for _, sides in wanted]


def test_locations_are_the_middles_of_the_cells():
    locations = grid_locations([torch.zeros(2, 5, 2, 3), torch.zeros(2, 5, 1, 2)], (8, 16))
    assert locations[0].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert locations[1].tolist() == [[8, 8], [24, 8]]
    assert locations[0].dtype == torch.float32


def test_both_ends_of_a_range_belong_to_it(make_target):
    # The only location is 64 from the right side: the first level's largest and the second's least distance.
    locations = [torch.tensor([[4.0, 4]])] * 3
    box = make_target([[0.0, 0, 68, 10]], [7], SIZE)
    labels, distances = LocationTargets(THREE)(locations, [box])
    assert labels.tolist() == [[7, 7, 0]]
    assert distances[0].tolist() == [[4, 4, 64, 6], [4, 4, 64, 6], [0, 0, 0, 0]]


def test_the_smallest_of_several_boxes_is_found_with_the_pixels_at_their_ends(make_target):
    # Without the last pixel 10 x 3 = 30 is less than 6 x 5.2 = 31.2, with it 11 x 4 = 44 is more than 43.4.
    flat, square = [0.0, 2, 10, 5], [1.0, 1, 7, 6.2]
    locations = [torch.tensor([[4.0, 4]])] * 3
    same = [1.0, 1, 7, 7], [2.0, 2, 8, 8]
    # Of equal ones the first.
    for boxes, labels, expected in (
        ([flat, square], [1, 2], 2),
        ([square, flat], [2, 1], 2),
        (same, [3, 4], 3),
    ):
        target = make_target(boxes, labels, SIZE)
        assert LocationTargets(THREE)(locations, [target])[0][0, 0] == expected


def test_chunks_change_nothing(seed, random_target, monkeypatch):
    target, locations = random_target(17), make_locations(FIVE, 512, 640)
    for radius in (0.0, 1.5):
        assign = LocationTargets(FIVE, radius)
        monkeypatch.setattr(matching, "MAX_PAIRS", 10**9)
        whole = assign(locations, [target])
        monkeypatch.setattr(matching, "MAX_PAIRS", 1000)
        chunked = assign(locations, [target])
        assert all(torch.equal(*pair) for pair in zip(whole, chunked, strict=True))


def test_many_boxes_in_a_large_image_need_little_memory(largest_tensor, seed, random_target):
    locations = make_locations(FIVE, 800, 1344)
    target = random_target(500, 800, 1333)
    with largest_tensor() as largest:
        labels, _ = LocationTargets(FIVE, 1.5)(locations, [target])
    assert labels.shape == (1, 22400)
    assert (labels > 0).any()
    # All pairs at once would take 180 MB per tensor.
    assert 0 < largest.size <= 20e6


def test_centerness_by_hand(seed):
    distances = torch.rand(50, 4) * 100 + 0.01
    expected = [
        math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
        for left, top, right, bottom in distances.tolist()
    ]
    torch.testing.assert_close(centerness_of(distances), torch.tensor(expected))
    # 2 of 8 and 9 of 9: half.
    assert centerness_of(torch.tensor([[2.0, 9, 8, 9]])).tolist() == [0.5]
    assert centerness_of(torch.zeros(0, 4)).shape == (0,)


def test_boxes_from_distances_and_back(seed):
    points, distances = torch.rand(20, 2) * 100, torch.rand(20, 4) * 50
    boxes = boxes_at(points, distances)
    torch.testing.assert_close(box_distances(points, boxes), distances, rtol=0, atol=1e-4)
    assert boxes_at(torch.tensor([[10.0, 20]]), torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[9, 18, 13, 24]]


@pytest.mark.parametrize(("name", "radius", "in_strides"), [("plain", 0.0, False), ("imprv", 1.5, True)])
def test_recorded_targets(recipe, ops_record, make_target, name, radius, in_strides):
    targets = [
        make_target(entry["boxes"], entry["labels"].tolist(), entry["size"][::-1])
        for entry in recipe.make_targets()
    ]
    locations = make_locations(FIVE, 192, 224)
    assigned = LocationTargets(FIVE, radius, in_strides)(locations, targets)
    counts = [len(points) for points in locations]
    labels, distances = (part.split(counts, dim=1) for part in assigned)
    central = []
    for level, points in enumerate(locations):
        torch.testing.assert_close(points, ops_record[f"fcos/locations_level{level}"], rtol=0, atol=0)
        wanted = ops_record[f"fcos/{name}_labels_level{level}"].long()
        assert torch.equal(labels[level].flatten(), wanted)
        torch.testing.assert_close(
            distances[level].flatten(0, 1), ops_record[f"fcos/{name}_reg_targets_level{level}"]
        )
        central.append(centerness_of(distances[level][labels[level] > 0]))
    torch.testing.assert_close(torch.cat(central), ops_record[f"fcos/{name}_centerness_targets"])
