"""Detections in pictures, videos and cameras, written as pictures and tables: what tools/predict.py runs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

import labelenc
from labelenc.engine.signals import StopRequest, stop_requests
from labelenc.prediction.detections import Detections
from labelenc.prediction.frames import Frame, Unreadable, in_order, read_frames
from labelenc.prediction.predictor import PredictionError, Predictor, load_detector
from labelenc.prediction.sinks import (
    CSV_FILE,
    JSON_FILE,
    CocoFile,
    CsvFile,
    Pictures,
    Sink,
    output_names,
    refuse_to_overwrite,
)
from labelenc.prediction.sources import Source, find_sources

_ANSWER = b"\nasked to stop: what is done so far will be finished. Ctrl-C once more ends at once.\n"
# Batches that may wait to be drawn and written.
_UNWRITTEN = 2


@dataclass(frozen=True)
class Settings:
    """What to detect in and what to write.

    Attributes:
        score_threshold: lower scores are left out.
        batch_size: images at a time; None takes 8 on a GPU, else, and for cameras and streams, 1.
        pictures: write annotated pictures and videos, too.
        recursive: look into subfolders.
        every: take each ``every``-th frame of a video.
        max_frames: take no more than this many frames of each video; None takes all.
    """

    score_threshold: float = 0.3
    batch_size: int | None = None
    pictures: bool = True
    recursive: bool = False
    every: int = 1
    max_frames: int | None = None


@dataclass
class Tally:
    """What was done: images (pictures and frames), detections by class, and sources with faults."""

    images: int = 0
    faulty: int = 0
    classes: Counter[str] = field(default_factory=Counter)

    def text(self, seconds: float) -> str:
        """One line."""
        counts = ", ".join(f"{name} {count}" for name, count in self.classes.most_common())
        rate = f"{self.images / seconds:.1f} images/s" if seconds > 0 else "no time"
        detections = f"{self.classes.total()} detections" + (f" ({counts})" if counts else "")
        images = "1 image" if self.images == 1 else f"{self.images} images"
        return f"{images}, {detections}, {seconds:.1f} s, {rate}"


def predict_files(
    checkpoint: str,
    words: Sequence[str],
    output: str | Path,
    settings: Settings,
    config_file: str | None = None,
    opts: Sequence[str] = (),
    device: str | None = None,
) -> None:
    """Detect in everything that ``words`` mean (see `sources.find_sources`) and write it below ``output``.

    There are annotated pictures and videos under the names of the inputs, ``predictions.json``, a COCO file
    with a score at each annotation, and ``predictions.csv``. Images are numbered from 1 in their order, those
    that cannot be read too. Pictures are turned upright as their EXIF data say; boxes are in the pixels of
    the upright picture. A request to stop (SIGINT, SIGTERM) ends it after the current batch, with all files
    complete up to there.

    Raises:
        PredictionError: nothing to detect in, an input that would be overwritten, a file that cannot be
            written; or, after all the rest was done, inputs that could not be read.
        CheckpointError, ConfigError, WeightsError: as `load_detector`.
    """
    output = Path(output)
    sources = find_sources(words, settings.recursive, exclude=output)
    paths = {source: output / name for source, name in zip(sources, output_names(sources), strict=True)}
    written = list(paths.values()) if settings.pictures else []
    refuse_to_overwrite(sources, [output / JSON_FILE, output / CSV_FILE, *written])
    predictor = load_detector(checkpoint, config_file, opts, device)
    info = {
        "description": f"detections of labelenc {labelenc.__version__}",
        "checkpoint": checkpoint,
        "score_threshold": settings.score_threshold,
    }
    tally = Tally()
    with stop_requests(_ANSWER) as stop:
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            sinks: list[Sink] = [
                CocoFile(output / JSON_FILE, predictor.categories, info),
                CsvFile(output / CSV_FILE),
            ]
            if settings.pictures:
                sinks.append(Pictures(paths))
            for sink in sinks:
                stack.callback(sink.close)
            _detect_all(predictor, sources, sinks, settings, stop, tally)
        print(tally.text(time.perf_counter() - started))
        kinds = ("pictures, " if settings.pictures else "") + f"{JSON_FILE}, {CSV_FILE}"
        print(f"written to {output}: {kinds}")
    if tally.faulty:
        raise PredictionError(
            f"{tally.faulty} of {len(sources)} inputs could not be read, or not to their end: "
            "see the messages above"
        )


def _detect_all(
    predictor: Predictor,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    settings: Settings,
    stop: StopRequest,
    tally: Tally,
) -> None:
    """Reading ahead, detecting and writing go on at the same time, each in the order of the sources."""
    size = settings.batch_size
    if size is None:
        live = any(source.live for source in sources)
        size = 1 if live or predictor.device.type == "cpu" else 8
    with (
        tqdm(total=len(sources), unit="image", disable=not sys.stderr.isatty()) as bar,
        contextlib.closing(read_frames(sources, settings.every, settings.max_frames, ahead=size + 2)) as read,
    ):
        numbered = _readable(read, tally, bar)
        batches = iter(lambda: [] if stop.signum else list(islice(numbered, size)), [])
        writing = (
            partial(_write, sinks, batch, _detect(predictor, batch, settings.score_threshold))
            for batch in batches
        )
        for written in in_order(writing, 1, _UNWRITTEN):
            for found in written:
                tally.images += 1
                tally.classes.update(found.names)
            bar.update(len(written))


def _detect(predictor: Predictor, batch: Sequence[tuple[int, Frame]], threshold: float) -> list[Detections]:
    return predictor.predict([frame.image for _, frame in batch], threshold, batch_size=len(batch))


def _write(
    sinks: Sequence[Sink], batch: Sequence[tuple[int, Frame]], detections: list[Detections]
) -> list[Detections]:
    for (image_id, frame), found in zip(batch, detections, strict=True):
        for sink in sinks:
            sink.write(image_id, frame, found)
    return detections


def _readable(read: Iterable[Frame | Unreadable], tally: Tally, bar: tqdm) -> Iterator[tuple[int, Frame]]:
    """Frames with their image ids; what cannot be read is told and counted."""
    for image_id, frame in enumerate(read, start=1):
        if isinstance(frame, Unreadable):
            tally.faulty += 1
            bar.write(f"left out: {frame.reason}", file=sys.stderr)
            continue
        if frame.number == 0 and bar.total is not None:
            # Only now is it known how long the video is.
            bar.total = None if frame.expected is None else bar.total + frame.expected - 1
            bar.refresh()
        yield image_id, frame
