"""Keys of deformable convolutions that cannot work."""

import pytest

from labelenc.config import ConfigError, load_config

ON = ("MODEL.RESNETS.STAGE_WITH_DCN", "(False, True, True, True)")
LAST = ("MODEL.RESNETS.STAGE_WITH_DCN", "(False, False, False, True)")


def load(*words, body="R-50"):
    detector = ("MODEL.RETINANET_ON", "True", "MODEL.BACKBONE.CONV_BODY", f"{body}-FPN-RETINANET")
    return load_config(None, [*detector, *words])


@pytest.mark.parametrize("body", ["R-50", "R-101", "R-152"])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("MODEL.RESNETS.WITH_MODULATED_DCN", "True", "MODEL.RESNETS.DEFORMABLE_GROUPS", "4"),
        ("MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"),
        ("MODEL.RESNETS.ZERO_INIT_OFFSETS", "True"),
    ],
)
def test_bottlenecks_take_them(body, words):
    cfg = load(*ON, *words, body=body)
    assert tuple(cfg.MODEL.RESNETS.STAGE_WITH_DCN) == (False, True, True, True)


@pytest.mark.parametrize(
    "stages", ["()", "(True,)", "(False, True, True)", "(False, True, True, True, True)", "(0, 1, 1, 1)"]
)
def test_every_stage_needs_a_boolean(stages):
    with pytest.raises(ConfigError, match=r"STAGE_WITH_DCN needs True or False for each of the four stages"):
        load("MODEL.RESNETS.STAGE_WITH_DCN", stages)


@pytest.mark.parametrize("body", ["R-18", "R-34", "timm/resnet50"])
def test_other_bodies_have_no_place_for_them(body):
    divisible = ("DATALOADER.SIZE_DIVISIBILITY", "32")
    with pytest.raises(ConfigError, match=rf"STAGE_WITH_DCN .*CONV_BODY is '{body}-FPN-RETINANET'"):
        load(*LAST, *divisible, body=body)
    load(*divisible, body=body)


def test_deformable_groups_divide_the_channels():
    key = "MODEL.RESNETS.DEFORMABLE_GROUPS"
    for groups in ("0", "-1"):
        with pytest.raises(ConfigError, match=f"{key} must be positive"):
            load(*ON, key, groups)
    with pytest.raises(ConfigError, match=rf"{key} 3 does not divide the 128 channels .* stage 2"):
        load(*ON, key, "3")
    # 512 channels in the last stage, of which 256 groups are possible, but not in the second.
    load(*LAST, key, "256")
    with pytest.raises(ConfigError, match=r"256 does not divide the 128 channels"):
        load(*ON, key, "256")
    load(key, "3")
