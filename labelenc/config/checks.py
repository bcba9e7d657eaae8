"""Checks of a merged configuration: what cannot work is said before anything is built."""

from __future__ import annotations

import math
import re
from typing import Any

from yacs.config import CfgNode

from labelenc.config.errors import ConfigError
from labelenc.config.one_stage_checks import check_fcos, check_retinanet
from labelenc.config.two_stage_checks import check_faster_rcnn

# Features of the ancestors that this package does not have: key -> the only value accepted.
UNSUPPORTED: dict[str, Any] = {
    "MODEL.MASK_ON": False,
    "MODEL.KEYPOINT_ON": False,
    "MODEL.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RESNETS.RES5_DILATION": 1,
    "INPUT.VERTICAL_FLIP_PROB_TRAIN": 0.0,
    "INPUT.BRIGHTNESS": 0.0,
    "INPUT.CONTRAST": 0.0,
    "INPUT.SATURATION": 0.0,
    "INPUT.HUE": 0.0,
    "TEST.EXPECTED_RESULTS": [],
    "AMP_VERBOSE": False,
    "MODEL.BACKBONE.USE_GN": False,
}
BODY_PATTERN = re.compile(r"^(R-(18|34|50|101|152)|timm/[\w.]+)-FPN(-RETINANET)?$")
CHOICES: dict[str, tuple[str, ...]] = {
    "DTYPE": ("float32", "float16", "bfloat16"),
    "SOLVER.OPTIMIZER": ("SGD", "AdamW"),
    "SOLVER.LR_SCHEDULE": ("multistep", "cosine"),
    "SOLVER.ON_NONFINITE": ("stop", "skip"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("norm", "value"),
    "MODEL.FCOS.IOU_LOSS_TYPE": ("iou", "linear_iou", "giou"),
}
DEVICE_PATTERN = re.compile(r"^(cpu|cuda(:\d+)?)$")
MAX_SEED = 2**31
NOT_NEGATIVE = (
    "MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS",
    "MODEL.LABELENC.AUXILIARY_LOSS_ITERS",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.SIZE_DIVISIBILITY",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.MOMENTUM",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.DCONV_OFFSETS_LR_FACTOR",
    "MODEL.RETINANET.LOSS_GAMMA",
    "MODEL.RETINANET.NUM_CONVS",
    "MODEL.FCOS.NUM_CONVS",
    "MODEL.FCOS.LOSS_GAMMA",
    "MODEL.RPN.MIN_SIZE",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "TEST.EVAL_PERIOD",
    "TEST.METHOD_IMAGES",
)
POSITIVE = (
    "SOLVER.MAX_ITER",
    "SOLVER.BASE_LR",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.ACCUMULATION_STEPS",
    "SOLVER.REFERENCE_IMS_PER_BATCH",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.LOG_PERIOD",
    "TEST.IMS_PER_BATCH",
    "TEST.DETECTIONS_PER_IMG",
    "MODEL.LABELENC.ENCODER_WIDTH",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.DEFORMABLE_GROUPS",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.RETINANET.PRE_NMS_TOP_N",
    "MODEL.RETINANET.SCALES_PER_OCTAVE",
    "MODEL.FCOS.PRE_NMS_TOP_N",
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN",
    "MODEL.RPN.PRE_NMS_TOP_N_TEST",
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN",
    "MODEL.RPN.POST_NMS_TOP_N_TEST",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.MAX_SIZE_TRAIN",
    "TEST.BBOX_AUG.MAX_SIZE",
)


def check_config(cfg: CfgNode, kind: str) -> None:
    """Raise ConfigError for the first thing in ``cfg`` that cannot work; ``kind`` is the detector."""
    _check_features(cfg)
    _check_values(cfg)
    _check_deformable(cfg)
    _check_input(cfg)
    if kind == "retinanet":
        check_retinanet(cfg)
    if kind == "fcos":
        check_fcos(cfg)
    if kind == "faster_rcnn":
        check_faster_rcnn(cfg)


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _check_features(cfg: CfgNode) -> None:
    for key, accepted in UNSUPPORTED.items():
        if _value(cfg, key) != accepted:
            raise ConfigError(
                f"{key} is {_value(cfg, key)!r}, but labelenc does not have this feature; "
                f"set it to {accepted!r}"
            )
    _check_body(cfg)


def _check_body(cfg: CfgNode) -> None:
    body, freeze_at = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT
    if not BODY_PATTERN.match(body):
        raise ConfigError(
            f"MODEL.BACKBONE.CONV_BODY {body!r} is not available; write R-18, R-34, R-50, R-101, R-152 or "
            "timm/<model> followed by -FPN-RETINANET (P3-P7) or -FPN (P2-P6)"
        )
    if freeze_at > 5:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_CONV_BODY_AT must be 0 (nothing) to 5 (all), not {freeze_at}"
        )
    if body.startswith("timm/") and freeze_at == 1:
        raise ConfigError(
            "MODEL.BACKBONE.FREEZE_CONV_BODY_AT 1 (the stem alone) does not exist for timm bodies; "
            "write 0 or 2 to 5"
        )
    if body.startswith("timm/") and (
        not cfg.DATALOADER.SIZE_DIVISIBILITY or cfg.DATALOADER.SIZE_DIVISIBILITY % 32
    ):
        # Some round the sizes of their maps down where the label encoder rounds up.
        raise ConfigError("timm bodies need DATALOADER.SIZE_DIVISIBILITY 32 or a multiple of it")
    _check_checkpointing(cfg)
    if cfg.MODEL.USE_SYNCBN and (
        not cfg.MODEL.RESNETS.TRANS_FUNC.endswith("WithBatchNorm") or cfg.MODEL.DEVICE == "cpu"
    ):
        raise ConfigError(
            "MODEL.USE_SYNCBN synchronises trained batch normalisation between GPUs: it needs "
            "MODEL.RESNETS.TRANS_FUNC and STEM_FUNC …WithBatchNorm and MODEL.DEVICE cuda"
        )


