"""Truth and detections of a whole data set as flat arrays, ordered as COCO's evaluation takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# COCO looks at no more detections of one class in one image.
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class Boxes:
    """N boxes. ``image`` and ``label`` (N) int64 are positions in the lists of `BoxTables`.

    ``xywh`` is float64 (N, 4). ``source`` (N) int64 is each box's place in the list it was made from.
    """

    image: np.ndarray
    label: np.ndarray
    xywh: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Truths(Boxes):
    """Boxes of the ground truth in the order of the annotations: ``area`` (N) float64, ``crowd`` (N) bool."""

    area: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Found(Boxes):
    """Detections with ``score`` (N) float64, best first; equal scores by image, then as they were given."""

    score: np.ndarray


@dataclass(frozen=True)
class BoxTables:
    """``image_ids`` (I) and ``category_ids`` (C) int64 ascend, as both evaluators have them."""

    image_ids: np.ndarray
    category_ids: np.ndarray
    class_names: tuple[str, ...]
    truths: Truths
    found: Found

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)


def box_tables(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> BoxTables:
    """From `usable_ground_truth` and `detection_annotations`.

    Of the detections of one class in one image only the best `MAX_DETECTIONS` are kept.
    """
    image_ids = np.unique(np.array([image["id"] for image in truth["images"]], dtype=np.int64))
    names = {category["id"]: category["name"] for category in truth["categories"]}
    category_ids = np.array(sorted(names), dtype=np.int64)
    image, label, xywh = _columns(truth["annotations"], image_ids, category_ids)
    area = np.array([entry["area"] for entry in truth["annotations"]], dtype=np.float64)
    crowd = np.array([entry["iscrowd"] for entry in truth["annotations"]], dtype=bool)
    truths = Truths(image, label, xywh, np.arange(len(image)), area, crowd)
    image, label, xywh = _columns(found, image_ids, category_ids)
    score = np.array([entry["score"] for entry in found], dtype=np.float64)
    order = np.lexsort((image, -score))
    order = order[rank_in_group((image * len(category_ids) + label)[order]) < MAX_DETECTIONS]
    detections = Found(image[order], label[order], xywh[order], order, score[order])
    return BoxTables(image_ids, category_ids, tuple(names[i] for i in sorted(names)), truths, detections)


def rank_in_group(group: np.ndarray) -> np.ndarray:
    """How many earlier entries of ``group`` (N) int64 are equal to each; (N) int64."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return rank


def _columns(
    entries: Sequence[Mapping[str, Any]], image_ids: np.ndarray, category_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
    label = np.array([entry["category_id"] for entry in entries], dtype=np.int64)
    xywh = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    return np.searchsorted(image_ids, image), np.searchsorted(category_ids, label), xywh
