"""What an evaluation starts from: COCO ground truth and results, checked and made usable."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


class EvaluationError(ValueError):
    """Ground truth or detections that cannot be evaluated; the message says which entry and what to do."""


def load_ground_truth(source: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """An annotation file's content, or the content itself, with its three lists in place."""
    name = "the ground truth"
    if not isinstance(source, Mapping):
        name = str(source)
        try:
            source = json.loads(Path(source).read_bytes())
        except ValueError as error:
            raise EvaluationError(
                f"{name} is not valid JSON ({error}); export the annotations again"
            ) from error
    if not isinstance(source, Mapping):
        raise EvaluationError(f"{name} holds a {type(source).__name__}; a COCO annotation file is an object")
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(source.get(key), list)
    ]
    if missing:
        raise EvaluationError(
            f"{name} has no list {' and no list '.join(missing)}; evaluation needs COCO annotations with "
            "images, annotations and categories (a test split without annotations cannot be evaluated)"
        )
    return source


def usable_ground_truth(source: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with what an evaluator needs: integer ids, a finite box, ``area`` and ``iscrowd`` everywhere."""
    images = [{"id": _integer_id(image, "id", f"images[{i}]")} for i, image in enumerate(source["images"])]
    categories = []
    for i, category in enumerate(source["categories"]):
        category_id = _integer_id(category, "id", f"categories[{i}]")
        categories.append({"id": category_id, "name": str(category.get("name", category_id))})
    image_ids, category_ids = {image["id"] for image in images}, {category["id"] for category in categories}
    annotations: list[dict[str, Any]] = []
    for annotation in source["annotations"]:
        box = _finite_box(annotation.get("bbox"))
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if box is None or image_id not in image_ids or category_id not in category_ids:
            continue
        area = annotation.get("area")
        # Both evaluators take id 0 for "not matched", so the ids are numbered anew from 1.
        entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id, "bbox": box}
        entry["area"] = float(box[2] * box[3] if area is None else area)
        entry["iscrowd"] = int(annotation.get("iscrowd") or 0)
        annotations.append(entry)
    dropped = len(source["annotations"]) - len(annotations)
    if dropped:
        logger.warning(
            "%d of %d annotations have no finite [x, y, w, h] box or name an unknown image or category; "
            "the evaluation leaves them out",
            dropped,
            len(source["annotations"]),
        )
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def _integer_id(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise EvaluationError(f"{where}.{key} in the ground truth is {value!r}; COCO ids are integers")
    return value


def _finite_box(box: Any) -> list[float] | None:
    try:
        values = [float(value) for value in box]
    except (TypeError, ValueError):
        return None
    return values if len(values) == 4 and np.isfinite(values).all() else None


def detection_annotations(
    results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Results as annotations with ids from 1, in their order; refuses unknown images and categories."""
    for key, known in (("image_id", truth["images"]), ("category_id", truth["categories"])):
        unknown = {result[key] for result in results} - {entry["id"] for entry in known}
        if unknown:
            some = ", ".join(map(repr, sorted(unknown, key=repr)[:5]))
            raise EvaluationError(
                f"{len(unknown)} values of {key} in the results are not in the ground truth ({some}); "
                "evaluate with the annotations of the data set that the detections were made on"
            )
    annotations = []
    for number, result in enumerate(results, start=1):
        x, y, width, height = result["bbox"]
        annotations.append(
            {
                "id": number,
                "image_id": result["image_id"],
                "category_id": result["category_id"],
                "bbox": [x, y, width, height],
                "score": result["score"],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    return annotations
