"""The second stage's sampling, losses and candidates against loops written out by hand."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from labelenc.modeling.roi.build import build_roi_heads
from labelenc.structures import BoxList

CLASSES = 3
SIZES = ((64, 70), (50, 96))
SAMPLE_ALL = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100000)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@pytest.fixture
def scene(seed, two_stage_cfg, make_target):
    """Heads that say something, random features, proposals around the ground truth and elsewhere."""

    def make(*words):
        heads = build_roi_heads(two_stage_cfg(*words))
        with torch.no_grad():
            heads.box.predictor.cls_score.weight.normal_(0, 0.5)
            heads.box.predictor.bbox_pred.weight.normal_(0, 0.5)
            heads.box.predictor.bbox_pred.bias.normal_(0, 0.5)
        features = [torch.randn(2, 16, -(-64 // s), -(-96 // s)) for s in (4, 8, 16, 32, 64)]
        targets = [
            make_target([[3.0, 4, 40, 50], [20, 10, 69, 33], [50, 40, 66, 63]], [1, 3, 2], SIZES[0]),
            make_target([[30.5, 8.25, 80, 49]], [3], SIZES[1]),
        ]
        proposals = [proposals_near(target, size) for target, size in zip(targets, SIZES, strict=True)]
        return heads, features, proposals, targets

    return make


def proposals_near(target, size):
    """Each true box itself and 20 shifted by up to a third of its size, and 30 at random."""
    height, width = size
    sides = (target.bbox[:, 2:] - target.bbox[:, :2]).repeat(1, 2)
    shifts = (torch.rand(20, len(target), 4) - 0.5) * sides * 2 / 3
    corners = torch.rand(30, 2) * torch.tensor([width, height]) / 2
    anywhere = torch.cat([corners, corners + 4 + torch.rand(30, 2) * 30], dim=1)
    boxes = torch.cat([(target.bbox + shifts).reshape(-1, 4), anywhere, target.bbox])
    return BoxList(boxes, (width, height)).clip_to_image(remove_empty=False)


def assigned_by_hand(box, target):
    """The label of a box, and the true box it stands for."""
    grown = torch.tensor([0.0, 0, 1, 1])
    overlaps = box_iou(box[None] + grown, target.bbox + grown)[0]
    if not len(target) or overlaps.max() < 0.5:
        return 0, None
    return target.get_field("labels").tolist()[overlaps.argmax()], target.bbox[overlaps.argmax()].tolist()


def encode_by_hand(box, reference, weights=WEIGHTS):
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    rw, rh = reference[2] - reference[0] + 1, reference[3] - reference[1] + 1
    dx = (box[0] + w / 2 - reference[0] - rw / 2) / rw
    dy = (box[1] + h / 2 - reference[1] - rh / 2) / rh
    raw = (dx, dy, math.log(w / rw), math.log(h / rh))
    return [weight * value for weight, value in zip(weights, raw, strict=True)]


def decode_by_hand(reference, offsets, size):
    rw, rh = reference[2] - reference[0] + 1, reference[3] - reference[1] + 1
    dx, dy, dw, dh = (value / weight for value, weight in zip(offsets, WEIGHTS, strict=True))
    x, y = dx * rw + reference[0] + rw / 2, dy * rh + reference[1] + rh / 2
    w, h = (math.exp(min(d, math.log(1000 / 16))) * r for d, r in ((dw, rw), (dh, rh)))
    limits = (size[1] - 1, size[0] - 1) * 2
    corners = (x - w / 2, y - h / 2, x + w / 2 - 1, y + h / 2 - 1)
    return [min(max(value, 0), top) for value, top in zip(corners, limits, strict=True)]


def outputs_of_each(heads, features, boxes):
    """Per image class logits and offsets (n, 1 + C, 4) of each box, which is alone in its call."""
    images = []
    for image, of_image in enumerate(boxes):
        rows = []
        for box in of_image.bbox:
            nothing = BoxList(torch.zeros(0, 4), (1, 1))
            alone = (
                [nothing] * image + [BoxList(box[None], of_image.size)] + [nothing] * (len(boxes) - image - 1)
            )
            x = heads.box.feature_extractor(features, [part.bbox for part in alone])
            logits, offsets = heads.box.predictor(x)
            rows.append((logits[0].tolist(), offsets[0].reshape(1 + CLASSES, 4).tolist()))
        images.append(rows)
    return images


def losses_by_hand(heads, features, proposals, targets):
    classification = regression = 0.0
    count = positives = 0
    outputs = outputs_of_each(heads, features, proposals)
    for boxes, target, rows in zip(proposals, targets, outputs, strict=True):
        for box, (logits, offsets) in zip(boxes.bbox, rows, strict=True):
            label, truth = assigned_by_hand(box, target)
            count += 1
            classification += math.log(sum(math.exp(v) for v in logits)) - logits[label]
            if label:
                positives += 1
                wanted = encode_by_hand(truth, box.tolist())
                gaps = [abs(a - b) for a, b in zip(offsets[label], wanted, strict=True)]
                regression += sum(0.5 * gap**2 if gap < 1 else gap - 0.5 for gap in gaps)
    return {"loss_classifier": classification / count, "loss_box_reg": regression / count}, positives


def losses_of(heads, features, proposals, targets):
    sampled = [heads.sample(*pair) for pair in zip(proposals, targets, strict=True)]
    return heads.losses([features], [sampled])[0]


def values(losses):
    return {name: loss.item() for name, loss in losses.items()}


def test_losses(scene):
    heads, features, proposals, targets = scene(*SAMPLE_ALL)
    with torch.no_grad():
        expected, positives = losses_by_hand(heads, features, proposals, targets)
    assert 5 < positives < len(proposals[0]) + len(proposals[1]) - 20
    assert values(losses_of(heads, features, proposals, targets)) == pytest.approx(expected, rel=1e-4)


def test_losses_with_one_image_without_boxes(scene, make_target):
    heads, features, proposals, targets = scene(*SAMPLE_ALL)
    targets = [targets[0], make_target([], [], SIZES[1])]
    with torch.no_grad():
        expected, _ = losses_by_hand(heads, features, proposals, targets)
    assert values(losses_of(heads, features, proposals, targets)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("without", ["boxes", "proposals"])
def test_losses_have_a_gradient_without(scene, make_target, without):
    heads, features, proposals, _ = scene()
    features = [level.requires_grad_() for level in features]
    targets = [make_target([], [], size) for size in SIZES]
    if without == "proposals":
        proposals = [boxes[:0] for boxes in proposals]
    losses = losses_of(heads, features, proposals, targets)
    assert losses["loss_box_reg"].item() == 0
    assert (losses["loss_classifier"].item() == 0) == (without == "proposals")
    sum(losses.values()).backward()
    # Data-parallel training needs a gradient, be it zero, for every parameter.
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_what_is_sampled(scene):
    words = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.5)
    heads, _, proposals, targets = scene(*words)
    for boxes, target in zip(proposals, targets, strict=True):
        sampled = heads.sample(boxes, target)
        labels, offsets = sampled.get_field("labels"), sampled.get_field("offsets")
        assert (len(sampled), int((labels > 0).sum())) == (16, 8)
        rows = [boxes.bbox.tolist().index(box) for box in sampled.bbox.tolist()]
        assert rows == sorted(rows)
        for box, label, wanted in zip(sampled.bbox, labels.tolist(), offsets.tolist(), strict=True):
            assert label == assigned_by_hand(box, target)[0]
            truth = assigned_by_hand(box, target)[1]
            expected = encode_by_hand(truth, box.tolist()) if label else [0.0] * 4
            assert wanted == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_offsets_are_weighted_as_configured(scene):
    weights = (2.0, 4.0, 6.0, 8.0)
    heads, _, proposals, targets = scene("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS", weights, *SAMPLE_ALL)
    sampled = heads.sample(proposals[0], targets[0])
    positive = sampled[sampled.get_field("labels") > 0]
    assert len(positive) > 5
    for box, wanted in zip(positive.bbox, positive.get_field("offsets").tolist(), strict=True):
        _, truth = assigned_by_hand(box, targets[0])
        assert wanted == pytest.approx(encode_by_hand(truth, box.tolist(), weights), rel=1e-4, abs=1e-4)
    # And taken off again: the weights themselves move a box by its width and height and let it grow e-fold.
    decoded = heads.box_coder.decode(torch.tensor([weights]), torch.tensor([[10.0, 20, 29, 49]]))
    width, height = 20 * math.e, 30 * math.e
    center = (10 + 20 / 2 + 20, 20 + 30 / 2 + 30)
    corners = [center[0] - width / 2, center[1] - height / 2, center[0] + width / 2 - 1]
    assert decoded[0].tolist() == pytest.approx([*corners, center[1] + height / 2 - 1], rel=1e-5)


def test_overlaps_between_the_thresholds_are_left_out(scene):
    words = ("MODEL.ROI_HEADS.BG_IOU_THRESHOLD", 0.1, *SAMPLE_ALL)
    heads, _, proposals, targets = scene(*words)
    grown = torch.tensor([0.0, 0, 1, 1])
    best = box_iou(proposals[0].bbox + grown, targets[0].bbox + grown).max(dim=1).values
    assert ((best >= 0.1) & (best < 0.5)).any()
    kept = heads.sample(proposals[0], targets[0])
    kept = kept[kept.get_field("labels") >= 0]
    assert kept.bbox.tolist() == proposals[0].bbox[(best < 0.1) | (best >= 0.5)].tolist()


def test_what_is_left_out_has_no_say(scene):
    heads, features, proposals, targets = scene("MODEL.ROI_HEADS.BG_IOU_THRESHOLD", 0.1, *SAMPLE_ALL)
    sampled = [heads.sample(*pair) for pair in zip(proposals, targets, strict=True)]
    drawn = [boxes[boxes.get_field("labels") >= 0] for boxes in sampled]
    assert sum(map(len, drawn)) < sum(map(len, sampled))
    found, expected = (heads.losses([features], [boxes])[0] for boxes in (sampled, drawn))
    assert values(found) == pytest.approx(values(expected), rel=1e-5)


def test_the_best_is_background_where_it_is_not_good(scene, make_target):
    heads, _, _, _ = scene(*SAMPLE_ALL)
    target = make_target([[0.0, 0, 29, 9]], [2], SIZES[0])
    # A third of the true box: nothing is its best, as an anchor would be.
    sampled = heads.sample(BoxList([[0.0, 0, 9, 9], [40, 40, 60, 60]], (70, 64)), target)
    assert sampled.get_field("labels").tolist() == [0, 0]


def candidates_by_hand(rows, boxes, size):
    """Every (label, score, corners) of an image, box after box."""
    found = []
    for box, (logits, offsets) in zip(boxes.bbox.tolist(), rows, strict=True):
        total = sum(math.exp(v) for v in logits)
        for label in range(1, 1 + CLASSES):
            corners = decode_by_hand(box, offsets[label], size)
            found.append((label, math.exp(logits[label]) / total, corners))
    return found


@pytest.mark.parametrize("share", [0.1, 0.8])
@torch.no_grad()
def test_candidates(scene, share):
    heads, features, proposals, _ = scene()
    outputs = outputs_of_each(heads, features, proposals)
    scenes = [candidates_by_hand(*image) for image in zip(outputs, proposals, SIZES, strict=True)]
    # A threshold between two scores, with this share of them above.
    scores = sorted((score for image in scenes for _, score, _ in image), reverse=True)
    cut = int(share * len(scores))
    heads.score_threshold = (scores[cut - 1] + scores[cut]) / 2
    for found, everything, size in zip(heads.candidates(features, proposals), scenes, SIZES, strict=True):
        expected = [row for row in everything if row[1] > heads.score_threshold]
        assert found.size == (size[1], size[0])
        assert found.get_field("labels").tolist() == [label for label, _, _ in expected]
        wanted = torch.tensor([score for _, score, _ in expected])
        torch.testing.assert_close(found.get_field("scores"), wanted, rtol=1e-4, atol=1e-6)
        corners = torch.tensor([corners for _, _, corners in expected]).reshape(-1, 4)
        torch.testing.assert_close(found.bbox, corners, rtol=1e-4, atol=1e-2)


@torch.no_grad()
def test_nothing_to_look_at_and_nothing_found(scene):
    heads, features, proposals, _ = scene()
    none = [boxes[:0] for boxes in proposals]
    heads.box.predictor.cls_score.bias.copy_(torch.tensor([100.0, 0, 0, 0]))
    for boxes in (none, [proposals[0], none[1]]):
        for found, (height, width) in zip(heads.candidates(features, boxes), SIZES, strict=True):
            assert len(heads.select(found)) == len(found) == 0
            assert found.size == (width, height)
            assert found.get_field("labels").dtype == torch.int64


def test_selection_follows_the_configuration(two_stage_cfg):
    words = ("MODEL.ROI_HEADS.NMS", 0.37, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 9)
    words += ("MODEL.ROI_HEADS.SCORE_THRESH", 0.21, "TEST.DETECTIONS_PER_IMG", 50)
    heads = build_roi_heads(two_stage_cfg(*words))
    assert heads.score_threshold == 0.21
    assert (heads.select.nms_threshold, heads.select.max_detections) == (0.37, 9)


def test_half_precision(scene):
    heads, features, proposals, targets = scene(*SAMPLE_ALL)
    expected = values(losses_of(heads, features, proposals, targets))
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(heads, [level.bfloat16() for level in features], proposals, targets)
        found = heads.candidates(features, proposals)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert values(losses) == pytest.approx(expected, rel=0.05)
    assert {boxes.get_field("scores").dtype for boxes in found} == {torch.float32}


def test_initial_weights(two_stage_cfg):
    box = build_roi_heads(two_stage_cfg("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 256)).box
    assert tuple(box.feature_extractor.fc6.weight.shape) == (256, 16 * 7 * 7)
    for layer in (box.feature_extractor.fc6, box.feature_extractor.fc7):
        # Uniform within sqrt(3 / fan in).
        assert layer.weight.abs().max().item() == pytest.approx((3 / layer.in_features) ** 0.5, rel=1e-2)
        assert layer.bias.abs().max() == 0
    for layer, std in ((box.predictor.cls_score, 0.01), (box.predictor.bbox_pred, 0.001)):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.2)
        assert layer.bias.abs().max() == 0
    assert (box.predictor.cls_score.out_features, box.predictor.bbox_pred.out_features) == (4, 16)
