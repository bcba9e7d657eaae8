"""Real data sets beside the checkout, against pycocotools and the counts in their descriptions."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from labelenc.data import build_train_loader, check_datasets, stop_if_unusable
from labelenc.data.coco import CocoDataset
from labelenc.data.parse import load_coco
from labelenc.data.transforms import Transform

# Images and boxes (crowd included), from each set's SOURCE.md.
COUNTS = {
    ("bccd", "train"): (205, 2804),
    ("bccd", "val"): (87, 1137),
    ("coco_mini80", "train"): (127, 1102),
    ("coco_mini80", "val"): (31, 287),
    ("coco_person", "val"): (139, 566),
    ("aquarium", "val"): (127, 909),
}


@pytest.fixture(params=sorted(COUNTS), ids="-".join)
def real_set(request: pytest.FixtureRequest, shared_dir: Path) -> tuple[Path, Path, tuple[int, int]]:
    name, split = request.param
    root = shared_dir / "data" / name
    return root / "images", root / "annotations" / f"{split}.json", COUNTS[request.param]


def test_equal_to_pycocotools(real_set):
    folder, file, (num_images, num_boxes) = real_set
    found = load_coco(str(file), "real").require_sound()
    data = CocoDataset(found, str(folder), Transform((64,), 128), False)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
    dropped = {p.annotation_id for p in found.problems if p.action == "dropped"}
    assert len(data) == num_images
    assert len(found.labels) + found.num_crowd + len(dropped) == num_boxes
    category_ids = sorted(truth.getCatIds())
    assert data.info.category_ids == tuple(category_ids)
    for index, image_id in enumerate(data.image_ids.tolist()):
        annotations = truth.loadAnns(truth.getAnnIds(imgIds=image_id, iscrowd=False))
        annotations = [a for a in annotations if a["id"] not in dropped]
        target = data.targets(index)
        labels = [category_ids[label - 1] for label in target.get_field("labels").tolist()]
        assert labels == [a["category_id"] for a in annotations]
        boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
        widths = (target.bbox[:, 2:] - target.bbox[:, :2] + 1).numpy()
        # Equal but for boxes that the border cuts by the rounding of the file.
        assert np.allclose(target.bbox[:, :2].numpy(), boxes[:, :2], atol=0.06)
        assert np.allclose(widths, boxes[:, 2:], atol=1.01)


def test_real_images_pass_the_check_and_load(shared_dir, make_cfg):
    for name in ("bccd", "coco_mini80"):
        root = shared_dir / "data" / name
        cfg = make_cfg(**{name: (root / "images", root / "annotations" / "val.json")})
        stop_if_unusable(check_datasets(cfg, full=name == "coco_mini80"))
        batches = list(build_train_loader(cfg, 1, 0, 0, 4))
        assert all(len(target) > 0 for batch in batches for target in batch.targets)
        for batch in batches:
            for target in batch.targets:
                width, height = target.size
                # Inclusive corners scale as points: shrinking leaves them up to a pixel over the border.
                assert bool((target.bbox > -1).all())
                assert bool((target.bbox[:, [0, 2]] < width).all())
                assert bool((target.bbox[:, [1, 3]] < height).all())
