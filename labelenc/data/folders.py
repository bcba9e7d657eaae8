"""What a converter needs to know of a folder with images and label files, whatever their format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from labelenc.data.annotations import Problem
from labelenc.data.headers import IMAGE_SUFFIXES

# The name of the only part of a folder that isn't divided.
UNDIVIDED = ""
LEFT_OUT = "left out"
CORRECTED = "corrected"

_SPLIT_NAME = re.compile(r"(train|val|test)", re.IGNORECASE)


@dataclass(frozen=True)
class ImageFile:
    """An image: its path, its name relative to the image folder (with /), its label file (None: no box)."""

    path: Path
    name: str
    labels: Path | None
    image_id: int


@dataclass(frozen=True)
class Part:
    """One split: the folder that the names of its images count from, and the images."""

    image_dir: Path
    images: tuple[ImageFile, ...]


@dataclass(frozen=True)
class LabelledBox:
    """A class name and a COCO box [x, y, width, height] in pixels of the stored image, continuous."""

    name: str
    box: tuple[float, float, float, float]
    crowd: bool = False


@dataclass(frozen=True)
class Reading:
    """What is known of one image after reading; `size` (width, height) is None if it can't be used."""

    size: tuple[int, int] | None
    boxes: tuple[LabelledBox, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class LabelledFolder:
    """A folder of one format.

    Attributes:
        kind: "voc" or "yolo".
        class_names: in the order of the category ids; None where they are those found in the files, sorted.
        parts: split name -> images; the only name is `UNDIVIDED` where the folder has no splits.
        read: reads one image's header and labels; safe in threads.
        further_names: class names in files that no part names.
        problems: found on the way.
    """

    kind: str
    class_names: tuple[str, ...] | None
    parts: dict[str, Part]
    read: Callable[[ImageFile], Reading]
    further_names: Callable[[], set[str]] = set
    problems: list[Problem] = field(default_factory=list)


def split_folders(root: Path) -> dict[str, Path]:
    """Folders in `root` that are named after splits, by "train", "val" or "test".

    ("valid" and "val2017" are "val".) Where two folders would get the same name, all keep their own.
    """
    folders = [path for path in _sorted(root) if path.is_dir() and _SPLIT_NAME.match(path.name)]
    short = [path.name[:4].lower().replace("vali", "val") for path in folders]
    short = [{"trai": "train"}.get(name, name if name == "test" else "val") for name in short]
    if len(set(short)) < len(short):
        short = [path.name for path in folders]
    order = sorted(zip(short, folders, strict=True), key=lambda pair: (_rank(pair[0]), pair[0]))
    return dict(order)


def _rank(name: str) -> int:
    return {"train": 0, "val": 1, "test": 2}.get(name, 3)


def _sorted(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def files_below(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Names relative to `folder`, with /, of the files with these suffixes in it and below, sorted."""
    return sorted(_walk(folder, suffixes))


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(base).relative_to(folder)
        for name in names:
            # Files that begin with a dot are leftovers of editors and of macOS.
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield (below / name).as_posix()
