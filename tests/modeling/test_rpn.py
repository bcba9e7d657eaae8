"""The region proposal network's losses and proposals against loops written out by hand."""

import math

import pytest
import torch
from torchvision.ops import box_iou, nms

from labelenc.modeling.dense.build import build_rpn
from labelenc.structures import ImageBatch

STRIDES = (4, 8, 16, 32, 64)
# (height, width) of the images in a batch of 64 x 96.
SIZES = ((64, 70), (50, 96))
# One more at the right and bottom makes torchvision's widths the inclusive ones.
GROWN = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
SAMPLE_ALL = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100000)


@pytest.fixture
def scene(seed, two_stage_cfg, make_target):
    """A network that says something everywhere, random features, two images with targets."""

    def make(*words):
        rpn = build_rpn(two_stage_cfg(*words))
        with torch.no_grad():
            for parameter in rpn.head.parameters():
                parameter.normal_(0, 0.15)
        features = [torch.randn(2, 16, -(-64 // s), -(-96 // s)) for s in STRIDES]
        images = ImageBatch(torch.zeros(2, 3, 64, 96), SIZES)
        targets = [
            make_target([[3.0, 4, 40, 50], [20, 10, 69, 33], [50, 40, 66, 63]], [1, 3, 2], SIZES[0]),
            make_target([[30.5, 8.25, 80, 49], [21.3, 30.2, 25.3, 45.2]], [3, 2], SIZES[1]),
        ]
        return rpn, images, features, targets

    return make


def outputs_by_hand(rpn, features):
    """Per level: anchors (R, 4), logits (2, R), offsets (2, R, 4), float64, in the order of the anchors."""
    all_logits, all_offsets = rpn.head(features)
    levels = []
    for anchors, logits, offsets in zip(rpn.anchor_generator(features), all_logits, all_offsets, strict=True):
        count, per_cell = logits.shape[:2]
        by_position = offsets.reshape(count, per_cell, 4, *offsets.shape[2:]).permute(0, 3, 4, 1, 2)
        flat = logits.permute(0, 2, 3, 1).reshape(count, -1)
        levels.append((anchors.double(), flat.double(), by_position.reshape(count, -1, 4).double()))
    return levels


def encode_by_hand(box, anchor):
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    aw, ah = anchor[2] - anchor[0] + 1, anchor[3] - anchor[1] + 1
    dx = (box[0] + w / 2 - anchor[0] - aw / 2) / aw
    dy = (box[1] + h / 2 - anchor[1] - ah / 2) / ah
    return [dx, dy, math.log(w / aw), math.log(h / ah)]


def decode_by_hand(anchor, offsets, size):
    aw, ah = anchor[2] - anchor[0] + 1, anchor[3] - anchor[1] + 1
    x, y = offsets[0] * aw + anchor[0] + aw / 2, offsets[1] * ah + anchor[1] + ah / 2
    w, h = (math.exp(min(o, math.log(1000 / 16))) * a for o, a in zip(offsets[2:], (aw, ah), strict=True))
    limits = (size[1] - 1, size[0] - 1) * 2
    corners = (x - w / 2, y - h / 2, x + w / 2 - 1, y + h / 2 - 1)
    return [min(max(value, 0), top) for value, top in zip(corners, limits, strict=True)]


def labels_by_hand(anchors, boxes, size, straddle):
    """Per anchor 1, 0 or -1, and the index of its box."""
    table = box_iou(anchors + GROWN, boxes.double() + GROWN)
    assigned = []
    for anchor, row in zip(anchors.tolist(), table, strict=True):
        best = row.max().item() if len(boxes) else 0.0
        rescued = any(
            row[g] > 0 and row[g] > table[:, g].max() - 1e-9 for g in (row > 0).nonzero().flatten().tolist()
        )
        label = 1 if best >= 0.7 or rescued else 0 if best < 0.3 else -1
        over = max(-anchor[0], -anchor[1], anchor[2] + 1e-9 - size[1], anchor[3] + 1e-9 - size[0])
        if straddle >= 0 and over > straddle:
            label = -1
        assigned.append((label, int(row.argmax()) if len(boxes) else None))
    return assigned


def losses_by_hand(rpn, images, features, targets, straddle=0):
    """The losses of all anchors that are not ignored, and how many are positive."""
    objectness = regression = 0.0
    positives = count = 0
    levels = outputs_by_hand(rpn, features)
    anchors = torch.cat([anchors for anchors, _, _ in levels])
    for image, (size, target) in enumerate(zip(images.image_sizes, targets, strict=True)):
        logits = torch.cat([logits[image] for _, logits, _ in levels]).tolist()
        offsets = torch.cat([offsets[image] for _, _, offsets in levels]).tolist()
        for row, (label, box) in enumerate(labels_by_hand(anchors, target.bbox, size, straddle)):
            if label < 0:
                continue
            count += 1
            p = 1 / (1 + math.exp(-logits[row]))
            objectness -= math.log(p if label else 1 - p)
            if label:
                positives += 1
                wanted = encode_by_hand(target.bbox[box].tolist(), anchors[row].tolist())
                gaps = [abs(a - b) for a, b in zip(offsets[row], wanted, strict=True)]
                regression += sum(4.5 * gap**2 if gap < 1 / 9 else gap - 1 / 18 for gap in gaps)
    return {"loss_objectness": objectness / count, "loss_rpn_box_reg": regression / count}, positives


@pytest.mark.parametrize("straddle", [-1, 0, 7])
def test_losses(scene, straddle):
    rpn, images, features, targets = scene(*SAMPLE_ALL, "MODEL.RPN.STRADDLE_THRESH", straddle)
    expected, positives = losses_by_hand(rpn, images, features, targets, straddle)
    [(losses, _)] = rpn.losses_and_proposals(images, [features], targets)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)
    assert positives > 3


def test_losses_with_one_image_without_boxes(scene, make_target):
    rpn, images, features, targets = scene(*SAMPLE_ALL)
    targets = [make_target([], [], SIZES[0]), targets[1]]
    expected, _ = losses_by_hand(rpn, images, features, targets)
    [(losses, proposals)] = rpn.losses_and_proposals(images, [features], targets)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)
    assert len(proposals[0]) > 0


def test_losses_without_any_box(scene, make_target):
    rpn, images, features, _ = scene()
    targets = [make_target([], [], size) for size in SIZES]
    [(losses, _)] = rpn.losses_and_proposals(images, [features], targets)
    assert losses["loss_rpn_box_reg"].item() == 0
    sum(losses.values()).backward()
    # Data-parallel training needs a gradient, be it zero, for every parameter of the head.
    for name, parameter in rpn.head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert rpn.head.cls_logits.weight.grad.abs().sum() > 0


def test_only_the_sampled_anchors_have_a_say(scene):
    words = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 24, "MODEL.RPN.POSITIVE_FRACTION", 0.1)
    rpn, images, features, targets = scene(*words)
    seen = {"loss_objectness": [], "loss_rpn_box_reg": []}

    def keep(_module, _inputs, outputs):
        for levels, kept in zip(outputs, seen.values(), strict=True):
            for level in levels:
                level.retain_grad()
                kept.append(level)

    rpn.head.register_forward_hook(keep)
    [(losses, _)] = rpn.losses_and_proposals(images, [features], targets)
    sum(losses.values()).backward()
    # Every true box has an anchor of its own, so there are two positives at least to choose two from.
    for name, numbers in (("loss_objectness", 24), ("loss_rpn_box_reg", 2 * 4)):
        per_image = sum((level.grad != 0).flatten(1).sum(dim=1) for level in seen[name])
        assert per_image.tolist() == [numbers, numbers]


