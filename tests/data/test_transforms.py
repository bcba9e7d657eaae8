"""The resize rule and boxes that move with their pixels."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from labelenc.data.transforms import Transform, resized_size
from labelenc.structures import BoxList

# Worked out by hand from the rule: shorter side to min_size, longer side rounded down, at most max_size.
RULE = [
    ((640, 480, 800, 1333), (1066, 800)),
    ((480, 640, 800, 1333), (800, 1066)),
    ((500, 375, 800, 1333), (1066, 800)),
    ((1200, 400, 800, 1333), (1332, 444)),  # 1333 * 400 / 1200 = 444.33 -> 444; 444 * 3 = 1332
    ((400, 1200, 800, 1333), (444, 1332)),
    ((300, 300, 800, 1333), (800, 800)),
    ((1000, 800, 800, 1333), (1000, 800)),
    ((1000, 1, 800, 100), (1000, 1)),  # 100 * 1 / 1000 rounds to 0: one pixel is the least
]


@pytest.mark.parametrize(("arguments", "expected"), RULE)
def test_resize_rule(arguments, expected):
    assert resized_size(*arguments) == expected


def _rectangle(image: torch.Tensor) -> list[float]:
    """Inclusive corners of the bright area."""
    rows, columns = torch.nonzero(image.float().mean(0) > 127, as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item(), rows.max().item()]


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("min_size", [60, 120, 200])
def test_boxes_follow_the_pixels(seed, flip, min_size):
    generator = torch.Generator().manual_seed(seed)
    x0, y0 = torch.randint(5, 60, (2,), generator=generator).tolist()
    x1, y1 = x0 + 70, y0 + 40
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    image[:, y0 : y1 + 1, x0 : x1 + 1] = 255
    target = BoxList([[x0, y0, x1, y1]], (160, 120))
    target.add_field("labels", torch.tensor([3]))
    out, moved = Transform((min_size,), 1000, flip)(image, target, generator)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()
    assert tuple(out.shape[1:]) == (min_size, min_size * 4 // 3)
    assert moved.size == (out.shape[2], out.shape[1])
    assert moved.get_field("labels").tolist() == [3]
    # Inclusive corners scale as coordinates, so a box may miss the pixels by about the scale factor.
    slack = max(min_size / 120, 1)
    assert moved.bbox[0].tolist() == pytest.approx(_rectangle(out), abs=slack + 0.01)
    if flip and min_size == 120:
        assert moved.bbox[0].tolist() == _rectangle(out)


def test_resize_averages_where_it_shrinks():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :, ::2] = 200
    out, _ = Transform((16,), 100)(image, BoxList([], (64, 64)), None)
    assert (out[:, :, 2:-2].float() - 100).abs().max() <= 8


def test_channel_order():
    image = torch.stack([torch.full((8, 8), v, dtype=torch.uint8) for v in (1, 2, 3)])
    target = BoxList([], (8, 8))
    assert Transform((8,), 100)(image, target, None)[0][:, 0, 0].tolist() == [1, 2, 3]
    assert Transform((8,), 100, bgr=False)(image, target, None)[0][:, 0, 0].tolist() == [3, 2, 1]


def test_random_choices_come_from_the_generator_alone(seed):
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    target = BoxList([[1, 2, 20, 30]], (60, 40))
    transform = Transform((20, 30, 40), 100, 0.5)
    sizes, flips = set(), 0
    for number in range(200):
        state = torch.get_rng_state()
        out, boxes = transform(image, target, torch.Generator().manual_seed(seed + number))
        again, _ = transform(image, target, torch.Generator().manual_seed(seed + number))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(out, again)
        sizes.add(out.shape[1])
        flips += int(boxes.bbox[0, 0] > boxes.size[0] / 4)
    assert sizes == {20, 30, 40}
    # 200 fair coins stay within 60..140 but once in 10^8.
    assert 60 < flips < 140


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("size", [None, 30, 64, 131])
def test_pixels_are_those_of_the_plain_resize(seed, size, flip, bgr):
    height, width = torch.randint(1, 130, (2,)).tolist()
    decoded = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    # One plane after the other, as no fast path takes it.
    expected = decoded.permute(2, 0, 1).contiguous()
    transform = Transform((size or min(height, width),), 10_000, flip, bgr)
    out, _ = transform(decoded.permute(2, 0, 1), BoxList([], (width, height)), torch.Generator())
    if size is not None:
        expected = F.resize(expected, list(out.shape[1:]), antialias=True)
    expected = expected.flip(-1) if flip else expected
    assert out.is_contiguous()
    assert torch.equal(out, expected if bgr else expected[[2, 1, 0]])
