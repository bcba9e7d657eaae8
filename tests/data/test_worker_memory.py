"""That workers share the annotations with their parent for as long as they live.

python test_worker_memory.py SEED COLLECTING    measures in a process of its own, which prints JSON

A process in which other tests ran has a memory of huge pages, of which a worker copies 2 MB at a touch.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from labelenc.data.coco import CocoDataset, ConcatenatedDataset, Sample
from labelenc.data.loading import make_loader
from labelenc.data.parse import parse_coco
from labelenc.data.samplers import Draw
from labelenc.data.transforms import Transform

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 100_000
ACCOUNT = "smaps_rollup"
pytestmark = pytest.mark.skipif(
    not Path("/proc/self", ACCOUNT).is_file(), reason="needs Linux' account of memory"
)


def own_kilobytes(pid: int) -> int:
    """What a process wrote to and shares with nobody."""
    lines = Path(f"/proc/{pid}/{ACCOUNT}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


class Collecting(Dataset):
    """Has a garbage collection before every sample, the dearest moment for shared memory."""

    def __init__(self, data: Dataset[Sample]) -> None:
        self.data = data

    def __getitem__(self, draw: Draw) -> Sample:
        gc.collect()
        return self.data[draw]


def large_set(folder: Path) -> ConcatenatedDataset:
    """100 000 annotations; the images are all the same file."""
    cv2.imwrite(str(folder / "one.jpg"), np.zeros((16, 24, 3), np.uint8))
    images = [{"id": 1000 + i, "file_name": "one.jpg", "width": 24, "height": 16} for i in range(IMAGES)]
    annotations = [
        {"id": 5000 + k, "image_id": 1000 + k, "category_id": 7, "bbox": [1, 2, 3 + k % 9, 4]}
        for k in range(IMAGES)
    ]
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "thing"}]}
    found = parse_coco(tree, "large", "large.json")
    assert len(found.labels) == IMAGES
    return ConcatenatedDataset([CocoDataset(found, str(folder), Transform((16,), 32, 0.5), training=True)])


def measure(seed: int, collecting: bool) -> tuple[list[int], list[int]]:
    """Kilobytes of each worker's own before, and by how much they grew."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        plain = large_set(Path(folder))
        return grown_kilobytes(Collecting(plain) if collecting else plain, collecting)


def grown_kilobytes(data: Dataset[Sample], collecting: bool) -> tuple[list[int], list[int]]:
    warm_up, batches, size = 40, 60 if collecting else 400, 1 if collecting else 8
    # First the same few images, until every buffer is there; then others from all over the set.
    rows = [k % 4 for k in range(warm_up * size)] + torch.randperm(IMAGES)[: batches * size].tolist()
    draws = [Draw(row, k) for k, row in enumerate(rows)]
    sampler = [draws[k : k + size] for k in range(0, len(draws), size)]
    known = set(multiprocessing.active_children())
    before: list[int] = []
    workers: list[int] = []
    for number, batch in enumerate(make_loader(data, sampler, 2, 0, pin_memory=False), start=1):
        assert len(batch.targets[0]) == 1
        if number == warm_up:
            workers = [process.pid for process in set(multiprocessing.active_children()) - known]
            before = [own_kilobytes(pid) for pid in workers]
        elif number == warm_up + batches - 8:
            grown = [own_kilobytes(pid) - kb for pid, kb in zip(workers, before, strict=True)]
    assert len(workers) == 2
    return before, grown


@pytest.mark.parametrize("collecting", [False, True])
def test_memory_of_workers_stays_flat(seed: int, collecting: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, str(seed), str(int(collecting))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, grown = json.loads(done.stdout.splitlines()[-1])
    print(before, grown)
    # One Python number per image would be about 3000 kB, an object per annotation ten times that.
    assert max(grown) < 1500
    assert max(before) < 40_000


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2] == "1")))
