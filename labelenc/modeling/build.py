"""From a configuration to a detector. The table here is the registry of dense heads."""

from __future__ import annotations

from yacs.config import CfgNode

from labelenc.config import ConfigError, detector_kind
from labelenc.modeling.backbone.build import build_backbone
from labelenc.modeling.dense.build import build_retinanet
from labelenc.modeling.detector import Detector, DetectorParts

DENSE_HEADS = {"retinanet": build_retinanet}


def build_detector(cfg: CfgNode) -> Detector:
    """The plain detector of a configuration, with random weights, in training mode."""
    return Detector(build_parts(cfg))


def build_parts(cfg: CfgNode) -> DetectorParts:
    """What a detector consists of; ConfigError where the configuration's values don't make one."""
    kind = detector_kind(cfg)
    if kind not in DENSE_HEADS:
        raise ConfigError(
            f"this version trains {', '.join(DENSE_HEADS)}; the configuration asks for {kind} "
            "(MODEL.RETINANET_ON True chooses RetinaNet)"
        )
    try:
        return DetectorParts(build_backbone(cfg), DENSE_HEADS[kind](cfg))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"the model cannot be built: {error}") from error
