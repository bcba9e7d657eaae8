"""Small data sets on disk for the tests of the data layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from labelenc.config import load_config


@pytest.fixture
def coco_dict() -> dict[str, Any]:
    """Three images, five boxes, one of them crowd; image 12 has no box; category ids with gaps, unsorted."""
    images = [
        {"id": 30, "file_name": "c.png", "width": 60, "height": 80},
        {"id": 12, "file_name": "b.png", "width": 50, "height": 40},
        {"id": 11, "file_name": "a.png", "width": 100, "height": 50},
    ]
    boxes = [
        (1, 11, 7, [10, 5, 20, 10], 0),
        (2, 30, 3, [0, 0, 60, 80], 0),
        (3, 11, 3, [50.5, 20.25, 30, 25], 0),
        (4, 30, 7, [5, 5, 30, 30], 1),
        (5, 30, 7, [1, 2, 3, 4], 0),
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, "area": 1.0}
        for i, image, category, box, crowd in boxes
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Write a COCO dictionary (or text) and its images; returns image folder and JSON file."""

    def write(data: Any, name: str = "set") -> tuple[Path, Path]:
        folder, file = tmp_path / name, tmp_path / f"{name}.json"
        folder.mkdir(exist_ok=True)
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        for image in data.get("images", []) if isinstance(data, dict) else []:
            number = image["id"] % 251
            pixels = np.full((image["height"], image["width"], 3), (number, 10, 200), np.uint8)
            cv2.imwrite(str(folder / image["file_name"]), pixels)
        return folder, file

    return write


@pytest.fixture
def make_cfg(tmp_path: Path) -> Callable[..., Any]:
    """A configuration whose registered sets are `name=(image folder, JSON)`."""

    def make(*options: str, **sets: tuple[Path, Path]) -> Any:
        file = tmp_path / "data.yaml"
        register = {
            n: {"images": str(folder), "annotations": str(path)} for n, (folder, path) in sets.items()
        }
        tree = {
            "MODEL": {"RETINANET_ON": True, "BACKBONE": {"CONV_BODY": "R-50-FPN-RETINANET"}},
            "INPUT": {"MIN_SIZE_TRAIN": [32], "MAX_SIZE_TRAIN": 64, "MIN_SIZE_TEST": 32, "MAX_SIZE_TEST": 64},
            "DATASETS": {"TRAIN": list(sets), "TEST": list(sets), "REGISTER": register},
            "DATALOADER": {"NUM_WORKERS": 0, "SIZE_DIVISIBILITY": 32},
            "SOLVER": {"IMS_PER_BATCH": 4},
            "TEST": {"IMS_PER_BATCH": 2},
            "SEED": 5,
        }
        file.write_text(json.dumps(tree))
        return load_config(str(file), options)

    return make
