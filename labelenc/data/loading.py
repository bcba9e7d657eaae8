"""Loaders: samples to padded batches, in worker processes or without, with errors that stay readable."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from labelenc.data import workers
from labelenc.data.annotations import DataError
from labelenc.data.coco import Sample
from labelenc.data.samplers import Draw
from labelenc.structures import Batch, ImageBatch

logger = logging.getLogger(__name__)

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class _Deferring(Dataset[Sample | DataError]):
    """Hands a DataError over as a value; raised in a worker, it would arrive buried in a traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, item: int | Draw) -> Sample | DataError:
        try:
            return self.dataset[item]
        except DataError as error:
            return error


def collate(samples: Sequence[Sample | DataError], size_divisibility: int) -> Batch | DataError:
    """Pad samples to one batch; the first error among them takes its place."""
    good = [sample for sample in samples if isinstance(sample, Sample)]
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    rescaled = zip(*(sample.rescaled or [] for sample in good), strict=True)
    batch = Batch(
        images=ImageBatch.from_tensors([sample.image for sample in good], size_divisibility),
        targets=[sample.target for sample in good],
        image_ids=[sample.image_id for sample in good],
        original_sizes=[sample.original_size for sample in good],
        rescaled=[ImageBatch.from_tensors(same_size, size_divisibility) for same_size in rescaled] or None,
    )
    return workers.shared_in_worker(batch)


class _Loader(DataLoader):
    """A DataLoader that raises the errors its workers deferred."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # Workers are not persistent and no name holds their iterator, so that an error ends them at once;
        # held by the error's traceback, they would be waited for until they time out.
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _init_worker(_worker: int) -> None:
    workers.shield_worker()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Garbage collections write to every object they look at, which would copy the parent's memory.
    gc.freeze()


def make_loader(
    dataset: Dataset[Sample], sampler: Sampler, num_workers: int, size_divisibility: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Batches of `dataset`, padded to a multiple of `size_divisibility`.

    Args:
        dataset: of samples; its DataErrors come out of the loader as they are.
        sampler: gives the items of each batch.
        num_workers: processes that decode; 0 decodes in the caller's.
        size_divisibility: see `ImageBatch.from_tensors`.
        pin_memory: page-locked batches, which a GPU can fetch by itself.
    """
    return _Loader(
        _Deferring(dataset),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=functools.partial(collate, size_divisibility=size_divisibility),
        pin_memory=pin_memory,
        worker_init_fn=_init_worker,
        timeout=workers.TIMEOUT if num_workers else 0,
        # Its own generator: the loader's draw for its workers would otherwise move the global random state.
        generator=torch.Generator().manual_seed(0),
    )


@functools.cache
def fitting_workers(wanted: int, on_gpu: bool) -> int:
    """At most `wanted` worker processes, as many as the machine has cores for; logged once.

    The cores are shared evenly among the training processes of this machine (LOCAL_WORLD_SIZE, which
    launchers set). On a CPU training itself needs them, so half of a process's share is for its workers.
    """
    cores, processes = available_cores(), max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    share = cores // processes
    number = min(wanted, max(share, 1) if on_gpu else share // 2)
    logger.info(
        "%d data workers in each process (DATALOADER.NUM_WORKERS is %d; %d cores for %d processes%s)",
        number,
        wanted,
        cores,
        processes,
        "" if on_gpu else ", which train on the CPU",
    )
    return number


def available_cores() -> int:
    """CPU cores that this process may use: its affinity and, in containers, its quota (control groups v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(min(cores, int(quota) // int(period)), 1)
    except (OSError, ValueError):
        # No such file, or "max" for no limit.
        return cores
