"""What a data set is made of, in numbers: from its annotations alone, no image is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelenc.data.annotations import DROPPED, Annotations
from labelenc.data.transforms import resized_size

# COCO's borders between small, medium and large boxes: the square root of the area in pixels.
SMALL, LARGE = 32, 96


@dataclass(frozen=True, eq=False)
class SetStatistics:
    """The numbers of one set. "Boxes" are the usable ones: neither crowd nor faulty.

    Attributes:
        name: of the set.
        training: it is trained on.
        class_names: in label order, C of them.
        num_crowd: crowd (VOC: difficult) boxes, in no other number here.
        num_dropped: faulty boxes that are left out, in no other number here.
        class_boxes: int64 (C,), boxes of each class.
        class_images: int64 (C,), images with at least one box of the class.
        boxes_per_image: int64 (M,).
        image_sizes: int32 (M, 2), width and height in pixels.
        sides: float64 (K,), square root of each box's area, in pixels of the image file. The area is COCO's
            width x height; COCO's evaluation takes "area" of the file, for COCO that of the mask.
        aspect_ratios: float64 (K,), width / height.
        image_of_box: int64 (K,), row of each box's image.
    """

    name: str
    training: bool
    class_names: tuple[str, ...]
    num_crowd: int
    num_dropped: int
    class_boxes: np.ndarray
    class_images: np.ndarray
    boxes_per_image: np.ndarray
    image_sizes: np.ndarray
    sides: np.ndarray
    aspect_ratios: np.ndarray
    image_of_box: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.boxes_per_image)

    @property
    def num_boxes(self) -> int:
        return len(self.sides)

    @property
    def num_empty(self) -> int:
        """Images without a box."""
        return int((self.boxes_per_image == 0).sum())

    @property
    def size_counts(self) -> tuple[int, int, int]:
        """Boxes that are small (area < 32^2 pixels), medium, and large (area >= 96^2), as COCO has it."""
        small, large = int((self.sides < SMALL).sum()), int((self.sides >= LARGE).sum())
        return small, self.num_boxes - small - large, large

    def resized_sides(self, min_size: int, max_size: int) -> np.ndarray:
        """`sides` in pixels of the images as the network gets them, (K,); see `resized_size`."""
        return self.sides * resize_factors(self.image_sizes, min_size, max_size)[self.image_of_box]


def set_statistics(annotations: Annotations, training: bool) -> SetStatistics:
    """Count one set."""
    counts = np.diff(annotations.offsets)
    image_of_box = np.repeat(np.arange(len(annotations)), counts)
    num_classes = len(annotations.categories)
    classes = annotations.labels.astype(np.int64) - 1
    # Each (image, class) once.
    pairs = np.unique(image_of_box * max(num_classes, 1) + classes)
    extent = annotations.boxes[:, 2:].astype(np.float64) - annotations.boxes[:, :2] + 1
    dropped = [p for p in annotations.problems if p.action == DROPPED and p.annotation_id is not None]
    return SetStatistics(
        name=annotations.dataset,
        training=training,
        class_names=tuple(name for _, name in annotations.categories),
        num_crowd=annotations.num_crowd,
        num_dropped=len(dropped),
        class_boxes=np.bincount(classes, minlength=num_classes),
        class_images=np.bincount(pairs % max(num_classes, 1), minlength=num_classes),
        boxes_per_image=counts,
        image_sizes=annotations.sizes,
        sides=np.sqrt(extent.prod(axis=1)),
        aspect_ratios=extent[:, 0] / extent[:, 1],
        image_of_box=image_of_box,
    )


def resize_factors(sizes: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """By how much the resize rule enlarges images of `sizes` (M, 2): float64 (M,), the mean of both axes."""
    different, which = np.unique(sizes, axis=0, return_inverse=True)
    factors = [
        np.sqrt(np.prod(resized_size(int(w), int(h), min_size, max_size)) / (float(w) * float(h)))
        for w, h in different
    ]
    return np.array(factors, dtype=np.float64)[which.reshape(-1)]


def choose_images(annotations: Annotations, count: int, limit: int | None = None) -> np.ndarray:
    """Rows of images that show a set: every class is seen, and the rest lies evenly over the set.

    For each class not yet seen, the rarest first, the image with most unseen classes (then with fewest boxes,
    then the first) is taken.

    Args:
        annotations: of the set.
        count: how many images, if there are so many with boxes.
        limit: at most so many where more than `count` are needed to see every class; None is 2 `count`.

    Returns:
        int64, ascending.
    """
    statistics = set_statistics(annotations, training=False)
    chosen = _cover_classes(annotations, statistics, 2 * count if limit is None else limit) if count else []
    others = np.setdiff1d(np.flatnonzero(statistics.boxes_per_image), chosen)
    wanted = min(max(count - len(chosen), 0), len(others))
    spread = others[np.arange(wanted) * len(others) // max(wanted, 1)]
    return np.sort(np.concatenate([np.array(chosen, dtype=np.int64), spread]))


def _cover_classes(annotations: Annotations, statistics: SetStatistics, limit: int) -> list[int]:
    num_classes = len(annotations.categories)
    pairs = np.unique(statistics.image_of_box * max(num_classes, 1) + annotations.labels.astype(np.int64) - 1)
    images, classes = np.divmod(pairs, max(num_classes, 1))
    by_class = np.argsort(classes, kind="stable")
    ends = np.cumsum(statistics.class_images)
    members = [images[by_class[end - n : end]] for end, n in zip(ends, statistics.class_images, strict=True)]
    unseen = np.bincount(images, minlength=len(annotations))
    seen = np.zeros(num_classes, dtype=bool)
    chosen: list[int] = []
    for label in np.argsort(statistics.class_boxes, kind="stable"):
        if seen[label] or not len(members[label]) or len(chosen) == limit:
            continue
        candidates = members[label]
        order = np.lexsort((candidates, statistics.boxes_per_image[candidates], -unseen[candidates]))
        best = int(candidates[order[0]])
        chosen.append(best)
        for other in classes[np.searchsorted(images, best) : np.searchsorted(images, best, side="right")]:
            if not seen[other]:
                seen[other] = True
                unseen[members[other]] -= 1
    return chosen
