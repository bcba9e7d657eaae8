"""The demo: baseline, step 1 and step 2 on generated images, and the page that compares them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from yacs.config import CfgNode

from labelenc import data, pipeline, reports
from labelenc.config import ConfigError, load_config

logger = logging.getLogger(__name__)

TRAIN_IMAGES, VAL_IMAGES, IMAGE_SIZE, DATA_SEED = 1000, 200, 128, 1
RUNS = ("baseline", "step1", "step2")
NAMES = ("baseline", "step 1 (auxiliary detector)", "step 2")


def run_demo(config_file: str, output_dir: str = "exps/demo") -> Path:
    """Generate the images, train and evaluate the three runs below ``output_dir``, and compare them.

    Runs that are finished already are not trained again. Returns the path of the comparison.
    """
    folder = Path(output_dir)
    configs = {name: load_config(config_file, ["OUTPUT_DIR", str(folder / name)]) for name in RUNS}
    root = _shapes_root(configs["baseline"])
    data.generate_shapes(root, "train", TRAIN_IMAGES, IMAGE_SIZE, DATA_SEED)
    data.generate_shapes(root, "val", VAL_IMAGES, IMAGE_SIZE, DATA_SEED)
    started = time.perf_counter()
    pipeline.train_baseline(configs["baseline"])
    pipeline.train_step1(configs["step1"])
    label_encoding = folder / "step1" / pipeline.LABEL_ENCODING_FILE
    pipeline.train_step2(configs["step2"], str(label_encoding))
    logger.info("trained and evaluated in %.0f s", time.perf_counter() - started)
    comparison = reports.write_comparison(
        [folder / name for name in RUNS],
        folder / "report",
        names=NAMES,
        title="LabelEnc demo: baseline, step 1, step 2",
        introduction=_introduction(configs),
    )
    print(f"\n{comparison.table()}\n\nreport: {comparison.path}")
    return comparison.path


def _shapes_root(cfg: CfgNode) -> str:
    name = cfg.DATASETS.TRAIN[0]
    if name not in cfg.DATASETS.REGISTER:
        raise ConfigError(
            f"the demo draws its data where DATASETS.REGISTER.{name} says; add it to the config"
        )
    return str(Path(cfg.DATASETS.REGISTER[name]["annotations"]).parent)


def _introduction(configs: Mapping[str, CfgNode]) -> list[str]:
    cfg = configs["step1"]
    warmup = cfg.MODEL.LABELENC.DISTANCE_LOSS_WARMUP_ITERS
    return [
        "Generated shapes, a small RetinaNet trained from scratch, a few minutes on a CPU.",
        f"{TRAIN_IMAGES} training and {VAL_IMAGES} validation images of {IMAGE_SIZE} pixels with "
        f"{len(data.shapes.SHAPE_NAMES)} classes of shapes. Baseline and step 2 train for "
        f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images; step 1 for {warmup} "
        "iterations more, during which its distance loss is off. All three share one configuration and one "
        "seed.",
    ]
