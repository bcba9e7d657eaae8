"""From a configuration to the heads of the second stage."""

from __future__ import annotations

from yacs.config import CfgNode

from labelenc.config import num_classes
from labelenc.modeling.box_coder import BoxCoder
from labelenc.modeling.matching import Matcher
from labelenc.modeling.roi.box_head import BoxHead, BoxPredictor, RoIHeads, TwoLayerExtractor
from labelenc.modeling.roi.pooler import Pooler
from labelenc.modeling.sampling import BalancedSampler
from labelenc.modeling.selection import Selection


def build_roi_heads(cfg: CfgNode) -> RoIHeads:
    """The box head with its sampling, losses and decoding."""
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    pooler = Pooler(box.POOLER_RESOLUTION, box.POOLER_SCALES, box.POOLER_SAMPLING_RATIO)
    extractor = TwoLayerExtractor(pooler, cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS, box.MLP_HEAD_DIM)
    return RoIHeads(
        BoxHead(extractor, BoxPredictor(box.MLP_HEAD_DIM, num_classes(cfg))),
        Matcher(heads.FG_IOU_THRESHOLD, heads.BG_IOU_THRESHOLD, allow_low_quality=False),
        BalancedSampler(heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION),
        BoxCoder(heads.BBOX_REG_WEIGHTS),
        heads.SCORE_THRESH,
        Selection(heads.NMS, heads.DETECTIONS_PER_IMG),
    )
