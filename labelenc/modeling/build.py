"""From a configuration to a detector. The tables here are the registry of heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode

from labelenc.config import ConfigError, detector_kind
from labelenc.modeling.backbone.build import build_backbone
from labelenc.modeling.dense.build import build_fcos, build_retinanet, build_rpn
from labelenc.modeling.detector import Detector, DetectorParts
from labelenc.modeling.roi.build import build_roi_heads

DENSE_HEADS: dict[str, Callable[[CfgNode], Any]] = {
    "retinanet": build_retinanet,
    "fcos": build_fcos,
    "faster_rcnn": build_rpn,
}
ROI_HEADS = {"faster_rcnn": build_roi_heads}


def build_detector(cfg: CfgNode) -> Detector:
    """The plain detector of a configuration, with random weights, in training mode."""
    return Detector(build_parts(cfg))


def build_parts(cfg: CfgNode) -> DetectorParts:
    """What a detector consists of; ConfigError where the configuration's values don't make one."""
    kind = detector_kind(cfg)
    try:
        roi_heads = ROI_HEADS[kind](cfg) if kind in ROI_HEADS else None
        return DetectorParts(build_backbone(cfg), DENSE_HEADS[kind](cfg), roi_heads)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"the model cannot be built: {error}") from error
