"""What the data layer produces and the training loop, the evaluator and the pipeline consume."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from labelenc.structures.boxes import BoxList
from labelenc.structures.image_batch import ImageBatch


@dataclass
class Batch:
    """One process's share of a batch.

    ``images`` holds uint8 pixels; ``targets`` are in the coordinates of the resized images, with the field
    ``labels``, and may be empty; ``original_sizes`` are the (width, height) of the image files.
    """

    images: ImageBatch
    targets: list[BoxList]
    image_ids: list[int]
    original_sizes: list[tuple[int, int]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return Batch(
            self.images.to(device, non_blocking),
            [target.to(device, non_blocking) for target in self.targets],
            self.image_ids,
            self.original_sizes,
        )

    def pin_memory(self) -> Batch:
        return Batch(
            self.images.pin_memory(),
            [target.pin_memory() for target in self.targets],
            self.image_ids,
            self.original_sizes,
        )


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that outlive its images.

    ``categories`` lists (category id in the annotation file, name); the position, counted from 1, is the
    label that the model sees. ``annotation_file`` is None where the annotations are not a COCO file.
    """

    name: str
    categories: tuple[tuple[int, str], ...]
    annotation_file: str | None
    num_images: int

    @property
    def num_classes(self) -> int:
        return len(self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        return tuple(category_id for category_id, _ in self.categories)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.categories)
