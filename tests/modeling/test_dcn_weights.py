"""Files of networks without deformable convolutions, loaded into a body that has them."""

import pytest
import torch
import torchvision

from labelenc.config import load_config
from labelenc.modeling import build_detector
from labelenc.modeling.backbone.pretrained import WeightsError, load_weights

RETINANET = (
    *("MODEL.RETINANET_ON", "True", "MODEL.NUM_CLASSES", "3", "MODEL.DEVICE", "cpu"),
    *("MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "16"),
)
DEFORMABLE = (
    *("MODEL.RESNETS.STAGE_WITH_DCN", "(False, False, False, True)"),
    *("MODEL.RESNETS.WITH_MODULATED_DCN", "True"),
)
BLOCKS = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
OFFSETS = [
    f"backbone.body.layer4.{block}.conv2.offset.{leaf}" for block in range(3) for leaf in ("weight", "bias")
]


def detector(*words):
    return build_detector(load_config(None, [*RETINANET, *words]))


def middle_convolutions(groups=1):
    """(stage, block) -> weight of a ResNet's 3x3, drawn at random."""
    sizes = {stage: (128 if groups > 1 else 64) * 2**index for index, stage in enumerate(BLOCKS)}
    return {
        (stage, block): torch.randn(sizes[stage], sizes[stage] // groups, 3, 3)
        for stage, count in BLOCKS.items()
        for block in range(count)
    }


def caffe2(weights):
    names = {key: f"res{int(key[0][-1]) + 1}_{key[1]}_branch2b_w" for key in weights}
    return {"conv1_w": torch.randn(64, 3, 7, 7), **{names[key]: weights[key] for key in weights}}


def detectron2(weights):
    first = {"stem.conv1.weight": torch.randn(64, 3, 7, 7), "res2.0.conv1.weight": torch.randn(64, 64, 1, 1)}
    return {**first, **{f"res{int(s[-1]) + 1}.{b}.conv2.weight": w for (s, b), w in weights.items()}}


def torchvisions(weights):
    state = torchvision.models.resnet50(weights=None).state_dict()
    return {**state, **{f"{stage}.{block}.conv2.weight": w for (stage, block), w in weights.items()}}


@pytest.mark.parametrize("layout", [caffe2, detectron2, torchvisions])
def test_the_3x3_of_imagenet_files(seed, layout):
    weights, model = middle_convolutions(), detector(*DEFORMABLE)
    offset = model.backbone.body.layer4[1].conv2.offset.weight.clone()
    report = load_weights(model, layout(weights), "R-50.pkl")
    for (stage, block), weight in weights.items():
        layer = model.backbone.body.get_submodule(f"{stage}.{block}.conv2")
        assert torch.equal(layer.conv.weight if stage == "layer4" else layer.weight, weight)
    assert set(OFFSETS) <= set(report.missing)
    assert "not in the file, kept as initialised" in str(report)
    assert not [*report.unexpected, *report.mismatched]
    assert torch.equal(model.backbone.body.layer4[1].conv2.offset.weight, offset)


def test_a_resnext_file(seed):
    words = ("MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "4")
    weights, model = middle_convolutions(32), detector(*DEFORMABLE, *words)
    report = load_weights(model, caffe2(weights), "X-50.pkl")
    assert torch.equal(model.backbone.body.layer4[0].conv2.conv.weight, weights["layer4", 0])
    assert not [*report.unexpected, *report.mismatched]


def test_a_plain_detector(seed):
    source, model = detector(), detector(*DEFORMABLE)
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    report = load_weights(model, {"model": state}, "plain.pth")
    assert sorted(report.missing) == sorted(OFFSETS)
    assert not [*report.unexpected, *report.mismatched, *report.ignored]
    for block in range(3):
        plain = source.get_parameter(f"backbone.body.layer4.{block}.conv2.weight")
        assert torch.equal(model.get_parameter(f"backbone.body.layer4.{block}.conv2.conv.weight"), plain)
    with pytest.raises(WeightsError, match="lacks 6 tensors"):
        load_weights(model, {"model": state}, "plain.pth", complete=True)


def test_a_deformable_detector_loads_completely(seed):
    source, model = detector(*DEFORMABLE), detector(*DEFORMABLE)
    report = load_weights(model, source.state_dict(), "dcn.pth", complete=True)
    assert not [*report.missing, *report.unexpected, *report.ignored]
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_towers_of_a_plain_fcos(seed, fcos_cfg):
    source = build_detector(fcos_cfg("MODEL.FCOS.NUM_CONVS", 2))
    model = build_detector(fcos_cfg("MODEL.FCOS.NUM_CONVS", 2, "MODEL.FCOS.USE_DCN_IN_TOWER", True))
    with torch.no_grad():
        source.get_parameter("rpn.head.cls_tower.3.bias").normal_()
    report = load_weights(model, source.state_dict(), "fcos.pth")
    for tower in ("cls_tower", "bbox_tower"):
        for leaf in ("weight", "bias"):
            found = model.get_parameter(f"rpn.head.{tower}.3.conv.{leaf}")
            assert torch.equal(found, source.get_parameter(f"rpn.head.{tower}.3.{leaf}"))
            assert f"rpn.head.{tower}.3.offset.{leaf}" in report.missing
    assert not [*report.unexpected, *report.mismatched]