def _check_checkpointing(cfg: CfgNode) -> None:
    if not cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING:
        return
    body, norm = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.RESNETS.TRANS_FUNC
    if body.startswith("timm/"):
        raise ConfigError(
            "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING is for the R-… bodies; MODEL.BACKBONE.CONV_BODY is "
            f"{body!r}"
        )
    if norm.endswith("WithBatchNorm"):
        raise ConfigError(
            "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING runs the body's forward pass twice, which would count "
            f"every batch twice in the statistics of MODEL.RESNETS.TRANS_FUNC {norm}; choose "
            "BottleneckWithFixedBatchNorm or BottleneckWithGN"
        )


def _check_deformable(cfg: CfgNode) -> None:
    resnets, body = cfg.MODEL.RESNETS, cfg.MODEL.BACKBONE.CONV_BODY
    stages = tuple(resnets.STAGE_WITH_DCN)
    if len(stages) != 4 or not all(isinstance(stage, bool) for stage in stages):
        raise ConfigError(
            "MODEL.RESNETS.STAGE_WITH_DCN needs True or False for each of the four stages, such as "
            f"(False, True, True, True), not {stages}"
        )
    if not any(stages):
        return
    if body.startswith(("timm/", "R-18-", "R-34-")):
        raise ConfigError(
            "MODEL.RESNETS.STAGE_WITH_DCN puts deformable convolutions into bottlenecks, which R-50, R-101 "
            f"and R-152 have; MODEL.BACKBONE.CONV_BODY is {body!r}. Choose one of those or set "
            "STAGE_WITH_DCN to (False, False, False, False)"
        )
    narrowest = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2 ** stages.index(True)
    if narrowest % resnets.DEFORMABLE_GROUPS:
        raise ConfigError(
            f"MODEL.RESNETS.DEFORMABLE_GROUPS {resnets.DEFORMABLE_GROUPS} does not divide the {narrowest} "
            f"channels of the 3x3 convolutions in stage {stages.index(True) + 1}"
        )


def _check_values(cfg: CfgNode) -> None:
    for key, choices in CHOICES.items():
        if _value(cfg, key) not in choices:
            raise ConfigError(f"{key} must be one of {', '.join(choices)}, not {_value(cfg, key)!r}")
    for key in POSITIVE:
        if not 0 < _value(cfg, key) < math.inf:
            raise ConfigError(f"{key} must be positive and finite, not {_value(cfg, key)!r}")
    steps = tuple(cfg.SOLVER.STEPS)
    if list(steps) != sorted(steps):
        raise ConfigError(f"SOLVER.STEPS must increase, not {steps}")
    for key in NOT_NEGATIVE:
        if not 0 <= _value(cfg, key) < math.inf:
            raise ConfigError(f"{key} must not be negative or infinite, not {_value(cfg, key)}")
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        raise ConfigError(
            f"SOLVER.EMA_DECAY must be 0 (no average) or between 0 and 1, such as 0.9998, not "
            f"{cfg.SOLVER.EMA_DECAY}"
        )
    if cfg.SOLVER.AUTO_SCALE and cfg.SOLVER.OPTIMIZER != "SGD":
        raise ConfigError(
            "SOLVER.AUTO_SCALE applies the linear rule, which holds for SOLVER.OPTIMIZER SGD, not for "
            f"{cfg.SOLVER.OPTIMIZER}; set it to False and choose SOLVER.BASE_LR yourself"
        )
    if not -1 <= cfg.SEED < MAX_SEED:
        raise ConfigError(f"SEED must be -1 (draw one) or below {MAX_SEED}, not {cfg.SEED}")
    if not DEVICE_PATTERN.match(cfg.MODEL.DEVICE):
        raise ConfigError(f"MODEL.DEVICE must be cpu, cuda or cuda:N, not {cfg.MODEL.DEVICE!r}")


def _check_input(cfg: CfgNode) -> None:
    sizes = cfg.INPUT
    if len(sizes.PIXEL_MEAN) != 3 or len(sizes.PIXEL_STD) != 3 or not all(s > 0 for s in sizes.PIXEL_STD):
        raise ConfigError("INPUT.PIXEL_MEAN and INPUT.PIXEL_STD need three numbers each, the latter positive")
    bounds = tuple(sizes.MIN_SIZE_RANGE_TRAIN)
    drawn = bounds != (-1, -1)
    if drawn and not (len(bounds) == 2 and 0 < bounds[0] <= bounds[1]):
        raise ConfigError(
            "INPUT.MIN_SIZE_RANGE_TRAIN must be (low, high) with 0 < low <= high, or (-1, -1) for off; "
            f"not {bounds}"
        )
    if not drawn and (not sizes.MIN_SIZE_TRAIN or min(sizes.MIN_SIZE_TRAIN) <= 0):
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN needs positive sizes, not {sizes.MIN_SIZE_TRAIN}")
    scales = cfg.TEST.BBOX_AUG.SCALES
    if not all(isinstance(size, int) and size > 0 for size in scales):
        raise ConfigError(f"TEST.BBOX_AUG.SCALES needs positive whole numbers (pixels), not {scales}")
