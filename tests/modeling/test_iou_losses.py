"""The losses on the overlap of boxes: closed forms, torchvision, recorded numbers."""

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

from labelenc.modeling.losses import iou_loss_sum

KINDS = ("iou", "linear_iou", "giou")


def loss_by_hand(first, second, kind):
    """Of two rows left, top, right, bottom, in Python's floats."""

    def area(row):
        return (row[0] + row[2]) * (row[1] + row[3])

    inner = area([min(pair) for pair in zip(first, second, strict=True)])
    hull = area([max(pair) for pair in zip(first, second, strict=True)]) + 1e-7
    union = area(first) + area(second) - inner
    iou = (inner + 1) / (union + 1)
    return {"iou": -math.log(iou), "linear_iou": 1 - iou, "giou": 1 - (iou - (hull - union) / hull)}[kind]


def total(prediction, target, kind, weights=None):
    weights = torch.ones(len(target)) if weights is None else weights
    return iou_loss_sum(prediction, target, weights, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_against_the_formulas(seed, kind):
    prediction, target, weights = torch.rand(30, 4) * 20, torch.rand(30, 4) * 20, torch.rand(30)
    expected = math.fsum(
        weight * loss_by_hand(*rows, kind)
        for weight, *rows in zip(weights.tolist(), prediction.tolist(), target.tolist(), strict=True)
    )
    assert total(prediction, target, kind, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_boxes_nothing_is_lost(seed, kind):
    boxes = torch.rand(20, 4) * 50
    assert total(boxes, boxes, kind).item() == pytest.approx(0, abs=1e-4)


def test_by_numbers():
    # A square of 4 x 4 inside one of 10 x 10, which is also the hull: IoU 17 / 101.
    prediction, target = torch.tensor([[2.0, 2, 2, 2]]), torch.tensor([[5.0, 5, 5, 5]])
    assert total(prediction, target, "iou").item() == pytest.approx(math.log(101 / 17))
    assert total(prediction, target, "linear_iou").item() == pytest.approx(84 / 101)
    assert total(prediction, target, "giou").item() == pytest.approx(84 / 101)
    # A cross of 2 x 10 and 10 x 2: 4 in common, 36 together, in a hull of 100.
    prediction, target = torch.tensor([[1.0, 5, 1, 5]]), torch.tensor([[5.0, 1, 5, 1]])
    assert total(prediction, target, "giou").item() == pytest.approx(1 - 5 / 37 + 64 / 100)


def test_against_torchvision(seed):
    # With areas this large the 1 added to them does not count.
    point, prediction, target = (torch.rand(40, count) * 9e3 + 1e3 for count in (2, 4, 4))
    first, second = (torch.cat([point - d[:, :2], point + d[:, 2:]], dim=1) for d in (prediction, target))
    expected = generalized_box_iou_loss(first, second, reduction="sum")
    torch.testing.assert_close(total(prediction, target, "giou"), expected, rtol=1e-5, atol=0)
    overlap = box_iou(first, second).diagonal()
    torch.testing.assert_close(total(prediction, target, "iou"), -overlap.log().sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        total(prediction, target, "linear_iou"), (1 - overlap).sum(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_losses_and_gradients(ops_record, kind):
    target, weights = ops_record["iou/target"], ops_record["iou/weight"]
    for name, by in ((kind, torch.ones_like(weights)), (f"{kind}_weighted", weights)):
        prediction = ops_record["iou/pred"].clone().requires_grad_()
        loss = iou_loss_sum(prediction, target, by, kind)
        loss.backward()
        torch.testing.assert_close(loss, ops_record[f"iou/{name}"], rtol=1e-5, atol=0)
        torch.testing.assert_close(prediction.grad, ops_record[f"iou/{name}_grad"], rtol=1e-4, atol=1e-6)


def test_weights_of_zero_do_not_count(ops_record):
    loss = total(ops_record["iou/pred"], ops_record["iou/target"], "giou", torch.zeros(10))
    torch.testing.assert_close(loss, ops_record["iou/giou_zero_weight"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_and_no_boxes_at_all(kind):
    prediction = torch.zeros(2, 4, requires_grad=True)
    loss = total(prediction, torch.tensor([[3.0, 4, 5, 6], [0.1, 0.1, 0.1, 0.1]]), kind)
    loss.backward()
    assert loss.isfinite()
    assert prediction.grad.isfinite().all()
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = total(nothing, torch.zeros(0, 4), kind)
    loss.backward()
    assert loss.item() == 0
    assert nothing.grad.shape == (0, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_single(seed, kind):
    prediction, target = (torch.rand(20, 4) * 300).half(), torch.rand(20, 4) * 300
    loss = total(prediction, target, kind)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(total(prediction.float(), target, kind).item())


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="iou, linear_iou or giou, not 'diou'"):
        total(torch.ones(1, 4), torch.ones(1, 4), "diou")
