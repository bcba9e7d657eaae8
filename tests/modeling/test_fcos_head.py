"""The head of FCOS: what it predicts in which unit, its names, its first weights; the detector around it."""

import json
import math

import pytest
import torch

from labelenc.config import ConfigError
from labelenc.modeling import build_detector
from labelenc.modeling.dense.fcos import FCOSHead
from labelenc.structures import ImageBatch

STRIDES = (8, 16, 32)
PUBLISHED = (8, 16, 32, 64, 128)


def random_head(**options):
    head = FCOSHead(32, 5, STRIDES, num_convs=2, **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.1)
        for scale in head.scales:
            scale.scale.uniform_(0.5, 1.5)
    return head


def random_levels():
    return [torch.randn(2, 32, 64 // s, 96 // s) for s in STRIDES]


@pytest.mark.parametrize("in_strides", [False, True])
@torch.no_grad()
def test_distances_and_their_unit(seed, in_strides):
    head, features = random_head(distances_in_strides=in_strides), random_levels()
    logits, distances, centerness = head(features)
    assert [tuple(level.shape) for level in logits] == [(2, 5, 64 // s, 96 // s) for s in STRIDES]
    assert [tuple(level.shape) for level in centerness] == [(2, 1, 64 // s, 96 // s) for s in STRIDES]
    pixels = head(features, in_pixels=True)[1]
    for level, stride in enumerate(STRIDES):
        raw = head.bbox_pred(head.bbox_tower(features[level])) * head.scales[level].scale
        expected = raw.clamp(min=0) if in_strides else raw.exp()
        torch.testing.assert_close(distances[level], expected)
        torch.testing.assert_close(pixels[level], expected * (stride if in_strides else 1))
    # Not the mode but the caller decides, so losses can be had in eval mode and detections while training.
    for level, again in zip(distances, head.eval()(features)[1], strict=True):
        assert torch.equal(level, again)


@pytest.mark.parametrize("on_boxes", [False, True])
def test_the_tower_that_centerness_comes_from(seed, on_boxes):
    head = random_head(centerness_on_boxes=on_boxes)
    sum(level.sum() for level in head(random_levels())[2]).backward()
    used, unused = (head.bbox_tower, head.cls_tower) if on_boxes else (head.cls_tower, head.bbox_tower)
    assert used[0].weight.grad.abs().sum() > 0
    assert unused[0].weight.grad is None


def test_a_level_count_that_differs_is_refused(seed):
    with pytest.raises(ValueError, match="zip"):
        random_head()(random_levels()[:2])


@pytest.mark.parametrize(
    ("config", "deformable"), [("fcos_R_50_FPN_1x", False), ("fcos_imprv_dcnv2_R_50_FPN_1x", True)]
)
def test_first_weights_have_the_recorded_names_and_statistics(shared_dir, seed, config, deformable):
    record = json.loads((shared_dir / "parity/init_stats.json").read_text())["configs"][config]
    prefix = "rpn.head."
    expected = {name[len(prefix) :]: row for name, row in record.items() if name.startswith(prefix)}
    head = FCOSHead(256, 80, PUBLISHED, deformable=deformable)
    parameters = dict(head.named_parameters())
    assert list(parameters) == list(expected)
    assert not list(head.buffers())
    for name, wanted in expected.items():
        values = parameters[name].detach().double()
        if wanted["std"] == 0:
            assert values.std(unbiased=False) == 0, name
            assert values.mean().item() == pytest.approx(wanted["mean"], rel=1e-6), name
            continue
        count = values.numel()
        assert values.std().item() == pytest.approx(wanted["std"], rel=0.01 + 4 / math.sqrt(count)), name
        assert abs(values.mean().item()) < 6 * wanted["std"] / math.sqrt(count), name
        # A uniform distribution ends at a sharp bound, a normal one's largest value wavers.
        uniform = wanted["max_abs"] < 2 * wanted["std"]
        assert values.abs().max().item() == pytest.approx(wanted["max_abs"], rel=0.01 if uniform else 0.35)


def test_deformable_towers_end_in_one_modulated_layer():
    head = FCOSHead(32, 5, STRIDES, num_convs=3, deformable=True)
    for tower in (head.cls_tower, head.bbox_tower):
        shapes = {name: tuple(p.shape) for name, p in tower.named_parameters() if name.endswith("weight")}
        assert shapes == {
            "0.weight": (32, 32, 3, 3),
            "1.weight": (32,),
            "3.weight": (32, 32, 3, 3),
            "4.weight": (32,),
            # Two offsets and one factor for each of nine taps.
            "6.offset.weight": (27, 32, 3, 3),
            "6.conv.weight": (32, 32, 3, 3),
            "7.weight": (32,),
        }


@torch.no_grad()
def test_a_deformable_layer_without_offsets_is_a_convolution(seed):
    features = random_levels()
    deformable, plain = random_head(deformable=True), random_head()
    state = {name.replace(".conv.", "."): tensor for name, tensor in deformable.state_dict().items()}
    plain.load_state_dict({name: tensor for name, tensor in state.items() if ".offset." not in name})
    for tower in (deformable.cls_tower, deformable.bbox_tower):
        tower[3].offset.weight.zero_()
        # All taps weigh sigmoid(0), which the weights below make up for.
        tower[3].offset.bias.zero_()
        tower[3].conv.weight.mul_(2)
    for part, wanted in zip(deformable(features), plain(features), strict=True):
        for level, other in zip(part, wanted, strict=True):
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [STRIDES, PUBLISHED], ids=["P3-P5", "P3-P7"])
@pytest.mark.parametrize("deformable", [False, True])
def test_the_pyramid_and_the_detector_follow_the_strides(seed, fcos_cfg, make_target, strides, deformable):
    words = ("MODEL.FCOS.FPN_STRIDES", str(list(strides)), "MODEL.FCOS.USE_DCN_IN_TOWER", deformable)
    model = build_detector(fcos_cfg(*words, "MODEL.FCOS.PRIOR_PROB", 0.3))
    sizes = [(60, 90), (64, 70)]
    images = ImageBatch(torch.randn(2, 3, 64, 96), sizes)
    assert [tuple(level.shape[-2:]) for level in model.backbone(images.tensors)] == [
        (math.ceil(64 / s), math.ceil(96 / s)) for s in strides
    ]
    assert len(model.rpn.head.scales) == len(strides)
    boxes = ([5.0, 5, 70, 50], [10.0, 20, 30, 60])
    targets = [make_target([box], [2], size) for box, size in zip(boxes, sizes, strict=True)]
    losses = model(images, targets)
    assert set(losses) == {"loss_cls", "loss_reg", "loss_centerness"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        found = model.eval()(images)
    assert [boxes.size for boxes in found] == [(90, 60), (70, 64)]
    assert all(len(boxes) > 0 for boxes in found)


def test_channels_that_do_not_divide_into_the_groups_are_refused(fcos_cfg):
    with pytest.raises(ConfigError, match=r"MODEL\.RESNETS\.BACKBONE_OUT_CHANNELS must be a multiple of 32"):
        fcos_cfg("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 48)
