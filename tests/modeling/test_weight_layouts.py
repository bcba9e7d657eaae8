"""ImageNet files of other programs: the body must compute what torchvision's network does."""

import logging
import pickle

import numpy as np
import pytest
import torch
import torchvision

from labelenc.config import load_config
from labelenc.engine import load_file
from labelenc.modeling import build_detector
from labelenc.modeling.backbone.pretrained import WeightsError, load_weights
from labelenc.supervision import LabelEncStep1

RETINANET = (
    *("MODEL.RETINANET_ON", "True", "MODEL.NUM_CLASSES", "3"),
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "16"),
)
BATCH_NORM = (
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC",
    "BottleneckWithBatchNorm",
)
GROUP_NORM = ("MODEL.RESNETS.STEM_FUNC", "StemWithGN", "MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN")
TORCHVISION_INPUT = (
    *("INPUT.TO_BGR255", "False", "MODEL.RESNETS.STRIDE_IN_1X1", "False"),
    *("INPUT.PIXEL_MEAN", "[0.485, 0.456, 0.406]", "INPUT.PIXEL_STD", "[0.229, 0.224, 0.225]"),
)
CAFFE2_LAYERS = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample.0": "branch1"}
CAFFE2_NORMS = {
    "bn1": "branch2a_bn",
    "bn2": "branch2b_bn",
    "bn3": "branch2c_bn",
    "downsample.1": "branch1_bn",
}


def config(body="R-50", *words):
    res2 = ("MODEL.RESNETS.RES2_OUT_CHANNELS", "64") if body in ("R-18", "R-34") else ()
    return load_config(None, [*RETINANET, "MODEL.BACKBONE.CONV_BODY", f"{body}-FPN-RETINANET", *res2, *words])


