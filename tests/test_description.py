"""What checkpoints say about themselves, and what is done with it."""

from __future__ import annotations

import pytest

from labelenc import __version__
from labelenc.config import ConfigError, load_config
from labelenc.description import (
    check_same_classes,
    check_same_heads,
    config_in,
    config_of_weight,
    describe,
    description_of,
    differences,
)
from labelenc.engine import CheckpointError, save_atomic
from labelenc.structures import DatasetInfo

INFO = DatasetInfo("set", ((3, "cat"), (7, "dog")), None, 10)
RETINANET = "configs/retinanet/retinanet_R-50-FPN_1x.yaml"
WEIGHT = ["MODEL.RETINANET.BBOX_REG_WEIGHT", "1.0"]
FCOS = "configs/fcos/fcos_imprv_R_50_FPN_1x.yaml"


def content(*opts: str, **changes: object) -> dict:
    cfg = load_config(FCOS, ["MODEL.NUM_CLASSES", "2", *opts])
    return {"description": {**describe(cfg, "baseline", INFO), **changes}}


def test_the_configuration_comes_back_whole():
    cfg = load_config(FCOS, ["MODEL.NUM_CLASSES", "2", "SOLVER.BASE_LR", "0.003"])
    again = config_in(content("SOLVER.BASE_LR", "0.003"), "x.pth")
    assert again == cfg
    assert config_in(content(), "x.pth", ["INPUT.MIN_SIZE_TEST", "640"]).INPUT.MIN_SIZE_TEST == 640


def test_the_description_is_of_plain_values_and_tells_the_input():
    found = content("INPUT.TO_BGR255", "False")["description"]
    assert found["class_names"] == ["cat", "dog"]
    assert found["category_ids"] == [3, 7]
    assert found["version"] == __version__
    assert found["input"]["TO_BGR255"] is False
    assert found["input"]["PIXEL_MEAN"] == [102.9801, 115.9465, 122.7717]
    assert found["input"]["SIZE_DIVISIBILITY"] == 32


def test_a_file_of_weights_does_not_decide_which_catalogue_is_run(tmp_path):
    evil = tmp_path / "catalog.py"
    evil.write_text("raise SystemExit('code of the file was run')")
    cfg = config_in(content("PATHS_CATALOG", str(evil)), "x.pth")
    assert cfg.PATHS_CATALOG == load_config(FCOS).PATHS_CATALOG
    # Whoever starts the program may.
    assert str(evil) == config_in(content(), "x.pth", ["PATHS_CATALOG", str(evil)]).PATHS_CATALOG


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        {"format": 1},
        {"class_names": ["cat"]},
        {"class_names": [1, 2]},
        {"config": 3},
        {"version": None},
    ],
)
def test_a_broken_description_is_an_error(broken):
    whole = content()["description"]
    changed = {**whole, **broken} if isinstance(broken, dict) and broken != {"format": 1} else broken
    with pytest.raises(CheckpointError, match=r"x\.pth describes itself in a way that cannot be read"):
        description_of({"description": changed}, "x.pth")


def test_a_newer_format_and_a_newer_version_say_so():
    with pytest.raises(CheckpointError, match=r"written by labelenc 9\.0"):
        description_of(content(format=2, version="9.0"), "x.pth")
    strange = content(version="9.0", config="MODEL: {NEW_THING: 3}")
    with pytest.raises(
        ConfigError, match=r"unknown key MODEL\.NEW_THING in x\.pth[\s\S]*written by labelenc 9\.0"
    ):
        config_in(strange, "x.pth")


def test_switches_that_shapes_do_not_show_are_compared():
    cfg = load_config(FCOS, ["MODEL.FCOS.NORM_REG_TARGETS", "False", "MODEL.RESNETS.STRIDE_IN_1X1", "False"])
    found = differences(content(), "x.pth", cfg)
    assert found == [
        "MODEL.FCOS.NORM_REG_TARGETS was True, is False",
        "MODEL.RESNETS.STRIDE_IN_1X1 was True, is False",
    ]
    groups = load_config(FCOS, ["MODEL.GROUP_NORM.NUM_GROUPS", "16"])
    assert differences(content(), "x.pth", groups) == ["MODEL.GROUP_NORM.NUM_GROUPS was 32, is 16"]
    # A key of another detector's head says nothing about this one.
    assert differences(content(), "x.pth", load_config(FCOS, WEIGHT)) == []
    retinanet = {"description": describe(load_config(RETINANET), "baseline", INFO)}
    found = differences(retinanet, "x.pth", load_config(RETINANET, WEIGHT))
    assert found == ["MODEL.RETINANET.BBOX_REG_WEIGHT was 4.0, is 1.0"]
    assert differences(content(), "x.pth", load_config(FCOS)) == []
    assert differences({"model": {}}, "x.pth", cfg) == []
    with pytest.raises(
        ConfigError, match=r"x\.pth comes from a step 1 whose head works differently.*NORM_REG"
    ):
        check_same_heads(content(), "x.pth", cfg)
    other_body = load_config(FCOS, ["MODEL.RESNETS.STRIDE_IN_1X1", "False"])
    check_same_heads(content(), "x.pth", other_body)


def test_classes_in_another_order_are_an_error_and_other_names_a_warning(caplog):
    check_same_classes(content(), "x.pth", INFO)
    assert not caplog.records
    with pytest.raises(
        ConfigError, match=r"class 1 of x\.pth is 'cat', of set 'dog': the same classes in another"
    ):
        check_same_classes(content(), "x.pth", DatasetInfo("set", ((1, "dog"), (2, "cat")), None, 1))
    check_same_classes(content(), "x.pth", DatasetInfo("set", ((1, "Cat"), (2, "dog")), None, 1))
    assert "class 1 of x.pth is 'cat', of set 'Cat'" in caplog.text


def test_the_file_named_as_weight_brings_the_configuration(tmp_path):
    path = tmp_path / "model.pth"
    save_atomic({"model": {}, **content()}, path)
    cfg = config_of_weight(["MODEL.WEIGHT", str(path), "MODEL.DEVICE", "cpu"])
    assert str(tmp_path) == cfg.OUTPUT_DIR
    assert str(path) == cfg.MODEL.WEIGHT
    assert cfg.MODEL.DEVICE == "cpu"
    assert config_of_weight(["MODEL.WEIGHT", str(path), "OUTPUT_DIR", "x"]).OUTPUT_DIR == "x"
    with pytest.raises(ConfigError, match="give either --config-file FILE or"):
        config_of_weight(["MODEL.DEVICE", "cpu"])
