"""The encoder's first convolution over the classes present against the convolution of the dense label map."""

import pytest
import torch
from torch import nn

from labelenc import ops
from labelenc.structures import BoxList
from labelenc.supervision.label_encoder import encode_label_maps

CLASSES, SIZE = 11, (37, 50)


def first_convolution(dtype=torch.float32):
    return nn.Conv2d(CLASSES, 6, 7, stride=2, padding=3).to(dtype)


def random_target(number):
    corners = torch.rand(number, 2) * 40
    target = BoxList(torch.cat([corners, corners + 1 + torch.rand(number, 2) * 30], dim=1), SIZE[::-1])
    target.add_field("labels", torch.randint(1, CLASSES + 1, (number,)))
    return target


def dense(first, targets, scales):
    """By the definition: every class has a channel."""
    boxes, labels = [t.bbox for t in targets], [t.get_field("labels") for t in targets]
    return first(ops.label_map(boxes, labels, CLASSES, *SIZE, scales).to(first.weight.dtype))


@pytest.mark.parametrize("numbers", [(3, 5), (0, 4), (9, 0, 0, 1), (0,), (0, 0), (40, 2)])
@pytest.mark.parametrize("augmented", [False, True])
def test_equals_the_dense_form(seed, numbers, augmented):
    targets = [random_target(number) for number in numbers]
    scales = [torch.rand(len(target)) for target in targets] if augmented else None
    first = first_convolution(torch.float64)
    results = []
    for encode in (
        lambda: encode_label_maps(first, targets, SIZE, scales),
        lambda: dense(first, targets, scales),
    ):
        first.zero_grad()
        out = encode()
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        results.append((out.detach(), first.weight.grad, first.bias.grad))
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


def test_float32_agrees_to_rounding(seed):
    targets, first = [random_target(6), random_target(3)], first_convolution()
    with torch.no_grad():
        found, expected = encode_label_maps(first, targets, SIZE, None), dense(first, targets, None)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_autocast_runs_the_convolution_in_its_type(seed):
    targets, first = [random_target(6), random_target(0)], first_convolution()
    with torch.autocast("cpu", torch.bfloat16):
        found = encode_label_maps(first, targets, SIZE, None)
        expected = dense(first, targets, None)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
    found.float().sum().backward()
    assert first.weight.grad.dtype == torch.float32


def test_the_weight_takes_part_without_any_box(seed):
    first = first_convolution()
    encode_label_maps(first, [random_target(0)], SIZE, None).sum().backward()
    assert first.weight.grad is not None
    assert not first.weight.grad.any()


def test_the_dense_map_is_never_made(seed, largest_tensor):
    target = random_target(30)
    target.add_field("labels", torch.randint(3, 5, (30,)))
    first = first_convolution()
    with largest_tensor() as made:
        encode_label_maps(first, [target, target], SIZE, None).sum().backward()
    # Two classes in each of two images.
    assert made.size == 4 * max(4 * SIZE[0] * SIZE[1], 2 * 6 * 19 * 25)
    with largest_tensor() as made:
        dense(first, [target, target], None)
    assert made.size == 4 * 2 * CLASSES * SIZE[0] * SIZE[1]


def test_compiles(seed):
    first, targets = first_convolution(), [random_target(5), random_target(0)]
    results = []
    for encode in (encode_label_maps, torch.compile(encode_label_maps, backend="aot_eager")):
        first.zero_grad()
        out = encode(first, targets, SIZE, None)
        out.square().sum().backward()
        results.append((out.detach(), first.weight.grad))
    torch.testing.assert_close(results[1], results[0])
