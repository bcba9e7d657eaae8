"""From a configuration to a dense head."""

from __future__ import annotations

from yacs.config import CfgNode

from labelenc.config import num_classes
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.anchors import AnchorGenerator
from labelenc.modeling.dense.retinanet import RetinaNet, RetinaNetHead, RetinaNetLossSettings
from labelenc.modeling.matching import Matcher
from labelenc.modeling.selection import DenseDetectSettings, Selection

RETINANET_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def build_retinanet(cfg: CfgNode) -> RetinaNet:
    """The RetinaNet head with its anchors, losses and decoding."""
    settings = cfg.MODEL.RETINANET
    octaves = [settings.OCTAVE ** (k / settings.SCALES_PER_OCTAVE) for k in range(settings.SCALES_PER_OCTAVE)]
    anchors = AnchorGenerator(
        [[size * factor for factor in octaves] for size in settings.ANCHOR_SIZES],
        settings.ASPECT_RATIOS,
        settings.ANCHOR_STRIDES,
    )
    classes = num_classes(cfg)
    head = RetinaNetHead(
        cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS,
        classes,
        anchors.per_cell,
        settings.NUM_CONVS,
        settings.PRIOR_PROB,
    )
    return RetinaNet(
        head,
        anchors,
        Matcher(settings.FG_IOU_THRESHOLD, settings.BG_IOU_THRESHOLD, allow_low_quality=True),
        BoxCoder(RETINANET_BOX_WEIGHTS),
        classes,
        RetinaNetLossSettings(
            alpha=settings.LOSS_ALPHA,
            gamma=settings.LOSS_GAMMA,
            beta=settings.BBOX_REG_BETA,
            box_weight=settings.BBOX_REG_WEIGHT,
            straddle=settings.STRADDLE_THRESH,
        ),
        DenseDetectSettings(settings.INFERENCE_TH, settings.PRE_NMS_TOP_N),
        Selection(settings.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG),
    )
