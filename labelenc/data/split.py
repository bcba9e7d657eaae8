"""Division of images into two parts with equal shares of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def stratified_split(classes: Sequence[Sequence[int]], share: float, seed: int) -> np.ndarray:
    """Choose images for validation so that each class has its share there.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
    ECML PKDD 2011): the images of the class with the fewest images left are given out first, each to the
    part that lacks most of that class. Every class of two images or more is wanted in both parts, however
    small the share is; where that fails because classes share their images, single images change sides.

    Args:
        classes: for each image the numbers (>= 0) of the classes in it, each once.
        share: of the images, 0 <= share < 1.
        seed: decides between images that are alike.

    Returns:
        bool (M,), True for validation; of two images or more, some are in each part. The same arguments
        give the same result.
    """
    validation = np.zeros(len(classes), dtype=bool)
    if share <= 0 or len(classes) < 2:
        return validation
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed)).tolist()
    members: dict[int, list[int]] = {}
    for image in order:
        for label in classes[image]:
            members.setdefault(label, []).append(image)
    # What each part still lacks: [training, validation].
    lacks = {label: _wanted(len(images), share) for label, images in members.items()}
    room = _wanted(len(classes), share)
    waiting = {label: len(images) for label, images in members.items()}
    placed = np.zeros(len(classes), dtype=bool)

    def place(image: int, part: int) -> None:
        validation[image], placed[image] = part == 1, True
        room[part] -= 1
        for label in classes[image]:
            lacks[label][part] -= 1
            waiting[label] -= 1

    while waiting:
        label = min(waiting, key=lambda one: (waiting[one], one))
        for image in members[label]:
            if not placed[image]:
                place(image, _needier(lacks[label], room))
        del waiting[label]
        # Those that share all their images with rarer classes are done, too.
        waiting = {other: left for other, left in waiting.items() if left}
    for image in order:
        if not placed[image]:
            place(image, int(room[1] > room[0]))
    _mend(classes, members, validation)
    if validation.all() or not validation.any():
        # So few images that no class could decide.
        validation[order[0]] ^= True
    return validation


def _wanted(count: int, share: float) -> list[float]:
    wanted = share * count
    if count >= 2:
        wanted = min(max(wanted, 1.0), count - 1.0)
    return [count - wanted, wanted]


def _needier(lacks: list[float], room: list[float]) -> int:
    return int((lacks[1], room[1]) > (lacks[0], room[0]))


def _mend(classes: Sequence[Sequence[int]], members: dict[int, list[int]], validation: np.ndarray) -> None:
    """Move images to the part that lacks a class, where no other class loses its last image by that."""
    inside = {label: int(validation[images].sum()) for label, images in members.items()}
    for label in sorted(members):
        if len(members[label]) < 2 or 0 < inside[label] < len(members[label]):
            continue
        to_validation = inside[label] == 0
        for image in members[label]:
            left = (
                (len(members[other]) - inside[other] if to_validation else inside[other])
                for other in classes[image]
            )
            if all(count > 1 for count in left):
                validation[image] = to_validation
                for other in classes[image]:
                    inside[other] += 1 if to_validation else -1
                break
