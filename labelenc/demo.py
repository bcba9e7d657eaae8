"""The demo: the study of baseline, step 1 and step 2 on images that it generates."""

from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from labelenc import data
from labelenc.config import ConfigError, load_config
from labelenc.study import plan_study, train_study

TRAIN_IMAGES, VAL_IMAGES, IMAGE_SIZE, DATA_SEED = 1000, 200, 128, 1


def run_demo(config_file: str, output_dir: str = "exps/demo") -> int:
    """Generate the images, then do what ``tools/run_labelenc.py`` does; returns the exit status.

    Runs that are finished already are not trained again.
    """
    overrides = ["OUTPUT_DIR", output_dir]
    cfg = load_config(config_file, overrides)
    root = _shapes_root(cfg)
    data.generate_shapes(root, "train", TRAIN_IMAGES, IMAGE_SIZE, DATA_SEED)
    data.generate_shapes(root, "val", VAL_IMAGES, IMAGE_SIZE, DATA_SEED)
    return train_study(plan_study(config_file, overrides, cfg))


def _shapes_root(cfg: CfgNode) -> str:
    name = cfg.DATASETS.TRAIN[0]
    if name not in cfg.DATASETS.REGISTER:
        raise ConfigError(
            f"the demo draws its data where DATASETS.REGISTER.{name} says; add it to the config"
        )
    return str(Path(cfg.DATASETS.REGISTER[name]["annotations"]).parent)
