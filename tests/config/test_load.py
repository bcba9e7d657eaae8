"""Files, command lines and checks of values."""

import pytest

from labelenc.config import ConfigError, detector_kind, load_config, num_classes, with_values

# A file as users of maskrcnn-benchmark have it: tuples as text, floats that yaml reads as text, ints for
# floats, lists for tuples, groups of features that are switched off.
ANCESTOR_STYLE = """
    MODEL:
      META_ARCHITECTURE: "GeneralizedRCNN"
      WEIGHT: "catalog://ImageNetPretrained/MSRA/R-50"
      RPN_ONLY: True
      RETINANET_ON: True
      MASK_ON: False
      BACKBONE:
        CONV_BODY: "R-50-FPN-RETINANET"
      RESNETS:
        BACKBONE_OUT_CHANNELS: 256
      RPN:
        USE_FPN: True
        FG_IOU_THRESHOLD: 0.5
        ANCHOR_STRIDE: (8, 16, 32, 64, 128)
        PRE_NMS_TOP_N_TRAIN: 2000
      ROI_MASK_HEAD:
        POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)
      KEYPOINT_ON: False
      FBNET:
        ARCH: "default"
      RETINANET:
        SCALES_PER_OCTAVE: 3
        STRADDLE_THRESH: -1
        ASPECT_RATIOS: (1, 2)
    DATASETS:
      TRAIN: ("coco_2014_train",)
      TEST: ["coco_2014_minival"]
    INPUT:
      MIN_SIZE_TRAIN: (640, 672)
      PIXEL_STD: [1, 1, 1]
    DATALOADER:
      SIZE_DIVISIBILITY: 32
    SOLVER:
      BASE_LR: 1e-2
      WEIGHT_DECAY: 1e-4
      WARMUP_FACTOR: 1
      STEPS: (60000, 80000)
      MAX_ITER: 90000
"""


def test_an_ancestor_style_file_works_unchanged(write_yaml):
    cfg = load_config(write_yaml(ANCESTOR_STYLE))
    assert cfg.SOLVER.STEPS == (60000, 80000)
    assert cfg.DATASETS.TRAIN == ("coco_2014_train",)
    assert cfg.DATASETS.TEST == ("coco_2014_minival",)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (0.01, 0.0001)
    assert isinstance(cfg.SOLVER.WARMUP_FACTOR, float)
    assert cfg.INPUT.PIXEL_STD == [1.0, 1.0, 1.0]
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672)
    assert cfg.MODEL.RPN.ANCHOR_STRIDE == (8, 16, 32, 64, 128)
    assert tuple(cfg.MODEL.RETINANET.ASPECT_RATIOS) == (1.0, 2.0)
    assert cfg.MODEL.RETINANET.STRADDLE_THRESH == -1
    assert detector_kind(cfg) == "retinanet"
    # What the file does not name stays.
    assert cfg.SOLVER.GAMMA == 0.1


def test_command_line_pairs_override_the_file(write_yaml):
    words = ["OUTPUT_DIR", "exps/x", "SOLVER.BASE_LR", "0.005", "SOLVER.STEPS", "(10,)"]
    words += [
        "DATASETS.TRAIN",
        "('a', 'b')",
        "DATALOADER.ASPECT_RATIO_GROUPING",
        "False",
        "SOLVER.WEIGHT_DECAY_BIAS",
        "1e-4",
    ]
    words += ["SOLVER.BASE_LR", "5e-3", "MODEL.DEVICE", "cpu"]
    cfg = load_config(write_yaml(ANCESTOR_STYLE), words)
    assert cfg.OUTPUT_DIR == "exps/x"
    assert cfg.SOLVER.BASE_LR == 0.005
    assert cfg.SOLVER.STEPS == (10,)
    assert cfg.MODEL.DEVICE == "cpu"
    assert cfg.DATASETS.TRAIN == ("a", "b")
    assert cfg.DATALOADER.ASPECT_RATIO_GROUPING is False
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.0001
    assert cfg.SOLVER.MAX_ITER == 90000


