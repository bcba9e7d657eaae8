"""The check by hand: what it tells, and its page."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import cv2
import pytest

from labelenc.config import load_config
from labelenc.data import DataError, generate_shapes
from labelenc.dataset_tools import check_coco_file, check_config, check_voc_folder

SIZES = "INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 64}"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(str(root), "train", 30, 64, 0)
    generate_shapes(str(root), "val", 8, 64, 0)
    return root


@pytest.fixture
def load(shapes: Path, tmp_path: Path):
    """load(model, *opts) -> a configuration on the shapes; `model` is YAML of the detector's keys."""

    def make(model: str, *opts: str):
        sets = (
            f'{s}: {{images: "{shapes}/{s}", annotations: "{shapes}/{s}.json"}}' for s in ("train", "val")
        )
        file = tmp_path / "config.yaml"
        register = f"DATASETS: {{REGISTER: {{{', '.join(sets)}}}, TRAIN: ['train'], TEST: ['val']}}"
        file.write_text(f"MODEL: {{{model}}}\n{register}\n{SIZES}\n")
        return load_config(str(file), opts)

    return make


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    # The log goes to the console only, as the tool sets it up; here it is listened to.
    monkeypatch.setattr(logging.getLogger("labelenc"), "propagate", True)
    caplog.set_level(logging.INFO, "labelenc")
    return caplog


RETINANET = 'RETINANET_ON: True, BACKBONE: {CONV_BODY: "R-50-FPN-RETINANET"}'
FCOS = 'FCOS_ON: True, BACKBONE: {CONV_BODY: "R-50-FPN-RETINANET"}'


def test_page_of_two_sets(load, shapes, tmp_path, heard):
    out = tmp_path / "page"
    check_config(load(RETINANET), output=str(out), samples=5)
    html = (out / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    found = {path.name for path in out.iterdir()}
    assert found == {
        "index.html", "classes.png", "boxes.png", "images.png", "images_train.jpg", "images_val.jpg",
    }  # fmt: skip
    for name in found - {"index.html"}:
        assert cv2.imread(str(out / name)) is not None
    boxes = len(json.loads((shapes / "train.json").read_text())["annotations"])
    assert f"train: 30 images (0 without a box), {boxes} boxes" in heard.text
    assert f"<td>{boxes}</td>" in html
    assert "0 problems, none of which stops training" in heard.text


def test_smallest_box_of_each_detector(load, heard):
    # Shapes have 64 pixels: all their boxes are smaller than sqrt(0.5) of an anchor of 128.
    check_config(load(RETINANET, "MODEL.RETINANET.ANCHOR_SIZES", "(128, 256, 512, 1024, 2048)"))
    assert "no anchor, of 128 pixels or more, reaches an IoU of 0.5" in heard.text
    assert "smaller than 90.5 pixels" in heard.text
    heard.clear()
    check_config(load(FCOS))
    assert "smaller than" not in heard.text


def test_where_the_page_goes(load, tmp_path, heard, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_config(load(RETINANET), samples=0)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert "--output DIR writes a page" in heard.text
    check_config(load(RETINANET, "OUTPUT_DIR", "run"), samples=0)
    assert {path.name for path in (tmp_path / "run/dataset_check").glob("*.png")} == {
        "classes.png", "boxes.png", "images.png",
    }  # fmt: skip
    with pytest.raises(DataError, match="cannot write"):
        check_config(load(RETINANET), output=str(tmp_path / "config.yaml"), samples=0)


def test_the_page_is_there_before_a_fault_ends_the_check(shapes, tmp_path, heard):
    data = json.loads((shapes / "train.json").read_text())
    data["annotations"][0]["category_id"] = 99
    data["images"][3]["file_name"] = "gone.jpg"
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="unknown category id"):
        check_coco_file(str(shapes / "train"), str(tmp_path / "bad.json"), output=str(tmp_path / "out"))
    html = (tmp_path / "out/index.html").read_text()
    assert "missing image file" in html
    assert "unknown category id" in html
    with pytest.raises(DataError, match="unusable annotations"):
        check_coco_file(str(shapes / "train"), str(tmp_path / "none.json"), output=str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()


def test_one_class_and_images_in_both_sets(shapes, load, tmp_path, heard):
    data = json.loads((shapes / "train.json").read_text())
    data["categories"] = [{"id": 1, "name": "ошибка <b>"}]
    data["annotations"] = [{**a, "category_id": 1} for a in data["annotations"]]
    (tmp_path / "one.json").write_text(json.dumps(data))
    check_coco_file(str(shapes / "train"), str(tmp_path / "one.json"), output=str(tmp_path / "out"))
    html = (tmp_path / "out/index.html").read_text()
    assert "ошибка &lt;b&gt;" in html
    assert not (tmp_path / "out/classes.png").exists()
    again = {"images": str(shapes / "train"), "annotations": str(shapes / "train.json")}
    check_config(
        load(
            RETINANET,
            "DATASETS.REGISTER.val.images",
            again["images"],
            "DATASETS.REGISTER.val.annotations",
            again["annotations"],
        )
    )
    assert "30 test images are among the training images" in heard.text


def test_voc(tmp_path, heard):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "Annotations/a.xml").write_text(
        "<annotation><size><width>8</width><height>9</height></size><object><name>cat</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>4</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    cv2.imwrite(str(tmp_path / "JPEGImages/a.jpg"), cv2.UMat(9, 8, cv2.CV_8UC3).get())
    check_voc_folder(str(tmp_path), "train", output=str(tmp_path / "out"))
    assert "train: 1 images (0 without a box), 1 boxes" in heard.text
