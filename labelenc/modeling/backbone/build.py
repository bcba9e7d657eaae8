"""From a configuration to a body and its pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn
from yacs.config import CfgNode

from labelenc.config import ConfigError, detector_kind
from labelenc.modeling.backbone.fpn import FPN, Backbone, ExtraLevelMaxPool, ExtraLevelsP6P7, plain_conv
from labelenc.modeling.backbone.norm import FrozenBatchNorm2d, NormFactory, group_norm
from labelenc.modeling.backbone.resnet import ResNet, ResNetSettings, conv
from labelenc.modeling.backbone.timm_body import TimmBody

# The ends of RESNETS.STEM_FUNC and TRANS_FUNC.
NORM_SUFFIXES = ("WithFixedBatchNorm", "WithBatchNorm", "WithGN")


def build_backbone(cfg: CfgNode) -> Backbone:
    """Body and FPN."""
    body = build_body(cfg)
    return Backbone(body, build_fpn(cfg, body.out_channels))


def build_body(cfg: CfgNode) -> ResNet | TimmBody:
    """The body that MODEL.BACKBONE.CONV_BODY names, with ``out_channels`` of C2..C5."""
    name = cfg.MODEL.BACKBONE.CONV_BODY.removesuffix("-RETINANET").removesuffix("-FPN")
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT
    suffix = norm_suffix(cfg)
    if name.startswith("timm/"):
        if suffix == "WithGN":
            raise ConfigError(
                "timm bodies keep their own normalisation; use MODEL.RESNETS.TRANS_FUNC and STEM_FUNC "
                "…WithFixedBatchNorm (frozen) or …WithBatchNorm (trained)"
            )
        kwargs = dict(cfg.MODEL.TIMM.KWARGS)
        return TimmBody(name.removeprefix("timm/"), kwargs, suffix == "WithFixedBatchNorm", freeze_at)
    resnets = cfg.MODEL.RESNETS
    settings = ResNetSettings(
        depth=int(name.removeprefix("R-")),
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
        groups=resnets.NUM_GROUPS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        stage_with_dcn=tuple(resnets.STAGE_WITH_DCN),
        modulated=resnets.WITH_MODULATED_DCN,
        deformable_groups=resnets.DEFORMABLE_GROUPS,
        zero_init_offsets=resnets.ZERO_INIT_OFFSETS,
    )
    checkpointing = cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING
    return ResNet(settings, _norm_factory(cfg, suffix), freeze_at, checkpointing)


def norm_suffix(cfg: CfgNode) -> str:
    """The normalisation of the body, which the ancestors name in STEM_FUNC and TRANS_FUNC."""
    resnets = cfg.MODEL.RESNETS
    for suffix in NORM_SUFFIXES:
        if f"Bottleneck{suffix}" == resnets.TRANS_FUNC and f"Stem{suffix}" == resnets.STEM_FUNC:
            return suffix
    raise ConfigError(
        f"MODEL.RESNETS.TRANS_FUNC {resnets.TRANS_FUNC!r} and STEM_FUNC {resnets.STEM_FUNC!r}: write "
        f"Bottleneck<norm> and Stem<norm> with one norm of {', '.join(NORM_SUFFIXES)}"
    )


def _norm_factory(cfg: CfgNode, suffix: str) -> NormFactory:
    if suffix == "WithFixedBatchNorm":
        return FrozenBatchNorm2d
    return nn.BatchNorm2d if suffix == "WithBatchNorm" else _group_norm(cfg)


def _group_norm(cfg: CfgNode) -> NormFactory:
    settings = cfg.MODEL.GROUP_NORM
    return group_norm(settings.NUM_GROUPS, settings.DIM_PER_GP, settings.EPSILON)


def build_fpn(cfg: CfgNode, body_channels: Sequence[int]) -> FPN:
    """The pyramid over a body (or the label encoder) with C2..C5 of ``body_channels``."""
    out = cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    make_conv = partial(_fpn_conv, cfg) if cfg.MODEL.FPN.USE_GN or cfg.MODEL.FPN.USE_RELU else plain_conv
    if not cfg.MODEL.BACKBONE.CONV_BODY.endswith("-FPN-RETINANET"):
        return FPN(body_channels, out, make_conv, ExtraLevelMaxPool())
    is_fcos = detector_kind(cfg) == "fcos"
    strides = cfg.MODEL.FCOS.FPN_STRIDES if is_fcos else cfg.MODEL.RETINANET.ANCHOR_STRIDES
    top_blocks = None
    if len(strides) == 5:
        from_c5 = cfg.MODEL.RETINANET.USE_C5
        top_blocks = ExtraLevelsP6P7(body_channels[-1] if from_c5 else out, out, from_c5)
    return FPN((0, *body_channels[1:]), out, make_conv, top_blocks)


def _fpn_conv(cfg: CfgNode, in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    layers: list[nn.Module] = [plain_conv(in_channels, out_channels, kernel)]
    if cfg.MODEL.FPN.USE_GN:
        layers = [conv(in_channels, out_channels, kernel), _group_norm(cfg)(out_channels)]
    if cfg.MODEL.FPN.USE_RELU:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
