"""RoI pooling over the pyramid against recorded numbers and torchvision, one box at a time."""

import math

import pytest
import torch
from torchvision.ops import roi_align

from labelenc.modeling.roi.pooler import Pooler

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def random_boxes(count, width, height):
    """Of all sizes, on the image and over its borders."""
    low = torch.rand(count, 2) * torch.tensor([width, height]) - 5
    size = torch.logspace(0, math.log10(600), count)[torch.randperm(count)]
    stretch = 0.5 + torch.rand(count)
    return torch.cat([low, low + torch.stack([size * stretch, size / stretch], dim=1)], dim=1)


def pyramid(*, levels=5, channels=3):
    return [torch.randn(2, channels, 320 // s, 448 // s) for s in (4, 8, 16, 32, 64)[:levels]]


def level_by_hand(box):
    x0, y0, x1, y1 = box.tolist()
    size = math.sqrt((x1 - x0 + 1) * (y1 - y0 + 1))
    return min(max(math.floor(4 + math.log2(size / 224 + 1e-6)), 2), 5) - 2


def test_recorded_levels(ops_record):
    found = Pooler(7, SCALES, 2).levels(ops_record["levels/boxes"])
    assert found.dtype == torch.int64
    assert found.tolist() == ops_record["levels/index"].long().tolist()


def test_recorded_features(ops_record):
    features = [ops_record[f"pooler/feature{level}"] for level in range(4)]
    boxes = [ops_record["pooler/boxes0"], ops_record["pooler/boxes1"]]
    found = Pooler(7, SCALES, 2)(features, boxes)
    torch.testing.assert_close(found, ops_record["pooler/out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "level"), [(1, 0), (111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (2000, 3)]
)
def test_where_the_levels_begin(size, level):
    boxes = torch.tensor([[10.0, 20, 10 + size - 1, 20 + size - 1]])
    assert Pooler(7, SCALES, 2).levels(boxes).tolist() == [level]
    # Fewer levels: the largest boxes come from the last there is.
    assert Pooler(7, SCALES[:2], 2).levels(boxes).tolist() == [min(level, 1)]


@pytest.mark.parametrize(("resolution", "ratio"), [(7, 2), (5, 0)])
def test_each_box_is_pooled_from_its_level(seed, resolution, ratio):
    features = pyramid()
    boxes = [random_boxes(17, 400, 300), random_boxes(9, 400, 300)]
    found = Pooler(resolution, SCALES, ratio)(features, boxes)
    rows = [(image, box) for image, of_image in enumerate(boxes) for box in of_image]
    assert {level_by_hand(box) for _, box in rows} == {0, 1, 2, 3}
    assert found.shape == (26, 3, resolution, resolution)
    for pooled, (image, box) in zip(found, rows, strict=True):
        level = level_by_hand(box)
        feature = features[level][image : image + 1]
        wanted = roi_align(feature, [box[None]], resolution, SCALES[level], ratio, aligned=False)[0]
        torch.testing.assert_close(pooled, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_find_their_level(seed):
    features = [level.requires_grad_() for level in pyramid()]
    # 50 pixels: the first level, of the second image only.
    boxes = [torch.zeros(0, 4), torch.tensor([[20.0, 20, 69, 69]])]
    Pooler(7, SCALES, 2)(features, boxes).sum().backward()
    # A bin's samples weigh 1 together.
    assert features[0].grad[1].sum().item() == pytest.approx(49 * 3, rel=1e-5)
    assert features[0].grad[0].abs().sum() == 0
    assert all(level.grad is None or level.grad.abs().sum() == 0 for level in features[1:])


def test_no_box_at_all(seed):
    features = [level.requires_grad_() for level in pyramid()]
    found = Pooler(7, SCALES, 2)(features, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert all(level.grad.abs().sum() == 0 for level in features[:4])


def test_half_precision_features(seed):
    features, boxes = pyramid(), [random_boxes(5, 400, 300), random_boxes(4, 400, 300)]
    pooler = Pooler(7, SCALES, 2)
    halves = [level.bfloat16() for level in features]
    found = pooler(halves, boxes)
    assert found.dtype == torch.bfloat16
    wanted = pooler([level.float() for level in halves], boxes)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


def test_nothing_in_it_looks_at_values(seed):
    """A look at a value would break the graph, and on a GPU stall the stream."""
    features, boxes = pyramid(), [random_boxes(5, 400, 300), random_boxes(4, 400, 300)]
    pooler = Pooler(7, SCALES, 2)
    compiled = torch.compile(pooler, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, boxes), pooler(features, boxes))
