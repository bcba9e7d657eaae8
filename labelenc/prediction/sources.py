"""What is to be looked at: words of a command line to files, streams and cameras."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from labelenc.prediction.predictor import PredictionError

PICTURE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in ("avif", "bmp", "gif", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
)
VIDEO_SUFFIXES = frozenset(
    f".{kind}" for kind in ("avi", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "webm", "wmv")
)
LIST_SUFFIX = ".txt"
_CAMERA = re.compile(r"(?:webcam:?)?(\d+)|webcam")
_PATTERN = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.")


@dataclass(frozen=True)
class Source:
    """One picture, video, stream or camera.

    Attributes:
        place: path, URL, or "webcam:NUMBER".
        name: relative path of what is written for it, before clashes are resolved.
        still: a picture, not a video.
        live: a camera or stream, which need not end by itself.
        camera: its number; None for all else.
    """

    place: str
    name: str
    still: bool = False
    live: bool = False
    camera: int | None = None

    @property
    def location(self) -> str:
        """The absolute path, without ``..``; what is no file as it is."""
        return self.place if self.live else os.path.normpath(Path(self.place).absolute())


def find_sources(words: Sequence[str], recursive: bool = False, exclude: Path | None = None) -> list[Source]:
    """The pictures, videos and cameras that words of a command line mean, each once, in a fixed order.

    A word is a picture, a video, a folder, a .txt file with one path per line (relative to that file; empty
    lines and lines that begin with # are skipped), a glob pattern (** goes through all subfolders), a camera
    ("webcam", "webcam:1", "1") or a URL. What exists is a file or folder, whatever it is called.

    Args:
        words: as given.
        recursive: look into subfolders of folders; hidden ones are left out.
        exclude: a folder that is not searched: where results are written.

    Raises:
        PredictionError: a word that means nothing here, or that nothing was found for.
    """
    found: dict[str, Source] = {}
    for word in words:
        sources = _sources_of(word, recursive, None if exclude is None else exclude.resolve())
        if not sources:
            raise PredictionError(f"no pictures or videos in {word}{_advice(word, recursive)}")
        for source in sources:
            found.setdefault(source.location, source)
    return list(found.values())


def _sources_of(word: str, recursive: bool, exclude: Path | None) -> list[Source]:
    path = Path(word)
    # Path("") is the current folder.
    if word and path.is_dir():
        return [_file(file, file.relative_to(path)) for file in _files_in(path, recursive, exclude)]
    if path.is_file():
        return _listed(path) if path.suffix.lower() == LIST_SUFFIX else [_file(path, path.name)]
    camera = _CAMERA.fullmatch(word)
    if camera is not None:
        number = int(camera[1] or 0)
        return [Source(f"webcam:{number}", f"webcam{number}.mp4", live=True, camera=number)]
    if _URL.match(word):
        return [_url(word)]
    if _PATTERN.search(word):
        return _matching(word)
    raise PredictionError(
        f"there is no {word}: an input is a picture, a video, a folder, a .txt file of paths, a glob "
        "pattern, a URL or webcam:NUMBER"
    )


def _files_in(folder: Path, recursive: bool, exclude: Path | None) -> Iterator[Path]:
    """Pictures and videos by their suffixes, sorted folder by folder; hidden ones are left out."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise PredictionError(f"the folder {folder} cannot be read: {error}") from error
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    yield from (entry for entry in entries if _seen(entry) and entry.is_file())
    if recursive:
        for entry in entries:
            # A link to a folder may lead round in a circle.
            if entry.is_dir() and not entry.is_symlink() and entry.resolve() != exclude:
                yield from _files_in(entry, recursive, exclude)


def _matching(pattern: str) -> list[Source]:
    parts = Path(pattern).parts
    start = Path(*itertools.takewhile(lambda part: not _PATTERN.search(part), parts))
    try:
        matches = sorted(start.glob("/".join(parts[len(start.parts) :])))
    except ValueError as error:
        raise PredictionError(f"{pattern} is no glob pattern: {error}") from error
    named = [(path, path.relative_to(start)) for path in matches if _seen(path) and path.is_file()]
    return [_file(path, name) for path, name in named if not any(part[0] == "." for part in name.parts)]


def _listed(path: Path) -> list[Source]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PredictionError(f"the list {path} cannot be read: {error}") from error
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [_url(line) if _URL.match(line) else _file(path.parent / line, Path(line).name) for line in named]


def _file(path: Path, name: str | Path) -> Source:
    suffix = path.suffix.lower()
    still = suffix in PICTURE_SUFFIXES
    if suffix not in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
        still = not path.is_file() or bool(cv2.haveImageReader(str(path)))
    name = Path(name)
    # A pattern may go up again; what is written must stay in its folder.
    return Source(str(path), (Path(name.name) if ".." in name.parts else name).as_posix(), still)


def _url(word: str) -> Source:
    name = re.sub(r"[^\w.-]+", "_", word.partition("://")[2]).strip("_.")
    return Source(word, f"{name[:100]}.mp4", live=True)


def _seen(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES


def _advice(word: str, recursive: bool) -> str:
    if Path(word).is_dir() and not recursive:
        return "; --recursive looks into its subfolders too"
    return ""
