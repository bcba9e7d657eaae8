"""BoxList and its arithmetic against the recorded numbers and torchvision."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, clip_boxes_to_image

from labelenc.structures import BoxList, box_ops

SIZE = (224, 192)


@pytest.fixture(scope="module")
def record(shared_dir):
    with np.load(shared_dir / "parity/ops.npz") as arrays:
        return {
            k.removeprefix("boxlist/"): torch.from_numpy(arrays[k])
            for k in arrays
            if k.startswith("boxlist/")
        }


def random_boxes(count, size=SIZE):
    """Boxes inside an image of (width, height), some of them a single pixel."""
    corners = torch.rand(count, 2, 2) * (torch.tensor(size) - 1)
    boxes = torch.cat([corners.min(dim=1).values, corners.max(dim=1).values], dim=1)
    boxes[::7, 2:] = boxes[::7, :2]
    return boxes


def test_recorded_geometry(record):
    boxes = BoxList(record["boxes"], SIZE)
    torch.testing.assert_close(boxes.flip_left_right().bbox, record["flip_left_right"])
    resized = boxes.resize((448, 300))
    torch.testing.assert_close(resized.bbox, record["resize_448x300"])
    assert resized.size == (448, 300)
    torch.testing.assert_close(boxes.area(), record["area"])
    others = torch.tensor([[5.0, 5, 80, 75], [0, 0, 223, 191]])
    torch.testing.assert_close(box_ops.pairwise_iou(boxes.bbox, others), record["iou"])


def test_recorded_clipping(record):
    outside = BoxList([[-3.0, -4, 300, 250], [5, 6, 7, 8]], SIZE)
    torch.testing.assert_close(outside.clip_to_image(remove_empty=False).bbox, record["clip"])


def test_iou_is_torchvisions_on_boxes_one_larger(seed):
    first, second = random_boxes(40).double(), random_boxes(25).double()
    grown = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    expected = box_iou(first + grown, second + grown)
    torch.testing.assert_close(box_ops.pairwise_iou(first, second), expected)
    assert (box_ops.pairwise_iou(first, first).diagonal() == 1).all()


def test_iou_of_no_boxes():
    none, some = torch.zeros(0, 4), random_boxes(3)
    assert box_ops.pairwise_iou(none, some).shape == (0, 3)
    assert box_ops.pairwise_iou(some, none).shape == (3, 0)


def test_clip_is_torchvisions_on_an_image_one_smaller(seed):
    boxes = random_boxes(50, (400, 400)) - 100
    width, height = SIZE
    expected = clip_boxes_to_image(boxes, (height - 1, width - 1))
    torch.testing.assert_close(box_ops.clip(boxes, SIZE), expected, rtol=0, atol=0)


def test_clipping_drops_boxes_without_extent_and_their_fields():
    boxes = BoxList([[-9.0, 2, -1, 50], [3, 4, 9, 9], [10, 500, 20, 600], [223, 0, 400, 191]], SIZE)
    boxes.add_field("labels", torch.tensor([1, 2, 3, 4]))
    kept = boxes.clip_to_image()
    assert kept.get_field("labels").tolist() == [2]
    assert kept.bbox.tolist() == [[3.0, 4, 9, 9]]
    assert len(boxes.clip_to_image(remove_empty=False)) == 4


def test_modes_round_trip(seed):
    boxes = BoxList(random_boxes(30), SIZE)
    xywh = boxes.convert("xywh")
    assert xywh.mode == "xywh"
    # Inclusive: from pixel 2 to pixel 11 is 10 pixels.
    assert BoxList([[2.0, 3, 11, 3]], SIZE).convert("xywh").bbox.tolist() == [[2.0, 3, 10, 1]]
    torch.testing.assert_close(xywh.convert("xyxy").bbox, boxes.bbox, rtol=0, atol=1e-4)
    torch.testing.assert_close(xywh.area(), boxes.area(), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        xywh.flip_left_right().convert("xyxy").bbox, boxes.flip_left_right().bbox, rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        xywh.resize((100, 300)).convert("xyxy").bbox, boxes.resize((100, 300)).bbox, rtol=1e-5, atol=1e-3
    )


def test_sizes_below_a_pixel_become_a_pixel():
    assert BoxList([[2.0, 3, 0, 0.5]], SIZE, "xywh").convert("xyxy").bbox.tolist() == [[2.0, 3, 2, 3]]


def test_flipping_twice_is_nothing(seed):
    boxes = BoxList(random_boxes(30).double(), SIZE)
    torch.testing.assert_close(boxes.flip_left_right().flip_left_right().bbox, boxes.bbox)


def test_fields_follow_the_rows():
    boxes = BoxList(random_boxes(5), SIZE)
    boxes.add_field("labels", torch.arange(5))
    boxes.add_field("scores", torch.linspace(0, 1, 5))
    for index in (torch.tensor([3, 1]), [3, 1]):
        picked = boxes[index]
        assert picked.get_field("labels").tolist() == [3, 1]
        assert torch.equal(picked.bbox, boxes.bbox[[3, 1]])
    assert boxes[boxes.get_field("scores") > 0.4].get_field("labels").tolist() == [2, 3, 4]
    assert boxes[1:3].get_field("labels").tolist() == [1, 2]
    assert boxes[1:3].size == SIZE
    for changed in (boxes.resize((50, 50)), boxes.flip_left_right(), boxes.convert("xywh"), boxes.to("cpu")):
        assert changed.fields() == ["labels", "scores"]
    assert not boxes.has_field("masks")


def test_adding_to_a_result_leaves_the_original():
    boxes = BoxList(random_boxes(2), SIZE)
    boxes.flip_left_right().add_field("labels", torch.zeros(2))
    assert boxes.fields() == []


def test_no_boxes():
    empty = BoxList([], SIZE)
    assert empty.bbox.shape == (0, 4)
    assert empty.bbox.dtype == torch.float32
    empty.add_field("labels", torch.zeros(0, dtype=torch.int64))
    for changed in (
        empty.resize((9, 9)),
        empty.flip_left_right(),
        empty.clip_to_image(),
        empty.convert("xywh"),
    ):
        assert len(changed) == 0
        assert changed.get_field("labels").dtype == torch.int64
    assert empty.area().shape == (0,)


def test_types():
    assert BoxList([[1, 2, 3, 4]], SIZE).bbox.dtype == torch.float32
    assert BoxList(torch.zeros(1, 4, dtype=torch.float64), SIZE).bbox.dtype == torch.float64
    assert BoxList([[1, 2, 3, 4]], (7.0, 8.0)).size == (7, 8)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"\(N, 4\), got \(2, 3\)"):
        BoxList(torch.zeros(2, 3), SIZE)
    with pytest.raises(ValueError, match="cxcywh"):
        BoxList(torch.zeros(2, 4), SIZE, mode="cxcywh")
    boxes = BoxList(torch.zeros(2, 4), SIZE)
    with pytest.raises(ValueError, match="'labels' has 3 rows for 2 boxes"):
        boxes.add_field("labels", torch.zeros(3))
    boxes.add_field("labels", torch.zeros(2))
    with pytest.raises(KeyError, match=r"no field 'scores'.*labels"):
        boxes.get_field("scores")
    with pytest.raises(ValueError, match="cxcywh"):
        boxes.convert("cxcywh")


def test_joined_lists(seed):
    parts = []
    for count in (3, 0, 5):
        parts.append(BoxList(random_boxes(count), SIZE))
        parts[-1].add_field("labels", torch.arange(count))
    joined = BoxList.cat(parts)
    assert joined.bbox.tolist() == parts[0].bbox.tolist() + parts[2].bbox.tolist()
    assert joined.get_field("labels").tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert (joined.size, joined.mode) == (SIZE, "xyxy")


@pytest.mark.parametrize(
    "other",
    [
        BoxList([], (5, 6)),
        BoxList([], SIZE, mode="xywh"),
        BoxList([[0.0, 0, 1, 1]], SIZE).convert("xywh"),
    ],
)
def test_lists_that_do_not_fit_are_not_joined(other):
    with pytest.raises(ValueError, match="must agree in image size, mode and fields"):
        BoxList.cat([BoxList([], SIZE), other])


def test_lists_with_different_fields_are_not_joined():
    scored = BoxList([], SIZE)
    scored.add_field("scores", torch.zeros(0))
    with pytest.raises(ValueError, match="scores"):
        BoxList.cat([BoxList([], SIZE), scored])
    with pytest.raises(ValueError, match="must agree"):
        BoxList.cat([])


def test_a_field_is_known_on_the_cpu_wherever_the_list_is():
    boxes = BoxList([[0.0, 0, 4, 4], [1, 1, 3, 3]], (9, 9))
    boxes.add_field("labels", torch.tensor([2, 1]))
    moved = boxes.to("meta")
    # A meta tensor has no values: they can only be the original's.
    assert moved.get_field("labels").device.type == "meta"
    assert moved.cpu_field("labels").tolist() == [2, 1]
    assert moved.resize((18, 18)).cpu_field("labels").tolist() == [2, 1]
    moved.add_field("labels", torch.tensor([5, 6]))
    assert moved.cpu_field("labels").tolist() == [5, 6]
    assert boxes.to("cpu")[1:].cpu_field("labels").tolist() == [1]
    with pytest.raises(KeyError, match="no field 'scores'"):
        boxes.cpu_field("scores")
