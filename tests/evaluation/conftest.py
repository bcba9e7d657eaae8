"""Data sets and detections that several tests of the evaluation start from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(scope="session")
def random_case() -> Callable[..., tuple[dict, list[dict]]]:
    """random_case(images, categories) -> (COCO ground truth, results), fresh in every call."""
    return _random_case


@pytest.fixture(scope="session")
def scene() -> Callable[..., tuple[dict, list[dict]]]:
    """scene(truths, found, images=1, categories=1) -> (COCO ground truth, results).

    A truth is (image, class, box) or (image, class, box, "crowd"), a detection (image, class, box, score).
    """

    def make(
        truths: list[tuple], found: list[tuple], images: int = 1, categories: int = 1
    ) -> tuple[dict, list[dict]]:
        annotations = [
            {"image_id": truth[0], "category_id": truth[1], "bbox": truth[2], "iscrowd": int(len(truth) > 3)}
            for truth in truths
        ]
        results = [_result(box, score, image, label) for image, label, box, score in found]
        return _ground_truth(annotations, images, categories), results

    return make


def _random_case(images: int, categories: int) -> tuple[dict, list[dict]]:
    """Boxes of all areas, crowds, empty images, equal scores, and one image with far over 100 detections."""
    annotations: list[dict] = []
    results: list[dict] = []
    for image_id in range(1, images + 1):
        count = 0 if image_id % 5 == 0 else int(torch.randint(1, 12, ()))
        size = torch.exp(torch.rand(count, 2) * 4.5 + 1.5)
        boxes = torch.cat([torch.rand(count, 2) * 400, size], dim=1)
        for box in boxes.tolist():
            entry = {"image_id": image_id, "category_id": int(torch.randint(1, categories, ())), "bbox": box}
            entry["iscrowd"] = int(torch.rand(()) < 0.15)
            entry["area"] = box[2] * box[3] * float(0.5 + 0.5 * torch.rand(()))
            annotations.append(entry)
            for _ in range(int(torch.randint(0, 4, ()))):
                moved = (torch.tensor(box) * (1 + 0.1 * torch.randn(4))).tolist()
                score = round(float(torch.rand(())), 2)
                results.append(_result(moved, score, image_id, entry["category_id"]))
        for _ in range(260 if image_id == 1 else 3):
            box = (torch.rand(4) * torch.tensor([400.0, 400, 150, 150]) + 1).tolist()
            results.append(_result(box, round(float(torch.rand(())), 2), image_id, 1))
    # The last category has no ground truth and is detected all the same.
    results.append(_result([5, 5, 50, 50], 0.5, 1, categories))
    return _ground_truth(annotations, images, categories), results


def _ground_truth(annotations: list[dict], images: int, categories: int) -> dict:
    return {
        "images": [{"id": i + 1} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(categories)],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)],
    }


def _result(bbox: list[float], score: float, image_id: int, category_id: int) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
