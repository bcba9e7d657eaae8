"""COCO average precision of boxes: detections in COCO's format, and the two evaluators."""

import contextlib
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labelenc.evaluation.summary import COCO_NUMBERS, ClassResult, CocoSummary
from labelenc.structures import BoxList

logger = logging.getLogger(__name__)

EVALUATORS = ("faster", "pycocotools")


class EvaluationError(ValueError):
    """Ground truth or detections that cannot be evaluated; the message says which entry and what to do."""


def to_coco_results(predictions: Mapping[int, BoxList], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in the format of COCO's evaluation server, ordered by image id.

    Args:
        predictions: image id -> boxes in original image coordinates with fields ``scores`` (N) and ``labels``
            (N, values 1..C).
        category_ids: the C category ids of the annotation file in label order.

    Returns:
        Entries ``{image_id, category_id, bbox [x, y, w, h], score}``. The boxes are legacy inclusive, so
        ``w = x1 - x0 + 1``. Coordinates keep 3 decimals and scores 7, about what float32 holds.

    Raises:
        EvaluationError: a label outside 1..C, or a box or score that is not finite (JSON has no NaN).
    """
    results: list[dict[str, Any]] = []
    for image_id in sorted(predictions):
        boxes = predictions[image_id]
        if len(boxes) == 0:
            continue
        xywh = boxes.convert("xywh").bbox.detach().to("cpu", torch.float64)
        scores = boxes.get_field("scores").detach().to("cpu", torch.float64)
        labels = boxes.get_field("labels").tolist()
        if not (torch.isfinite(xywh).all() and torch.isfinite(scores).all()):
            raise EvaluationError(
                f"image {image_id}: a predicted box or score is not finite, so the weights or the input are "
                "broken; check the checkpoint and, with float16, try DTYPE bfloat16 or float32"
            )
        if min(labels) < 1 or max(labels) > len(category_ids):
            raise EvaluationError(
                f"image {image_id}: predicted labels span {min(labels)}..{max(labels)}, but the data set has "
                f"the labels 1..{len(category_ids)}; use the data set the model was trained for"
            )
        for box, score, label in zip(xywh.tolist(), scores.tolist(), labels, strict=True):
            results.append(
                {
                    "image_id": int(image_id),
                    "category_id": int(category_ids[label - 1]),
                    "bbox": [round(value, 3) for value in box],
                    "score": round(score, 7),
                }
            )
    return results


def evaluate_coco(
    ground_truth: str | os.PathLike[str] | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    evaluator: str = "faster",
) -> CocoSummary:
    """COCO box AP and AR of ``results``; writes nothing to stdout.

    Args:
        ground_truth: a COCO annotation file, or its content, which is left as it is. A missing ``area``
            becomes w * h and a missing ``iscrowd`` 0; annotations that no evaluator can use (no box, not
            finite, unknown image or category) are left out and counted in a warning.
        results: entries as `to_coco_results` makes them. An image without entries has no detections.
        evaluator: "faster" (faster-coco-eval) or "pycocotools" (the reference); both give the same numbers.

    Raises:
        EvaluationError: broken ground truth, a result for an unknown image or category, unknown evaluator.
        FileNotFoundError: no such annotation file.
    """
    if evaluator not in EVALUATORS:
        raise EvaluationError(f'unknown evaluator "{evaluator}"; use one of {", ".join(EVALUATORS)}')
    truth = _usable_ground_truth(_load_ground_truth(ground_truth))
    detections = dict(truth, annotations=_detection_annotations(results, truth))
    if evaluator == "faster":
        stats, precision = _run_faster(truth, detections)
    else:
        stats, precision = _run_pycocotools(truth, detections)
    numbers = {name: _none_if_absent(value) for name, value in zip(COCO_NUMBERS, stats, strict=True)}
    return CocoSummary(numbers, _per_class(truth, detections, precision), evaluator, len(truth["images"]))


def _load_ground_truth(source: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
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


def _usable_ground_truth(source: Mapping[str, Any]) -> dict[str, Any]:
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


def _detection_annotations(
    results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]
) -> list[dict[str, Any]]:
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


def _run_faster(truth: dict[str, Any], detections: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    from faster_coco_eval import COCO, COCOeval_faster

    def silent(*_: object) -> None:
        return None

    evaluation = COCOeval_faster(
        COCO(truth, print_function=silent),
        COCO(detections, print_function=silent),
        "bbox",
        print_function=silent,
    )
    evaluation.run()
    return np.asarray(evaluation.stats)[: len(COCO_NUMBERS)], np.asarray(evaluation.eval["precision"])


def _run_pycocotools(truth: dict[str, Any], detections: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in (truth, detections):
            side = COCO()
            side.dataset = content
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats), np.asarray(evaluation.eval["precision"])


def _per_class(
    truth: Mapping[str, Any], detections: Mapping[str, Any], precision: np.ndarray
) -> list[ClassResult]:
    boxes = Counter(entry["category_id"] for entry in truth["annotations"] if not entry["iscrowd"])
    found = Counter(entry["category_id"] for entry in detections["annotations"])
    names = {category["id"]: category["name"] for category in truth["categories"]}
    rows = []
    # Axes of precision: IoU thresholds, recalls, classes by ascending id, area ranges, detection limits.
    for index, category_id in enumerate(sorted(names)):
        table = precision[:, :, index, 0, -1]
        ap, ap50 = (_none_if_absent(part.mean()) for part in (table, table[0]))
        rows.append(
            ClassResult(category_id, names[category_id], ap, ap50, boxes[category_id], found[category_id])
        )
    return rows


def _none_if_absent(value: float) -> float | None:
    # COCO marks "no ground truth of this kind" by -1, for a class in the whole slice of the precision table.
    return None if value < 0 else float(value)
