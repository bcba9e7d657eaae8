"""Numbers of data sets: by hand, by plain loops, and those in the descriptions of real sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from labelenc.data import choose_images, set_statistics
from labelenc.data.parse import load_coco, parse_coco
from labelenc.data.statistics import resize_factors
from labelenc.data.transforms import resized_size

# Per set: images, boxes (crowd included), boxes by COCO's sizes, boxes per class; from the SOURCE.md files.
REAL = {
    "bccd": (364, 4886, (39, 1524, 3323), {"RBC": 4153, "WBC": 372, "Platelets": 361}),
    "aquarium": (
        638,
        4815,
        (1414, 2631, 770),
        {
            "fish": 2669,
            "jellyfish": 694,
            "penguin": 516,
            "shark": 352,
            "puffin": 284,
            "stingray": 184,
            "starfish": 116,
        },
    ),
}


def test_by_hand(coco_dict):
    found = set_statistics(parse_coco(coco_dict, "hand", "hand.json"), training=True)
    assert (found.num_images, found.num_boxes, found.num_empty, found.num_crowd) == (3, 4, 1, 1)
    assert found.class_names == ("dog", "cat")
    assert found.class_boxes.tolist() == [2, 2]
    assert found.class_images.tolist() == [2, 2]
    # Images in the order of their ids: a (100 x 50), b (empty), c (60 x 80).
    assert found.boxes_per_image.tolist() == [2, 0, 2]
    assert found.image_sizes.tolist() == [[100, 50], [50, 40], [60, 80]]
    areas = [20 * 10, 30 * 25, 60 * 80, 3 * 4]
    assert found.sides == pytest.approx(np.sqrt(areas))
    assert found.aspect_ratios == pytest.approx([2, 30 / 25, 0.75, 0.75])
    assert found.size_counts == (3, 1, 0)
    # 100 x 50 becomes 64 x 32, 60 x 80 becomes 32 x 42.
    factors = [64 / 100, 64 / 100, np.sqrt(32 * 42 / (60 * 80)), np.sqrt(32 * 42 / (60 * 80))]
    assert found.resized_sides(32, 64) == pytest.approx(np.sqrt(areas) * factors)


def test_faulty_boxes_are_counted_apart(coco_dict):
    coco_dict["annotations"][0]["bbox"] = [1, 1, 0, 5]
    found = set_statistics(parse_coco(coco_dict, "hand", "hand.json"), training=True)
    assert (found.num_boxes, found.num_dropped) == (3, 1)


def test_a_set_without_boxes_or_classes():
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
        "annotations": [],
        "categories": [],
    }
    annotations = parse_coco(data, "empty", "empty.json")
    found = set_statistics(annotations, training=False)
    assert (found.num_boxes, found.num_empty, found.size_counts) == (0, 1, (0, 0, 0))
    assert len(choose_images(annotations, 5)) == 0


def _random_set(num_images: int, num_classes: int):
    sizes = torch.randint(20, 400, (num_images, 2)).tolist()
    images = [{"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    annotations = []
    for i, (w, h) in enumerate(sizes):
        for _ in range(int(torch.randint(0, 6, ()))):
            # Squares make some classes far rarer than others.
            label = int(torch.rand(()) ** 2 * num_classes)
            box = [0, 0, int(torch.randint(2, w, ())), int(torch.randint(2, h, ()))]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": label, "bbox": box})
    categories = [{"id": c, "name": f"class {c}"} for c in range(num_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_against_plain_loops(seed):
    data = _random_set(60, 7)
    found = set_statistics(parse_coco(data, "random", "random.json"), training=True)
    boxes = Counter(a["category_id"] for a in data["annotations"])
    pairs = {(a["image_id"], a["category_id"]) for a in data["annotations"]}
    assert found.class_boxes.tolist() == [boxes[c] for c in range(7)]
    assert found.class_images.tolist() == [sum(c == label for _, label in pairs) for c in range(7)]
    factors = resize_factors(found.image_sizes, 200, 333)
    for factor, (w, h) in zip(factors, found.image_sizes.tolist(), strict=True):
        new_w, new_h = resized_size(w, h, 200, 333)
        assert factor == pytest.approx((new_w * new_h / (w * h)) ** 0.5)


def test_chosen_images_show_every_class_and_are_the_same_each_time(seed):
    data = _random_set(80, 30)
    annotations = parse_coco(data, "random", "random.json")
    rows = choose_images(annotations, 10, limit=80)
    assert rows.tolist() == choose_images(annotations, 10, limit=80).tolist()
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) >= 10
    seen = {a["category_id"] for a in data["annotations"] if a["image_id"] in rows}
    assert seen == {a["category_id"] for a in data["annotations"]}
    assert len(choose_images(annotations, 3)) <= 6
    assert len(choose_images(annotations, 1000)) == len({a["image_id"] for a in data["annotations"]})
    assert len(choose_images(annotations, 0)) == 0


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_sets_have_the_numbers_of_their_descriptions(shared_dir: Path, name):
    num_images, num_boxes, by_size, by_class = REAL[name]
    files = sorted((shared_dir / "data" / name / "annotations").glob("*.json"))
    parts = [set_statistics(load_coco(str(file), file.stem), training=False) for file in files]
    dropped = sum(part.num_dropped for part in parts)
    assert sum(part.num_images for part in parts) == num_images
    assert sum(part.num_boxes + part.num_crowd for part in parts) + dropped == num_boxes
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(dict(zip(part.class_names, part.class_boxes.tolist(), strict=True)))
    assert sum(by_class.values()) - counts.total() == dropped
    assert all(0 <= by_class[c] - counts[c] <= dropped for c in by_class)
    sizes = np.sum([part.size_counts for part in parts], axis=0)
    # Dropped boxes are less than a pixel wide; rounded corners move a box over a border now and then.
    assert np.abs(sizes - by_size).max() <= dropped + 2
