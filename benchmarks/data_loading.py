"""How many images a second does a core load, beside the PIL-based pipeline of torchvision's references?

    python benchmarks/data_loading.py --output benchmarks/results/FILE.json
    python benchmarks/data_loading.py --images DIR --annotations FILE.json --sizes 800

Both sides alternate in one process. README.md in this folder says how to read the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from measure import compare, describe, write
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from labelenc.data import CocoDataset, Draw
from labelenc.data.coco import read_image
from labelenc.data.loading import collate, make_loader
from labelenc.data.parse import load_coco
from labelenc.data.samplers import TrainBatchSampler
from labelenc.data.transforms import Transform

MAX_SIZE = 1333
DIVISIBILITY = 32
FLIP = 0.5
SIZES_OF_COCO = ((640, 480), (640, 427), (480, 640), (500, 375))
HEADER = (
    f"{'short side':>10}{'workers':>9}{'ours':>9}{'reference':>11}{'ratio':>8}{'no resize':>11}{'ratio':>8}"
    f"{'decode ms':>11}{'transform ms':>14}{'batch ms':>10}"
)


def draw_set(folder: Path, count: int, seed: int) -> Path:
    """JPEG files with the sizes and about the bytes of COCO's, seven boxes each; returns the annotations."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number, (width, height) in zip(range(count), itertools.cycle(SIZES_OF_COCO)):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        name = f"{number:06d}.jpg"
        cv2.imwrite(str(folder / name), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for box in rng.integers(20, 200, (7, 4)).tolist():
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box})
    file = folder / "annotations.json"
    categories = [{"id": 1, "name": "thing"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


class ReferenceDataset(Dataset):
    """As torchvision's detection references: PIL decodes, then floats in 0..1, flipped with their boxes."""

    def __init__(self, ours: CocoDataset) -> None:
        self.ours = ours

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        with Image.open(self.ours.image_path(draw.index)) as file:
            image = F.to_dtype(F.pil_to_tensor(file.convert("RGB")), torch.float32, scale=True)
        target = self.ours.targets(draw.index)
        if torch.rand((), generator=torch.Generator().manual_seed(draw.seed)) < FLIP:
            image, target = F.horizontal_flip(image), target.flip_left_right()
        return image, {"boxes": target.bbox, "labels": target.get_field("labels")}


def pad(samples: list, size: int | None) -> tuple[Tensor | list[Tensor], list[dict]]:
    """What torchvision's detector does next: resize and pad. Without ``size``, the images as they are."""
    if size is None:
        return [image for image, _ in samples], [target for _, target in samples]
    # Its normalisation is left out, which on our side too is done on the device.
    transform = GeneralizedRCNNTransform(size, MAX_SIZE, [0.0] * 3, [1.0] * 3, DIVISIBILITY)
    resized = [transform.resize(image, target) for image, target in samples]
    return transform.batch_images([image for image, _ in resized], DIVISIBILITY), [t for _, t in resized]


def images_per_second(loader: Iterable, batches: int, images: int, warm_up: int) -> float:
    iterator = iter(loader)
    for _ in range(warm_up):
        next(iterator)
    begun = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * images / (time.perf_counter() - begun)


def rates(data: CocoDataset, size: int, workers: int, args: argparse.Namespace) -> list[float]:
    """Median images per second and core of our loader, the reference, and the reference without resizing."""
    # Batches that are ready when the clock starts would be counted without having been worked for.
    warm_up = 2 * max(workers, 1)
    batches = args.batches * max(workers, 1)

    def sampler() -> TrainBatchSampler:
        return TrainBatchSampler(
            data.aspect_groups(), len(data), args.batch, args.seed, 0, 2 * warm_up + batches
        )

    def reference(size: int | None) -> DataLoader:
        dataset, together = ReferenceDataset(data), partial(pad, size=size)
        return DataLoader(dataset, batch_sampler=sampler(), num_workers=workers, collate_fn=together)

    sides: list[Callable[[], DataLoader]] = [
        lambda: make_loader(data, sampler(), workers, DIVISIBILITY, pin_memory=False),
        lambda: reference(size),
        lambda: reference(None),
    ]
    samples = [
        [images_per_second(make(), batches, args.batch, warm_up) / max(workers, 1) for make in sides]
        for _ in range(args.repeats)
    ]
    return [statistics.median(side) for side in zip(*samples, strict=True)]


def parts(data: CocoDataset, args: argparse.Namespace) -> list[float]:
    """Median milliseconds per image of our decoding, our transform, and putting a batch together."""
    draws = [Draw(index, args.seed + index) for index in range(min(args.batch, len(data)))]

    def decode() -> None:
        for draw in draws:
            read_image(data.image_path(draw.index), data.size(draw.index), "benchmark")

    def load() -> list:
        return [data[draw] for draw in draws]

    samples = load()
    decoded, loaded, together = (
        1000 * seconds / len(draws)
        for seconds in compare([decode, load, lambda: collate(samples, DIVISIBILITY)], args.repeats, "cpu")
    )
    return [decoded, loaded - decoded, together]


def measure(annotations: Path, images: Path, size: int, args: argparse.Namespace) -> list[dict]:
    data = CocoDataset(
        load_coco(str(annotations), "benchmark"), str(images), Transform((size,), MAX_SIZE, FLIP), True
    )
    decode, transform, batch = parts(data, args)
    rows = []
    for workers in args.workers:
        ours, reference, unresized = rates(data, size, workers, args)
        row = {
            "short_side": size,
            "workers": workers,
            "ours_images_per_second_and_core": ours,
            "reference_images_per_second_and_core": reference,
            "ratio": ours / reference,
            "reference_without_resize_images_per_second_and_core": unresized,
            "ratio_without_resize": ours / unresized,
            "decode_ms": decode,
            "transform_ms": transform,
            "batch_ms": batch,
        }
        rows.append(row)
        print(
            f"{size:>10}{workers:>9}{ours:>9.1f}{reference:>11.1f}{ours / reference:>7.2f}x"
            f"{unresized:>11.1f}{ours / unresized:>7.2f}x{decode:>11.2f}{transform:>14.2f}{batch:>10.2f}",
            flush=True,
        )
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of images; without it, pictures are made")
    parser.add_argument("--annotations", type=Path, help="their COCO file")
    parser.add_argument("--pictures", type=int, default=64, help="how many are made")
    parser.add_argument("--sizes", type=int, nargs="+", default=[800, 480, 240], help="short sides in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--batch", type=int, default=8, help="images of a batch")
    parser.add_argument("--batches", type=int, default=12, help="batches of a sample, for each worker")
    parser.add_argument("--repeats", type=int, default=5, help="samples per side, of which the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    # One core each, so that the numbers are per core.
    parser.set_defaults(device="cpu", threads=1, dtype="uint8")
    args = parser.parse_args()
    if (args.images is None) != (args.annotations is None):
        parser.error("give both --images and --annotations, or neither")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    about = describe(args)
    print(f"\nimages per second and core\n{HEADER}")
    with tempfile.TemporaryDirectory() as folder:
        images = args.images or Path(folder)
        annotations = args.annotations or draw_set(images, args.pictures, args.seed)
        rows = [row for size in args.sizes for row in measure(annotations, images, size, args)]
    write(args.output, {**about, "results": rows})


if __name__ == "__main__":
    main()
