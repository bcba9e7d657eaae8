"""RetinaNet's losses and detections against loops written out by hand."""

import itertools
import math

import pytest
import torch
from torchvision.ops import box_iou

from labelenc.modeling import build_detector
from labelenc.modeling.dense.build import build_retinanet
from labelenc.structures import ImageBatch

CLASSES = 3
# (height, width) of the images in a batch of 64 x 96.
SIZES = ((64, 70), (50, 96))


def detect(rpn, images, features):
    return [rpn.select(found) for found in rpn.candidates(images, features)]


@pytest.fixture
def scene(seed, small_cfg, make_target):
    """A head that says something everywhere, random features, two images with targets."""

    def make(*words):
        sizes = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 8, "MODEL.RETINANET.ANCHOR_SIZES", "(24, 48, 96)")
        rpn = build_retinanet(small_cfg(*sizes, *words))
        with torch.no_grad():
            for parameter in rpn.head.parameters():
                parameter.normal_(0, 0.12)
        features = [torch.randn(2, 8, 64 // s, 96 // s) for s in (8, 16, 32)]
        images = ImageBatch(torch.zeros(2, 3, 64, 96), SIZES)
        targets = [
            make_target([[3.0, 4, 40, 50], [20, 10, 69, 33], [50, 40, 66, 63]], [1, 3, 2], SIZES[0]),
            # The second is too small for any anchor: its best one reaches an IoU of 0.44 only.
            make_target([[30.5, 8.25, 80, 49], [21.3, 30.2, 36.3, 45.2]], [3, 2], SIZES[1]),
        ]
        return rpn, images, features, targets

    return make


def outputs_by_hand(rpn, features):
    """Per image [(anchor, class logits, box offsets)], floats, in the order level, row, column, anchor."""
    all_logits, all_offsets = rpn.head(features)
    images = []
    for image in range(len(features[0])):
        rows = []
        for level, stride in enumerate(rpn.anchor_generator.strides):
            cells = list(rpn.anchor_generator.cell_anchors)[level].tolist()
            logits, offsets = all_logits[level][image].tolist(), all_offsets[level][image].tolist()
            height, width = features[level].shape[-2:]
            for y, x, a in itertools.product(range(height), range(width), range(len(cells))):
                shift = (x * stride, y * stride) * 2
                anchor = [c + s for c, s in zip(cells[a], shift, strict=True)]
                rows.append(
                    (
                        anchor,
                        [logits[a * CLASSES + c][y][x] for c in range(CLASSES)],
                        [offsets[a * 4 + k][y][x] for k in range(4)],
                    )
                )
        images.append(rows)
    return images


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def labels_by_hand(anchors, boxes, labels, size, straddle):
    """Per anchor (label, box): label -1 where ignored, 0 for background."""
    table = [[iou(anchor, box) for box in boxes] for anchor in anchors]
    best_of_box = [max(column) for column in zip(*table, strict=True)] if boxes else []
    assigned = []
    for anchor, row in zip(anchors, table, strict=True):
        best = max(row, default=0.0)
        rescued = any(abs(value - top) < 1e-9 for value, top in zip(row, best_of_box, strict=True))
        index = row.index(best) if row else None
        label, box = (labels[index], boxes[index]) if best >= 0.5 or rescued else (0, None)
        if label == 0 and best >= 0.4:
            label = -1
        if straddle >= 0 and not (
            anchor[0] >= -straddle
            and anchor[1] >= -straddle
            and anchor[2] < size[1] + straddle
            and anchor[3] < size[0] + straddle
        ):
            label = -1
        assigned.append((label, box))
    return assigned


def losses_by_hand(rpn, images, features, targets, straddle):
    classification = regression = 0.0
    positives = 0
    for rows, size, boxes in zip(outputs_by_hand(rpn, features), images.image_sizes, targets, strict=True):
        truth, labels = boxes.bbox.tolist(), boxes.get_field("labels").tolist()
        assigned = labels_by_hand([row[0] for row in rows], truth, labels, size, straddle)
        for (anchor, logits, offsets), (label, box) in zip(rows, assigned, strict=True):
            if label < 0:
                continue
            for c, logit in enumerate(logits, start=1):
                p = 1 / (1 + math.exp(-logit))
                if c == label:
                    classification -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    classification -= 0.75 * p**2 * math.log1p(-p)
            if label > 0:
                positives += 1
                regression += smooth_l1_by_hand(offsets, encode_by_hand(box, anchor))
    return {
        "loss_retina_cls": classification / (positives + len(targets)),
        "loss_retina_reg": regression / max(1, 4 * positives),
    }


def encode_by_hand(box, anchor):
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    aw, ah = anchor[2] - anchor[0] + 1, anchor[3] - anchor[1] + 1
    dx = (box[0] + w / 2 - anchor[0] - aw / 2) / aw
    dy = (box[1] + h / 2 - anchor[1] - ah / 2) / ah
    return [10 * dx, 10 * dy, 5 * math.log(w / aw), 5 * math.log(h / ah)]


def smooth_l1_by_hand(values, wanted, beta=0.11):
    gaps = [abs(value - want) for value, want in zip(values, wanted, strict=True)]
    return sum(0.5 * gap**2 / beta if gap < beta else gap - beta / 2 for gap in gaps)


@pytest.mark.parametrize("straddle", [-1, 0, 7])
def test_losses(scene, straddle):
    rpn, images, features, targets = scene("MODEL.RETINANET.STRADDLE_THRESH", straddle)
    expected = losses_by_hand(rpn, images, features, targets, straddle)
    found = {name: loss.item() for name, loss in rpn.losses(images, [features], targets)[0].items()}
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected["loss_retina_reg"] > 0


def test_losses_with_one_image_without_boxes(scene, make_target):
    rpn, images, features, targets = scene()
    targets = [make_target([], [], SIZES[0]), targets[1]]
    expected = losses_by_hand(rpn, images, features, targets, -1)
    found = {name: loss.item() for name, loss in rpn.losses(images, [features], targets)[0].items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_losses_without_any_box(scene, make_target):
    rpn, images, features, _ = scene()
    targets = [make_target([], [], size) for size in SIZES]
    losses = rpn.losses(images, [features], targets)[0]
    expected = losses_by_hand(rpn, images, features, targets, -1)
    assert losses["loss_retina_reg"].item() == expected["loss_retina_reg"] == 0
    assert losses["loss_retina_cls"].item() == pytest.approx(expected["loss_retina_cls"], rel=1e-4)
    sum(losses.values()).backward()
    # Data-parallel training needs a gradient, be it zero, for every parameter of the head.
    for name, parameter in rpn.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def candidates_by_hand(rows, size, threshold, top_n):
    """Boxes, scores and labels of one image; ``rows`` as from ``outputs_by_hand``. None where rounding may
    decide which they are."""
    found = []
    start = 0
    for cells in (8 * 12, 4 * 6, 2 * 3):
        level = []
        for anchor, logits, offsets in rows[start : start + cells * 9]:
            for label, logit in enumerate(logits, start=1):
                score = 1 / (1 + math.exp(-logit))
                if abs(score - threshold) < 1e-6:
                    return None
                if score > threshold:
                    level.append((decode_by_hand(anchor, offsets, size), score, label))
        level.sort(key=lambda row: -row[1])
        if len(level) > top_n and level[top_n - 1][1] - level[top_n][1] < 1e-6:
            return None
        found += level[:top_n]
        start += cells * 9
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return boxes, torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.int64)


def decode_by_hand(anchor, offsets, size):
    aw, ah = anchor[2] - anchor[0] + 1, anchor[3] - anchor[1] + 1
    x, y = offsets[0] / 10 * aw + anchor[0] + aw / 2, offsets[1] / 10 * ah + anchor[1] + ah / 2
    limit = math.log(1000 / 16)
    w, h = math.exp(min(offsets[2] / 5, limit)) * aw, math.exp(min(offsets[3] / 5, limit)) * ah
    corners = (x - w / 2, y - h / 2, x + w / 2 - 1, y + h / 2 - 1)
    limits = (size[1] - 1, size[0] - 1) * 2
    return [min(max(value, 0), top) for value, top in zip(corners, limits, strict=True)]


@pytest.fixture
def clear_scene(scene, clear_nms):
    """A scene and its detections by hand, per image (boxes, scores, labels), which float32 must reach."""

    def draw(threshold, top_n, limit):
        words = ("MODEL.RETINANET.INFERENCE_TH", threshold, "MODEL.RETINANET.PRE_NMS_TOP_N", top_n)
        for _ in range(40):
            rpn, images, features, _ = scene(*words, "TEST.DETECTIONS_PER_IMG", limit)
            detections = []
            for rows, size in zip(outputs_by_hand(rpn, features), SIZES, strict=True):
                found = candidates_by_hand(rows, size, threshold, top_n)
                keep = None if found is None else clear_nms(*found, 0.4, limit)
                if keep is None:
                    break
                detections.append([part[keep] for part in found])
            else:
                return rpn, images, features, detections
        pytest.fail("no draw in which rounding decides nothing")

    return draw


@pytest.mark.parametrize(("threshold", "top_n", "limit"), [(0.05, 1000, 100), (0.3, 5000, 1000), (0.6, 7, 5)])
@torch.no_grad()
def test_detections(clear_scene, assert_detections, threshold, top_n, limit):
    rpn, images, features, expected = clear_scene(threshold, top_n, limit)
    assert_detections(detect(rpn, images, features), expected, SIZES, limit)


@torch.no_grad()
def test_nothing_detected(scene, assert_nothing_detected):
    rpn, images, features, _ = scene()
    rpn.head.cls_logits.bias.fill_(-100)
    rpn.head.cls_logits.weight.zero_()
    assert_nothing_detected(detect(rpn, images, features), SIZES)


@torch.no_grad()
def test_classes_do_not_suppress_each_other(scene):
    rpn, images, features, _ = scene("TEST.DETECTIONS_PER_IMG", 1000, "MODEL.RETINANET.PRE_NMS_TOP_N", 5000)
    rpn.head.cls_logits.weight.zero_()
    rpn.head.bbox_pred.weight.zero_()
    rpn.head.bbox_pred.bias.zero_()
    # Every anchor says the same: class 1 and class 3 at the same places, class 2 nowhere.
    rpn.head.cls_logits.bias.copy_(torch.tensor([2.0, -9, 1]).repeat(9))
    found = detect(rpn, images, features)[0]
    boxes = [found.bbox[found.get_field("labels") == label] for label in (1, 2, 3)]
    assert len(boxes[0]) > 10
    assert len(boxes[1]) == 0
    assert len(boxes[2]) > 10
    # Within a class at most 0.4 may remain.
    grown = torch.tensor([0.0, 0, 1, 1])
    assert box_iou(boxes[0] + grown, boxes[2] + grown).max() > 0.9


def test_the_class_bias_starts_at_the_prior(small_cfg):
    head = build_retinanet(small_cfg("MODEL.RETINANET.PRIOR_PROB", 0.02)).head
    assert head.cls_logits.bias.sigmoid().tolist() == pytest.approx([0.02] * 27)
    assert len(head.cls_tower) == 4


def test_the_detector_in_both_modes(seed, small_cfg, make_target):
    model = build_detector(small_cfg())
    images = ImageBatch(torch.randn(2, 3, 64, 96), SIZES)
    losses = model(images, [make_target([], [], size) for size in SIZES])
    assert set(losses) == {"loss_retina_cls", "loss_retina_reg"}
    assert all(loss.ndim == 0 for loss in losses.values())
    with pytest.raises(ValueError, match="targets are needed"):
        model(images)
    with pytest.raises(TypeError, match="normalize"):
        model(ImageBatch(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), SIZES))
    assert model.begin_iteration(0) == {}
    with torch.no_grad():
        found = model.eval()(images)
    assert [result.size for result in found] == [(70, 64), (96, 50)]
