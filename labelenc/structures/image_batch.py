"""ImageBatch: images of different sizes in one padded tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ImageBatch:
    """A padded batch.

    Attributes:
        tensors: (N, 3, H, W), uint8 as loaded or float32 as the model takes it. Images lie in the top left
            corner; the rest is zero.
        image_sizes: ``(height, width)`` of each image without its padding.
    """

    def __init__(self, tensors: Tensor, image_sizes: Sequence[tuple[int, int]]) -> None:
        if tensors.ndim != 4 or len(image_sizes) != tensors.shape[0]:
            raise ValueError(f"{tuple(tensors.shape)} tensor does not fit {len(image_sizes)} image sizes")
        self.tensors = tensors
        self.image_sizes = [(int(h), int(w)) for h, w in image_sizes]

    def __len__(self) -> int:
        return len(self.image_sizes)

    @classmethod
    def from_tensors(cls, images: Sequence[Tensor], size_divisibility: int = 0) -> ImageBatch:
        """Pad (3, h, w) images of one dtype at the right and bottom to their largest height and width,
        rounded up to a multiple of ``size_divisibility`` (0 or 1: not rounded)."""
        height = max(image.shape[1] for image in images)
        width = max(image.shape[2] for image in images)
        step = max(size_divisibility, 1)
        height, width = -(-height // step) * step, -(-width // step) * step
        batch = images[0].new_zeros((len(images), images[0].shape[0], height, width))
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]].copy_(image)
        return cls(batch, [(image.shape[1], image.shape[2]) for image in images])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        return ImageBatch(self.tensors.to(device, non_blocking=non_blocking), self.image_sizes)

    def pin_memory(self) -> ImageBatch:
        return ImageBatch(self.tensors.pin_memory(), self.image_sizes)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until ``stream`` is done with it; see `torch.Tensor.record_stream`."""
        self.tensors.record_stream(stream)

    def flip_left_right(self) -> ImageBatch:
        """Mirror every image within its own width; the padding stays at the right and bottom."""
        flipped = torch.zeros_like(self.tensors)
        for slot, image, (height, width) in zip(flipped, self.tensors, self.image_sizes, strict=True):
            slot[:, :height, :width] = image[:, :height, :width].flip(-1)
        return ImageBatch(flipped, self.image_sizes)

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> ImageBatch:
        """``(pixel - mean) / std`` per channel in float32, with the padding left at exactly zero."""
        mean_tensor, std_tensor = (_per_channel(values, self.tensors.device) for values in (mean, std))
        pixels = (self.tensors.to(torch.float32) - mean_tensor) / std_tensor
        for image, (height, width) in zip(pixels, self.image_sizes, strict=True):
            image[:, height:, :] = 0
            image[:, :, width:] = 0
        return ImageBatch(pixels, self.image_sizes)


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(1, C, 1, 1) float32, filled on the device: a copy of a list would make the host wait for a GPU."""
    channels = [torch.full((1, 1, 1), value, dtype=torch.float32, device=device) for value in values]
    return torch.stack(channels, dim=1)
