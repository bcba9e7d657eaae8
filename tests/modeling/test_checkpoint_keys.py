"""The names and shapes of the published checkpoints, most of them guarded without the parity records.

Three lists of keys lie beside this file. Those of deeper bodies and of deformable layers follow from them;
some are compared with the records.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from labelenc.config import load_config
from labelenc.modeling import build_detector
from labelenc.supervision import LabelEncStep1, LabelEncStep2

ROOT = Path(__file__).resolve().parents[2]
RETINANET, FCOS, FASTER_RCNN = (
    "retinanet_R-50-FPN_1x",
    "fcos_imprv_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_FPN_1x",
)
# The published models, and the one that only makes a step-1 file -> the list that theirs follows from.
PUBLISHED = {
    "retinanet/retinanet_R-50-FPN_1x": RETINANET,
    "retinanet/retinanet_R-101-FPN_2x": RETINANET,
    "retinanet/retinanet_dcnv2_R-101-FPN_2x": RETINANET,
    "fcos/fcos_R_50_FPN_1x": FCOS,
    "fcos/fcos_imprv_R_50_FPN_1x": FCOS,
    "fcos/fcos_imprv_R_101_FPN_2x": FCOS,
    "fcos/fcos_imprv_dcnv2_R_50_FPN_1x": FCOS,
    "fcos/fcos_imprv_dcnv2_R_101_FPN_2x": FCOS,
    "e2e_faster_rcnn_R_50_FPN_1x": FASTER_RCNN,
    "e2e_faster_rcnn_R_101_FPN_1x": FASTER_RCNN,
    "e2e_faster_rcnn_dcnv2_R_101_FPN_2x": FASTER_RCNN,
}
RECORDED = (
    "retinanet/retinanet_R-50-FPN_1x",
    "retinanet/retinanet_dcnv2_R-101-FPN_2x",
    "fcos/fcos_R_50_FPN_1x",
    "fcos/fcos_imprv_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_FPN_1x",
)
# Two offsets and a factor for each of 3 x 3 taps.
OFFSETS = 3 * 9
TRAINING_ONLY = ("label_encoding_function.", "feature_adapt.")


@pytest.fixture(params=sorted(Path(__file__).parent.glob("*.keys.json")), ids=lambda p: p.name.split(".")[0])
def record(request):
    return json.loads(request.param.read_text())


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("make", [LabelEncStep1, LabelEncStep2])
def test_labelenc_models_have_the_published_keys(record, make):
    with torch.device("meta"):
        model = make(load_config(ROOT / record["config"]))
    assert shapes(model) == record["step1"]


def test_detector_has_the_published_keys(record):
    expected = {k: v for k, v in record["step1"].items() if not k.startswith(TRAINING_ONLY)}
    with torch.device("meta"):
        model = build_detector(load_config(ROOT / record["config"]))
    assert shapes(model) == expected


def deeper(keys):
    """A ResNet-101's: blocks 6 to 22 of the third stage are like the fifth."""
    last = "backbone.body.layer3.5."
    more = {
        name.replace(last, f"backbone.body.layer3.{block}."): shape
        for name, shape in keys.items()
        if name.startswith(last)
        for block in range(6, 23)
    }
    return keys | more


def deformable(keys, layers):
    """With the convolutions whose names match replaced by modulated deformable ones."""
    result = {}
    for name, shape in keys.items():
        match = re.fullmatch(rf"({layers})\.(weight|bias)", name)
        if match is None:
            result[name] = shape
            continue
        layer, kind = match.groups()
        result[f"{layer}.conv.{kind}"] = shape
        if kind == "weight":
            result[f"{layer}.offset.weight"] = [OFFSETS, *shape[1:]]
            result[f"{layer}.offset.bias"] = [OFFSETS]
    return result


def expected_keys(config):
    """Of the step-1 network of a published model."""
    keys = json.loads(Path(__file__).with_name(f"{PUBLISHED[config]}.keys.json").read_text())["step1"]
    if "101" in config:
        keys = deeper(keys)
    if "dcnv2" in config:
        # In the last three stages, and in FCOS the last of four convolutions of each tower.
        keys = deformable(keys, r"backbone\.body\.layer[234]\.\d+\.conv2")
        if "fcos" in config:
            keys = deformable(keys, r"rpn\.head\.(?:cls|bbox)_tower\.9")
    return keys


@pytest.mark.parametrize("config", PUBLISHED)
def test_every_published_model_has_its_keys(config):
    expected = expected_keys(config)
    cfg = load_config(ROOT / f"configs/{config}.yaml")
    with torch.device("meta"):
        assert shapes(LabelEncStep1(cfg)) == expected
        plain = {k: v for k, v in expected.items() if not k.startswith(TRAINING_ONLY)}
        assert shapes(build_detector(cfg)) == plain


@pytest.mark.parametrize("config", RECORDED)
def test_the_keys_are_the_recorded_ones(shared_dir, config):
    record = json.loads((shared_dir / f"parity/{Path(config).name}.json").read_text())
    assert expected_keys(config) == record["models"]["step1"]["state_dict"]


@pytest.mark.parametrize(
    "config",
    [
        "retinanet/retinanet_R-50-FPN_1x",
        "fcos/fcos_R_50_FPN_1x",
        "fcos/fcos_imprv_dcnv2_R_50_FPN_1x",
        "e2e_faster_rcnn_R_50_FPN_1x",
    ],
)
def test_the_parameters_are_the_recorded_ones(shared_dir, config):
    record = json.loads((shared_dir / "parity/init_stats.json").read_text())["configs"]
    with torch.device("meta"):
        model = LabelEncStep1(load_config(ROOT / f"configs/{config}.yaml"))
    parameters = {name for name, _ in model.named_parameters()}
    assert parameters == set(record[Path(config).name]) <= set(expected_keys(config))
