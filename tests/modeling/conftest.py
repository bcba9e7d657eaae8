"""What the model tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch

from labelenc.config import load_config
from labelenc.structures import BoxList

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def ops_record(shared_dir):
    """Recorded arrays of single operations: name -> tensor."""
    with np.load(shared_dir / "parity/ops.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture
def small_cfg():
    """Make the demo's configuration (R-18 of 16 channels, GroupNorm, P3-P5) for three classes, changed."""

    def make(*words):
        words = ["MODEL.NUM_CLASSES", "3", *map(str, words)]
        return load_config(ROOT / "configs/demo/shapes_R-18_small.yaml", words)

    return make


@pytest.fixture
def fcos_cfg(small_cfg):
    """The same with FCOS, whose towers need 32 channels or a multiple."""

    def make(*words):
        fcos = ("MODEL.RETINANET_ON", False, "MODEL.FCOS_ON", True, "MODEL.FCOS.FPN_STRIDES", "[8, 16, 32]")
        return small_cfg(*fcos, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32, "MODEL.FCOS.NUM_CONVS", 1, *words)

    return make


@pytest.fixture
def two_stage_cfg(small_cfg):
    """The same with Faster R-CNN on P2 to P6, of few proposals and thin layers."""

    def make(*words):
        return small_cfg(
            *("MODEL.RETINANET_ON", False, "MODEL.RPN_ONLY", False, "MODEL.BACKBONE.CONV_BODY", "R-18-FPN"),
            *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 16, "MODEL.RPN.USE_FPN", True),
            *(
                "MODEL.RPN.ANCHOR_STRIDE",
                "(4, 8, 16, 32, 64)",
                "MODEL.RPN.ANCHOR_SIZES",
                "(8, 16, 32, 64, 128)",
            ),
            *("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 100, "MODEL.RPN.PRE_NMS_TOP_N_TEST", 100),
            *(
                "MODEL.ROI_HEADS.USE_FPN",
                True,
                "MODEL.ROI_BOX_HEAD.POOLER_SCALES",
                "(0.25, 0.125, 0.0625, 0.03125)",
            ),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2),
            *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
            *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32),
            *words,
        )

    return make


@pytest.fixture
def make_target():
    """Make the ground truth of an image from boxes, labels and its (height, width)."""

    def make(boxes, labels, size):
        target = BoxList(boxes, (size[1], size[0]))
        target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        return target

    return make


@pytest.fixture(scope="session")
def assert_detections():
    """Compare detections in images of (height, width) with those by hand: (boxes, scores, labels)."""

    def check(detections, expected, sizes, limit):
        for found, (boxes, scores, labels), (height, width) in zip(detections, expected, sizes, strict=True):
            assert found.size == (width, height)
            assert found.mode == "xyxy"
            assert len(found) == len(scores) <= limit
            torch.testing.assert_close(found.get_field("scores").double(), scores, rtol=0, atol=1e-5)
            assert torch.equal(found.get_field("labels"), labels)
            torch.testing.assert_close(found.bbox.double(), boxes, rtol=1e-4, atol=1e-3)

    return check


@pytest.fixture(scope="session")
def assert_nothing_detected():
    """Empty results of images of (height, width) must be complete nonetheless."""

    def check(detections, sizes):
        for found, (height, width) in zip(detections, sizes, strict=True):
            assert len(found) == 0
            assert found.size == (width, height)
            assert found.bbox.shape == (0, 4)
            assert found.get_field("scores").dtype == torch.float32
            assert found.get_field("labels").dtype == torch.int64

    return check
