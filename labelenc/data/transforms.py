"""From a decoded image and its boxes to what the network sees: resize, random size, random flip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from labelenc.structures import BoxList


def resized_size(width: int, height: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Size (width, height) after the resize rule of maskrcnn-benchmark.

    The shorter side becomes `min_size`; where the longer one would pass `max_size`, the shorter side is
    chosen (rounded) so that it doesn't. The longer side is rounded down.
    """
    short, long = min(width, height), max(width, height)
    if long / short * min_size > max_size:
        min_size = round(max_size * short / long)
    min_size = max(min_size, 1)
    if short == min_size:
        return width, height
    scaled = int(min_size * long / short)
    return (min_size, scaled) if width < height else (scaled, min_size)


@dataclass(frozen=True)
class Transform:
    """Resize, flip and channel order of one data set.

    Attributes:
        min_sizes: shorter sides in pixels to choose from, uniformly.
        max_size: longest allowed longer side in pixels.
        flip_probability: of a left-right flip.
        bgr: keep the decoder's BGR; otherwise RGB.
    """

    min_sizes: Sequence[int]
    max_size: int
    flip_probability: float = 0.0
    bgr: bool = True

    def __call__(
        self, image: Tensor, target: BoxList, generator: torch.Generator | None
    ) -> tuple[Tensor, BoxList]:
        """Transform one image.

        Args:
            image: uint8 (3, h, w), BGR; fastest as a view of (h, w, 3), which decoders give and torchvision
                resizes several times faster.
            target: boxes in the coordinates of `image`.
            generator: source of every random choice; None is for transforms that have none to make.

        Returns:
            uint8 (3, h', w'), contiguous, and the boxes in its coordinates.
        """
        height, width = image.shape[-2:]
        new_width, new_height = resized_size(width, height, self._min_size(generator), self.max_size)
        if (new_width, new_height) != (width, height):
            image = F.resize(image, [new_height, new_width], antialias=True)
            target = target.resize((new_width, new_height))
        image = self._planes(image)
        if self.flip_probability > 0 and torch.rand((), generator=generator).item() < self.flip_probability:
            image = image.flip(-1)
            target = target.flip_left_right()
        return image, target

    def _planes(self, image: Tensor) -> Tensor:
        """The channels in their order, contiguous; OpenCV takes pixels apart faster than a strided copy."""
        planes = torch.empty(image.shape, dtype=torch.uint8)
        ordered = [plane.numpy() for plane in planes]
        cv2.split(image.permute(1, 2, 0).numpy(), ordered if self.bgr else ordered[::-1])
        return planes

    def _min_size(self, generator: torch.Generator | None) -> int:
        if len(self.min_sizes) == 1:
            return self.min_sizes[0]
        return self.min_sizes[int(torch.randint(len(self.min_sizes), (), generator=generator))]