@pytest.mark.parametrize("name", ["2020_01_15", "1e5", "007", "0x10", "12"])
def test_a_text_value_that_looks_like_a_number_stays_as_typed(minimal, name):
    loaded = load_config(None, [*minimal, "OUTPUT_DIR", name]).OUTPUT_DIR
    assert loaded == name


def test_an_empty_file_is_the_defaults(write_yaml, minimal):
    cfg = load_config(write_yaml(""), minimal)
    assert cfg == load_config(None, minimal)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"),
        ("MODEL.RETINANET_OM", "MODEL.RETINANET_ON"),
        ("OUTPUT_DIRECTORY", "OUTPUT_DIR"),
        # The right name below the wrong group.
        ("MODEL.STEPS", "SOLVER.STEPS"),
        ("SIZE_DIVISIBILITY", "DATALOADER.SIZE_DIVISIBILITY"),
        ("SOLVER.BASE_LR.MORE", "SOLVER.BASE_LR"),
    ],
)
def test_an_unknown_key_names_its_nearest(minimal, write_yaml, key, nearest):
    with pytest.raises(
        ConfigError, match=rf"unknown key {key} on the command line; did you mean {nearest}\?"
    ):
        load_config(None, [*minimal, key, "1"])
    lines = ""
    for depth, part in enumerate(key.split(".")):
        lines += "  " * depth + part + ":" + ("\n" if depth < key.count(".") else " 1\n")
    path = write_yaml(lines)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "fast"),
        ("SOLVER.MAX_ITER", "1.5"),
        ("SOLVER.MAX_ITER", "True"),
        ("SOLVER.BASE_LR", "False"),
        ("MODEL.RETINANET_ON", "1"),
        ("SOLVER.STEPS", "60000"),
        ("SOLVER.STEPS", "('a', 7)"),
        ("INPUT.MIN_SIZE_TRAIN", "('800',)"),
        ("INPUT.PIXEL_MEAN", "[None, 1, 1]"),
        ("DATASETS.TRAIN", "coco_2014_train"),
        ("DATASETS.TRAIN", "(1, 2)"),
        ("MODEL.WEIGHT", "None"),
        ("OUTPUT_DIR", "[1]"),
        ("MODEL", "3"),
        ("MODEL.BACKBONE", "R-50"),
    ],
)
def test_a_wrong_type_names_the_key(minimal, key, value):
    with pytest.raises(ConfigError, match=rf"^{key}\b"):
        load_config(None, [*minimal, key, value])


def test_a_single_name_without_its_comma_gets_a_hint(minimal):
    with pytest.raises(ConfigError, match=r'\("name",\)'):
        load_config(None, [*minimal, "DATASETS.TRAIN", "('coco_2014_train')"])


