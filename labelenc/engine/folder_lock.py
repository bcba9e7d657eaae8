"""One training at a time in a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from labelenc.engine.distributed import on_main
from labelenc.engine.files import CheckpointError

logger = logging.getLogger(__name__)

LOCK_FILE = "in_use.lock"
# Data workers of a run that was killed hold its lock until they notice, which takes them some seconds.
PATIENCE = 30.0


@contextlib.contextmanager
def sole_use(folder: str | Path) -> Iterator[None]:
    """Keep other trainings out of ``folder``, which two would fill with a mixture of both.

    All processes must enter; rank 0 holds the lock, which ends with the process however it ends.

    Raises:
        CheckpointError: on every process, if another training holds it for ``PATIENCE`` seconds.
    """
    lock = FileLock(Path(folder) / LOCK_FILE)

    def take() -> None:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise CheckpointError(
                f"another training is running in {folder}; wait for it, end it, or choose another OUTPUT_DIR"
            ) from None
        # Some network file systems have no locks; that is no reason not to train.
        except (NotImplementedError, OSError) as error:
            logger.warning("%s cannot be locked against a second training: %s", folder, error)

    on_main(take)
    try:
        yield
    finally:
        lock.release()
