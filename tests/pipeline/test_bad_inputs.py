"""What users get wrong: each case gives one clear error before training starts, or a counted, logged skip."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from labelenc import pipeline
from labelenc.config import load_config
from labelenc.errors import USER_ERRORS


class Setup:
    """A private copy of the tiny data set; cases break it and say which overrides to train with."""

    def __init__(self, root: Path, source: Path) -> None:
        self.root = root
        shutil.copytree(source, root)
        self.path = root / "train.json"
        self.images = root / "train"
        self.data = json.loads(self.path.read_text())
        self.opts: list[str] = []
        for name in ("train", "val"):
            self.register(name, root / name, root / f"{name}.json")

    def register(self, name: str, images: Path, annotations: Path) -> None:
        self.opts += [f"DATASETS.REGISTER.tiny_{name}.images", str(images)]
        self.opts += [f"DATASETS.REGISTER.tiny_{name}.annotations", str(annotations)]

    def save(self) -> None:
        self.path.write_text(json.dumps(self.data))

    def first_image(self) -> Path:
        return self.images / self.data["images"][0]["file_name"]


def annotation(**values):
    def change(setup: Setup) -> None:
        setup.data["annotations"][0].update(values)

    return change


def image(**values):
    def change(setup: Setup) -> None:
        setup.data["images"][0].update(values)

    return change


def options(*words: str):
    def change(setup: Setup) -> None:
        setup.opts += words

    return change


def text(content: str | bytes):
    """Replace the annotation file by something else."""

    def change(setup: Setup) -> None:
        setup.save = lambda: setup.path.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )

    return change


def weights(make: Callable[[Path], object]):
    """Start from a file of weights that `make` writes."""

    def change(setup: Setup) -> None:
        path = setup.root / "weights.pth"
        make(path)
        setup.opts += ["MODEL.WEIGHT", str(path)]

    return change


def drop(*keys: str):
    def change(setup: Setup) -> None:
        for key in keys:
            del setup.data[key]

    return change


def drop_from(group: str, key: str):
    def change(setup: Setup) -> None:
        del setup.data[group][0][key]

    return change


def repeat(group: str):
    def change(setup: Setup) -> None:
        setup.data[group].append(copy.deepcopy(setup.data[group][0]))

    return change


def remove_image(setup: Setup) -> None:
    setup.first_image().unlink()


def text_as_image(setup: Setup) -> None:
    setup.first_image().write_text("this is no picture")


def cut_image(setup: Setup) -> None:
    content = setup.first_image().read_bytes()
    setup.first_image().write_bytes(content[: len(content) // 2])


def turned_image(setup: Setup) -> None:
    cv2.imwrite(str(setup.first_image()), np.zeros((64, 48, 3), np.uint8))
    setup.data["images"][0].update(width=64, height=48)


def no_boxes_at_all(setup: Setup) -> None:
    setup.data["annotations"] = []


def other_categories_in_test(setup: Setup) -> None:
    path = setup.root / "val.json"
    data = json.loads(path.read_text())
    data["categories"][0]["name"] = "something else"
    path.write_text(json.dumps(data))


def truncated_checkpoint(path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:600])


class Code:
    def __reduce__(self):
        return os.system, ("echo this must never run > pwned",)


ERRORS = {
    # annotations
    "malformed json": (text('{"images": [,]}'), r"train\.json.*line 1"),
    "truncated json": (text('{"images": [{"id": 1, "file_'), r"train\.json"),
    "not utf-8": (text(b"\xff\xfe\x00\x01"), r"train\.json"),
    "json list": (text("[]"), r"train\.json"),
    "no annotation file": (lambda s: setattr(s, "save", s.path.unlink), r"train\.json"),
    "no images key": (drop("images"), "images"),
    "no annotations key": (drop("annotations"), "annotations"),
    "no categories key": (drop("categories"), "categories"),
    "image without file name": (drop_from("images", "file_name"), "file_name"),
    "annotation without bbox": (drop_from("annotations", "bbox"), "bbox"),
    "annotation without category": (drop_from("annotations", "category_id"), "category_id"),
    "duplicate image id": (repeat("images"), r"image 1\b.*"),
    "duplicate annotation id": (repeat("annotations"), r"annotation 1\b"),
    "duplicate category id": (repeat("categories"), "categor"),
    "unknown category id": (annotation(category_id=99), "99"),
    "unknown image id": (annotation(image_id=12345), "12345"),
    "bbox of three numbers": (annotation(bbox=[1, 2, 3]), "bbox"),
    "bbox of text": (annotation(bbox=["a", 1, 2, 3]), "bbox"),
    "no boxes at all": (no_boxes_at_all, "tiny_train"),
    "other categories in the test set": (other_categories_in_test, "something else"),
    # images
    "missing image": (remove_image, r"000001\.jpg"),
    "text as image": (text_as_image, r"000001\.jpg"),
    "truncated image": (cut_image, r"000001\.jpg"),
    "image of another size": (image(width=100, height=90), r"000001\.jpg"),
    "turned image": (turned_image, r"000001\.jpg"),
    "image folder missing": (options("DATASETS.REGISTER.tiny_train.images", "/nowhere"), "/nowhere"),
    # configuration
    "unknown key": (options("SOLVER.STEP", "(1,)"), "did you mean SOLVER.STEPS"),
    "wrong type": (options("SOLVER.MAX_ITER", "many"), "SOLVER.MAX_ITER"),
    "unknown data set": (options("DATASETS.TRAIN", "('tiny_trn',)"), "did you mean tiny_train"),
    "wrong class count": (options("MODEL.NUM_CLASSES", "3"), r"3 classes.*10 categories"),
    "contradicting class counts": (
        options("MODEL.NUM_CLASSES", "3", "MODEL.RETINANET.NUM_CLASSES", "9"),
        "contradicting",
    ),
    "unsupported feature": (options("MODEL.MASK_ON", "True"), "MODEL.MASK_ON"),
    "unsupported body": (options("MODEL.BACKBONE.CONV_BODY", "R-50-C4"), "CONV_BODY"),
    "unknown device": (options("MODEL.DEVICE", "gpu"), "MODEL.DEVICE"),
    "negative workers": (options("DATALOADER.NUM_WORKERS", "-2"), "NUM_WORKERS"),
    "huge seed": (options("SEED", str(2**63)), "SEED"),
    "certain prior": (options("MODEL.RETINANET.PRIOR_PROB", "1.0"), "PRIOR_PROB"),
    "synchronised group norm": (options("MODEL.USE_SYNCBN", "True"), "USE_SYNCBN"),
    "output folder is a file": (options("OUTPUT_DIR", __file__), "OUTPUT_DIR"),
    "transformer body": (
        options(
            *("MODEL.BACKBONE.CONV_BODY", "timm/swin_tiny_patch4_window7_224-FPN-RETINANET"),
            *("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", "0", "MODEL.RESNETS.STEM_FUNC", "StemWithBatchNorm"),
            *("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithBatchNorm"),
        ),
        "swin_tiny",
    ),
    "negative clipping": (options("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-1.0"), "CLIP_VALUE"),
    "infinite learning rate": (options("SOLVER.BASE_LR", "1e999"), "BASE_LR"),
    "no aspect ratios": (options("MODEL.RETINANET.ASPECT_RATIOS", "()"), "ASPECT_RATIOS"),
    "unknown precision": (options("DTYPE", "float8"), "DTYPE"),
    "no training set": (options("DATASETS.TRAIN", "()"), "DATASETS.TRAIN"),
    "register without annotations": (
        options("DATASETS.REGISTER", "{'x': {'images': 'a'}}", "DATASETS.TRAIN", "('x',)"),
        "DATASETS.REGISTER.x",
    ),
    "groups do not divide": (options("MODEL.GROUP_NORM.NUM_GROUPS", "3"), "NUM_GROUPS"),
    # checkpoints
    "no such weights": (options("MODEL.WEIGHT", "/nowhere/w.pth"), "/nowhere/w.pth"),
    "unknown catalogue name": (options("MODEL.WEIGHT", "catalog://Nothing"), "catalog://Nothing"),
    "truncated checkpoint": (weights(truncated_checkpoint), "weights.pth"),
    "empty checkpoint": (weights(lambda p: p.write_bytes(b"")), "weights.pth is empty"),
    "text as checkpoint": (weights(lambda p: p.write_text("hello")), "weights.pth"),
    "checkpoint with code": (weights(lambda p: torch.save({"model": Code()}, p)), "refused"),
    "pickle with code": (weights(lambda p: p.write_bytes(pickle.dumps(Code()))), "weights.pth"),
    "checkpoint of something else": (weights(lambda p: torch.save({"a.b": torch.ones(2)}, p)), "nothing in"),
    "checkpoint without tensors": (weights(lambda p: torch.save({"epoch": 3}, p)), "no tensors"),
}

# A file whose content refers to itself could be unwrapped without end.
SELF: dict[str, object] = {"a": torch.ones(1)}
SELF["model"] = SELF
ERRORS["checkpoint inside itself"] = (weights(lambda p: torch.save(SELF, p)), "weights.pth")

SKIPS = {
    "box without area": (annotation(bbox=[3, 4, 0, 5]), "without area"),
    "box of negative width": (annotation(bbox=[30, 4, -5, 5]), "without area"),
    "box outside its image": (annotation(bbox=[500, 500, 20, 20]), "outside"),
    "box partly outside": (annotation(bbox=[-5, 4, 30, 30]), "clipped"),
    "box not finite": (annotation(bbox=[float("nan"), 4, 5, 5]), "finite"),
    "crowd box": (annotation(iscrowd=1), "crowd"),
}


def train(case, tiny_root: Path, tmp_path: Path):
    change, _ = case
    setup = Setup(tmp_path / "data", tiny_root)
    change(setup)
    setup.save()
    words = ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "1", *setup.opts]
    return pipeline.train_baseline(load_config(tiny_root / "config.yaml", words))


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_clear_and_early(name, tiny_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(USER_ERRORS, match=f"(?s){ERRORS[name][1]}"):
        train(ERRORS[name], tiny_root, tmp_path)
    assert not (tmp_path / "out/metrics.jsonl").exists(), "training had started"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", SKIPS)
def test_skips_are_logged(name, tiny_root, tmp_path, caplog):
    caplog.set_level("INFO", logger="labelenc")
    train(SKIPS[name], tiny_root, tmp_path)
    assert SKIPS[name][1] in caplog.text
    assert (tmp_path / "out/model_final.pth").is_file()
