"""From a configuration to a dense head."""

from __future__ import annotations

from yacs.config import CfgNode

from labelenc.config import num_classes
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.dense.anchors import AnchorGenerator
from labelenc.modeling.dense.fcos import FCOS, FCOSHead, FCOSLossSettings
from labelenc.modeling.dense.fcos_targets import LocationTargets
from labelenc.modeling.dense.retinanet import RetinaNet, RetinaNetHead, RetinaNetLossSettings
from labelenc.modeling.dense.rpn import RPN, ProposalSettings, RPNHead
from labelenc.modeling.matching import Matcher
from labelenc.modeling.sampling import BalancedSampler
from labelenc.modeling.selection import DenseDetectSettings, Selection

RETINANET_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RPN_BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


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


def build_fcos(cfg: CfgNode) -> FCOS:
    """The FCOS head with its targets, losses and decoding."""
    settings = cfg.MODEL.FCOS
    classes = num_classes(cfg)
    head = FCOSHead(
        cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS,
        classes,
        settings.FPN_STRIDES,
        num_convs=settings.NUM_CONVS,
        prior=settings.PRIOR_PROB,
        distances_in_strides=settings.NORM_REG_TARGETS,
        centerness_on_boxes=settings.CENTERNESS_ON_REG,
        deformable=settings.USE_DCN_IN_TOWER,
    )
    return FCOS(
        head,
        LocationTargets(settings.FPN_STRIDES, settings.CENTER_SAMPLING_RADIUS, settings.NORM_REG_TARGETS),
        classes,
        FCOSLossSettings(settings.LOSS_ALPHA, settings.LOSS_GAMMA, settings.IOU_LOSS_TYPE),
        DenseDetectSettings(settings.INFERENCE_TH, settings.PRE_NMS_TOP_N),
        Selection(settings.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG),
    )


def build_rpn(cfg: CfgNode) -> RPN:
    """The region proposal network of Faster R-CNN."""
    settings = cfg.MODEL.RPN
    anchors = AnchorGenerator(
        [[size] for size in settings.ANCHOR_SIZES], settings.ASPECT_RATIOS, settings.ANCHOR_STRIDE
    )
    train, test = (
        ProposalSettings(
            pre_nms_top_n=settings[f"PRE_NMS_TOP_N_{phase}"],
            post_nms_top_n=settings[f"POST_NMS_TOP_N_{phase}"],
            top_n=settings[f"FPN_POST_NMS_TOP_N_{phase}"],
            nms_threshold=settings.NMS_THRESH,
            min_size=settings.MIN_SIZE,
            per_batch=phase == "TRAIN" and settings.FPN_POST_NMS_PER_BATCH,
        )
        for phase in ("TRAIN", "TEST")
    )
    return RPN(
        RPNHead(cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS, anchors.per_cell),
        anchors,
        Matcher(settings.FG_IOU_THRESHOLD, settings.BG_IOU_THRESHOLD, allow_low_quality=True),
        BalancedSampler(settings.BATCH_SIZE_PER_IMAGE, settings.POSITIVE_FRACTION),
        BoxCoder(RPN_BOX_WEIGHTS),
        settings.STRADDLE_THRESH,
        train,
        test,
    )
