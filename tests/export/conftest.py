"""Small detectors of every kind whose random heads find a lot, as checkpoints, and pictures for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from labelenc.config import load_config
from labelenc.description import describe
from labelenc.modeling import Detector, build_detector
from labelenc.structures import DatasetInfo, ImageBatch

CLASSES = 4
NAMES = tuple(f"thing {number}" for number in range(1, CLASSES + 1))
# Ids as in COCO: with gaps.
CATEGORIES = tuple((3 * number, name) for number, name in enumerate(NAMES, start=1))

_BASE = """
MODEL:
  DEVICE: "cpu"
  BACKBONE: {CONV_BODY: "R-18-FPN-RETINANET", FREEZE_CONV_BODY_AT: 1}
  RESNETS: {STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8, BACKBONE_OUT_CHANNELS: 32}
  NUM_CLASSES: 4
INPUT: {MIN_SIZE_TEST: 80, MAX_SIZE_TEST: 128}
DATALOADER: {SIZE_DIVISIBILITY: 32}
"""
_KINDS = {
    "retinanet": """
_BASE_: "base.yaml"
MODEL:
  RETINANET_ON: True
  RPN_ONLY: True
  RETINANET:
    ANCHOR_SIZES: [16, 32, 64]
    ANCHOR_STRIDES: [8, 16, 32]
    NUM_CONVS: 1
    PRE_NMS_TOP_N: 200
""",
    "fcos": """
_BASE_: "base.yaml"
MODEL:
  FCOS_ON: True
  RPN_ONLY: True
  RETINANET: {USE_C5: False}
  FCOS:
    NUM_CONVS: 1
    PRE_NMS_TOP_N: 200
    NORM_REG_TARGETS: True
    CENTERNESS_ON_REG: True
    CENTER_SAMPLING_RADIUS: 1.5
    IOU_LOSS_TYPE: "giou"
""",
    "faster_rcnn": """
_BASE_: "base.yaml"
MODEL:
  BACKBONE: {CONV_BODY: "R-18-FPN"}
  RPN:
    USE_FPN: True
    ANCHOR_SIZES: [8, 16, 32, 64, 128]
    ANCHOR_STRIDE: [4, 8, 16, 32, 64]
    PRE_NMS_TOP_N_TEST: 300
    POST_NMS_TOP_N_TEST: 150
    FPN_POST_NMS_TOP_N_TEST: 200
    NMS_THRESH: 0.8
    MIN_SIZE: 4
  ROI_HEADS: {USE_FPN: True}
  ROI_BOX_HEAD:
    POOLER_RESOLUTION: 5
    POOLER_SCALES: [0.25, 0.125, 0.0625, 0.03125]
    POOLER_SAMPLING_RATIO: 2
    FEATURE_EXTRACTOR: "FPN2MLPFeatureExtractor"
    PREDICTOR: "FPNPredictor"
    MLP_HEAD_DIM: 32
""",
}
KINDS = tuple(_KINDS)


def enliven(model: Detector) -> Detector:
    """Random predictions that spread: logits and offsets of about unit size on noise, so that scores are
    neither all alike nor saturated (equal ones have no order) and boxes leave their references."""
    for name, buffer in model.named_buffers():
        # Frozen normalisations that do something.
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    for name, layer in model.named_modules():
        if name.endswith(("cls_logits", "cls_score", "centerness", "bbox_pred")):
            _spread_at_first_call(layer, around=1.0 if "bbox" in name else -1.0)
    with torch.no_grad():
        model.eval()(ImageBatch(torch.randn(1, 3, 256, 256) * 60, [(256, 256)]))
    return model


def _spread_at_first_call(layer: nn.Module, around: float) -> None:
    """Scale the weights to outputs of unit size around a number; the mean of each channel goes, or a class
    would be everywhere or nowhere."""

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        handle.remove()
        axes = (0, 2, 3) if output.dim() == 4 else (0,)
        mean = output.mean(dim=axes)
        centered = output - mean.view(-1, *[1] * (len(axes) - 1))
        factor = 1 / float(centered.std())
        layer.weight.mul_(factor)
        layer.bias.sub_(mean).mul_(factor).add_(around)
        return centered * factor + around

    handle = layer.register_forward_hook(hook)


def save_lively(config: Path, path: Path, opts: tuple[str, ...] = ()) -> Path:
    """A described checkpoint of random weights."""
    cfg = load_config(config, opts)
    number = cfg.MODEL.NUM_CLASSES
    names = CATEGORIES if number == CLASSES else tuple((k, str(k)) for k in range(1, number + 1))
    model = enliven(build_detector(cfg))
    described = describe(cfg, "baseline", DatasetInfo("", names, None, 0))
    torch.save({"model": model.state_dict(), "description": described}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint(kind) -> a file with a small detector of that kind."""
    folder = tmp_path_factory.mktemp("lively")
    (folder / "base.yaml").write_text(_BASE)
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            (folder / f"{kind}.yaml").write_text(_KINDS[kind])
            made[kind] = save_lively(folder / f"{kind}.yaml", folder / f"{kind}.pth")
        return made[kind]

    return make


@pytest.fixture
def pictures(seed: int) -> list[np.ndarray]:
    """Six random pictures of several sizes, smooth enough to survive scaling."""
    sizes = torch.randint(5, 12, (6, 2)).tolist()
    rough = [torch.randint(0, 256, (1, 3, high, wide), dtype=torch.uint8).float() for high, wide in sizes]
    large = [nn.functional.interpolate(image, scale_factor=13, mode="bilinear") for image in rough]
    return [image[0].permute(1, 2, 0).round().to(torch.uint8).numpy() for image in large]
