"""Where detections go: annotated pictures and videos, a COCO file, a CSV table; all appear when complete."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from labelenc.prediction.detections import Detections
from labelenc.prediction.frames import Frame
from labelenc.prediction.predictor import Categories, PredictionError
from labelenc.prediction.sources import Source

JSON_FILE, CSV_FILE = "predictions.json", "predictions.csv"
# What pictures are written as; others become JPEG files.
_WRITTEN_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
_CSV_HEADER = ("file", "frame", "class", "score", "x0", "y0", "x1", "y1")


class Sink(Protocol):
    """Takes the detections of one frame after the other; ``close`` puts the finished file in its place."""

    def write(self, image_id: int, frame: Frame, found: Detections) -> None: ...

    def close(self) -> None: ...


def output_names(sources: Sequence[Source]) -> list[str]:
    """A relative path for what is written for each source, no two the same on any file system.

    It is the source's own name, in a format that can be written. If two names clash, all files are named by
    their path from the folder that is common to all of them; what still clashes gets a number.
    """
    names = [_writable(source.name, source.still) for source in sources]
    if len(set(map(str.casefold, names))) < len(names):
        folders = [os.path.dirname(source.location) for source in sources if not source.live]  # noqa: PTH120
        # On Windows, files on different drives have nothing in common.
        with contextlib.suppress(ValueError):
            start = os.path.commonpath(folders)
            names = [
                name if source.live else _writable(os.path.relpath(source.location, start), source.still)
                for name, source in zip(names, sources, strict=True)
            ]
    used: set[str] = set()
    return [_numbered(name, used) for name in names]


def refuse_to_overwrite(sources: Sequence[Source], targets: Iterable[Path]) -> None:
    """Raise PredictionError if a file that will be written is one of the sources, by whatever path."""
    inputs = {_identity(Path(source.place)) for source in sources if not source.live} - {None}
    for target in targets:
        for path in (target, _unfinished(target)):
            if _identity(path) in inputs:
                raise PredictionError(
                    f"{path} is an input and would be overwritten; choose another folder with --output"
                )


class Pictures:
    """Annotated pictures and MPEG-4 videos.

    Args:
        paths: the file of each source.
    """

    def __init__(self, paths: Mapping[Source, Path]) -> None:
        self._paths = paths
        self._video: _Video | None = None

    def write(self, image_id: int, frame: Frame, found: Detections) -> None:
        path, picture = self._paths[frame.source], found.draw()
        if frame.fps is None:
            _write_picture(path, picture)
            return
        if self._video is None or self._video.path != path:
            self.close()
            self._video = _Video(path, frame.fps, picture)
        self._video.write(picture)

    def close(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()


class CocoFile:
    """A COCO annotation file that pycocotools loads: ``images``, ``categories``, and the detections as
    ``annotations`` with a ``score`` each.

    Detections go to the disk as they come. An image of a video also has its ``frame``, counted from 0.
    """

    def __init__(self, path: Path, categories: Categories, info: Mapping[str, Any]) -> None:
        self._path = path
        self._images: list[dict[str, Any]] = []
        self._count = 0
        named = [{"id": category_id, "name": name} for category_id, name in categories]
        with _errors_told(path):
            self._stream = _begin(path).open("w", encoding="utf-8")
            self._stream.write(f'{{"info": {json.dumps(dict(info))},\n"categories": {json.dumps(named)},\n')
            self._stream.write('"annotations": [')

    def write(self, image_id: int, frame: Frame, found: Detections) -> None:
        width, height = found.image_size
        image = {"id": image_id, "file_name": frame.source.place, "width": width, "height": height}
        self._images.append(image if frame.number is None else image | {"frame": frame.number})
        with _errors_told(self._path):
            for entry in found.to_coco(image_id):
                self._count += 1
                box_width, box_height = entry["bbox"][2:]
                further = {"id": self._count, "area": round(box_width * box_height, 3), "iscrowd": 0}
                self._stream.write(f"{',' if self._count > 1 else ''}\n{json.dumps(entry | further)}")

    def close(self) -> None:
        with _errors_told(self._path), self._stream:
            self._stream.write("\n],\n" + '"images": [\n')
            self._stream.write(",\n".join(map(json.dumps, self._images)))
            self._stream.write("\n]}\n")
        _finish(self._path)


class CsvFile:
    """A table with one row for each detection; ``frame`` is empty for pictures, corners are in pixels."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _errors_told(path):
            # File names need not be valid text.
            self._stream = _begin(path).open("w", encoding="utf-8", errors="surrogateescape", newline="")
            self._rows = csv.writer(self._stream)
            self._rows.writerow(_CSV_HEADER)

    def write(self, image_id: int, frame: Frame, found: Detections) -> None:
        number = "" if frame.number is None else frame.number
        corners = found.boxes.double().tolist()
        with _errors_told(self._path):
            for name, score, corner in zip(found.names, found.scores.tolist(), corners, strict=True):
                rounded = [f"{value:.3f}" for value in corner]
                self._rows.writerow((frame.source.place, number, name, f"{score:.7f}", *rounded))

    def close(self) -> None:
        with _errors_told(self._path):
            self._stream.close()
        _finish(self._path)


class _Video:
    def __init__(self, path: Path, fps: float, first: np.ndarray) -> None:
        self.path = path
        height, width = first.shape[:2]
        # The format halves the resolution of colours, so it has even sizes only.
        self._size = (width + width % 2, height + height % 2)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        with _errors_told(path):
            self._writer = cv2.VideoWriter(str(_begin(path)), code, fps, self._size)
        if not self._writer.isOpened():
            raise PredictionError(
                f"{path} cannot be written as an MPEG-4 video: OpenCV lacks the codec here, or there is no "
                "space or no permission. --no-pictures goes without pictures and videos"
            )

    def write(self, picture: np.ndarray) -> None:
        right, below = np.subtract(self._size, picture.shape[1::-1]).tolist()
        if right in (0, 1) and below in (0, 1):
            picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
        else:
            # A stream may change its size; the writer would leave out such frames without a word.
            picture = cv2.resize(picture, self._size)
        self._writer.write(picture)

    def close(self) -> None:
        self._writer.release()
        _finish(self.path)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    encoded, content = cv2.imencode(path.suffix, picture)
    if not encoded:
        raise PredictionError(f"OpenCV cannot write {path.suffix} files here, as {path} is to be")
    with _errors_told(path):
        content.tofile(_begin(path))
    _finish(path)


def _writable(name: str, still: bool) -> str:
    suffix = Path(name).suffix
    if not still:
        return str(Path(name).with_suffix(".mp4"))
    return name if suffix.lower() in _WRITTEN_SUFFIXES else str(Path(name).with_suffix(".jpg"))


def _numbered(name: str, used: set[str]) -> str:
    path, number = Path(name), 1
    while str(path).casefold() in used:
        number += 1
        path = Path(name).with_stem(f"{Path(name).stem}_{number}")
    used.add(str(path).casefold())
    return str(path)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells whether two paths are one file; None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _unfinished(path: Path) -> Path:
    # The suffix stays: it tells OpenCV the format.
    return path.with_stem(f"{path.stem}.part")


def _begin(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _unfinished(path)


def _finish(path: Path) -> None:
    with _errors_told(path):
        _unfinished(path).replace(path)


@contextlib.contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PredictionError(
            f"cannot write {path}: {error}. Check free space and permissions, or choose another --output"
        ) from error
