"""Values of FCOS's keys that cannot work."""

import pytest

from labelenc.config import ConfigError, load_config

FCOS = ["MODEL.FCOS_ON", "True", "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"]


def load(*words):
    return load_config(None, [*FCOS, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "256", *words])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("MODEL.FCOS.FPN_STRIDES", "(8, 16, 32)"),
        ("MODEL.FCOS.NUM_CONVS", "0"),
        ("MODEL.FCOS.IOU_LOSS_TYPE", "linear_iou"),
        ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", "1.5", "MODEL.FCOS.USE_DCN_IN_TOWER", "True"),
        ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "64"),
        ("MODEL.FCOS.INFERENCE_TH", "0.0", "MODEL.FCOS.NMS_TH", "1.0"),
        # Of a detector that is not used.
        ("MODEL.RETINANET.ANCHOR_STRIDES", "(8, 16)", "MODEL.RETINANET.PRIOR_PROB", "2.0"),
    ],
)
def test_values_that_work(words):
    load(*words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.FCOS.FPN_STRIDES", "[4, 8, 16, 32, 64]"),
        ("MODEL.FCOS.FPN_STRIDES", "[8, 16]"),
        ("MODEL.FCOS.FPN_STRIDES", "[8, 16, 32, 64]"),
        ("MODEL.FCOS.FPN_STRIDES", "[]"),
        ("MODEL.FCOS.PRIOR_PROB", "0.0"),
        ("MODEL.FCOS.PRIOR_PROB", "1.0"),
        ("MODEL.FCOS.IOU_LOSS_TYPE", "diou"),
        ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", "-0.5"),
        ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", "1e999"),
        ("MODEL.FCOS.NUM_CONVS", "-1"),
        ("MODEL.FCOS.LOSS_GAMMA", "-2.0"),
        ("MODEL.FCOS.LOSS_ALPHA", "1.25"),
        ("MODEL.FCOS.INFERENCE_TH", "-0.05"),
        ("MODEL.FCOS.INFERENCE_TH", "5.0"),
        ("MODEL.FCOS.NMS_TH", "-0.6"),
        ("MODEL.FCOS.NMS_TH", "60.0"),
        ("MODEL.FCOS.PRE_NMS_TOP_N", "0"),
        ("MODEL.BACKBONE.CONV_BODY", "R-50-FPN"),
        ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "100"),
        ("MODEL.RETINANET_ON", "True"),
    ],
)
def test_values_that_cannot_work_are_refused_by_key(key, value):
    with pytest.raises(ConfigError) as caught:
        load(key, value)
    assert key in str(caught.value)


def test_a_deformable_layer_needs_a_tower():
    with pytest.raises(ConfigError, match=r"MODEL\.FCOS\.NUM_CONVS 0 gives them none; set it to 1 or more"):
        load("MODEL.FCOS.USE_DCN_IN_TOWER", "True", "MODEL.FCOS.NUM_CONVS", "0")