def reference(name="resnet50", stride_in_1x1=False, **options):
    """torchvision's network with random statistics, scales and shifts."""
    model = torchvision.models.get_model(name, **options).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(std=0.2)
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.3, 1.2)
    if stride_in_1x1:
        for stage in (model.layer2, model.layer3, model.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return model


def features(model, pixels):
    x = model.maxpool(model.relu(model.bn1(model.conv1(pixels))))
    levels = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        levels.append(x)
    return levels


def assert_same_features(detector, model):
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, expected in zip(
            detector.eval().backbone.body(pixels), features(model, pixels), strict=True
        ):
            assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def modules(model):
    """(name, convolution or None, norm or None) of every layer but the classifier."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            yield name, module, None
        elif isinstance(module, torch.nn.BatchNorm2d):
            yield name, None, module


def caffe2_name(name, table):
    if name in ("conv1", "bn1"):
        return {"conv1": "conv1", "bn1": "res_conv1_bn"}[name]
    stage, block, layer = name.split(".", 2)
    return f"res{int(stage[-1]) + 1}_{block}_{table[layer]}"


def caffe2(model):
    """The network as Detectron's files hold it: arrays, statistics folded into scale and shift."""
    blobs = {}
    for name, conv, norm in modules(model):
        if conv is not None:
            blobs[caffe2_name(name, CAFFE2_LAYERS) + "_w"] = conv.weight.detach().numpy()
            continue
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias.detach() - norm.running_mean * scale
        blobs[caffe2_name(name, CAFFE2_NORMS) + "_s"] = scale.numpy()
        blobs[caffe2_name(name, CAFFE2_NORMS) + "_b"] = shift.numpy()
    extra = {
        "fc1000_w": np.zeros((1000, 2048), np.float32),
        "fc1000_b": np.zeros(1000, np.float32),
        "conv1_b": np.zeros(64, np.float32),
        "conv1_w_momentum": np.zeros((64, 3, 7, 7), np.float32),
    }
    return {**blobs, **extra}, sorted(extra)


def detectron2(model):
    """The network under detectron2's names."""
    state = {"stem.fc.weight": torch.zeros(1000, 2048)}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "fc" or parts[-1] == "num_batches_tracked":
            continue
        if len(parts) == 2:
            state["stem.conv1." + ("norm." if parts[0] == "bn1" else "") + parts[1]] = tensor
            continue
        where = f"res{int(parts[0][-1]) + 1}.{parts[1]}."
        if parts[2] == "downsample":
            layer = "shortcut." + ("norm." if parts[3] == "1" else "")
        else:
            layer = f"conv{parts[2][-1]}." + ("norm." if parts[2].startswith("bn") else "")
        state[where + layer + parts[-1]] = tensor
    return state


@pytest.mark.parametrize(
    "wrap", [lambda b: b, lambda b: {"blobs": b, "cfg": "TRAIN: {}"}], ids=["flat", "blobs"]
)
def test_msra_files_of_caffe2(seed, tmp_path, caplog, wrap):
    cfg, source = config(), reference(stride_in_1x1=True)
    blobs, ignored = caffe2(source)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(wrap(blobs), protocol=2))
    detector = build_detector(cfg)
    with caplog.at_level(logging.INFO, logger="labelenc"):
        report = load_weights(detector, load_file(path), "R-50.pkl", inputs=cfg.INPUT)
    assert_same_features(detector, source)
    assert report.layout.startswith("Caffe2, with mean 0 and variance 1")
    assert sorted(report.ignored) == ignored
    assert not [*report.unexpected, *report.mismatched, *report.notes]
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_resnext_files_of_caffe2(seed):
    words = ("MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "4")
    cfg, source = config("R-50", *words, "MODEL.RESNETS.STRIDE_IN_1X1", "False"), reference("resnext50_32x4d")
    blobs = {name: torch.from_numpy(array) for name, array in caffe2(source)[0].items()}
    detector = build_detector(cfg)
    report = load_weights(detector, blobs, "X-50.pkl", inputs=cfg.INPUT)
    assert not report.notes
    assert_same_features(detector, source)
    report = load_weights(build_detector(config("R-50", *words)), blobs, "X-50.pkl", inputs=cfg.INPUT)
    assert "STRIDE_IN_1X1 False, which its shapes do not show; the configuration has True" in report.notes[0]


@pytest.mark.parametrize("words", [BATCH_NORM, GROUP_NORM], ids=["batch", "group"])
def test_folded_norms_in_a_body_with_norms_of_its_own(seed, words):
    blobs = {
        name: torch.from_numpy(array) for name, array in caffe2(reference(stride_in_1x1=True))[0].items()
    }
    detector = build_detector(config("R-50", *words))
    report = load_weights(detector, blobs, "R-50.pkl")
    assert "StemWithFixedBatchNorm" in report.notes[0]
    if words is BATCH_NORM:
        assert "backbone.body.layer1.0.bn1.running_var" in report.missing
        assert torch.equal(detector.backbone.body.layer1[0].bn1.running_var, torch.ones(64))


def test_statistics_that_are_not_folded_are_reported(seed):
    blobs = {name: torch.from_numpy(array) for name, array in caffe2(reference())[0].items()}
    blobs["res2_0_branch2a_bn_rm"] = torch.zeros(64)
    report = load_weights(build_detector(config()), blobs, "R-50.pkl")
    assert "res2_0_branch2a_bn_rm" in report.unexpected
    assert any("res2_0_branch2a_bn_rm" in note and "not read" in note for note in report.notes)


@pytest.mark.parametrize("norm", [(), BATCH_NORM], ids=["frozen", "batch"])
@pytest.mark.parametrize(("body", "name"), [("R-18", "resnet18"), ("R-50", "resnet50")])
def test_torchvision_files(seed, body, name, norm):
    cfg, source = config(body, *norm, *TORCHVISION_INPUT), reference(name)
    before = source.layer1[0].bn1.running_var.clone()
    detector = build_detector(cfg)
    report = load_weights(detector, source.state_dict(), f"{name}.pth", inputs=cfg.INPUT)
    assert_same_features(detector, source)
    assert report.layout == "torchvision"
    assert {"fc.weight", "fc.bias"} <= set(report.ignored)
    assert not [*report.unexpected, *report.mismatched, *report.notes]
    assert not any(name.startswith("backbone.body.") for name in report.missing)
    assert torch.equal(source.layer1[0].bn1.running_var, before), "the file's tensors were changed"


def test_torchvision_files_say_what_config_they_need(seed, caplog):
    cfg, source = config(), reference()
    detector = build_detector(cfg)
    report = load_weights(detector, source.state_dict(), "resnet50.pth", inputs=cfg.INPUT)
    text = "\n".join(report.notes)
    for key in (
        "STRIDE_IN_1X1 False",
        "TO_BGR255 False",
        "takes RGB",
        "PIXEL_MEAN (0.485",
        "PIXEL_STD (0.229",
    ):
        assert key in text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert torch.equal(detector.backbone.body.stem.conv1.weight, source.conv1.weight), (
        "channels were reordered"
    )


def test_a_basic_block_has_no_stride_to_mistake(seed):
    cfg = config("R-18", *TORCHVISION_INPUT, "MODEL.RESNETS.STRIDE_IN_1X1", "True")
    report = load_weights(build_detector(cfg), reference("resnet18").state_dict(), "a.pth", inputs=cfg.INPUT)
    assert not report.notes


def test_detectron2_files(seed, tmp_path):
    cfg, source = config("R-50", *TORCHVISION_INPUT), reference()
    arrays = {name: tensor.numpy() for name, tensor in detectron2(source).items()}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}))
    detector = build_detector(cfg)
    report = load_weights(detector, load_file(path), "R-50.pkl", inputs=cfg.INPUT)
    assert_same_features(detector, source)
    assert report.layout == "detectron2"
    assert report.ignored == ["stem.fc.weight"]
    assert not [*report.unexpected, *report.mismatched, *report.notes]


