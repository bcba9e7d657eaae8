"""How many classes: new key, legacy keys, data."""

import pytest

from labelenc.config import ConfigError, load_config, num_classes
from labelenc.config.load import with_num_classes

RETINANET, FCOS = "MODEL.RETINANET.NUM_CLASSES", "MODEL.FCOS.NUM_CLASSES"
FASTER = "MODEL.ROI_BOX_HEAD.NUM_CLASSES"
FCOS_ON = ["MODEL.RETINANET_ON", "False", "MODEL.FCOS_ON", "True"]
FASTER_ON = [
    *("MODEL.RETINANET_ON", "False", "MODEL.BACKBONE.CONV_BODY", "R-50-FPN"),
    *("MODEL.RPN.USE_FPN", "True", "MODEL.RPN.ANCHOR_STRIDE", "(4, 8, 16, 32, 64)"),
    *(
        "MODEL.ROI_HEADS.USE_FPN",
        "True",
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES",
        "(0.25, 0.125, 0.0625, 0.03125)",
    ),
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
    *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FPNPredictor"),
]


def load(minimal, *words):
    return load_config(None, [*minimal, *map(str, words)])


def test_without_a_word_the_ancestors_80_and_the_data_decide(minimal):
    cfg = load(minimal)
    assert cfg.MODEL.NUM_CLASSES == 0
    assert num_classes(cfg) == 80
    found = with_num_classes(cfg, 3, "my_train")
    assert num_classes(found) == 3
    assert found.MODEL.RETINANET.NUM_CLASSES == 4
    assert found.is_frozen()
    assert cfg.MODEL.NUM_CLASSES == 0


@pytest.mark.parametrize(
    ("switches", "key"),
    [([], RETINANET), (FCOS_ON, FCOS), (FASTER_ON, FASTER)],
    ids=["retinanet", "fcos", "faster_rcnn"],
)
def test_each_detectors_legacy_key_counts_the_background(minimal, switches, key):
    assert num_classes(load(minimal, *switches, key, 21)) == 20
    assert num_classes(load(minimal, *switches, "MODEL.NUM_CLASSES", 20)) == 20
    assert num_classes(load(minimal, *switches, "MODEL.NUM_CLASSES", 20, key, 21)) == 20
    found = with_num_classes(load(minimal, *switches), 7, "my_train")
    assert num_classes(found) == 7


def test_another_detectors_key_serves_too(minimal):
    # The ancestor read RETINANET's whatever the detector was; files that rely on it keep their meaning.
    cfg = load(minimal, *FCOS_ON, RETINANET, 6)
    assert num_classes(cfg) == 5
    assert cfg.MODEL.FCOS.NUM_CLASSES == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((RETINANET, 21, "MODEL.NUM_CLASSES", 21), (RETINANET, "20", "MODEL.NUM_CLASSES", "21")),
        ((RETINANET, 21, FCOS, 6), (RETINANET, "20", FCOS, "5")),
        ((FASTER, 3, "MODEL.NUM_CLASSES", 3), (FASTER, "2", "MODEL.NUM_CLASSES", "3")),
    ],
)
def test_contradictions_in_the_configuration(minimal, words, said):
    with pytest.raises(ConfigError, match="contradicting class counts") as caught:
        load(minimal, *words)
    for word in said:
        assert word in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [(RETINANET, 1), (RETINANET, 0), ("MODEL.NUM_CLASSES", -2)])
def test_no_foreground_class_is_an_error(minimal, key, value):
    with pytest.raises(ConfigError, match=key):
        load(minimal, key, value)


@pytest.mark.parametrize("words", [("MODEL.NUM_CLASSES", 4), (RETINANET, 5)])
def test_data_that_contradict_the_configuration(minimal, words):
    cfg = load(minimal, *words)
    assert num_classes(with_num_classes(cfg, 4, "my_train")) == 4
    with pytest.raises(ConfigError) as caught:
        with_num_classes(cfg, 3, "my_train")
    for word in ("4 classes", "my_train has 3 categories", "MODEL.NUM_CLASSES 0", RETINANET):
        assert word in str(caught.value)


def test_an_explicit_zero_follows_the_data_whatever_the_legacy_keys_say(minimal):
    cfg = load(minimal, RETINANET, 81, "MODEL.NUM_CLASSES", 0)
    assert cfg.MODEL.NUM_CLASSES == 0
    assert num_classes(with_num_classes(cfg, 3, "my_train")) == 3


def test_a_dumped_configuration_loads_again(minimal, tmp_path):
    for count in (0, 3):
        cfg = load(minimal, "MODEL.NUM_CLASSES", count)
        (tmp_path / "dump.yml").write_text(cfg.dump())
        assert count == load_config(tmp_path / "dump.yml").MODEL.NUM_CLASSES
    resolved = with_num_classes(load(minimal), 5, "my_train")
    (tmp_path / "dump.yml").write_text(resolved.dump())
    assert num_classes(load_config(tmp_path / "dump.yml")) == 5


def test_the_unused_detectors_default_is_no_statement(minimal):
    words = (RETINANET, 21, "MODEL.FCOS.NUM_CLASSES", 81, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81)
    assert num_classes(load(minimal, *words)) == 20
