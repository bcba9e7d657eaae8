"""What the data layer produces and the training loop, the evaluator and the pipeline consume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from labelenc.structures.boxes import BoxList
from labelenc.structures.image_batch import ImageBatch


@dataclass
class Batch:
    """One process's share of a batch.

    ``images`` holds uint8 pixels; ``targets`` are in the coordinates of the resized images, with the field
    ``labels``, and may be empty; ``original_sizes`` are the (width, height) of the image files.
    ``rescaled`` holds the same images at other sizes, one batch per size, for test-time augmentation.
    """

    images: ImageBatch
    targets: list[BoxList]
    image_ids: list[int]
    original_sizes: list[tuple[int, int]]
    rescaled: list[ImageBatch] | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._with_tensors(lambda holder: holder.to(device, non_blocking))

    def pin_memory(self) -> Batch:
        return self._with_tensors(lambda holder: holder.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of every tensor until ``stream`` is done with it, though another one owns it."""
        for holder in (self.images, *self.targets, *(self.rescaled or ())):
            holder.record_stream(stream)

    def _with_tensors(self, change: Callable[[Any], Any]) -> Batch:
        """The batch after ``change`` of everything in it that holds tensors."""
        return Batch(
            change(self.images),
            [change(target) for target in self.targets],
            self.image_ids,
            self.original_sizes,
            None if self.rescaled is None else [change(images) for images in self.rescaled],
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
