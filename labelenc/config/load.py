"""From a yaml file and ``KEY VALUE`` pairs to one frozen, checked configuration."""

from __future__ import annotations

import ast
import difflib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from labelenc.config.checks import check_config
from labelenc.config.defaults import default_config
from labelenc.config.errors import ConfigError
from labelenc.config.linear_rule import auto_scaled
from labelenc.config.yaml_files import leaves, parse_yaml, with_bases

logger = logging.getLogger(__name__)

# The ancestors' class counts, background included.
LEGACY_CLASS_KEYS = {
    "retinanet": "MODEL.RETINANET.NUM_CLASSES",
    "fcos": "MODEL.FCOS.NUM_CLASSES",
    "faster_rcnn": "MODEL.ROI_BOX_HEAD.NUM_CLASSES",
}
LEGACY_DEFAULT = 81
# Below these nodes the user chooses the names.
FREE_NODES = ("DATASETS.REGISTER", "MODEL.TIMM.KWARGS")
# Lists of text that are empty by default.
NAME_LISTS = ("DATASETS.TRAIN", "DATASETS.TEST")


def load_config(path: str | os.PathLike | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Defaults, then the yaml file, then the overrides; checked and frozen.

    Args:
        path: a yaml file, whose key ``_BASE_`` may name another file that it starts from; or None: then
            ``opts`` must choose a detector and its body, since the defaults are those of the ancestors, whose
            body this package does not have.
        opts: alternating keys and values as they come from a command line,
            ``["SOLVER.BASE_LR", "0.005", "OUTPUT_DIR", "exps/x"]``.

    Raises:
        ConfigError: an unreadable file, an unknown key (the nearest known one is named), a value of the
            wrong type, or a combination that cannot work.
    """
    sources = [] if path is None else with_bases(Path(path))
    return _merged([(tree, f"in {source}") for source, tree in sources], opts)


def config_from_text(text: str, source: str, opts: Sequence[str] = ()) -> CfgNode:
    """As `load_config`, from the yaml text of a whole configuration that a file called ``source`` holds."""
    return _merged([(parse_yaml(text, f"the configuration in {source}"), f"in {source}")], opts)


def _merged(trees: Iterable[tuple[dict, str]], opts: Sequence[str]) -> CfgNode:
    cfg = default_config()
    explicit: set[str] = set()
    for tree, where in trees:
        explicit |= _merge(cfg, leaves(tree), where)
    if len(opts) % 2:
        raise ConfigError(
            f"overrides come in pairs KEY VALUE, but {len(opts)} words were given; the last is {opts[-1]!r}"
        )
    words = (leaf for pair in zip(opts[::2], opts[1::2], strict=True) for leaf in _option_leaves(*pair))
    explicit |= _merge(cfg, words, where="on the command line")
    _resolve(cfg, explicit)
    check_config(cfg, detector_kind(cfg))
    cfg.freeze()
    if cfg.SOLVER.AUTO_SCALE:
        cfg = _auto_scaled(cfg)
        check_config(cfg, detector_kind(cfg))
    return cfg


def detector_kind(cfg: CfgNode) -> str:
    """``"retinanet"``, ``"fcos"`` or ``"faster_rcnn"``; the one place where this is decided."""
    if cfg.MODEL.RETINANET_ON and cfg.MODEL.FCOS_ON:
        raise ConfigError("MODEL.RETINANET_ON and MODEL.FCOS_ON are both True; switch one of them off")
    if cfg.MODEL.RETINANET_ON:
        return "retinanet"
    return "fcos" if cfg.MODEL.FCOS_ON else "faster_rcnn"


def num_classes(cfg: CfgNode) -> int:
    """Foreground classes of the detector: MODEL.NUM_CLASSES, or where that is 0 the detector's legacy key."""
    if cfg.MODEL.NUM_CLASSES:
        return cfg.MODEL.NUM_CLASSES
    return _get(cfg, LEGACY_CLASS_KEYS[detector_kind(cfg)]) - 1


def with_num_classes(cfg: CfgNode, in_data: int, where: str) -> CfgNode:
    """A frozen copy whose class count is that of the data.

    Args:
        in_data: number of categories in the annotations.
        where: the data set or file they were read from, for the message.

    Raises:
        ConfigError: MODEL.NUM_CLASSES (or the legacy key it came from) contradicts the data.
    """
    wanted = cfg.MODEL.NUM_CLASSES
    legacy = LEGACY_CLASS_KEYS[detector_kind(cfg)]
    if wanted and wanted != in_data:
        raise ConfigError(
            f"the configuration says {wanted} classes (MODEL.NUM_CLASSES, or {legacy} - 1) but {where} has "
            f"{in_data} categories. Write MODEL.NUM_CLASSES 0 to follow the data, or correct the annotations"
        )
    legacy_counts = dict.fromkeys(LEGACY_CLASS_KEYS.values(), in_data + 1)
    return with_values(cfg, {"MODEL.NUM_CLASSES": in_data, **legacy_counts})


def with_values(cfg: CfgNode, values: dict[str, Any]) -> CfgNode:
    """A frozen copy with other values under some dotted keys; the original stays as it is."""
    copy = cfg.clone()
    copy.defrost()
    for key, value in values.items():
        _set(copy, key, value)
    copy.freeze()
    return copy


def _merge(cfg: CfgNode, values: Iterable[tuple[str, Any]], where: str) -> set[str]:
    """Assign what one file or the command line says; returns its keys.

    A learning rate is meant for the batch size beside it.
    """
    written = set()
    for key, value in values:
        _assign(cfg, key, value, where)
        written.add(key)
    if "SOLVER.BASE_LR" in written and "SOLVER.REFERENCE_IMS_PER_BATCH" not in written:
        cfg.SOLVER.REFERENCE_IMS_PER_BATCH = cfg.SOLVER.IMS_PER_BATCH
    return written


def _auto_scaled(cfg: CfgNode) -> CfgNode:
    values, message = auto_scaled(cfg)
    # Every process reads the same words; one message is enough.
    if os.environ.get("RANK", "0") == "0":
        logger.warning(message)
    return with_values(cfg, values)


def _option_leaves(key: str, word: str) -> Iterator[tuple[str, Any]]:
    value = _literal(word)
    if isinstance(value, dict):
        yield from leaves(value, key + ".")
    else:
        yield key, word


def _literal(value: Any) -> Any:
    """Text is read as a Python literal where it is one, as yacs does."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _assign(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    for free in FREE_NODES:
        if key.startswith(free + "."):
            rest = key[len(free) + 1 :]
            # The names of data sets may hold dots.
            parts = rest.rsplit(".", 1) if free == "DATASETS.REGISTER" else rest.split(".")
            _assign_free(_get(cfg, free), parts, _literal(value))
            return
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            raise ConfigError(f"unknown key {key} {where}; {_nearest(cfg, key)}")
        node = node[part]
    if isinstance(node, CfgNode):
        raise ConfigError(f"{key} {where} is a group of keys; write {key}.<name> and a value")
    _set(cfg, key, _coerce(node, value, key, where))


def _assign_free(node: CfgNode, parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        node = node.setdefault(part, CfgNode(new_allowed=True))
    node[parts[-1]] = value


def _coerce(current: Any, written: Any, key: str, where: str) -> Any:
    """``written`` as the type of ``current``: lists and tuples interchange, an int serves as a float."""
    value = _literal(written)
    if isinstance(current, (list, tuple)) and isinstance(value, (list, tuple)):
        _check_items(current, value, key, where)
        return type(current)(value)
    if isinstance(value, type(current)) and not (isinstance(value, bool) and type(current) is int):
        return value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # The ancestors give a few whole numbers where fractions make sense (BIAS_LR_FACTOR, WEIGHT_DECAY_BIAS).
    if key in ("SOLVER.BIAS_LR_FACTOR", "SOLVER.WEIGHT_DECAY_BIAS") and isinstance(value, float):
        return value
    if isinstance(current, str) and isinstance(value, (int, float)):
        return str(written)
    hint = ' (one name still needs its comma: ("name",))' if isinstance(current, tuple) else ""
    raise ConfigError(
        f"{key} {where} must be a {type(current).__name__} like {current!r}, not {value!r}{hint}"
    )


def _check_items(current: Sequence, value: Sequence, key: str, where: str) -> None:
    """ConfigError unless ``value`` holds texts or numbers as ``current`` does, where that says which."""
    text = all(isinstance(item, str) for item in current) if current else key in NAME_LISTS
    if not current and not text:
        return
    wrong = [item for item in value if not isinstance(item, str if text else (int, float))]
    if wrong:
        raise ConfigError(f"{key} {where} holds {'texts' if text else 'numbers'}, not {wrong[0]!r}")


def _nearest(cfg: CfgNode, key: str) -> str:
    known = _all_keys(cfg)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    # The right name under the wrong group is the likelier slip than a similar spelling.
    same_name = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    best = difflib.get_close_matches(key, same_name, n=1, cutoff=0.0) or close
    return f"did you mean {best[0]}?"


def _all_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in cfg.items():
        keys.extend(_all_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name])
    return keys


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    node = cfg
    for group in groups:
        node = node[group]
    node[name] = value


def _stated_class_counts(cfg: CfgNode, explicit: set[str]) -> dict[str, int]:
    """Foreground classes by key, for the keys that say something.

    MODEL.NUM_CLASSES, where written, leaves the legacy keys a say only if they differ from their default (0
    leaves them none at all: the data decides), and so does the legacy key of a detector that is not used:
    complete dumps of a configuration write them all.
    """
    key = "MODEL.NUM_CLASSES"
    if key in explicit and not cfg.MODEL.NUM_CLASSES:
        return {}
    counts = {key: cfg.MODEL.NUM_CLASSES} if key in explicit else {}
    for kind, legacy in LEGACY_CLASS_KEYS.items():
        in_use = kind == detector_kind(cfg) and not counts
        if legacy in explicit and (in_use or _get(cfg, legacy) != LEGACY_DEFAULT):
            counts[legacy] = _get(cfg, legacy) - 1
    return counts


def _resolve(cfg: CfgNode, explicit: set[str]) -> None:
    """Fill in what follows from other keys."""
    counts = _stated_class_counts(cfg, explicit)
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{key} means {count} foreground classes" for key, count in counts.items())
        raise ConfigError(f"contradicting class counts: {said}; keep MODEL.NUM_CLASSES and drop the others")
    for key, count in counts.items():
        if count < 1:
            raise ConfigError(f"{key} leaves no foreground class; it must be larger")
        cfg.MODEL.NUM_CLASSES = count
        _set(cfg, LEGACY_CLASS_KEYS[detector_kind(cfg)], count + 1)
    body = cfg.MODEL.BACKBONE.CONV_BODY
    if body.startswith(("R-18-", "R-34-")) and "MODEL.RESNETS.RES2_OUT_CHANNELS" not in explicit:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
