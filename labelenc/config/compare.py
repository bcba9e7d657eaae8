"""What a resumed run changes of the configuration that it was started with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from labelenc.config.errors import ConfigError

# Changing these does not make another run of it.
FREE_KEYS = (
    "OUTPUT_DIR",
    "PATHS_CATALOG",
    "MODEL.DEVICE",
    "MODEL.WEIGHT",
    "SOLVER.MAX_ITER",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.LOG_PERIOD",
    "SOLVER.ON_NONFINITE",
    "SOLVER.REFERENCE_IMS_PER_BATCH",
    "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.TEST",
    "TEST",
)


def changed_keys(written: Path, cfg: CfgNode, held: Sequence[str] = ()) -> list[str]:
    """``KEY was A, is B`` for the keys in which ``cfg`` differs from a ``config.yml`` written earlier.

    Keys that may change freely are left out, except those of ``held`` (keys or groups); without a readable
    file the list is empty.

    Raises:
        ConfigError: the number of images per update differs, so the updates done count for something else.
    """
    try:
        old = dict(_flat(yaml.safe_load(written.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, AttributeError):
        return []
    new = dict(_flat(yaml.safe_load(cfg.dump())))
    images = "SOLVER.IMS_PER_BATCH"
    if images in old and old[images] != new[images]:
        raise ConfigError(
            f"this run was started with {images} {old[images]}, so it cannot resume with {new[images]}. Keep "
            "the number (SOLVER.ACCUMULATION_STEPS makes it fit into memory) or choose another OUTPUT_DIR"
        )
    return [
        f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and (_among(key, held) or not _among(key, FREE_KEYS))
    ]


def _among(key: str, keys: Sequence[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
