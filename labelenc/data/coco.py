"""Images and boxes of COCO-format sets as samples; Pascal VOC folders come here in the same form."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from labelenc.data.annotations import Annotations, DataError
from labelenc.data.samplers import Draw
from labelenc.data.transforms import Transform
from labelenc.structures import BoxList, DatasetInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image as the network gets it.

    Attributes:
        image: uint8 (3, h, w).
        target: boxes in the coordinates of `image`, field "labels".
        image_id: id in the annotation file.
        original_size: (width, height) of the file.
        rescaled: the image at other sizes, uint8 (3, h', w') each.
    """

    image: Tensor
    target: BoxList
    image_id: int
    original_size: tuple[int, int]
    rescaled: list[Tensor] | None = None


def decode_image(path: str, upright: bool = False) -> np.ndarray | None:
    """Decode a file to uint8 (h, w, 3), BGR; None where OpenCV can't.

    An EXIF rotation is not applied unless ``upright``: COCO's boxes and sizes are in the orientation of the
    stored pixels, and so they were read when the published weights were trained.

    Raises:
        OSError: the file is missing or can't be read.
    """
    encoded = np.fromfile(path, dtype=np.uint8)
    if encoded.size == 0:
        return None
    try:
        orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(encoded, cv2.IMREAD_COLOR | orientation)
    except cv2.error:
        return None


def read_image(path: str, size: tuple[int, int], where: str) -> np.ndarray:
    """Decode a file that must have `size` (width, height); a DataError begins with `where`."""
    try:
        image = decode_image(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{where}: the file {path} is missing; put it there or take the image out of the annotations"
        ) from error
    except OSError as error:
        raise DataError(f"{where}: the file {path} cannot be read: {error}") from error
    if image is None:
        raise DataError(
            f"{where}: the file {path} cannot be decoded as an image; copy it again or take it "
            "out of the annotations"
        )
    found = (image.shape[1], image.shape[0])
    if found != size:
        raise DataError(f"{where}: the file {path} has {size_difference(found, size)}")
    return image


def size_difference(found: tuple[int, int], stated: tuple[int, int]) -> str:
    """Say how an image's size differs from the annotations, and what to do. Sizes are (width, height)."""
    text = (
        f"{found[0]} x {found[1]} pixels, but the annotations say {stated[0]} x {stated[1]}, "
        "so its boxes would be wrong; "
    )
    if found == stated[::-1]:
        return (
            text + "if the file carries an EXIF rotation, store it rotated (labelenc reads the stored pixels)"
        )
    return text + "use the images that were annotated, or correct the annotations"


class CocoDataset(Dataset[Sample]):
    """One data set: images on disk and their annotations.

    Training leaves out the images without a usable box (counted in the log); testing keeps all.

    Args:
        annotations: of the set; a DataError where they have a fault that stops training.
        image_dir: folder that the file names are relative to.
        transform: applied to every image and its boxes.
        training: leave out images without boxes.
        annotation_file: the COCO file, for the evaluator; None where there is none.
        rescale: further transforms, without random choices, whose images samples carry as `rescaled`.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str,
        transform: Transform,
        training: bool,
        annotation_file: str | None = None,
        rescale: Sequence[Transform] | None = None,
    ) -> None:
        self._annotations = annotations.require_sound()
        self.image_dir, self.transform, self.rescale = image_dir, transform, rescale
        counts = np.diff(annotations.offsets)
        self._rows = np.flatnonzero(counts > 0) if training else np.arange(len(annotations))
        # An array, as all that is kept per image: looking at a Python object counts a reference, and by that
        # a worker process would get a copy of its memory page, in the end of all of them.
        self.image_ids = annotations.image_ids[self._rows]
        self.info = DatasetInfo(
            name=annotations.dataset,
            categories=annotations.categories,
            annotation_file=annotation_file,
            num_images=len(self),
        )
        if training and not annotations.annotated:
            raise DataError(
                f"{annotations.dataset}: {annotations.source} has no 'annotations', so it cannot be trained "
                "on; name a labelled set in DATASETS.TRAIN"
            )
        if training and not len(self):
            raise DataError(
                f"{annotations.dataset}: none of the {len(annotations)} images in {annotations.source} has a "
                "usable box, so there is nothing to train on"
            )
        self._log(len(annotations) - len(self))

    def _log(self, dropped_images: int) -> None:
        name, found = self.info.name, self._annotations
        logger.info(
            "%s: %d images, %d boxes, %d classes", name, len(self), len(found.labels), self.info.num_classes
        )
        if dropped_images:
            logger.info("%s: %d images without a usable box are left out of training", name, dropped_images)
        if found.num_crowd:
            logger.info("%s: %d crowd (or difficult) boxes are not used as targets", name, found.num_crowd)

    def __len__(self) -> int:
        return len(self._rows)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, from the annotations."""
        width, height = self._annotations.sizes[self._rows[index]].tolist()
        return width, height

    def aspect_groups(self) -> np.ndarray:
        """int8 (len(self),), 1 for each image at least as high as wide, else 0."""
        sizes = self._annotations.sizes[self._rows]
        return (sizes[:, 1] >= sizes[:, 0]).astype(np.int8)

    def box_counts(self) -> np.ndarray:
        """int (len(self),), the boxes of each image, crowds not counted."""
        return np.diff(self._annotations.offsets)[self._rows]

    def image_path(self, index: int) -> str:
        return str(Path(self.image_dir, self._annotations.file_name(self._rows[index])))

    def targets(self, index: int) -> BoxList:
        """Ground truth of one image in the coordinates of the file, without crowd boxes; "labels" int64 in
        1..C.
        """
        row = self._rows[index]
        span = slice(self._annotations.offsets[row], self._annotations.offsets[row + 1])
        target = BoxList(
            torch.from_numpy(self._annotations.boxes[span].copy()), self.size(index), mode="xyxy"
        )
        target.add_field("labels", torch.from_numpy(self._annotations.labels[span].astype(np.int64)))
        return target

    def __getitem__(self, item: int | Draw) -> Sample:
        """Decode and transform one image; a `Draw` brings the seed of its random choices.

        Raises:
            DataError: the file is missing, unreadable, or has another size than the annotations say.
        """
        index, generator = item, None
        if isinstance(item, Draw):
            index, generator = item.index, torch.Generator().manual_seed(item.seed)
        assert isinstance(index, int)
        image_id, size = int(self.image_ids[index]), self.size(index)
        pixels = read_image(self.image_path(index), size, f"{self.info.name}, image {image_id}")
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        boxes = self.targets(index)
        rescaled = None
        if self.rescale is not None:
            rescaled = [transform(image, boxes, None)[0] for transform in self.rescale]
        image, target = self.transform(image, boxes, generator)
        return Sample(image, target, image_id, size, rescaled)


class ConcatenatedDataset(Dataset[Sample]):
    """Several training sets one after the other; image ids may occur in more than one."""

    def __init__(self, parts: Sequence[CocoDataset]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def aspect_groups(self) -> np.ndarray:
        return np.concatenate([part.aspect_groups() for part in self.parts])

    def __getitem__(self, item: int | Draw) -> Sample:
        index = item.index if isinstance(item, Draw) else item
        number = bisect.bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        local = index - start
        return self.parts[number][Draw(local, item.seed) if isinstance(item, Draw) else local]
