"""Pascal VOC folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from labelenc.config import load_config
from labelenc.config.classes import VOC_CLASSES
from labelenc.data import DataError, build_test_loaders, build_train_loader, check_datasets, coco_ground_truth
from labelenc.data.voc import load_voc, voc_to_coco

_OBJECT = """<object><name>{0}</name><difficult>{1}</difficult>
<bndbox><xmin>{2}</xmin><ymin>{3}</ymin><xmax>{4}</xmax><ymax>{5}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def _write(root: Path, stem: str, objects: list[tuple], size: tuple[int, int] = (40, 30)) -> None:
    width, height = size
    body = "".join(_OBJECT.format(*entry) for entry in objects)
    (root / "Annotations" / f"{stem}.xml").write_text(
        f"<annotation><filename>stale.jpg</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{body}</annotation>"
    )
    cv2.imwrite(str(root / "JPEGImages" / f"{stem}.jpg"), np.zeros((height, width, 3), np.uint8))


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    _write(root, "2008_000003", [("dog", 0, 1, 1, 40, 30), ("person", 1, 5, 6, 10, 12)])
    _write(root, "2008_000001", [("cat", 0, 11, 6, 20.0, 15)])
    _write(root, "2008_000007", [("cat", 1, 11, 6, 20, 15)])
    (root / "ImageSets/Main/train.txt").write_text("2008_000003\n2008_000001  1\n2008_000007 -1\n\n")
    return root


def test_boxes_are_inclusive_and_counted_from_one(voc_root):
    found = load_voc(str(voc_root), "train", "voc", VOC_CLASSES)
    assert found.image_ids.tolist() == [2008000001, 2008000003, 2008000007]
    # The whole image of 40 x 30 is (1, 1, 40, 30) in VOC and (0, 0, 39, 29) here.
    assert found.boxes.tolist() == [[10, 5, 19, 14], [0, 0, 39, 29]]
    assert [found.categories[label - 1][1] for label in found.labels] == ["cat", "dog"]
    assert tuple(name for _, name in found.categories) == VOC_CLASSES
    assert found.num_crowd == 2
    assert found.problems == ()


def test_coco_form(voc_root):
    truth = voc_to_coco(str(voc_root), "train")
    assert [a["bbox"] for a in truth["annotations"]] == [
        [0, 0, 40, 30],
        [4, 5, 6, 7],
        [10, 5, 10, 10],
        [10, 5, 10, 10],
    ]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 1, 0, 1]
    assert [a["area"] for a in truth["annotations"]] == [1200, 42, 100, 100]
    assert truth["images"][0] == {"id": 2008000003, "file_name": "2008_000003.jpg", "width": 40, "height": 30}


def test_own_classes_are_those_of_the_whole_folder(voc_root):
    _write(voc_root, "extra", [("zebra", 0, 1, 1, 9, 9)])
    (voc_root / "ImageSets/Main/val.txt").write_text("extra\n")
    for split in ("train", "val"):
        names = [category["name"] for category in voc_to_coco(str(voc_root), split)["categories"]]
        assert names == ["cat", "dog", "person", "zebra"]
    assert [image["id"] for image in voc_to_coco(str(voc_root), "val")["images"]] == [1]


def test_from_the_configuration(voc_root, tmp_path):
    options = ["DATASETS.REGISTER.mine.voc_root", str(voc_root), "DATASETS.REGISTER.mine.split", "train"]
    options += ["DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)", "DATALOADER.NUM_WORKERS", "0"]
    options += ["SEED", "1", "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TEST", "30"]
    cfg = load_config(
        None, ["MODEL.RETINANET_ON", "True", "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET", *options]
    )
    (problem,) = check_datasets(cfg, test=False)
    assert (problem.image_id, problem.kind) == (2008000007, "image without a usable box")
    batch = next(iter(build_train_loader(cfg, 1, 0, 0, 1)))
    assert set(batch.image_ids) == {2008000001, 2008000003}
    ((info, loader),) = build_test_loaders(cfg, 1, 0)
    assert info.annotation_file is None
    assert info.class_names == ("cat", "dog", "person")
    assert sorted(i for b in loader for i in b.image_ids) == [2008000001, 2008000003, 2008000007]
    assert coco_ground_truth(cfg, "mine") == voc_to_coco(str(voc_root), "train")


def test_classes_of_the_challenge_refuse_others(voc_root):
    assert len(voc_to_coco(str(voc_root), "train", VOC_CLASSES)["categories"]) == 20
    _write(voc_root, "extra", [("zebra", 0, 1, 1, 9, 9)])
    with pytest.raises(DataError, match="zebra"):
        voc_to_coco(str(voc_root), "train", VOC_CLASSES)


FAULTS = [
    ("no split", lambda root: (root / "ImageSets/Main/train.txt").unlink(), r"ImageSets.Main.train\.txt"),
    (
        "a path in the split",
        lambda root: (root / "ImageSets/Main/train.txt").write_text("/one\n"),
        r"train\.txt names '/one', a path",
    ),
    ("no xml", lambda root: (root / "Annotations/2008_000001.xml").unlink(), r"2008_000001\.xml"),
    ("broken xml", lambda root: (root / "Annotations/2008_000001.xml").write_text("<a>"), "not valid XML"),
    (
        "unknown encoding",
        lambda root: (root / "Annotations/2008_000001.xml").write_text(
            '<?xml version="1.0" encoding="x"?><a/>'
        ),
        r"2008_000001\.xml is not valid XML: unknown encoding",
    ),
    (
        "encoding that the parser cannot read",
        lambda root: (root / "Annotations/2008_000001.xml").write_text(
            '<?xml version="1.0" encoding="big5"?><a/>'
        ),
        r"2008_000001\.xml is not valid XML: multi-byte encodings",
    ),
    (
        "no box",
        lambda root: (root / "Annotations/2008_000001.xml").write_text(
            "<annotation><size><width>4</width><height>4</height></size><object><name>cat</name></object></annotation>"
        ),
        "<bndbox/xmin> is None, not a number",
    ),
    (
        "named twice",
        lambda root: (root / "ImageSets/Main/train.txt").write_text("2008_000001\n2008_000001\n"),
        "2008_000001 more than once",
    ),
    ("nan", lambda root: _write(root, "2008_000001", [("cat", 0, 1, 1, "nan", 9)], (4, 4)), None),
]


@pytest.mark.parametrize(("damage", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_faults(voc_root, damage, message):
    damage(voc_root)
    if message is None:
        assert [p.kind for p in load_voc(str(voc_root), "train", "voc").problems] == ["box not finite"]
    else:
        with pytest.raises(DataError, match=message):
            load_voc(str(voc_root), "train", "voc")


def test_size_that_is_no_number_of_pixels(voc_root):
    path = voc_root / "Annotations/2008_000001.xml"
    path.write_text(path.read_text().replace("<width>40", "<width>nan"))
    with pytest.raises(DataError, match=r"2008_000001\.xml: <size/width> is nan"):
        load_voc(str(voc_root), "train", "voc")
