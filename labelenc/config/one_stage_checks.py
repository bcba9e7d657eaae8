"""Checks of the keys that RetinaNet or FCOS alone read."""

from __future__ import annotations

import math

from yacs.config import CfgNode

from labelenc.config.errors import ConfigError
from labelenc.config.value_checks import check_nms, check_positive, check_shares, check_thresholds


def check_retinanet(cfg: CfgNode) -> None:
    """Raise ConfigError for the first thing that cannot work."""
    settings = cfg.MODEL.RETINANET
    _check_both(cfg, "RETINANET", "ANCHOR_STRIDES")
    check_positive(cfg, "RETINANET", ("ASPECT_RATIOS", "ANCHOR_SIZES"))
    check_thresholds(cfg, "RETINANET")
    sizes, strides = tuple(settings.ANCHOR_SIZES), tuple(settings.ANCHOR_STRIDES)
    if len(sizes) != len(strides):
        raise ConfigError(
            f"MODEL.RETINANET.ANCHOR_SIZES has {len(sizes)} entries and ANCHOR_STRIDES {len(strides)}; "
            "give one size per stride"
        )


def check_fcos(cfg: CfgNode) -> None:
    """Raise ConfigError for the first thing that cannot work."""
    settings = cfg.MODEL.FCOS
    _check_both(cfg, "FCOS", "FPN_STRIDES")
    if not 0 <= settings.CENTER_SAMPLING_RADIUS < math.inf:
        raise ConfigError(
            "MODEL.FCOS.CENTER_SAMPLING_RADIUS must be 0 (off) or a positive number of strides, "
            f"not {settings.CENTER_SAMPLING_RADIUS}"
        )
    if settings.USE_DCN_IN_TOWER and not settings.NUM_CONVS:
        raise ConfigError(
            "MODEL.FCOS.USE_DCN_IN_TOWER makes the last convolution of the towers deformable, but "
            "MODEL.FCOS.NUM_CONVS 0 gives them none; set it to 1 or more"
        )
    channels = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    if channels % 32:
        raise ConfigError(
            "MODEL.RESNETS.BACKBONE_OUT_CHANNELS must be a multiple of 32 for FCOS, whose towers have "
            f"GroupNorm of 32 groups; it is {channels}"
        )


def _check_both(cfg: CfgNode, group: str, strides_name: str) -> None:
    """What RetinaNet and FCOS have in common; their keys lie in MODEL.``group``."""
    settings = cfg.MODEL[group]
    if not 0 < settings.PRIOR_PROB < 1:
        raise ConfigError(f"MODEL.{group}.PRIOR_PROB must lie between 0 and 1, not {settings.PRIOR_PROB}")
    check_shares(cfg, group, ("LOSS_ALPHA", "INFERENCE_TH"))
    check_nms(cfg, group, "NMS_TH")
    strides = tuple(settings[strides_name])
    if strides not in ((8, 16, 32), (8, 16, 32, 64, 128)):
        raise ConfigError(
            f"MODEL.{group}.{strides_name} must be (8, 16, 32) or (8, 16, 32, 64, 128), not {strides}"
        )
    if not cfg.MODEL.BACKBONE.CONV_BODY.endswith("-FPN-RETINANET"):
        raise ConfigError(
            f"MODEL.{group}_ON needs P3 and up: write MODEL.BACKBONE.CONV_BODY …-FPN-RETINANET, "
            f"not {cfg.MODEL.BACKBONE.CONV_BODY!r}"
        )
