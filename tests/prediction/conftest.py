"""A detector that was trained for a moment, with what it was trained on."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from labelenc import pipeline
from labelenc.config import load_config
from labelenc.data import generate_shapes
from labelenc.prediction import Settings, predict_files

PIPELINE = Path(__file__).resolve().parents[1] / "pipeline/conftest.py"
# On the configuration there: many detections at once, and a test size that is not the images'.
CONFIG = """
_BASE_: "base.yaml"
MODEL:
  RETINANET: {PRIOR_PROB: 0.2}
  LABELENC: {DISTANCE_LOSS_WARMUP_ITERS: 1, AUXILIARY_LOSS_ITERS: 2}
INPUT: {MIN_SIZE_TEST: 48, MAX_SIZE_TEST: 96}
SOLVER: {BASE_LR: 0.001, MAX_ITER: 2, STEPS: [1]}
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.yaml, the images train/ and val/, and run/: step 1 after three updates."""
    root = tmp_path_factory.mktemp("trained")
    generate_shapes(str(root), "train", 8, 64, 0)
    generate_shapes(str(root), "val", 6, 64, 1)
    base = runpy.run_path(str(PIPELINE))["CONFIG"]
    (root / "base.yaml").write_text(base.format(root=root))
    (root / "config.yaml").write_text(CONFIG)
    pipeline.train_step1(load_config(root / "config.yaml", ["OUTPUT_DIR", str(root / "run")]))
    return root


@pytest.fixture
def predict(trained, results, tmp_path):
    """predict(*words, output=…, settings=…) -> content of predictions.json and rows of predictions.csv."""

    usual = Settings(score_threshold=0.15)

    def run(*words: object, output: Path = tmp_path / "out", settings: Settings = usual):
        weights = str(trained / "run/model_final.pth")
        predict_files(weights, [str(word) for word in words], output, settings, device="cpu")
        return results(output)

    return run


@pytest.fixture(scope="session")
def results():
    """results(folder) -> content of its predictions.json and rows of its predictions.csv."""

    def read(output: Path) -> tuple[dict, list[dict]]:
        with (output / "predictions.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return json.loads((output / "predictions.json").read_text()), rows

    return read


@pytest.fixture(scope="session")
def write_video():
    """write_video(path, count): frames of 64 x 48, 12.5 per second, of a red square at column 2 * i."""

    def write(path: Path, count: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
        for i in range(count):
            frame = np.full((48, 64, 3), 40, np.uint8)
            frame[10:20, 2 * i : 2 * i + 10] = (0, 0, 255)
            writer.write(frame)
        writer.release()

    return write


@pytest.fixture(scope="session")
def read_video():
    """read_video(path) -> its frames, and how many are shown per second."""

    def read(path: Path) -> tuple[list[np.ndarray], float]:
        capture, frames = cv2.VideoCapture(str(path)), []
        while True:
            more, frame = capture.read()
            if not more:
                return frames, capture.get(cv2.CAP_PROP_FPS)
            frames.append(frame)

    return read
