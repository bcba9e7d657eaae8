"""Batches on the device, the next one on its way there while the current one is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch

from labelenc.structures import Batch

T = TypeVar("T")


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches of a loader on ``device``, in their order.

    On a GPU the copies run on a stream of their own, one batch ahead of the computation, if the loader pins
    its memory; the host waits for none of them. On the CPU these are the batches themselves.

    Args:
        batches: on the CPU. One more is taken than was handed out; an error of it comes when its turn does.
        device: of the computation, which runs on the stream that is current when a batch is handed out.
    """
    if device.type != "cuda":
        return batches
    side = torch.cuda.Stream(device)

    def send(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return batch.to(device, non_blocking=True), side.record_event()

    def receive(batch: Batch, copied: torch.cuda.Event) -> Batch:
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        # The memory belongs to the side stream, which must not reuse it before the computation is done.
        batch.record_stream(computing)
        return batch

    return (receive(*sent) for sent in one_ahead(map(send, batches)))


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each fetched before the one in front of it is handed out.

    An error while fetching is raised in place of the item that it concerns, not earlier.
    """
    following = _fetch(items)
    while not isinstance(following, StopIteration):
        if isinstance(following, Exception):
            raise following
        current, following = following, _fetch(items)
        yield current


def _fetch(items: Iterator[T]) -> T | Exception:
    try:
        return next(items)
    except Exception as error:
        return error
