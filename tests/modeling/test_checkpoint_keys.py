"""The names and shapes of the published checkpoints, guarded without the parity records."""

import json
from pathlib import Path

import pytest
import torch

from labelenc.config import load_config
from labelenc.modeling import build_detector
from labelenc.supervision import LabelEncStep1, LabelEncStep2

ROOT = Path(__file__).resolve().parents[2]
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
