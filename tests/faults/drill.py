"""The small run of tests/engine/tiny.py as a program that drills disturb; alone or as one of several.

python drill.py DIR [--delay SECONDS] [--slow-disk SECONDS] [--die-at K] [--hang-at K] [--timeout SECONDS]

--die-at and --hang-at kill or stop the last rank in update K, once: a file in DIR remembers.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from labelenc.engine import close_distributed, distributed, explained_faults, setup_distributed, setup_logging
from labelenc.errors import readable_errors
from labelenc.structures import Batch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
import tiny

ITERATIONS = 24


class Heavy(tiny.Model):
    """Long enough to write that a kill finds the file half written."""

    def __init__(self) -> None:
        super().__init__()
        self.ballast = nn.Buffer(torch.zeros(300_000))


def disturbed(options: argparse.Namespace, rank: int, world_size: int) -> Callable[..., dict[str, Tensor]]:
    marker = options.dir / "disturbed"

    def losses(model: Callable[..., dict[str, Tensor]], batch: Batch, k: int) -> dict[str, Tensor]:
        if rank == world_size - 1 and k in (options.die_at, options.hang_at) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL if k == options.die_at else signal.SIGSTOP)
        return tiny.model_losses(model, batch, k)

    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--slow-disk", type=float, default=0.0)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--hang-at", type=int)
    parser.add_argument("--timeout", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.timeout is not None:
        distributed.TIMEOUT = timedelta(seconds=options.timeout)
    if options.slow_disk:
        flush = os.fsync
        os.fsync = lambda file: (time.sleep(options.slow_disk), flush(file))
        tiny.Model = Heavy
    with readable_errors():
        process = setup_distributed("cpu")
        setup_logging(options.dir, process.rank)
        losses = disturbed(options, process.rank, process.world_size)
        with explained_faults(process):
            tiny.run(options.dir, ITERATIONS, process=process, losses=losses, delay=options.delay)
        close_distributed()


if __name__ == "__main__":
    main()
