"""Pictures, videos, streams and cameras as a series of images, read in the background."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from labelenc.prediction.predictor import PredictionError, read_picture
from labelenc.prediction.sources import Source

_READERS = min(4, os.cpu_count() or 1)
# What is assumed of cameras that don't tell.
_USUAL_FPS = 30.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Frame:
    """One picture, or one frame of a video.

    Attributes:
        image: uint8 (H, W, 3), BGR, upright.
        number: of the frame in its video, from 0; None for a picture.
        fps: frames per second of the video, counting only those that are taken; None for a picture.
        expected: how many frames of the video will be taken, as its header tells; None where it doesn't.
    """

    source: Source
    image: np.ndarray
    number: int | None = None
    fps: float | None = None
    expected: int | None = None


@dataclass(frozen=True)
class Unreadable:
    """A source of which nothing, or not all, could be read."""

    source: Source
    reason: str


def read_frames(
    sources: Iterable[Source], every: int = 1, max_frames: int | None = None, ahead: int = 4
) -> Generator[Frame | Unreadable, None, None]:
    """Everything there is to see, in order, decoded in background threads.

    Args:
        sources: pictures are decoded by several threads, a video by one.
        every: take each ``every``-th frame of a video, beginning with the first.
        max_frames: take no more than this many frames of each video.
        ahead: how many pictures or frames wait decoded.
    """
    for still, group in itertools.groupby(sources, lambda source: source.still):
        if still:
            yield from in_order((partial(_read_picture, source) for source in group), _READERS, ahead)
            continue
        for source in group:
            frames = _read_video(source, every, max_frames)
            # One thread takes them one after the other, so they stay in order.
            reads = in_order(itertools.repeat(partial(next, frames, None)), 1, ahead)
            with contextlib.closing(frames), contextlib.closing(reads):
                for frame in iter(partial(next, reads), None):
                    assert frame is not None
                    yield frame


def in_order(tasks: Iterable[Callable[[], _T]], workers: int, ahead: int) -> Generator[_T, None, None]:
    """The results of ``tasks`` in their order, computed by ``workers`` threads up to ``ahead`` beforehand.

    The tasks themselves are taken from their iterable in the caller's thread. Those that were begun are
    finished when the caller stops early or an error ends it.
    """
    waiting: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_picture(source: Source) -> Frame | Unreadable:
    try:
        return Frame(source, read_picture(source.place))
    except PredictionError as error:
        return Unreadable(source, str(error))


def _read_video(
    source: Source, every: int, max_frames: int | None
) -> Generator[Frame | Unreadable, None, None]:
    capture = cv2.VideoCapture(source.place if source.camera is None else source.camera)
    try:
        if not capture.isOpened():
            yield Unreadable(source, _unopened(source))
            return
        fps, length = (capture.get(prop) for prop in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _USUAL_FPS
        known = math.isfinite(length) and length > 0 and not source.live
        expected = math.ceil(length / every) if known else None
        if max_frames is not None:
            expected = min(expected or max_frames, max_frames)
        number = taken = 0
        while (max_frames is None or taken < max_frames) and capture.grab():
            if number % every == 0:
                decoded, image = capture.retrieve()
                if not decoded:
                    break
                yield Frame(source, image, number, fps / every, expected)
                taken += 1
            number += 1
        if taken == 0:
            yield Unreadable(source, f"no frame of {source.place} can be read")
        # Headers count a little wrong at times.
        elif known and expected is not None and taken < 0.98 * expected - 2:
            yield Unreadable(
                source, f"{source.place} ends after {number} of about {length:.0f} frames: damaged?"
            )
    finally:
        capture.release()


def _unopened(source: Source) -> str:
    if source.camera is not None:
        return (
            f"{source.place} cannot be opened: is the camera connected, free of other programs, and may this "
            "user use it?"
        )
    if source.live:
        return f"the stream {source.place} cannot be opened: is the address right, and can it be reached?"
    return (
        f"there is no video {source.place}"
        if not Path(source.place).exists()
        else f"{source.place} cannot be opened as a video: is it one?"
    )
