"""What a run tells: the console and log files, metrics.jsonl, TensorBoard, a progress bar on terminals."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from statistics import mean, median
from types import TracebackType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from labelenc.config import ConfigError
from labelenc.engine.files import CheckpointError, replace_file, unwritable

logger = logging.getLogger(__name__)

ROOT = "labelenc"
METRICS_FILE = "metrics.jsonl"
WINDOW = 20


class _ConsoleHandler(logging.Handler):
    """Prints to stdout without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _FileHandler(logging.FileHandler):
    """On a full disk, says so once instead of printing a traceback for every message."""

    def handleError(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL + 1)
        logger.error("cannot write %s any more: %s", self.baseFilename, sys.exc_info()[1])


def setup_logging(output_dir: str | Path | None, rank: int = 0) -> None:
    """Send the messages of this package to the console and, with ``output_dir``, to a file in it.

    Rank 0 writes ``log.txt`` and speaks from INFO on; rank n writes ``log_rank<n>.txt`` and shows only
    errors. A second call replaces the first.
    """
    root = logging.getLogger(ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO)
    console = _ConsoleHandler(logging.INFO if rank == 0 else logging.ERROR)
    console.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    root.addHandler(console)
    if output_dir is not None:
        name = "log.txt" if rank == 0 else f"log_rank{rank}.txt"
        try:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            file = _FileHandler(Path(output_dir) / name, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"OUTPUT_DIR {output_dir} cannot be written to: {error}") from error
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)


def peak_memory() -> float:
    """Peak memory in MiB: of the GPU where one is in use, of this process otherwise."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return 0.0
    # In KiB on Linux, in bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def drop_rows_after(path: Path, iteration: int) -> int:
    """Rewrite the metrics file ``path`` atomically without rows beyond ``iteration`` or torn by a kill.

    Returns:
        The number of lines dropped.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _row_iteration(line, default=iteration + 1) <= iteration]
    content = "".join(f"{line}\n" for line in kept).encode()
    replace_file(path, lambda stream: stream.write(content))
    return len(lines) - len(kept)


def _row_iteration(line: str, default: int) -> int:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return default


class MetricsWriter:
    """Records a run in ``metrics.jsonl``, TensorBoard and the log; a context manager. Silent but on rank 0.

    ``metrics.jsonl`` has one row per update, with ``iteration`` (from 1), ``loss``, each loss by name,
    ``lr``, ``time`` and ``data_time`` (s), ``max_mem`` (MiB), and one per evaluation, with ``iteration`` and
    what the evaluation gave; ``skipped`` marks an update that was left out. TensorBoard gets the same numbers
    every ``log_period`` updates, the console their medians over the last 20 updates and the time left.
    Pictures go to TensorBoard.

    Args:
        output_dir: receives ``metrics.jsonl`` and ``tensorboard/``.
        start_iteration: updates done already; rows beyond, left by a killed run, are dropped.
        max_iter: updates of the whole run.
        log_period: updates between two lines on the console.
        rank: of this process.
    """

    def __init__(
        self, output_dir: str | Path, start_iteration: int, max_iter: int, log_period: int = 20, rank: int = 0
    ) -> None:
        self.enabled = rank == 0
        self._max_iter = max_iter
        self._log_period = log_period
        self._windows: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        if not self.enabled:
            return
        # Importing TensorBoard takes longer than some runs' first iteration; tools that only read need none.
        from torch.utils.tensorboard import SummaryWriter

        self._path = path = Path(output_dir) / METRICS_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                dropped = drop_rows_after(path, start_iteration)
                if dropped:
                    logger.info("dropped %d rows beyond iteration %d from %s", dropped, start_iteration, path)
            self._file = path.open("a", encoding="utf-8", buffering=1)
            self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=start_iteration + 1)
        except OSError as error:
            raise ConfigError(f"OUTPUT_DIR {output_dir} cannot be written to: {error}") from error
        self._bar = tqdm(
            total=max_iter, initial=start_iteration, disable=not sys.stderr.isatty(), dynamic_ncols=True
        )

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing a file on a full disk fails again, which would hide the error.
        with contextlib.suppress(*(CheckpointError,) if error is not None else ()):
            self.close()

    def close(self) -> None:
        """Flush and close everything; may be called twice."""
        if self.enabled:
            self._bar.close()
            with self._writing():
                self._board.close()
            with self._writing():
                self._file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(unwritable(self._path, error)) from error

    def update(
        self, iteration: int, losses: Mapping[str, float], lr: float, time: float, data_time: float
    ) -> None:
        """Record one update.

        Args:
            iteration: updates done, this one included.
            losses: values of the losses, without their sum.
            lr: the learning rate of this update (of the first parameter group).
            time: seconds from one update to the next, of which ``data_time`` were spent waiting for data.
        """
        if not self.enabled:
            return
        row = {"loss": sum(losses.values()), **losses, "lr": lr, "time": time, "data_time": data_time}
        row["max_mem"] = round(peak_memory(), 1)
        self._write({"iteration": iteration, **row})
        for name in ("loss", *losses, "time", "data_time"):
            self._windows[name].append(row[name])
        self._bar.update()
        if iteration % self._log_period == 0 or iteration == self._max_iter:
            with self._writing():
                for name, value in row.items():
                    self._board.add_scalar(f"losses/{name}" if name in losses else name, value, iteration)
            self._speak(iteration, row, list(losses))

    def skipped(self, iteration: int) -> None:
        """Record that update ``iteration`` (from 1) was left out, because its losses were not finite."""
        if self.enabled:
            self._write({"iteration": iteration, "skipped": True})
            self._bar.update()

    def evaluation(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Record what an evaluation after ``iteration`` updates gave; TensorBoard gets its numbers."""
        if not self.enabled:
            return
        self._write({"iteration": iteration, **metrics})
        with self._writing():
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, iteration)
            self._board.flush()

    def images(self, iteration: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Show ``pictures``, uint8 (H, W, 3) in BGR order, by their names in TensorBoard."""
        if not self.enabled:
            return
        with self._writing():
            for name, picture in pictures.items():
                red_first = np.ascontiguousarray(picture[..., ::-1])
                self._board.add_image(name, red_first, iteration, dataformats="HWC")
            self._board.flush()

    def _write(self, row: Mapping[str, Any]) -> None:
        with self._writing():
            self._file.write(json.dumps(row) + "\n")

    def _speak(self, iteration: int, row: Mapping[str, float], losses: list[str]) -> None:
        left = timedelta(seconds=round(mean(self._windows["time"]) * (self._max_iter - iteration)))
        shown = {name: f"{median(self._windows[name]):.4f}" for name in ("loss", *losses)}
        self._bar.set_postfix(loss=shown["loss"], lr=f"{row['lr']:.2e}", refresh=False)
        logger.info(
            "iteration %d/%d  eta %s  %s  lr %.3e  time %.3f s  data %.3f s  memory %.0f MiB",
            iteration,
            self._max_iter,
            left,
            "  ".join(f"{name} {value}" for name, value in shown.items()),
            row["lr"],
            median(self._windows["time"]),
            median(self._windows["data_time"]),
            row["max_mem"],
        )