@pytest.mark.parametrize("statistics", [True, False])
def test_detectron2_files_with_folded_norms(seed, statistics):
    cfg, source = config(), reference(stride_in_1x1=True)
    for norm in source.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.zero_()
            norm.running_var.fill_(1)
            norm.eps = 0.0
    state = detectron2(source)
    if not statistics:
        state = {name: tensor for name, tensor in state.items() if ".running_" not in name}
    detector = build_detector(cfg)
    with torch.no_grad():
        detector.backbone.body.stem.bn1.running_var.fill_(7)
    report = load_weights(detector, {"model": state}, "R-50.pkl", inputs=cfg.INPUT)
    assert_same_features(detector, source)
    assert not report.notes


def test_a_resnet_file_for_another_depth_is_reported(seed):
    with pytest.raises(WeightsError, match=r"nothing in a\.pkl fits"):
        load_weights(build_detector(config()), {"res_conv1_bn_s": torch.ones(32)}, "a.pkl")
    blobs = {name: torch.from_numpy(array) for name, array in caffe2(reference())[0].items()}
    report = load_weights(build_detector(config("R-101")), blobs, "R-50.pkl")
    assert "backbone.body.layer3.6.conv1.weight" in report.missing


def test_anchors_stay_those_of_the_configuration(small_cfg, seed, caplog):
    source = build_detector(small_cfg("MODEL.RETINANET.ANCHOR_SIZES", "(24, 48, 96)"))
    model = build_detector(small_cfg())
    before = [anchors.clone() for anchors in model.rpn.anchor_generator.cell_anchors]
    report = load_weights(model, source.state_dict(), "a.pth", complete=True)
    for index, (anchors, expected) in enumerate(
        zip(model.rpn.anchor_generator.cell_anchors, before, strict=True)
    ):
        assert torch.equal(anchors, expected)
        assert f"rpn.anchor_generator.cell_anchors.{index}" in report.ignored
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert len(report.notes) == 3
    assert all(words in warnings[0] for words in ("in the file", "by the configuration"))
    first = source.rpn.anchor_generator.cell_anchors
    width = next(iter(first))[0, 2] - next(iter(first))[0, 0] + 1
    assert f"{width:g} x " in report.notes[0]


def test_a_file_without_anchors_is_complete(small_cfg, seed):
    state = {k: v for k, v in build_detector(small_cfg()).state_dict().items() if "anchor_generator" not in k}
    report = load_weights(build_detector(small_cfg()), state, "a.pth", complete=True)
    assert not report.missing


def test_another_number_of_classes_is_said_in_words(small_cfg, seed):
    source, model = LabelEncStep1(small_cfg()), LabelEncStep1(small_cfg("MODEL.NUM_CLASSES", 5))
    report = load_weights(model, source.state_dict(), "a.pth")
    lines = [line for line in str(report).splitlines() if "another number of classes" in line]
    assert len(lines) == 1
    for layer in (
        "rpn.head.cls_logits.weight",
        "rpn.head.cls_logits.bias",
        "label_encoding_function.body.stage1",
    ):
        assert layer in lines[0]
    assert len(report.mismatched) == 3
    assert "of another shape" not in str(report)
    unmatched = {entry.split(" ")[0] for entry in report.mismatched}
    assert set(report.matched) | unmatched == set(model.state_dict())
