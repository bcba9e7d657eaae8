"""Checks of the keys that Faster R-CNN alone reads."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from labelenc.config.errors import ConfigError
from labelenc.config.value_checks import check_nms, check_positive, check_shares, check_thresholds

STRIDES = (4, 8, 16, 32, 64)
# What Faster R-CNN of this package is: group below MODEL -> key -> the only value accepted for it.
ONLY: dict[str, dict[str, Any]] = {
    "RPN": {"USE_FPN": True, "ANCHOR_STRIDE": STRIDES, "RPN_HEAD": "SingleConvRPNHead"},
    "ROI_HEADS": {"USE_FPN": True},
    "ROI_BOX_HEAD": {
        "FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
        "PREDICTOR": "FPNPredictor",
        "USE_GN": False,
    },
}


def check_faster_rcnn(cfg: CfgNode) -> None:
    """Raise ConfigError for the first thing that cannot work."""
    if cfg.MODEL.RPN_ONLY:
        raise ConfigError(
            "MODEL.RPN_ONLY True without RETINANET_ON or FCOS_ON makes a model of proposals alone, which "
            "labelenc does not have; set it to False for Faster R-CNN, or switch a one-stage detector on"
        )
    if cfg.MODEL.BACKBONE.CONV_BODY.endswith("-RETINANET"):
        raise ConfigError(
            "Faster R-CNN (MODEL.RETINANET_ON and MODEL.FCOS_ON are False) needs P2 to P6: write "
            f"MODEL.BACKBONE.CONV_BODY …-FPN, not {cfg.MODEL.BACKBONE.CONV_BODY!r}"
        )
    for group, keys in ONLY.items():
        for name, accepted in keys.items():
            value = cfg.MODEL[group][name]
            if value != accepted:
                raise ConfigError(
                    f"MODEL.{group}.{name} must be {accepted!r} for Faster R-CNN, not {value!r}"
                )
    _check_lists(cfg)
    _check_numbers(cfg)


def _check_lists(cfg: CfgNode) -> None:
    check_positive(cfg, "RPN", ("ANCHOR_SIZES", "ASPECT_RATIOS"))
    check_positive(cfg, "ROI_HEADS", ("BBOX_REG_WEIGHTS",))
    sizes, weights = cfg.MODEL.RPN.ANCHOR_SIZES, cfg.MODEL.ROI_HEADS.BBOX_REG_WEIGHTS
    if len(sizes) != len(STRIDES):
        raise ConfigError(f"MODEL.RPN.ANCHOR_SIZES needs one size for each stride {STRIDES}, not {sizes}")
    if len(weights) != 4:
        raise ConfigError(f"MODEL.ROI_HEADS.BBOX_REG_WEIGHTS needs 4 numbers, not {weights}")
    scales = tuple(cfg.MODEL.ROI_BOX_HEAD.POOLER_SCALES)
    if not scales or scales != tuple(1 / stride for stride in STRIDES[: len(scales)]):
        raise ConfigError(
            "MODEL.ROI_BOX_HEAD.POOLER_SCALES must be the scales of the levels to pool from, all from the "
            f"first on: (0.25, 0.125, 0.0625, 0.03125) in the paper, not {scales}"
        )


def _check_numbers(cfg: CfgNode) -> None:
    check_nms(cfg, "RPN", "NMS_THRESH")
    check_nms(cfg, "ROI_HEADS", "NMS")
    check_shares(cfg, "ROI_HEADS", ("SCORE_THRESH",))
    for group in ("RPN", "ROI_HEADS"):
        settings = cfg.MODEL[group]
        check_thresholds(cfg, group)
        check_shares(cfg, group, ("POSITIVE_FRACTION",))
        number, fraction = settings.BATCH_SIZE_PER_IMAGE, settings.POSITIVE_FRACTION
        if number * fraction < 1:
            raise ConfigError(
                f"MODEL.{group}.BATCH_SIZE_PER_IMAGE {number} times POSITIVE_FRACTION {fraction} leaves no "
                "positive to train on; raise one of them"
            )