def candidates_by_hand(rpn, features, pre, min_size=0):
    """Per image and level (boxes, objectness), best first, before NMS."""
    images = []
    for image, size in enumerate(SIZES):
        found = []
        for anchors, logits, offsets in outputs_by_hand(rpn, features):
            order = logits[image].argsort(descending=True)[:pre]
            rows = zip(anchors[order].tolist(), offsets[image][order].tolist(), strict=True)
            boxes = torch.tensor([decode_by_hand(*row, size) for row in rows], dtype=torch.float64)
            sides = boxes[:, 2:] - boxes[:, :2] + 1
            large = (sides >= min_size).all(dim=1)
            found.append((boxes[large], logits[image][order].sigmoid()[large]))
        images.append(found)
    return images


@pytest.fixture
def clear_scene(scene, clear_nms):
    """A scene and its proposals by hand, per image and level (objectness, boxes), best first, before the
    choice over levels, which float32 must reach."""

    def select(boxes, scores, limit):
        keep = clear_nms(boxes, scores, torch.zeros(len(boxes)), 0.7, limit)
        return None if keep is None else (scores[keep], boxes[keep])

    def draw(words, pre, post):
        for _ in range(100):
            rpn, images, features, targets = scene(*words)
            # One more than there may be: the first that is left out must be clearly worse.
            best = [scores for level in candidates_by_hand(rpn, features, pre + 1) for _, scores in level]
            if any(len(scores) > pre and scores[-2] - scores[-1] < 1e-6 for scores in best):
                continue
            candidates = candidates_by_hand(rpn, features, pre)
            found = [[select(*level, post) for level in of_image] for of_image in candidates]
            if any(level is None for of_image in found for level in of_image):
                continue
            scores = torch.cat([scores for of_image in found for scores, _ in of_image]).sort().values
            if scores.diff().min() > 1e-6:
                return (rpn, images, features, targets), found
        pytest.fail("no draw in which rounding decides nothing")

    return draw


