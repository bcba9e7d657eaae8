"""The worker processes of loaders: they end when training ends them, and fail so that it hears of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from torch.utils.data import get_worker_info

from labelenc.structures import Batch

# Seconds without a batch, after which the workers are taken to be stuck.
TIMEOUT = 900.0


def shield_worker() -> None:
    """Let the main process alone decide when this worker ends.

    A terminal, a launcher or a scheduler signals all processes of a job. Training then saves its state, which
    it could not do if its workers had gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where the sender of a signal can't be told, the worker keeps the usual reaction.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_main_process, daemon=True).start()


def _obey_main_process() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


def shared_in_worker(batch: Batch) -> Batch:
    """The batch; in a worker, its pixels are in shared memory afterwards.

    They would get there anyway, but in a thread of the queue, whose errors are lost: without shared memory,
    training would wait for the batch for ever.
    """
    if get_worker_info() is not None:
        for images in (batch.images, *(batch.rescaled or ())):
            images.tensors.share_memory_()
    return batch
