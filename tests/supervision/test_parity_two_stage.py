"""Faster R-CNN's proposals, second-stage targets and box head against numbers of the original code.

What it shares with the other detectors is compared in test_parity.py.
"""

import json

import pytest
import torch

from labelenc.supervision import LabelEncStep1

NAME = "e2e_faster_rcnn_R_50_FPN_1x"


@pytest.fixture(scope="module")
def models(shared_dir):
    return json.loads((shared_dir / "parity" / f"{NAME}.json").read_text())["models"]


@pytest.fixture(scope="module")
def scene(recipe, parity_cfg, inputs):
    """The step-1 network, images, targets, and the pyramid features of images and encodings."""
    model = LabelEncStep1(parity_cfg(NAME), augment=False)
    model.load_state_dict(recipe.deterministic_weights(model.state_dict()), strict=True)
    images, targets = inputs
    with torch.no_grad():
        features = [model.backbone(images.tensors), model.encode(images, targets)]
    return model, images, targets, features


@pytest.mark.parametrize("call", [0, 1], ids=["images", "encodings"])
@torch.no_grad()
def test_training(scene, models, call, assert_statistics):
    model, images, targets, features = scene
    record = models["step1"]["train_aug_false"]
    # Per call of the heads, the targets of the RPN and those of the second stage.
    wanted = record["targets"][2 * call + 1]
    [(_, proposals)] = model.rpn.losses_and_proposals(images, [features[call]], targets)
    assert [len(boxes) for boxes in proposals] == wanted["proposals_per_image"]
    sums = [boxes.bbox.double().sum().item() for boxes in proposals]
    assert sums == pytest.approx(wanted["proposal_box_sum"], rel=1e-5)
    sampled = [model.roi_heads.sample(*pair) for pair in zip(proposals, targets, strict=True)]
    assert [len(boxes) for boxes in sampled] == wanted["sampled_per_image"]
    assert [int((boxes.get_field("labels") > 0).sum()) for boxes in sampled] == wanted["positive"]
    logits, offsets = model.roi_heads.box(features[call], sampled)
    for output, statistics in zip(
        (logits, offsets.flatten(1)), record["roi_predictor_outputs"][call], strict=True
    ):
        assert_statistics(output, statistics)


@torch.no_grad()
def test_proposals_when_detecting(scene, models, assert_statistics):
    model, images, _, features = scene
    record = models["plain"]["eval"]
    proposals = model.rpn.proposals(images, features[0])
    for found, wanted in zip(proposals, record["rpn_proposals"], strict=True):
        assert len(found) == wanted["count"]
        assert found.bbox.double().sum().item() == pytest.approx(wanted["box_sum"], rel=1e-5)
        torch.testing.assert_close(found.bbox[:5], torch.tensor(wanted["first5"]), rtol=0, atol=1e-2)
        objectness = found.get_field("objectness")[:5].tolist()
        assert objectness == pytest.approx(wanted["first5_objectness"], abs=1e-4)
    logits, offsets = model.roi_heads.box(features[0], proposals)
    assert_statistics(logits, record["roi_predictor_outputs"][0])
    assert_statistics(offsets.flatten(1), record["roi_predictor_outputs"][1])
