"""What one would want to know of a data set before training on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelenc.data.statistics import SetStatistics

# Below this many boxes a detector learns a class badly, and its AP says little.
FEW_BOXES = 30
_STRONG_IMBALANCE = 50
_DOMINANT_SHARE = 0.8
_TINY_SHARE = 0.05
_SHOWN_NAMES = 10


def dataset_advice(sets: Sequence[SetStatistics]) -> list[str]:
    """Sentences on classes that are rare, missing or dominant, and on images without boxes.

    Args:
        sets: the training sets and the sets to test on; those of one kind are counted together, and
            together only where they have the same classes.
    """
    found: list[str] = []
    training = [part for part in sets if part.training]
    testing = [part for part in sets if not part.training]
    for parts in (training, testing):
        if parts and all(part.class_names == parts[0].class_names for part in parts):
            found += _class_advice(parts, absent=parts[0].training or not training)
    if training and testing and training[0].class_names == testing[0].class_names:
        found += _missing_in_one(training, testing)
    for part in sets:
        if part.num_images and part.num_empty > part.num_images / 2:
            purpose = ": training leaves them out" if part.training else ""
            found.append(f"{part.name}: {part.num_empty} of {part.num_images} images have no box{purpose}.")
    return found


def small_box_advice(
    part: SetStatistics, resize: tuple[int, int], smallest_side: float, reason: str
) -> str | None:
    """A sentence if many boxes are too small for the detector; None otherwise.

    Args:
        part: a training set.
        resize: (MIN_SIZE, MAX_SIZE) in pixels.
        smallest_side: square root of an area, in pixels of the resized image; smaller boxes suit nothing.
        reason: what `smallest_side` means, to stand in brackets.
    """
    sides = part.resized_sides(*resize)
    few = int((sides < smallest_side).sum())
    if not few or few < _TINY_SHARE * len(sides):
        return None
    return (
        f"{part.name}: {few} of {part.num_boxes} boxes ({few / part.num_boxes:.0%}) are smaller than "
        f"{smallest_side:.3g} pixels (square root of the area) when the shorter side of the image is "
        f"{resize[0]} ({reason}). Larger images (INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN) find more of "
        "them, and take longer."
    )


def _class_advice(parts: Sequence[SetStatistics], absent: bool) -> list[str]:
    names, where = parts[0].class_names, "+".join(part.name for part in parts)
    boxes = np.sum([part.class_boxes for part in parts], axis=0)
    total, found = int(boxes.sum()), []
    if not total:
        return []
    empty = [name for name, n in zip(names, boxes, strict=True) if n == 0]
    if empty and absent:
        found.append(f"{where}: {_count(empty, 'class')} without a box: {_list(empty)}.")
    if not parts[0].training:
        return found
    order = np.argsort(boxes, kind="stable")
    rare = [f"{names[i]} ({boxes[i]})" for i in order if 0 < boxes[i] < FEW_BOXES]
    if rare:
        found.append(
            f"{where}: {_count(rare, 'class')} with fewer than {FEW_BOXES} boxes, too few to learn well: "
            f"{_list(rare)}."
        )
    most, least = order[-1], next(i for i in order if boxes[i])
    if len(names) > 2 and boxes[most] > _DOMINANT_SHARE * total:
        found.append(
            f"{where}: {boxes[most] / total:.0%} of the boxes are {names[most]}. Look at the AP of each "
            "class, not only at the mean."
        )
    elif boxes[most] > _STRONG_IMBALANCE * boxes[least]:
        found.append(
            f"{where}: {names[most]} has {boxes[most] / boxes[least]:.0f} times as many boxes as "
            f"{names[least]}. Look at the AP of each class, not only at the mean."
        )
    return found


def _missing_in_one(training: Sequence[SetStatistics], testing: Sequence[SetStatistics]) -> list[str]:
    names = training[0].class_names
    trained = np.sum([part.class_boxes for part in training], axis=0) > 0
    found = []
    for part in testing:
        if part.class_names != names or not part.num_boxes:
            continue
        tested = part.class_boxes > 0
        untrained = [name for name, only in zip(names, tested & ~trained, strict=True) if only]
        if untrained:
            found.append(
                f"{part.name} tests on {_list(untrained)}, of which there is no training box: "
                "AP 0 for sure. Split the images anew."
            )
        untested = [name for name, only in zip(names, trained & ~tested, strict=True) if only]
        if untested:
            found.append(f"{part.name} has no box of {_list(untested)}: AP says nothing about it.")
    return found


def _count(items: Sequence[str], noun: str) -> str:
    return f"1 {noun}" if len(items) == 1 else f"{len(items)} {noun}es"


def _list(items: Sequence[str]) -> str:
    rest = f" and {len(items) - _SHOWN_NAMES} more" if len(items) > _SHOWN_NAMES else ""
    return ", ".join(items[:_SHOWN_NAMES]) + rest
