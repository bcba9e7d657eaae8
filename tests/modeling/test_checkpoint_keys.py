"""The names and shapes of the published checkpoints, guarded without the parity records."""

import json
from pathlib import Path

import pytest
import torch

from labelenc.config import load_config
from labelenc.modeling import build_detector
from labelenc.supervision import LabelEncStep1, LabelEncStep2

RECORD = json.loads(Path(__file__).with_name("retinanet_R-50-FPN_1x.keys.json").read_text())
ROOT = Path(__file__).resolve().parents[2]
TRAINING_ONLY = ("label_encoding_function.", "feature_adapt.")


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("make", [LabelEncStep1, LabelEncStep2])
def test_labelenc_models_have_the_published_keys(make):
    with torch.device("meta"):
        model = make(load_config(ROOT / RECORD["config"]))
    assert shapes(model) == RECORD["step1"]


def test_detector_has_the_published_keys():
    expected = {k: v for k, v in RECORD["step1"].items() if not k.startswith(TRAINING_ONLY)}
    with torch.device("meta"):
        model = build_detector(load_config(ROOT / RECORD["config"]))
    assert shapes(model) == expected
