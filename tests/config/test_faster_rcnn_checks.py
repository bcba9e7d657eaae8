"""What is refused of a Faster R-CNN configuration, and how it is said."""

import json
from pathlib import Path

import pytest

from labelenc.config import ConfigError, load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs/e2e_faster_rcnn_R_50_FPN_1x.yaml"


def load(*words):
    return load_config(CONFIG, list(map(str, words)))


def test_the_recorded_behaviour_is_the_default():
    assert load().MODEL.RPN.FPN_POST_NMS_PER_BATCH is True


@pytest.mark.parametrize(
    "words",
    [
        ("MODEL.BACKBONE.CONV_BODY", "timm/resnet18-FPN"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.25,)"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "[0.25, 0.125]"),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0),
        ("MODEL.RPN.STRADDLE_THRESH", -1),
        ("MODEL.RPN.FPN_POST_NMS_PER_BATCH", False),
        ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
    ],
)
def test_what_works(words):
    load(*words)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "MODEL.BACKBONE.CONV_BODY",
            "R-50-FPN-RETINANET",
            r"P2 to P6: write MODEL\.BACKBONE\.CONV_BODY …-FPN,",
        ),
        ("MODEL.RPN_ONLY", True, r"MODEL\.RPN_ONLY True without.*set it to False"),
        ("MODEL.RPN.USE_FPN", False, r"MODEL\.RPN\.USE_FPN must be True for Faster R-CNN, not False"),
        ("MODEL.ROI_HEADS.USE_FPN", False, r"MODEL\.ROI_HEADS\.USE_FPN must be True"),
        ("MODEL.RPN.ANCHOR_STRIDE", "(16,)", r"ANCHOR_STRIDE must be \(4, 8, 16, 32, 64\).*not \(16,\)"),
        ("MODEL.RPN.RPN_HEAD", "FBNet.rpn_head", r"RPN_HEAD must be 'SingleConvRPNHead'"),
        (
            "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR",
            "FPNXconv1fcFeatureExtractor",
            "FEATURE_EXTRACTOR must be 'FPN2MLPFeatureExtractor'",
        ),
        ("MODEL.ROI_BOX_HEAD.PREDICTOR", "FastRCNNPredictor", "PREDICTOR must be 'FPNPredictor'"),
        ("MODEL.ROI_BOX_HEAD.USE_GN", True, r"USE_GN must be False"),
        (
            "MODEL.RPN.ANCHOR_SIZES",
            "(32, 64)",
            r"ANCHOR_SIZES needs one size for each stride .*not \(32, 64\)",
        ),
        ("MODEL.RPN.ANCHOR_SIZES", "(32, 64, 0, 128, 256)", r"ANCHOR_SIZES must be positive"),
        ("MODEL.RPN.ASPECT_RATIOS", "()", r"ASPECT_RATIOS must be positive"),
        ("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS", "(10.0, 10.0, 5.0)", "BBOX_REG_WEIGHTS needs 4 numbers"),
        ("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS", "(10.0, 10.0, 5.0, 0.0)", "BBOX_REG_WEIGHTS must be positive"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "()", "POOLER_SCALES must be"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.3, 0.15)", "POOLER_SCALES must be"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.125, 0.0625)", "all from the first on"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.25, 0.0625)", "POOLER_SCALES must be"),
        ("MODEL.RPN.POSITIVE_FRACTION", 1.5, r"RPN\.POSITIVE_FRACTION must lie between 0 and 1"),
        ("MODEL.RPN.POSITIVE_FRACTION", 0.0, r"RPN\.BATCH_SIZE_PER_IMAGE 256 times .* no positive"),
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 3, r"BATCH_SIZE_PER_IMAGE 3 times .*0\.25 leaves no"),
        ("MODEL.RPN.NMS_THRESH", 0.0, r"NMS_THRESH must be above 0 .*with 1 no box is suppressed"),
        ("MODEL.RPN.FG_IOU_THRESHOLD", 0.2, r"RPN\.BG_IOU_THRESHOLD 0\.3 exceeds FG_IOU_THRESHOLD 0\.2"),
        ("MODEL.ROI_HEADS.FG_IOU_THRESHOLD", 0.2, r"ROI_HEADS\.BG_IOU_THRESHOLD 0\.5 exceeds"),
        ("MODEL.RESNETS.NUM_GROUPS", 0, r"NUM_GROUPS must be positive"),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", 0, r"WIDTH_PER_GROUP must be positive"),
        ("SOLVER.DCONV_OFFSETS_LR_FACTOR", -1.0, r"DCONV_OFFSETS_LR_FACTOR must not be negative"),
        ("MODEL.RPN.NMS_THRESH", -0.1, r"RPN\.NMS_THRESH must be above 0"),
        ("MODEL.ROI_HEADS.SCORE_THRESH", 5.0, r"ROI_HEADS\.SCORE_THRESH must lie between"),
        ("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 0, r"PRE_NMS_TOP_N_TRAIN must be positive"),
        ("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 0, r"FPN_POST_NMS_TOP_N_TEST must be positive"),
        ("MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 0, r"ROI_HEADS\.DETECTIONS_PER_IMG must be positive"),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0, r"POOLER_RESOLUTION must be positive"),
        ("MODEL.RPN.MIN_SIZE", -1, r"RPN\.MIN_SIZE must not be negative"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", -1, r"POOLER_SAMPLING_RATIO must not be negative"),
    ],
)
def test_what_is_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        load(key, value)


def test_values_that_are_no_numbers_are_refused(write_yaml):
    """Only a yaml file can say them."""
    base = f'_BASE_: "{CONFIG}"\n'
    sizes = write_yaml(base + "MODEL: {RPN: {ANCHOR_SIZES: [32, 64, .nan, 256, 512]}}")
    with pytest.raises(ConfigError, match="ANCHOR_SIZES must be positive, finite numbers"):
        load_config(sizes)
    least = write_yaml(base + "MODEL: {RPN: {MIN_SIZE: .inf}}")
    with pytest.raises(ConfigError, match="MIN_SIZE"):
        load_config(least)


def test_a_body_of_the_ancestors_is_refused_by_its_name():
    with pytest.raises(ConfigError, match=r"CONV_BODY 'R-50-C4' is not available"):
        load("MODEL.BACKBONE.CONV_BODY", "R-50-C4")


def test_a_complete_merged_tree_loads(shared_dir, write_yaml):
    record = json.loads((shared_dir / "parity/e2e_faster_rcnn_R_50_FPN_1x.json").read_text())
    cfg = load_config(write_yaml(record["cfg_yaml"]))
    assert cfg.MODEL.NUM_CLASSES == 80
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 100000
