"""The key tree against the merged configurations of the ancestors."""

import json

import pytest
import yaml

from labelenc.config import load_config
from labelenc.config.defaults import default_config

RECORDS = (
    "retinanet_R-50-FPN_1x",
    "retinanet_dcnv2_R-101-FPN_2x",
    "fcos_R_50_FPN_1x",
    "fcos_imprv_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_FPN_1x",
)
# All five recorded configurations change these, so the records say nothing about their defaults.
ALWAYS_OVERRIDDEN = {
    "DATALOADER.SIZE_DIVISIBILITY",
    "DATASETS.TEST",
    "DATASETS.TRAIN",
    "MODEL.DEVICE",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "PATHS_CATALOG",
    "SOLVER.WEIGHT_DECAY",
}


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


@pytest.fixture(scope="module")
def recorded(shared_dir):
    """name -> {dotted key: value} of the complete merged trees."""
    trees = {}
    for name in RECORDS:
        record = json.loads((shared_dir / "parity" / f"{name}.json").read_text())
        trees[name] = dict(leaves(yaml.safe_load(record["cfg_yaml"])))
    return trees


def test_every_key_of_the_ancestors_exists_with_its_type(recorded):
    ours = dict(leaves(default_config()))
    for tree in recorded.values():
        assert not set(tree) - set(ours)
        for key, value in tree.items():
            assert type(ours[key]) is type(value), key


def test_defaults_agree_where_no_configuration_overrides_them(recorded):
    ours = dict(leaves(default_config()))
    trees = list(recorded.values())
    same = {k: v for k, v in trees[0].items() if all(t[k] == v for t in trees) and k not in ALWAYS_OVERRIDDEN}
    assert len(same) > 130
    assert {key: ours[key] for key in same} == same


@pytest.mark.parametrize("name", RECORDS)
def test_a_complete_merged_tree_loads_unchanged(shared_dir, recorded, write_yaml, name):
    record = json.loads((shared_dir / "parity" / f"{name}.json").read_text())
    loaded = dict(leaves(load_config(write_yaml(record["cfg_yaml"]))))
    changed = {key for key, value in recorded[name].items() if loaded[key] != value}
    assert changed == set()
    assert loaded["MODEL.NUM_CLASSES"] == 80
