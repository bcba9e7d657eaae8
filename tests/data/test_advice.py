"""Advice on data sets, and images that are trained on and tested on."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from labelenc.data import dataset_advice, set_statistics, shared_images, small_box_advice
from labelenc.data.parse import parse_coco


def _statistics(counts: dict[str, int], name: str, training: bool, side: int = 40, empty: int = 0):
    """A set with so many boxes of each class, one an image of 100 x 100, and empty images."""
    classes = [c for c, n in counts.items() for _ in range(n)]
    numbers = {c: i for i, c in enumerate(counts, start=1)}
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in range(len(classes) + empty)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": numbers[c], "bbox": [0, 0, side, side]}
        for i, c in enumerate(classes)
    ]
    categories = [{"id": i, "name": c} for c, i in numbers.items()]
    data = {"images": images, "annotations": annotations, "categories": categories}
    return set_statistics(parse_coco(data, name, f"{name}.json"), training)


CASES = [
    ({"cat": 100, "dog": 90}, {"cat": 10, "dog": 10}, []),
    ({"cat": 100, "dog": 29}, {"cat": 10, "dog": 10}, ["1 class with fewer than 30 boxes.*dog \\(29\\)"]),
    (
        {"cat": 100, "dog": 0},
        {"cat": 10, "dog": 10},
        ["train: 1 class without a box: dog", "val tests on dog, of which there is no training box"],
    ),
    ({"cat": 100, "dog": 100}, {"cat": 10, "dog": 0}, ["val has no box of dog"]),
    ({"cat": 1000, "dog": 40, "cow": 40}, {"cat": 1, "dog": 1, "cow": 1}, ["93% of the boxes are cat"]),
    (
        {"cat": 2000, "dog": 2000, "cow": 39},
        {"cat": 1, "dog": 1, "cow": 1},
        ["dog has 51 times as many boxes as cow"],
    ),
]


@pytest.mark.parametrize(("train", "val", "expected"), CASES)
def test_classes(train, val, expected):
    advice = dataset_advice([_statistics(train, "train", True), _statistics(val, "val", False)])
    assert len(advice) == len(expected)
    for sentence, pattern in zip(advice, expected, strict=True):
        assert re.search(pattern, sentence), sentence


def test_images_without_boxes():
    (sentence,) = dataset_advice([_statistics({"cat": 40}, "train", True, empty=41)])
    assert "41 of 81 images have no box: training leaves them out" in sentence


def test_small_boxes():
    part = _statistics({"cat": 40}, "train", True, side=10)
    # 100 x 100 becomes 200 x 200, so the boxes have 20 pixels.
    assert small_box_advice(part, (200, 300), 19.9, "why") is None
    sentence = small_box_advice(part, (200, 300), 20.1, "why")
    assert sentence is not None
    assert "40 of 40 boxes (100%) are smaller than 20.1" in sentence


def test_images_in_two_sets_are_found_by_their_bytes(coco_dict, write_set, tmp_path, seed):
    folder, _ = write_set(coco_dict, "train")
    other = tmp_path / "test"
    other.mkdir()
    rng = np.random.default_rng(seed)
    for path in folder.iterdir():
        height, width = cv2.imread(str(path)).shape[:2]
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    (other / "renamed.png").write_bytes((folder / "a.png").read_bytes())
    # Same name, size in pixels and length, other content.
    changed = bytearray((folder / "b.png").read_bytes())
    changed[60] ^= 1
    (other / "b.png").write_bytes(changed)
    images = [
        {"id": 1, "file_name": "renamed.png", "width": 100, "height": 50},
        {"id": 2, "file_name": "b.png", "width": 50, "height": 40},
        {"id": 3, "file_name": "missing.png", "width": 60, "height": 80},
    ]
    train = parse_coco(coco_dict, "train", "train.json")
    test = parse_coco({**coco_dict, "images": images, "annotations": []}, "test", "test.json")
    found = shared_images([(train, str(folder))], [(test, str(other))])
    assert found == [(str(folder / "a.png"), str(other / "renamed.png"))]
    assert len(shared_images([(train, str(folder))], [(train, str(folder))])) == 3
