"""A data set, a model and a schedule that train in a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labelenc.config import load_config
from labelenc.data import generate_shapes

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
MODEL:
  DEVICE: "cpu"
  RETINANET_ON: True
  BACKBONE: {{CONV_BODY: "R-18-FPN-RETINANET", FREEZE_CONV_BODY_AT: 1}}
  GROUP_NORM: {{NUM_GROUPS: 4}}
  RESNETS:
    STEM_FUNC: "StemWithGN"
    TRANS_FUNC: "BottleneckWithGN"
    STEM_OUT_CHANNELS: 8
    RES2_OUT_CHANNELS: 8
    BACKBONE_OUT_CHANNELS: 16
  RETINANET: {{ANCHOR_SIZES: [16, 32, 64], ANCHOR_STRIDES: [8, 16, 32], NUM_CONVS: 1, STRADDLE_THRESH: -1}}
  LABELENC: {{DISTANCE_LOSS_WARMUP_ITERS: 3, AUXILIARY_LOSS_ITERS: 6}}
DATASETS:
  REGISTER:
    tiny_train: {{images: "{root}/train", annotations: "{root}/train.json"}}
    tiny_val: {{images: "{root}/val", annotations: "{root}/val.json"}}
  TRAIN: ("tiny_train",)
  TEST: ("tiny_val",)
INPUT: {{MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0, SIZE_DIVISIBILITY: 32}}
SOLVER:
  BASE_LR: 0.01
  WARMUP_ITERS: 4
  STEPS: (6,)
  MAX_ITER: 8
  IMS_PER_BATCH: 4
  CHECKPOINT_PERIOD: 3
TEST: {{IMS_PER_BATCH: 4, METHOD_IMAGES: 0, REPORT: False}}
SEED: 7
"""


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 validation images of shapes, and ``config.yaml`` beside them."""
    root = tmp_path_factory.mktemp("tiny")
    generate_shapes(str(root), "train", 24, 64, 0)
    generate_shapes(str(root), "val", 6, 64, 0)
    (root / "config.yaml").write_text(CONFIG.format(root=root))
    return root


@pytest.fixture
def tiny_cfg(tiny_root: Path, tmp_path: Path):
    """load(*opts, out="run") -> the tiny configuration with OUTPUT_DIR tmp_path / out."""

    def load(*opts: object, out: str = "run"):
        words = ["OUTPUT_DIR", str(tmp_path / out), *map(str, opts)]
        return load_config(tiny_root / "config.yaml", words)

    return load


@pytest.fixture
def losses_of():
    """metrics.jsonl of a run -> {iteration: {loss name: value}}."""

    def read(folder: Path) -> dict[int, dict[str, float]]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return {
            row["iteration"]: {k: v for k, v in row.items() if k.startswith(("loss", "ae_loss"))}
            for row in rows
            if "loss" in row
        }

    return read
