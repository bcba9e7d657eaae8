"""In what two configurations differ, and what a resumed run changes of the one it was started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        _difference(key, old, new)
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and (_below(key, held) or not _below(key, FREE_KEYS))
    ]


def all_differences(one: CfgNode, other: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> its values in ``one`` and in ``other`` where these differ, None where a key is absent."""
    a, b = (dict(_flat(yaml.safe_load(cfg.dump()))) for cfg in (one, other))
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def differing_keys(text: str, cfg: CfgNode, keys: Sequence[str]) -> list[str]:
    """``KEY was A, is B`` for those of ``keys``, or below them, in which ``cfg`` differs from the
    configuration written out as the yaml ``text``. What the text does not have does not differ."""
    old, new = dict(_flat(yaml.safe_load(text))), dict(_flat(yaml.safe_load(cfg.dump())))
    return [_difference(key, old, new) for key in old if _below(key, keys) and old[key] != new.get(key)]


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return f"{key} was {old.get(key)!r}, is {new.get(key)!r}"


def _below(key: str, groups: Sequence[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
