"""COCO average precision of boxes: detections in COCO's format, and the two evaluators."""

import contextlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from labelenc.evaluation.inputs import (
    EvaluationError,
    detection_annotations,
    load_ground_truth,
    usable_ground_truth,
)
from labelenc.evaluation.summary import COCO_NUMBERS, ClassResult, CocoSummary
from labelenc.structures import BoxList

EVALUATORS = ("faster", "pycocotools")


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
    truth = usable_ground_truth(load_ground_truth(ground_truth))
    return evaluate_checked(truth, detection_annotations(results, truth), evaluator)[0]


def evaluate_checked(
    truth: dict[str, Any], found: list[dict[str, Any]], evaluator: str = "faster"
) -> tuple[CocoSummary, np.ndarray]:
    """`evaluate_coco` for inputs that `usable_ground_truth` and `detection_annotations` made.

    Returns:
        The summary, and the evaluator's precision table, float64 (10 IoU thresholds, 101 recalls, C classes
        by ascending id, 4 areas: all, small, medium, large; 3 limits of detections), -1 without ground truth.
    """
    detections = dict(truth, annotations=found)
    if evaluator == "faster":
        stats, precision = _run_faster(truth, detections)
    else:
        stats, precision = _run_pycocotools(truth, detections)
    numbers = {name: _none_if_absent(value) for name, value in zip(COCO_NUMBERS, stats, strict=True)}
    rows = _per_class(truth, detections, precision)
    return CocoSummary(numbers, rows, evaluator, len(truth["images"])), precision


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