def limits(pre, post, total, phase):
    return (
        *(f"MODEL.RPN.PRE_NMS_TOP_N_{phase}", pre, f"MODEL.RPN.POST_NMS_TOP_N_{phase}", post),
        *(f"MODEL.RPN.FPN_POST_NMS_TOP_N_{phase}", total),
    )


@pytest.mark.parametrize(("pre", "post", "total"), [(100, 1000, 1000), (60, 1000, 50), (200, 9, 31)])
@torch.no_grad()
def test_proposals(clear_scene, pre, post, total):
    (rpn, images, features, _), expected = clear_scene(limits(pre, post, total, "TEST"), pre, post)
    for found, levels, (height, width) in zip(rpn.proposals(images, features), expected, SIZES, strict=True):
        scores, boxes = (torch.cat(parts) for parts in zip(*levels, strict=True))
        best = scores.argsort(descending=True)[:total]
        assert found.size == (width, height)
        torch.testing.assert_close(found.get_field("objectness").double(), scores[best], rtol=0, atol=1e-6)
        torch.testing.assert_close(found.bbox.double(), boxes[best], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("per_batch", [True, False])
def test_proposals_to_train_on(clear_scene, per_batch):
    words = (*limits(100, 40, 90, "TRAIN"), "MODEL.RPN.FPN_POST_NMS_PER_BATCH", per_batch)
    (rpn, images, features, targets), expected = clear_scene(words, 100, 40)
    levels = [[torch.cat(parts) for parts in zip(*of_image, strict=True)] for of_image in expected]
    if per_batch:
        # Level by level as they were found, of both images together the best 90.
        cut = torch.cat([scores for scores, _ in levels]).sort(descending=True).values[89]
        wanted = [boxes[scores >= cut] for scores, boxes in levels]
        assert len(wanted[0]) + len(wanted[1]) == 90
    else:
        wanted = [boxes[scores.argsort(descending=True)[:90]] for scores, boxes in levels]
    [(_, proposals)] = rpn.losses_and_proposals(images, [features], targets)
    for found, boxes, target in zip(proposals, wanted, targets, strict=True):
        assert not found.bbox.requires_grad
        boxes = torch.cat([boxes, target.bbox.double()])
        torch.testing.assert_close(found.bbox.double(), boxes, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_small_boxes_are_dropped(scene):
    words = (*limits(100, 1000, 1000, "TEST"), "MODEL.RPN.MIN_SIZE", 12)
    rpn, images, features, _ = scene(*words)
    expected = candidates_by_hand(rpn, features, 100, min_size=12)
    for found, levels in zip(rpn.proposals(images, features), expected, strict=True):
        sides = found.bbox[:, 2:] - found.bbox[:, :2] + 1
        assert sides.min() >= 12
        assert abs(len(found) - sum(len(nms(boxes + GROWN, scores, 0.7)) for boxes, scores in levels)) <= 1


@pytest.mark.parametrize("broken", ["cls_logits", "bbox_pred"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_outputs_do_not_crash(scene, broken, value):
    rpn, images, features, targets = scene()
    with torch.no_grad():
        getattr(rpn.head, broken).bias[:2] = value
        found = rpn.proposals(images, features)
    assert all(boxes.get_field("objectness").isfinite().all() for boxes in found)
    [(_, proposals)] = rpn.losses_and_proposals(images, [features], targets)
    assert all(boxes.bbox.isfinite().all() for boxes in [*found, *proposals])
    assert all(len(boxes) > 3 for boxes in [*found, *proposals])


def test_nothing_but_the_ground_truth(scene):
    rpn, images, features, targets = scene()
    with torch.no_grad():
        rpn.head.bbox_pred.bias.fill_(math.nan)
        assert [len(boxes) for boxes in rpn.proposals(images, features)] == [0, 0]
    [(_, proposals)] = rpn.losses_and_proposals(images, [features], targets)
    assert [boxes.bbox.tolist() for boxes in proposals] == [target.bbox.tolist() for target in targets]


def test_half_precision(scene):
    rpn, images, features, targets = scene(*SAMPLE_ALL)
    expected, _ = losses_by_hand(rpn, images, features, targets)
    with torch.autocast("cpu", torch.bfloat16):
        [(losses, proposals)] = rpn.losses_and_proposals(images, [features], targets)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert {boxes.bbox.dtype for boxes in proposals} == {torch.float32}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=0.05)


def test_initial_weights(two_stage_cfg):
    head = build_rpn(two_stage_cfg("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 64)).head
    for layer, size in ((head.conv, 3), (head.cls_logits, 1), (head.bbox_pred, 1)):
        assert layer.kernel_size == (size, size)
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.3)
        assert layer.bias.abs().max() == 0
    assert (head.cls_logits.out_channels, head.bbox_pred.out_channels) == (3, 12)
