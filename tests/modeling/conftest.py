"""What the model tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch

from labelenc.config import load_config

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