def test_an_odd_number_of_words_names_the_last(minimal):
    with pytest.raises(ConfigError, match=r"pairs KEY VALUE, but 5 words.*OUTPUT_DIR"):
        load_config(None, [*minimal, "OUTPUT_DIR"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: [1, 2\nSOLVER: {", "not valid yaml"),
        ("- MODEL\n- SOLVER\n", "not a list"),
        ("just words", "not a str"),
        ("MODEL:\n\tRETINANET_ON: True\n", "not valid yaml"),
    ],
)
def test_a_malformed_file_names_itself(write_yaml, text, message):
    path = write_yaml(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_an_unreadable_file_names_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.yaml does not exist"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        load_config(binary)


@pytest.mark.parametrize(
    ("key", "on", "off"),
    [
        ("MODEL.MASK_ON", "True", "False"),
        ("MODEL.KEYPOINT_ON", "True", "False"),
        ("MODEL.CLS_AGNOSTIC_BBOX_REG", "True", "False"),
        ("MODEL.META_ARCHITECTURE", "Other", "GeneralizedRCNN"),
        ("MODEL.RESNETS.RES5_DILATION", "2", "1"),
        ("INPUT.BRIGHTNESS", "0.4", "0"),
        ("INPUT.VERTICAL_FLIP_PROB_TRAIN", "0.5", "0.0"),
        ("MODEL.BACKBONE.CONV_BODY", "FBNet", "R-101-FPN-RETINANET"),
        ("MODEL.BACKBONE.CONV_BODY", "R-50-C4", "R-18-FPN-RETINANET"),
    ],
)
def test_features_that_do_not_exist_may_be_named_but_not_switched_on(minimal, key, on, off):
    load_config(None, [*minimal, key, off])
    with pytest.raises(ConfigError, match=rf"^{key}\b"):
        load_config(None, [*minimal, key, on])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DTYPE", "float64"),
        ("SOLVER.OPTIMIZER", "Lion"),
        ("SOLVER.LR_SCHEDULE", "linear"),
        ("SOLVER.WARMUP_METHOD", "cosine"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "l2"),
        ("SOLVER.MAX_ITER", "0"),
        ("SOLVER.BASE_LR", "-0.1"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.STEPS", "(80000, 60000)"),
        ("INPUT.MIN_SIZE_TRAIN", "()"),
        ("INPUT.MIN_SIZE_TRAIN", "(0,)"),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", "(800, 640)"),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", "(640,)"),
        ("INPUT.MIN_SIZE_RANGE_TRAIN", "(640, 700, 800)"),
        ("INPUT.PIXEL_MEAN", "[1.0, 2.0]"),
        ("INPUT.PIXEL_STD", "[1.0, 0.0, 1.0]"),
        ("TEST.BBOX_AUG.SCALES", "(400, 0)"),
        ("TEST.BBOX_AUG.SCALES", "(400.5,)"),
        ("TEST.BBOX_AUG.SCALES", "('large',)"),
        ("TEST.BBOX_AUG.MAX_SIZE", "0"),
        ("MODEL.LABELENC.ENCODER_WIDTH", "0"),
        ("MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS", "-1"),
        ("MODEL.RETINANET.ANCHOR_STRIDES", "(4, 8, 16)"),
        ("MODEL.RETINANET.ANCHOR_SIZES", "(32, 64)"),
        ("MODEL.FCOS_ON", "True"),
        ("MODEL.BACKBONE.CONV_BODY", "R-50-FPN"),
    ],
)
def test_values_that_cannot_work_are_refused_by_key(minimal, key, value):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*minimal, key, value])
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("words", "res2"),
    [
        (["MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET"], 64),
        (["MODEL.BACKBONE.CONV_BODY", "R-34-FPN-RETINANET"], 64),
        (["MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"], 16),
        (["MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"], 256),
        (["MODEL.BACKBONE.CONV_BODY", "R-101-FPN-RETINANET"], 256),
    ],
)
def test_basic_block_bodies_start_at_64_channels(minimal, words, res2):
    channels = load_config(None, minimal + words).MODEL.RESNETS.RES2_OUT_CHANNELS
    assert channels == res2


def test_the_result_is_frozen_and_with_values_copies(minimal):
    cfg = load_config(None, minimal)
    with pytest.raises(AttributeError):
        cfg.OUTPUT_DIR = "elsewhere"
    with pytest.raises(AttributeError):
        cfg.SOLVER.BASE_LR = 1.0
    other = with_values(cfg, {"SOLVER.BASE_LR": 1.0})
    assert (other.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR) == (1.0, 0.001)
    with pytest.raises(AttributeError):
        other.SOLVER.BASE_LR = 2.0


def test_a_written_configuration_loads_to_the_same(minimal, tmp_path):
    register = "{'my': {'images': 'im', 'annotations': 'a.json'}}"
    cfg = load_config(
        None, [*minimal, "DATASETS.REGISTER", register, "MODEL.TIMM.KWARGS", "{'bn_eps': 1e-3}"]
    )
    path = tmp_path / "config.yml"
    path.write_text(cfg.dump())
    assert load_config(path, ["MODEL.NUM_CLASSES", "80"]).DATASETS.REGISTER == cfg.DATASETS.REGISTER
    assert num_classes(load_config(path)) == num_classes(cfg)
    assert load_config(path).MODEL.TIMM.KWARGS == {"bn_eps": 0.001}
