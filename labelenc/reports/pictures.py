"""Images of a data set with truth and detections drawn in; only those that are shown are decoded."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from labelenc import data
from labelenc.data.coco import CocoDataset, read_image
from labelenc.reports.page import Picture
from labelenc.structures import BoxList
from labelenc.visualization import draw_boxes

logger = logging.getLogger(__name__)

_LONGER_SIDE = 640
# More boxes than this hide the image.
_MOST_BOXES = 60

Entries = Mapping[int, Sequence[Mapping[str, Any]]]


def by_image(detections: Iterable[Mapping[str, Any]]) -> Entries:
    """Entries of COCO results by their image."""
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in detections:
        found[entry["image_id"]].append(entry)
    return found


class SetPictures:
    """The images of a test set, by id.

    Raises:
        DataError, ConfigError: annotations that are missing or unusable, an unknown set.
    """

    def __init__(self, cfg: CfgNode, dataset: str) -> None:
        self._dataset: CocoDataset = data.build_test_dataset(cfg, dataset)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {image_id: row for row, image_id in enumerate(self._dataset.image_ids.tolist())}

    @property
    def image_ids(self) -> list[int]:
        return list(self._rows)

    def side_by_side(
        self, image_id: int, runs: Mapping[str, Entries], thresholds: Sequence[float], caption: str
    ) -> list[tuple[Picture, str]]:
        """The image with its truth, then with each run's detections.

        Args:
            runs: caption of the run -> detections by image.
            thresholds: the lowest scores that are drawn, one for each run.
            caption: follows the image's name below the first picture.

        Returns:
            (picture, caption), one and as many as there are runs; nothing where the file can't be read.
        """
        row = self._rows[image_id]
        size, info = self._dataset.size(row), self._dataset.info
        path = self._dataset.image_path(row)
        try:
            image = read_image(path, size, f"{info.name}, image {image_id}")
        except data.DataError as error:
            logger.warning("the report leaves out a picture: %s", error)
            return []
        truth = self._draw(image, self._dataset.targets(row), 0.0)
        drawn: list[tuple[Picture, str]] = [(truth, f"Image {image_id}, {Path(path).name}: {caption}")]
        for (name, entries), threshold in zip(runs.items(), thresholds, strict=True):
            boxes = self._boxes(entries.get(image_id, ()), size)
            drawn.append((self._draw(image, boxes, threshold), name))
        return drawn

    def _draw(self, image: np.ndarray, boxes: BoxList, threshold: float) -> np.ndarray:
        magnify = _LONGER_SIDE / max(image.shape[:2])
        return draw_boxes(
            image,
            boxes,
            self._dataset.info.class_names,
            score_threshold=threshold,
            max_boxes=_MOST_BOXES,
            magnify=magnify,
        )

    def _boxes(self, entries: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> BoxList:
        ids = self._dataset.info.category_ids
        boxes = BoxList([entry["bbox"] for entry in entries], size, mode="xywh")
        labels = [ids.index(entry["category_id"]) + 1 for entry in entries]
        boxes.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        boxes.add_field("scores", torch.tensor([entry["score"] for entry in entries]))
        return boxes
