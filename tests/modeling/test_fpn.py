"""The pyramid against torchvision's with the same weights."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from labelenc.modeling.backbone.build import build_backbone, build_fpn
from labelenc.modeling.backbone.fpn import FPN, ExtraLevelMaxPool, ExtraLevelsP6P7

CHANNELS, OUT = (8, 16, 24, 40), 12
# Of the image 131 x 203: sides that halve unevenly.
SIZES = ((33, 51), (17, 26), (9, 13), (5, 7))


def features(channels=CHANNELS):
    return [torch.randn(2, c, *size) for c, size in zip(channels, SIZES, strict=True)]


def copy_weights(fpn, reference, first):
    """Ours from torchvision's, whose blocks count from 0 at the first level used."""
    state = {}
    for name, tensor in reference.state_dict().items():
        part, *rest = name.split(".")
        if part == "extra_blocks":
            state[f"top_blocks.{'.'.join(rest)}"] = tensor
            continue
        own = {"inner_blocks": "fpn_inner", "layer_blocks": "fpn_layer"}[part]
        # torchvision wraps each convolution; ours is only wrapped where a norm follows.
        state[f"{own}{int(rest[0]) + first}.{'.'.join(rest[1:])}"] = tensor
    own_names = fpn.state_dict().keys()
    state = {k if k in own_names else k.replace(".0.", "."): v for k, v in state.items()}
    fpn.load_state_dict(state, strict=True)


def compare(fpn, reference, inputs, first):
    copy_weights(fpn, reference, first)
    named = {str(i): level for i, level in enumerate(inputs[first - 1 :])}
    expected = list(reference(named).values())
    outputs = fpn(inputs)
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("from_c5", [True, False])
def test_p3_to_p7(seed, from_c5):
    # torchvision takes P5 where the channels given are the pyramid's own.
    source = CHANNELS[-1] if from_c5 else OUT
    reference = FeaturePyramidNetwork(list(CHANNELS[1:]), OUT, LastLevelP6P7(source, OUT))
    fpn = FPN((0, *CHANNELS[1:]), OUT, top_blocks=ExtraLevelsP6P7(source, OUT, from_c5))
    inputs = features()
    compare(fpn, reference, inputs, first=2)
    assert [tuple(p.shape[-2:]) for p in fpn(inputs)] == [*SIZES[1:], (3, 4), (2, 2)]


def test_p3_to_p5(seed):
    fpn = FPN((0, *CHANNELS[1:]), OUT)
    compare(fpn, FeaturePyramidNetwork(list(CHANNELS[1:]), OUT), features(), first=2)


def test_p2_to_p6(seed):
    fpn = FPN(CHANNELS, OUT, top_blocks=ExtraLevelMaxPool())
    compare(fpn, FeaturePyramidNetwork(list(CHANNELS), OUT, LastLevelMaxPool()), features(), first=1)


def test_group_norm_from_the_configuration(seed, small_cfg):
    cfg = small_cfg("MODEL.FPN.USE_GN", True, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16)
    norm = partial(nn.GroupNorm, 8)
    reference = FeaturePyramidNetwork(list(CHANNELS[1:]), 16, norm_layer=norm)
    compare(build_fpn(cfg, CHANNELS), reference, features(), first=2)


def test_relu_from_the_configuration(seed, small_cfg):
    words = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16)
    with_relu = build_fpn(small_cfg(*words, "MODEL.FPN.USE_RELU", True), CHANNELS)
    plain = build_fpn(small_cfg(*words), CHANNELS)
    names = with_relu.state_dict()
    plain.load_state_dict({k.replace(".0.", "."): v for k, v in names.items()}, strict=True)
    inputs = features()
    # The top level has no sum: relu between its two convolutions and at its end is all that differs.
    lateral = plain.fpn_inner4(inputs[3]).relu()
    torch.testing.assert_close(with_relu(inputs)[2], plain.fpn_layer4(lateral).relu())
    assert all((level >= 0).all() for level in with_relu(inputs))


@pytest.mark.parametrize(
    ("words", "strides"),
    [
        ((), (8, 16, 32)),
        (
            (
                "MODEL.RETINANET.ANCHOR_STRIDES",
                "(8, 16, 32, 64, 128)",
                "MODEL.RETINANET.ANCHOR_SIZES",
                "(8, 16, 32, 64, 128)",
            ),
            (8, 16, 32, 64, 128),
        ),
    ],
)
@torch.no_grad()
def test_the_levels_that_the_configuration_names(small_cfg, words, strides):
    backbone = build_backbone(small_cfg(*words))
    levels = backbone(torch.zeros(1, 3, 256, 384))
    assert [tuple(p.shape) for p in levels] == [(1, 64, 256 // s, 384 // s) for s in strides]


@torch.no_grad()
def test_the_levels_of_faster_rcnn(two_stage_cfg):
    levels = build_backbone(two_stage_cfg())(torch.zeros(1, 3, 256, 384))
    assert [tuple(p.shape) for p in levels] == [(1, 16, 256 // s, 384 // s) for s in (4, 8, 16, 32, 64)]


@pytest.mark.parametrize("use_c5", [True, False])
def test_where_p6_comes_from(small_cfg, use_c5):
    sizes = "(8, 16, 32, 64, 128)"
    words = ("MODEL.RETINANET.ANCHOR_STRIDES", sizes, "MODEL.RETINANET.ANCHOR_SIZES", sizes)
    top = build_fpn(small_cfg(*words, "MODEL.RETINANET.USE_C5", use_c5), CHANNELS).top_blocks
    assert top.p6.in_channels == (CHANNELS[-1] if use_c5 else 64)
    c5, p5 = torch.randn(1, CHANNELS[-1], 8, 8), torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(top(c5, p5)[0], top.p6(c5 if use_c5 else p5))
