"""From a configuration to the training-only parts."""

from __future__ import annotations

from torch import nn
from yacs.config import CfgNode

from labelenc.config import num_classes
from labelenc.modeling.build import build_fpn
from labelenc.supervision.adapter import build_adapter
from labelenc.supervision.label_encoder import LabelEncoder, LabelEncoderBody


def build_supervision(cfg: CfgNode, backbone: nn.Module) -> tuple[LabelEncoder, nn.Sequential]:
    """The label encoder, shaped after the backbone's body, and the feature adapter."""
    channels = backbone.body.out_channels
    body = LabelEncoderBody(num_classes(cfg), channels, cfg.MODEL.LABELENC.ENCODER_WIDTH)
    encoder = LabelEncoder(body, build_fpn(cfg, channels))
    return encoder, build_adapter(cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS)
