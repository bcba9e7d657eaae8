"""Which images form which training batch, as a pure function of the seed and the iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

_MASK = 2**64 - 1


@dataclass(frozen=True)
class Draw:
    """One element of a training batch: the image and the seed of its augmentation."""

    index: int
    seed: int


def derive_seed(seed: int, stream: int, position: int) -> int:
    """A well-mixed 63-bit seed for `position` of a numbered `stream` (splitmix64; Steele et al. 2014)."""
    value = seed & _MASK
    for part in (stream, position):
        value = (value + 0x9E3779B97F4A7C15 * (part + 1)) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        value ^= value >> 31
    return value >> 1


class TrainBatchSampler(Sampler[list[Draw]]):
    """Batches of iterations `start_iteration` to `max_iter`, this process's share of each.

    An endless stream of random permutations of all images is dealt into groups; a group that reaches
    `batch_size` becomes the next global batch, of which process `rank` takes every `num_replicas`-th element
    and deals these to its micro-batches. The global batches therefore depend on neither the number of
    processes and micro-batches nor the iteration at which a run was resumed.

    Args:
        groups: the group of each image; None puts all into one.
        num_images: length of the data set.
        batch_size: images of one global batch, a multiple of `num_replicas * micro_batches`.
        seed: of order and augmentation.
        micro_batches: how many come for each iteration.
    """

    def __init__(
        self,
        groups: Sequence[int] | None,
        num_images: int,
        batch_size: int,
        seed: int,
        start_iteration: int,
        max_iter: int,
        num_replicas: int = 1,
        rank: int = 0,
        micro_batches: int = 1,
    ) -> None:
        if batch_size % (num_replicas * micro_batches) or batch_size <= 0:
            raise ValueError(
                f"a batch of {batch_size} images cannot be split over {num_replicas} processes, "
                f"{micro_batches} micro-batches each"
            )
        if num_images <= 0:
            raise ValueError("there are no images to draw from")
        if groups is not None and len(groups) != num_images:
            raise ValueError(f"{len(groups)} groups for {num_images} images")
        self.groups, self.num_images, self.batch_size, self.seed = groups, num_images, batch_size, seed
        self.start_iteration, self.max_iter = start_iteration, max_iter
        self.num_replicas, self.rank, self.micro_batches = num_replicas, rank, micro_batches

    def __len__(self) -> int:
        return max(self.max_iter - self.start_iteration, 0) * self.micro_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        for iteration, batch in enumerate(self._global_batches()):
            if iteration >= self.max_iter:
                return
            if iteration >= self.start_iteration:
                share = batch[self.rank :: self.num_replicas]
                draws = [Draw(index, derive_seed(self.seed, 1, position)) for index, position in share]
                yield from (draws[number :: self.micro_batches] for number in range(self.micro_batches))

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        """Endless global batches of (image, position in the stream)."""
        waiting: dict[int, list[tuple[int, int]]] = {}
        epoch = 0
        while True:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, 0, epoch))
            order = torch.randperm(self.num_images, generator=generator).tolist()
            for position, index in enumerate(order, start=epoch * self.num_images):
                group = 0 if self.groups is None else self.groups[index]
                batch = waiting.setdefault(group, [])
                batch.append((index, position))
                if len(batch) == self.batch_size:
                    del waiting[group]
                    yield batch
            epoch += 1


class TestBatchSampler(Sampler[list[int]]):
    """Every image once over all processes, `batch_size` at a time.

    Process `rank` takes every `num_replicas`-th image. With `groups`, images of one group stand together, so
    that few batches mix them. No image is repeated to make the shares even: processes may have different
    numbers of batches, one of them none.
    """

    __test__ = False

    def __init__(
        self,
        groups: Sequence[int] | None,
        num_images: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        order = (
            sorted(range(num_images), key=lambda i: groups[i])
            if groups is not None
            else list(range(num_images))
        )
        share = order[rank::num_replicas]
        self.batches = [share[i : i + batch_size] for i in range(0, len(share), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
