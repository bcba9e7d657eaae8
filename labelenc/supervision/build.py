"""From a configuration to the training-only parts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from yacs.config import CfgNode

from labelenc.config import num_classes
from labelenc.modeling.backbone.build import build_fpn
from labelenc.supervision.adapter import build_adapter
from labelenc.supervision.label_encoder import LabelEncoder, LabelEncoderBody


def build_supervision(cfg: CfgNode, body_channels: Sequence[int]) -> tuple[LabelEncoder, nn.Sequential]:
    """The label encoder, shaped like a body with C2..C5 of ``body_channels``, and the feature adapter."""
    body = LabelEncoderBody(num_classes(cfg), body_channels, cfg.MODEL.LABELENC.ENCODER_WIDTH)
    encoder = LabelEncoder(body, build_fpn(cfg, body_channels))
    return encoder, build_adapter(cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS)
