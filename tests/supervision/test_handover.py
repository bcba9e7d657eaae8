"""The file that step 1 writes and step 2 starts from."""

import re

import pytest
import torch

from labelenc.supervision import (
    HandoverError,
    LabelEncStep1,
    LabelEncStep2,
    export_label_encoding,
    load_label_encoding,
)

BOTTLENECKS = ("MODEL.RESNETS.STEM_FUNC", "StemWithFixedBatchNorm", "MODEL.RESNETS.WIDTH_PER_GROUP", 4)
BOTTLENECKS += ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithFixedBatchNorm")


@pytest.fixture
def content(seed, small_cfg):
    """What a step-1 model exports, with every tensor random."""
    return exported(LabelEncStep1(small_cfg()))


def exported(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return export_label_encoding(model)


def test_round_trip_through_a_file(seed, small_cfg, content, tmp_path):
    path = tmp_path / "label_encoding_function.pth"
    torch.save(content, path)
    loaded = torch.load(path, weights_only=True)
    assert set(loaded) == {"label_encoding_function", "rpn"}
    model = LabelEncStep2(small_cfg())
    body = {k: v.clone() for k, v in model.backbone.body.state_dict().items()}
    adapter = {k: v.clone() for k, v in model.feature_adapt.state_dict().items()}
    load_label_encoding(model, loaded, str(path))
    for part in ("label_encoding_function", "rpn"):
        state = model.get_submodule(part).state_dict()
        assert set(state) == set(content[part])
        assert all(torch.equal(state[name], tensor) for name, tensor in content[part].items())
    fpn = model.backbone.fpn.state_dict()
    assert fpn
    for name, tensor in fpn.items():
        assert torch.equal(tensor, content["label_encoding_function"][f"fpn.{name}"]), name
    # Body and adapter are step 2's own.
    assert all(torch.equal(tensor, body[k]) for k, tensor in model.backbone.body.state_dict().items())
    assert all(torch.equal(tensor, adapter[k]) for k, tensor in model.feature_adapt.state_dict().items())
    assert not any(p.requires_grad for p in model.label_encoding_function.parameters())
    assert all(p.requires_grad for p in model.backbone.fpn.parameters())


def test_the_encoder_alone_leaves_the_detector_as_it_was(seed, small_cfg, content):
    """And so it does with another head, whose weights the file could not give."""
    model = LabelEncStep2(small_cfg("MODEL.RETINANET.NUM_CONVS", 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_label_encoding(model, content, "f.pth", encoder_only=True)
    prefix = "label_encoding_function."
    for name, tensor in model.state_dict().items():
        mine = content["label_encoding_function"].get(name.removeprefix(prefix))
        expected = mine if name.startswith(prefix) else before[name]
        assert torch.equal(tensor, expected), name
    del content["rpn"]
    load_label_encoding(model, content, "f.pth", encoder_only=True)
    with pytest.raises(HandoverError, match="lacks rpn"):
        load_label_encoding(model, content, "f.pth")


def test_loaded_parts_are_copies(small_cfg, content):
    model = LabelEncStep2(small_cfg())
    load_label_encoding(model, content, "f.pth")
    with torch.no_grad():
        model.backbone.fpn.fpn_inner2.weight.zero_()
    assert model.label_encoding_function.fpn.fpn_inner2.weight.abs().sum() > 0
    assert content["label_encoding_function"]["fpn.fpn_inner2.weight"].abs().sum() > 0


def test_the_file_holds_plain_names(content):
    names = [name for part in content.values() for name in part]
    assert not [name for name in names if name.startswith("module.")]
    assert "body.stage1.weight" in content["label_encoding_function"]
    assert "fpn.fpn_inner2.weight" in content["label_encoding_function"]
    assert "head.cls_logits.weight" in content["rpn"]
    assert "anchor_generator.cell_anchors.0" in content["rpn"]
    assert not any(tensor.requires_grad for part in content.values() for tensor in part.values())


def test_prefixes_of_parallel_wrappers_are_accepted(small_cfg, content):
    wrapped = {part: {f"module.{k}": v for k, v in state.items()} for part, state in content.items()}
    model = LabelEncStep2(small_cfg())
    load_label_encoding(model, wrapped, "f.pth")
    assert torch.equal(
        model.backbone.fpn.fpn_layer3.weight, content["label_encoding_function"]["fpn.fpn_layer3.weight"]
    )


def test_a_deeper_body_of_the_same_channels_takes_the_file(seed, small_cfg):
    words = (*BOTTLENECKS, "MODEL.BACKBONE.CONV_BODY")
    content = exported(LabelEncStep1(small_cfg(*words, "R-50-FPN-RETINANET")))
    model = LabelEncStep2(small_cfg(*words, "R-101-FPN-RETINANET"))
    load_label_encoding(model, content, "r50.pth")
    assert torch.equal(
        model.backbone.fpn.fpn_inner4.weight, content["label_encoding_function"]["fpn.fpn_inner4.weight"]
    )


def test_other_channels_are_refused_with_both_lists(small_cfg, content):
    model = LabelEncStep2(
        small_cfg("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.LABELENC.ENCODER_WIDTH", 2.0)
    )
    with pytest.raises(HandoverError) as caught:
        load_label_encoding(model, content, "f.pth")
    for words in ("f.pth", "[16, 32, 64, 128]", "[32, 64, 128, 256]", "step 1"):
        assert words in str(caught.value)


def test_other_classes_are_refused_with_both_counts(small_cfg, content):
    model = LabelEncStep2(small_cfg("MODEL.NUM_CLASSES", 5))
    with pytest.raises(HandoverError, match=r"f\.pth was trained for 3 classes, this model has 5"):
        load_label_encoding(model, content, "f.pth")


@pytest.mark.parametrize("part", ["label_encoding_function", "rpn"])
def test_a_missing_part_is_named_with_what_there_is(small_cfg, content, part):
    del content[part]
    (other,) = content
    model = LabelEncStep2(small_cfg())
    with pytest.raises(HandoverError, match=rf"lacks {part} \(it has {other}\).*--labelenc"):
        load_label_encoding(model, content, "f.pth")


@pytest.mark.parametrize("content", [{}, {"model": {}, "iteration": 3}, {"rpn": None}])
def test_another_kind_of_file(small_cfg, content):
    with pytest.raises(HandoverError, match=r"not a step-1 file.*lacks label_encoding_function, rpn"):
        load_label_encoding(LabelEncStep2(small_cfg()), content, "f.pth")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("MODEL.LABELENC.ENCODER_WIDTH", 1.0), "label_encoding_function"),
        (("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32), "label_encoding_function"),
        (("MODEL.RETINANET.NUM_CONVS", 3), "rpn"),
        (("MODEL.RETINANET.ASPECT_RATIOS", "(0.5, 1.0)"), "rpn"),
    ],
)
def test_another_detector_configuration_names_the_part(small_cfg, content, words, part):
    model = LabelEncStep2(small_cfg(*words))
    with pytest.raises(HandoverError, match=rf"^{part} of {re.escape('f.pth')} does not fit"):
        load_label_encoding(model, content, "f.pth")


def test_other_anchors_are_refused_with_both(small_cfg, content):
    model = LabelEncStep2(small_cfg("MODEL.RETINANET.ANCHOR_SIZES", "(8, 32, 64)"))
    before = [anchors.clone() for anchors in model.rpn.anchor_generator.cell_anchors]
    with pytest.raises(HandoverError, match=r"other anchors: anchor_generator\.cell_anchors\.0 .* there and"):
        load_label_encoding(model, content, "f.pth")
    after = list(model.rpn.anchor_generator.cell_anchors)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
