"""Files of weights: layouts, what is kept, what is reported."""

import logging

import pytest
import timm
import torch

from labelenc.modeling import build_detector
from labelenc.modeling.backbone.pretrained import WeightsError, load_weights
from labelenc.supervision import LabelEncStep1

TIMM = (
    "MODEL.BACKBONE.CONV_BODY",
    "timm/resnet18-FPN-RETINANET",
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
)
TIMM += ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithBatchNorm")


def build(small_cfg, seed, *words):
    torch.manual_seed(seed)
    return build_detector(small_cfg(*words))


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "optimizer": {"state": {}}, "iteration": 7},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "scheduler": {}},
        lambda s: {"model": {"model": s}},
    ],
    ids=["plain", "model", "module.", "model and module.", "twice"],
)
def test_checkpoints_of_a_detector(small_cfg, seed, wrap):
    source, model = build(small_cfg, seed), build(small_cfg, seed + 1)
    expected = copied(source.state_dict())
    report = load_weights(model, wrap(expected), "a.pth")
    assert sorted(report.matched) == sorted(expected)
    assert [*report.missing, *report.unexpected, *report.mismatched, *report.ignored] == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_what_does_not_fit_is_kept_and_reported(small_cfg, seed, caplog):
    source, model = build(small_cfg, seed), build(small_cfg, seed + 1, "MODEL.NUM_CLASSES", 5)
    before, given = copied(model.state_dict()), copied(source.state_dict())
    del given["backbone.fpn.fpn_inner2.bias"]
    given["rpn.head.extra.weight"] = torch.zeros(1)
    with caplog.at_level(logging.INFO, logger="labelenc"):
        report = load_weights(model, given, "a.pth")
    classes = ["rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"]
    assert [entry.split()[0] for entry in report.mismatched] == classes
    assert "(27, 64, 3, 3) for (45, 64, 3, 3)" in report.mismatched[0]
    assert report.missing == ["backbone.fpn.fpn_inner2.bias"]
    assert report.unexpected == ["rpn.head.extra.weight"]
    for name in [*classes, "backbone.fpn.fpn_inner2.bias"]:
        assert torch.equal(model.state_dict()[name], before[name])
    for name in report.matched:
        assert torch.equal(model.state_dict()[name], given[name])
    for words in ("a.pth", str(len(report.matched)), *classes, "rpn.head.extra.weight", "fpn_inner2.bias"):
        assert words in caplog.text


def test_training_only_tensors_are_set_aside_by_name(small_cfg, seed):
    source = LabelEncStep1(small_cfg())
    model = build(small_cfg, seed)
    report = load_weights(model, source.state_dict(), "step1.pth")
    prefixes = ("label_encoding_function.", "feature_adapt.")
    assert set(report.ignored) == {name for name in source.state_dict() if name.startswith(prefixes)}
    assert set(report.matched) == set(model.state_dict())
    assert not report.unexpected
    assert not report.missing


def test_a_labelenc_model_takes_its_training_only_tensors(small_cfg, seed):
    source, model = LabelEncStep1(small_cfg()), LabelEncStep1(small_cfg())
    report = load_weights(model, source.state_dict(), "step1.pth")
    assert not report.ignored
    assert torch.equal(model.feature_adapt[0].weight, source.feature_adapt[0].weight)


def test_timm_weights_for_a_timm_body(small_cfg, seed):
    source = timm.create_model("resnet18", pretrained=False)
    model = build(small_cfg, seed, *TIMM)
    report = load_weights(model, source.state_dict(), "resnet18.pth")
    assert report.layout == "timm body"
    assert {name.split(".")[-2] for name in report.unexpected} == {"fc"}
    with torch.no_grad():
        pixels = torch.randn(1, 3, 64, 64)
        expected = source.eval().forward_features(pixels)
        torch.testing.assert_close(model.eval().backbone.body(pixels)[-1], expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
        ({"label_encoding_function": {}, "rpn": {}}, r"a\.pth is for --labelenc of step 2 alone"),
        ({"epoch": 3, "name": "x"}, "holds no tensors"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, r"nothing in a\.pth fits this model.*conv1\.weight"),
        ({"rpn.head.cls_logits.bias": torch.zeros(2)}, r"nothing in a\.pth fits.*MODEL\.WEIGHT"),
        ({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, r"nothing in a\.pth fits.*_conv_stem"),
    ],
)
def test_files_that_give_nothing(small_cfg, seed, content, message):
    model = build(small_cfg, seed)
    before = copied(model.state_dict())
    with pytest.raises(WeightsError, match=message):
        load_weights(model, content, "a.pth")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def mismatches(report, title):
    lines = [line for line in str(report).splitlines() if title in line]
    return [name.split()[0] for line in lines for name in line.split(": ", 1)[1].split("), ")]


def test_layers_of_other_classes_are_told_from_layers_of_other_sizes(two_stage_cfg):
    """In a two-stage detector the objectness is no class layer, and other widths are no other classes."""
    source = build_detector(two_stage_cfg()).state_dict()
    fewer = two_stage_cfg("MODEL.NUM_CLASSES", 2)
    report = load_weights(build_detector(fewer), source, "three classes")
    box = [f"roi_heads.box.predictor.{layer}" for layer in ("cls_score", "bbox_pred")]
    expected = [f"{layer}.{part}" for layer in box for part in ("weight", "bias")]
    assert mismatches(report, "for another number of classes") == expected
    assert mismatches(report, "of another shape") == []
    wider = two_stage_cfg("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 64, "MODEL.RPN.ASPECT_RATIOS", "(0.5, 1.0)")
    report = load_weights(build_detector(wider), source, "narrower")
    assert mismatches(report, "for another number of classes") == []
    assert "rpn.head.cls_logits.weight" in mismatches(report, "of another shape")
