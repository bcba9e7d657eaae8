"""FCOS's losses and detections against loops written out by hand."""

import itertools
import math

import pytest
import torch
from torchvision.ops import box_iou

from labelenc.modeling.dense import fcos
from labelenc.modeling.dense.build import build_fcos
from labelenc.structures import ImageBatch

CLASSES = 3
STRIDES = (8, 16, 32)
# (height, width) of the images in a batch of 64 x 160.
SIZES = ((64, 150), (50, 160))
IMPROVED = ("MODEL.FCOS.NORM_REG_TARGETS", True, "MODEL.FCOS.CENTERNESS_ON_REG", True)
IMPROVED += ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5, "MODEL.FCOS.IOU_LOSS_TYPE", "giou")


def detect(rpn, images, features):
    return [rpn.select(found) for found in rpn.candidates(images, features)]


@pytest.fixture
def scene(seed, fcos_cfg, make_target):
    """A head that says something everywhere, random features, two images with targets."""

    def make(*words):
        rpn = build_fcos(fcos_cfg(*words))
        with torch.no_grad():
            for parameter in rpn.head.parameters():
                parameter.normal_(0, 0.12)
            rpn.head.bbox_pred.bias.fill_(2)
            for scale in rpn.head.scales:
                scale.scale.uniform_(0.5, 1.5)
        features = [torch.randn(2, 32, 64 // s, 160 // s) for s in STRIDES]
        images = ImageBatch(torch.zeros(2, 3, 64, 160), SIZES)
        targets = [
            make_target([[3.0, 4, 40, 50], [20, 10, 69, 33], [1, 1, 148, 63]], [1, 3, 2], SIZES[0]),
            make_target([[30.5, 8.25, 80, 49], [2, 2, 110, 45]], [3, 2], SIZES[1]),
        ]
        return rpn, images, features, targets

    return make


def outputs_by_hand(rpn, features, improved):
    """Per image and level [(x, y, class logits, predicted distances, centerness logit)] in floats; the
    distances are in pixels, or where improved in strides."""
    head, images = rpn.head, []
    for image in range(len(features[0])):
        levels = []
        for feature, stride, scale in zip(features, STRIDES, head.scales, strict=True):
            of_class, of_box = head.cls_tower(feature), head.bbox_tower(feature)
            logits = head.cls_logits(of_class)[image].tolist()
            raw = head.bbox_pred(of_box)[image].tolist()
            central = head.centerness(of_box if improved else of_class)[image, 0].tolist()
            height, width = feature.shape[-2:]
            rows = []
            for j, i in itertools.product(range(height), range(width)):
                scaled = [scale.scale.item() * raw[side][j][i] for side in range(4)]
                sides = [max(v, 0.0) if improved else math.exp(v) for v in scaled]
                classes = [logits[c][j][i] for c in range(CLASSES)]
                x, y = i * stride + stride // 2, j * stride + stride // 2
                rows.append((x, y, classes, sides, central[j][i]))
            levels.append(rows)
        images.append(levels)
    return images


def assigned_by_hand(x, y, level, boxes, labels, improved):
    bounds, best, found = [-1, 64, 128, math.inf], math.inf, (0, None)
    for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
        sides = [x - x0, y - y0, x1 - x, y1 - y]
        inside = min(sides) > 0
        if improved:
            reach = 1.5 * STRIDES[level]
            inside = inside and max(abs(x - (x0 + x1) / 2), abs(y - (y0 + y1) / 2)) < reach
        area = (x1 - x0 + 1) * (y1 - y0 + 1)
        if inside and bounds[level] <= max(sides) <= bounds[level + 1] and area < best:
            best, found = area, (label, [side / (STRIDES[level] if improved else 1) for side in sides])
    return found


def overlap_loss_by_hand(first, second, improved):
    def area(row):
        return (row[0] + row[2]) * (row[1] + row[3])

    inner = area([min(pair) for pair in zip(first, second, strict=True)])
    hull = area([max(pair) for pair in zip(first, second, strict=True)])
    union = area(first) + area(second) - inner
    iou = (inner + 1) / (union + 1)
    return 1 - iou + (hull - union) / hull if improved else -math.log(iou)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def losses_by_hand(rpn, features, targets, improved):
    classification = regression = centrality = weight = 0.0
    positives = 0
    for levels, boxes in zip(outputs_by_hand(rpn, features, improved), targets, strict=True):
        truth, labels = boxes.bbox.tolist(), boxes.get_field("labels").tolist()
        for level, rows in enumerate(levels):
            for x, y, logits, sides, central in rows:
                label, wanted = assigned_by_hand(x, y, level, truth, labels, improved)
                for c, logit in enumerate(logits, start=1):
                    p = sigmoid(logit)
                    if c == label:
                        classification -= 0.25 * (1 - p) ** 2 * math.log(p)
                    else:
                        classification -= 0.75 * p**2 * math.log1p(-p)
                if label:
                    left, top, right, bottom = wanted
                    degree = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
                    degree = math.sqrt(degree)
                    positives += 1
                    weight += degree
                    regression += degree * overlap_loss_by_hand(sides, wanted, improved)
                    p = sigmoid(central)
                    centrality -= degree * math.log(p) + (1 - degree) * math.log(1 - p)
    return {
        "loss_cls": classification / max(positives, 1),
        "loss_reg": regression / weight if positives else 0.0,
        "loss_centerness": centrality / max(positives, 1),
    }


@pytest.mark.parametrize("words", [(), IMPROVED], ids=["plain", "improved"])
def test_losses(scene, make_target, words):
    rpn, images, features, targets = scene(*words)
    empty = make_target([], [], SIZES[0])
    # Around a single location, close to two of its sides: all centerness together is less than 0.1.
    narrow = make_target([[3.5, 3.5, 11, 11]], [1], SIZES[1])
    for given in (targets, [empty, targets[1]], [empty, narrow]):
        expected = losses_by_hand(rpn, features, given, bool(words))
        found = {name: loss.item() for name, loss in rpn.losses(images, [features], given)[0].items()}
        assert found == pytest.approx(expected, rel=1e-4)
        assert min(expected.values()) > 0


@pytest.mark.parametrize("words", [(), IMPROVED], ids=["plain", "improved"])
def test_losses_without_any_box(scene, make_target, words):
    rpn, images, features, _ = scene(*words)
    targets = [make_target([], [], size) for size in SIZES]
    losses = rpn.losses(images, [features], targets)[0]
    expected = losses_by_hand(rpn, features, targets, bool(words))
    assert losses["loss_reg"].item() == losses["loss_centerness"].item() == 0
    assert losses["loss_cls"].item() == pytest.approx(expected["loss_cls"], rel=1e-4)
    sum(losses.values()).backward()
    # Data-parallel training needs a gradient, be it zero, for every parameter of the head.
    for name, parameter in rpn.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("without_boxes", [False, True])
def test_two_processes_with_half_a_batch_each_are_one_with_all(
    scene, make_target, monkeypatch, without_boxes
):
    rpn, images, features, targets = scene(*IMPROVED)
    if without_boxes:
        targets[1] = make_target([], [], SIZES[1])
    whole = rpn.losses(images, [features], targets)[0]
    counts = []

    def halves(mean):
        monkeypatch.setattr(fcos, "mean_over_processes", mean)
        for image in range(2):
            part = ImageBatch(images.tensors[image : image + 1], SIZES[image : image + 1])
            of_image = [f[image : image + 1] for f in features]
            yield rpn.losses(part, [of_image], targets[image : image + 1])[0]

    list(halves(lambda count: counts.append(count) or count))
    mean = sum(counts) / 2
    both = list(halves(lambda count: mean))
    for name, loss in whole.items():
        assert (both[0][name] + both[1][name]).item() / 2 == pytest.approx(loss.item(), rel=1e-4)


def candidates_by_hand(levels, size, improved, threshold, top_n):
    """Boxes, scores and labels of one image; ``levels`` as from ``outputs_by_hand``. None where rounding may
    decide which they are."""
    found = []
    for stride, rows in zip(STRIDES, levels, strict=True):
        of_level = []
        for x, y, logits, sides, central in rows:
            left, top, right, bottom = (side * (stride if improved else 1) for side in sides)
            corners = (x - left, y - top, x + right, y + bottom)
            limits = (size[1] - 1, size[0] - 1) * 2
            box = [min(max(value, 0), top) for value, top in zip(corners, limits, strict=True)]
            for label, logit in enumerate(logits, start=1):
                if abs(sigmoid(logit) - threshold) < 1e-6:
                    return None
                if sigmoid(logit) > threshold:
                    of_level.append((box, math.sqrt(sigmoid(logit) * sigmoid(central)), label))
        of_level.sort(key=lambda row: -row[1])
        if len(of_level) > top_n and of_level[top_n - 1][1] - of_level[top_n][1] < 1e-6:
            return None
        found += of_level[:top_n]
    boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return boxes, torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.int64)


@pytest.fixture
def clear_scene(scene, clear_nms):
    """A scene with scores from 0 to 1 and its detections by hand, per image (boxes, scores, labels), to which
    float32 must come, too."""

    def draw(words, threshold, top_n, limit):
        settings = ("MODEL.FCOS.INFERENCE_TH", threshold, "MODEL.FCOS.PRE_NMS_TOP_N", top_n)
        for _ in range(100):
            rpn, images, features, _ = scene(*words, *settings, "TEST.DETECTIONS_PER_IMG", limit)
            rpn.head.cls_logits.weight.mul_(10)
            rpn.head.centerness.weight.mul_(10)
            detections = []
            for levels, size in zip(outputs_by_hand(rpn, features, bool(words)), SIZES, strict=True):
                found = candidates_by_hand(levels, size, bool(words), threshold, top_n)
                keep = None if found is None else clear_nms(*found, 0.6, limit)
                if keep is None:
                    break
                detections.append([part[keep] for part in found])
            else:
                return rpn, images, features, detections
        pytest.fail("no draw in which rounding decides nothing")

    return draw


@pytest.mark.parametrize(("threshold", "top_n", "limit"), [(0.05, 1000, 100), (0.4, 5000, 1000), (0.6, 7, 5)])
@pytest.mark.parametrize("words", [(), IMPROVED], ids=["plain", "improved"])
@torch.no_grad()
def test_detections(clear_scene, assert_detections, words, threshold, top_n, limit):
    rpn, images, features, expected = clear_scene(words, threshold, top_n, limit)
    assert_detections(detect(rpn, images, features), expected, SIZES, limit)


@torch.no_grad()
def test_nothing_detected(scene, assert_nothing_detected):
    rpn, images, features, _ = scene()
    rpn.head.cls_logits.bias.fill_(-100)
    rpn.head.cls_logits.weight.zero_()
    assert_nothing_detected(detect(rpn, images, features), SIZES)


@pytest.mark.parametrize("words", [(), IMPROVED], ids=["plain", "improved"])
def test_half_precision(scene, words):
    rpn, images, features, targets = scene(*words)
    exact = rpn.losses(images, [features], targets)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = rpn.losses(images, [features], targets)[0]
        assert rpn.head(features)[0][0].dtype == torch.bfloat16
        found = detect(rpn, images, features)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in rpn.head.parameters())
    assert {boxes.bbox.dtype for boxes in found} == {torch.float32}


@pytest.mark.parametrize("words", [(), IMPROVED], ids=["plain", "improved"])
def test_a_trained_head_detects_its_targets(scene, words):
    rpn, images, features, targets = scene(*words)
    optimizer = torch.optim.Adam(rpn.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        sum(rpn.losses(images, [features], targets)[0].values()).backward()
        optimizer.step()
    with torch.no_grad():
        detections = detect(rpn, images, features)
    for found, wanted in zip(detections, targets, strict=True):
        confident = found[found.get_field("scores") > 0.3]
        overlaps = box_iou(wanted.bbox, confident.bbox)
        same = wanted.get_field("labels")[:, None] == confident.get_field("labels")
        best = (overlaps * same).amax(dim=1)
        assert (best > 0.6).all(), best
