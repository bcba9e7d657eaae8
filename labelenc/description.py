"""What a checkpoint says about itself, so that it can be used without its config file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from labelenc import __version__, engine
from labelenc.config import ConfigError, config_from_text, detector_kind, differing_keys
from labelenc.config.defaults import default_config
from labelenc.structures import DatasetInfo

logger = logging.getLogger(__name__)

FORMAT = 1
RUN_FILE = "run.json"
CONFIG_FILE = "config.yml"
INPUT_KEYS = ("TO_BGR255", "PIXEL_MEAN", "PIXEL_STD", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
# Other values of these give other meaning to the same tensors, and nothing would fail.
HEAD_KEYS = {
    "fcos": ("MODEL.FCOS.CENTERNESS_ON_REG", "MODEL.FCOS.FPN_STRIDES", "MODEL.FCOS.NORM_REG_TARGETS"),
    "retinanet": ("MODEL.RETINANET.BBOX_REG_WEIGHT",),
    "faster_rcnn": (
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES",
        "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS",
    ),
}
BODY_KEYS = (
    "INPUT.PIXEL_MEAN",
    "INPUT.PIXEL_STD",
    "INPUT.TO_BGR255",
    "MODEL.FPN.USE_RELU",
    "MODEL.GROUP_NORM",
    "MODEL.RESNETS.RES5_DILATION",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.TIMM.KWARGS",
)
# A catalogue is a program: a file of weights does not decide which one is run.
OWN_CATALOG = ("PATHS_CATALOG", default_config().PATHS_CATALOG)


def describe(cfg: CfgNode, kind: str, info: DatasetInfo) -> dict[str, Any]:
    """The value of a checkpoint's key ``description``: plain values only.

    Args:
        cfg: the whole configuration, with its number of classes.
        kind: "baseline", "step1" or "step2".
        info: the training data, whose categories are the detector's classes.

    Returns:
        ``format``, ``version`` (of labelenc), ``kind``, ``config`` (yaml text), ``class_names`` and
        ``category_ids`` in the order of the labels, and ``input``: the keys of INPUT that a picture is
        prepared with, and SIZE_DIVISIBILITY, to which it is padded.
    """
    inputs = {key: _plain(cfg.INPUT[key]) for key in INPUT_KEYS}
    return {
        "format": FORMAT,
        "version": __version__,
        "kind": kind,
        "config": cfg.dump(),
        "class_names": list(info.class_names),
        "category_ids": list(info.category_ids),
        "input": {**inputs, "SIZE_DIVISIBILITY": cfg.DATALOADER.SIZE_DIVISIBILITY},
    }


def description_of(content: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    """The description in the content of a checkpoint; None in files of older versions and other programs.

    Raises:
        CheckpointError: it is of a newer format, or broken. ``source`` is the file's name, for messages.
    """
    found = content.get(engine.DESCRIPTION)
    if found is None:
        return None
    if isinstance(found, Mapping) and isinstance(found.get("format"), int) and found["format"] > FORMAT:
        raise engine.CheckpointError(
            f"{source} was written by labelenc {found.get('version')}, this is {__version__}; install that "
            "one to use the file"
        )
    if not _is_sound(found):
        raise engine.CheckpointError(f"{source} describes itself in a way that cannot be read; copy it again")
    return found


def config_in(content: Mapping[str, Any], source: str, opts: Sequence[str] = ()) -> CfgNode:
    """The configuration that a checkpoint carries, with overrides.

    Raises:
        ConfigError: it carries none, or one that this version does not understand.
    """
    found = description_of(content, source)
    if found is None:
        raise ConfigError(
            f"{source} carries no configuration (older versions and other programs write none); name the "
            "yaml file that it was trained with as --config-file"
        )
    try:
        return config_from_text(found["config"], source, [*OWN_CATALOG, *opts])
    except ConfigError as error:
        if found["version"] == __version__:
            raise
        raise ConfigError(
            f"{error}\n{source} was written by labelenc {found['version']}, this is {__version__}; name a "
            "config for this version as --config-file"
        ) from None


def config_of_weight(opts: Sequence[str]) -> CfgNode:
    """The configuration carried by the file that ``opts`` name as MODEL.WEIGHT, with the other overrides.

    OUTPUT_DIR is the file's folder where ``opts`` name no other.
    """
    named = dict(zip(opts[::2], opts[1::2], strict=False))
    weight = named.get("MODEL.WEIGHT", "")
    if not weight:
        raise ConfigError(
            "give either --config-file FILE or a checkpoint that carries its configuration: "
            "MODEL.WEIGHT path/to/model_final.pth"
        )
    return config_in(engine.load_file(weight), weight, ["OUTPUT_DIR", str(Path(weight).parent), *opts])


def differences(content: Mapping[str, Any], source: str, cfg: CfgNode, heads_only: bool = False) -> list[str]:
    """``KEY was A, is B`` where ``cfg`` gives another meaning to the weights of a file than they have.

    Files without a description have none. ``heads_only`` leaves the body out, as for step 2, which may have
    another one than step 1.
    """
    found = description_of(content, source)
    if found is None:
        return []
    keys = HEAD_KEYS[detector_kind(cfg)] + (() if heads_only else BODY_KEYS)
    return differing_keys(found["config"], cfg, keys)


def check_same_heads(content: Mapping[str, Any], source: str, cfg: CfgNode) -> None:
    """ConfigError if step 1 ran its heads with other settings than ``cfg`` has for step 2."""
    found = differences(content, source, cfg, heads_only=True)
    if found:
        raise ConfigError(
            f"{source} comes from a step 1 whose head works differently: {'; '.join(found)}. Run both steps "
            "with the same detector configuration"
        )


def check_same_classes(content: Mapping[str, Any], source: str, info: DatasetInfo) -> None:
    """ConfigError if a detector has the classes of a data set in another order; a warning if it has others
    of the same number."""
    found = description_of(content, source)
    names = None if found is None else tuple(found["class_names"])
    if names is None or names == info.class_names:
        return
    pairs = zip(names, info.class_names, strict=True)
    number, (own, given) = next((k, pair) for k, pair in enumerate(pairs, start=1) if len(set(pair)) > 1)
    difference = f"class {number} of {source} is {own!r}, of {info.name} {given!r}"
    if sorted(names) == sorted(info.class_names):
        raise ConfigError(
            f"{difference}: the same classes in another order. Give the categories of the annotations ids in "
            f"the order that the detector was trained with: {', '.join(names)}"
        )
    logger.warning("%s; the detector's classes are taken for the data's in their order", difference)


def record_run(
    cfg: CfgNode, description: Mapping[str, Any], iterations: int, label_encoding: str | None
) -> None:
    """Write ``config.yml`` and ``run.json`` to OUTPUT_DIR: what the run is, for reports and for resuming.

    Keys of ``run.json``: ``kind``, ``version``, ``class_names``, ``category_ids`` of the description;
    ``iterations`` planned, ``images_per_iteration``, and ``label_encoding``, the step-1 file that step 2
    starts from, or null.
    """
    facts = {
        **{key: description[key] for key in ("kind", "version", "class_names", "category_ids")},
        "iterations": iterations,
        "images_per_iteration": cfg.SOLVER.IMS_PER_BATCH,
        "label_encoding": label_encoding,
    }
    _write(cfg, CONFIG_FILE, cfg.dump())
    _write(cfg, RUN_FILE, json.dumps(facts, indent=1) + "\n")


def record_evaluation(cfg: CfgNode, info: DatasetInfo) -> None:
    """`record_run` of an evaluation, unless OUTPUT_DIR is the folder of a training, which has its own."""
    if not (Path(cfg.OUTPUT_DIR) / engine.METRICS_FILE).is_file():
        record_run(cfg, describe(cfg, "evaluation", info), 0, None)


def _write(cfg: CfgNode, name: str, text: str) -> None:
    engine.replace_file(Path(cfg.OUTPUT_DIR) / name, lambda stream: stream.write(text.encode()))


def _is_sound(found: Any) -> bool:
    def listed(key: str, kind: type) -> bool:
        return isinstance(found.get(key), list) and all(isinstance(entry, kind) for entry in found[key])

    return (
        isinstance(found, Mapping)
        and all(isinstance(found.get(key), str) for key in ("version", "kind", "config"))
        and listed("class_names", str)
        and listed("category_ids", int)
        and len(found["class_names"]) == len(found["category_ids"])
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
