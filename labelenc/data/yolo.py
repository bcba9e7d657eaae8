"""YOLO folders: images, and a text file of normalised boxes for each."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from labelenc.data.annotations import CLIPPED, DROPPED, STOPS, DataError, Problem
from labelenc.data.folders import (
    CORRECTED,
    LEFT_OUT,
    UNDIVIDED,
    ImageFile,
    LabelledBox,
    LabelledFolder,
    Part,
    Reading,
    files_below,
    split_folders,
)
from labelenc.data.headers import read_header, to_stored

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt")
_SPLIT_LISTS = ("train", "val", "valid", "test")
_NO_LABELS = (*_SPLIT_LISTS, "classes", "notes", "readme", "requirements")
# A box may pass the border by the rounding of its text.
_BORDER_SLACK = 0.05
_NORMALISED = 2.0


def find_yolo(root: str, displayed: bool = True) -> LabelledFolder:
    """Look at a YOLO folder; label files are not read yet.

    Known layouts: ``images/train`` with ``labels/train``; ``train/images`` with ``train/labels``; ``images``
    with ``labels``; and label files beside the images. Class names come from ``names`` in ``data.yaml`` (or
    the only yaml file there), from ``classes.txt`` or ``obj.names``.

    Args:
        root: the folder.
        displayed: labels of images with an EXIF orientation refer to the image as it is shown, otherwise to
            the stored pixels.

    Raises:
        DataError: no class names, no images, or no label file at all.
    """
    base = Path(root)
    names, pose = _class_names(base)
    problems: list[Problem] = []
    parts: dict[str, Part] = {}
    numbers = itertools.count(1)
    layout = _layout(base)
    if UNDIVIDED in layout:
        problems += _unread_lists(base)
    for split, (image_dir, label_dir) in layout.items():
        parts[split] = _part(root, image_dir, label_dir, numbers, problems)
    files = [image for part in parts.values() for image in part.images]
    if not files:
        raise DataError(f"{root} holds no images in images/, <split>/images/ or beside label files")
    if all(image.labels is None for image in files):
        raise DataError(
            f"{root} has {len(files)} images but no label file: YOLO's lie in labels/ beside images/, "
            "or beside the images, and have the image's name with .txt"
        )
    named = {image.path for image in files}
    loose = [name for name in files_below(base) if base / name not in named]
    if loose:
        detail = f"{len(loose)} images outside the splits, the first of them"
        problems.append(Problem(root, "image in no split", LEFT_OUT, loose[0], detail))
    read = partial(_read, class_names=names, dataset=root, displayed=displayed, pose=pose)
    return LabelledFolder("yolo", names, parts, read, problems=problems)


def _layout(root: Path) -> dict[str, tuple[Path, Path]]:
    """Image folder and label folder by split."""
    images, labels = root / "images", root / "labels"
    if images.is_dir():
        splits = split_folders(images)
        if splits:
            return {name: (path, labels / path.name) for name, path in splits.items()}
        return {UNDIVIDED: (images, labels if labels.is_dir() else images)}
    splits = split_folders(root)
    if splits:
        return {
            name: (path / "images", path / "labels") if (path / "images").is_dir() else (path, path)
            for name, path in splits.items()
        }
    return {UNDIVIDED: (root, root)}


def _unread_lists(root: Path) -> list[Problem]:
    detail = "such lists are not read; to keep the splits, put the images of each into a folder of its own"
    found = [root / f"{split}.txt" for split in _SPLIT_LISTS]
    return [
        Problem(str(root), "list of a split", LEFT_OUT, str(path), detail) for path in found if path.is_file()
    ]


def _part(
    root: str, image_dir: Path, label_dir: Path, numbers: itertools.count, problems: list[Problem]
) -> Part:
    """The images of one split with their label files; what doesn't fit together becomes problems."""
    texts = {name.removesuffix(".txt") for name in files_below(label_dir, (".txt",))}
    images, used = [], set()
    for name in files_below(image_dir):
        stem = name.rpartition(".")[0]
        if stem in used:
            detail = f"another image has the name {stem}, so they would share a label file"
            problems.append(Problem(root, "two images of one name", STOPS, str(image_dir / name), detail))
            continue
        used.add(stem)
        labels = label_dir / f"{stem}.txt" if stem in texts else None
        images.append(ImageFile(image_dir / name, name, labels, next(numbers)))
    for stem in sorted(texts - used):
        if stem.rpartition("/")[2].lower() not in _NO_LABELS:
            path = str(label_dir / f"{stem}.txt")
            problems.append(Problem(root, "labels without an image", LEFT_OUT, path))
    return Part(image_dir, tuple(images))


def _class_names(root: Path) -> tuple[tuple[str, ...], bool]:
    """The class names, and whether boxes are followed by keypoints."""
    tables = [root / "data.yaml", root / "dataset.yaml"]
    tables = [path for path in tables if path.is_file()] or sorted(
        [*root.glob("*.yaml"), *root.glob("*.yml")]
    )
    for path in tables:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(
                f"cannot read {path}: {' '.join(str(error).split())}; correct the file"
            ) from error
        if isinstance(content, dict) and "names" in content:
            return _checked_names(content["names"], path), "kpt_shape" in content
    lists = [root / name for name in _NAME_FILES] + sorted(root.glob("*.names"))
    for path in lists:
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return _checked_names([line.strip() for line in lines if line.strip()], path), False
    raise DataError(
        f"{root} says nowhere what its classes are called: write data.yaml with 'names: [first, second, …]', "
        "or classes.txt with one name a line, in the order of the class numbers"
    )


def _checked_names(names: object, path: Path) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{path}: the numbers of 'names' must be 0 to {len(names) - 1}, without a gap")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(str(name).strip() for name in names):
        raise DataError(f"{path}: 'names' must be a list of class names, or number: name")
    found = tuple(str(name).strip() for name in names)
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(f"{path} names the class {twice[0]} more than once; rename one of them")
    return found


def _read(
    image: ImageFile, *, class_names: Sequence[str], dataset: str, displayed: bool, pose: bool
) -> Reading:
    """Header and labels of one image."""
    try:
        header = read_header(image.path)
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        return Reading(None, (), (Problem(dataset, "unreadable image", STOPS, str(image.path), detail),))
    size = (header.width, header.height)
    if image.labels is None:
        return Reading(size)
    file = str(image.labels)
    labels, boxes, problems = parse_labels(image.labels, len(class_names), dataset, pose)
    if displayed and header.orientation != 1 and len(boxes):
        boxes = to_stored(boxes, header.orientation)
        detail = f"EXIF orientation {header.orientation}; the boxes were turned to the stored pixels"
        problems.append(Problem(dataset, "rotated photo", CORRECTED, str(image.path), detail))
    scale = np.array([*size, *size], dtype=np.float64)
    corners = boxes * scale
    inside = np.clip(corners, 0, scale)
    extent = inside[:, 2:] - inside[:, :2]
    found = []
    for i, label in enumerate(labels):
        detail = f"x {corners[i, 0]:.1f} to {corners[i, 2]:.1f}, y {corners[i, 1]:.1f} to {corners[i, 3]:.1f}"
        detail += f" in an image of {size[0]} x {size[1]}"
        if not (extent[i] > 0).all():
            empty = not (corners[i, 2:] > corners[i, :2]).all()
            kind = "box without area" if empty else "box outside its image"
            problems.append(Problem(dataset, kind, DROPPED, file, detail))
            continue
        if (np.abs(inside[i] - corners[i]) > _BORDER_SLACK).any():
            problems.append(Problem(dataset, "box partly outside its image", CLIPPED, file, detail))
        x, y, w, h = (round(float(value), 4) for value in (*inside[i, :2], *extent[i]))
        found.append(LabelledBox(class_names[label], (x, y, w, h)))
    return Reading(size, tuple(found), tuple(problems))


def parse_labels(
    path: Path, num_classes: int, dataset: str, pose: bool = False
) -> tuple[list[int], np.ndarray, list[Problem]]:
    """The class numbers and boxes of one label file.

    A line is ``class cx cy w h`` with centre and size divided by width and height of the image, or ``class x
    y x y x y …``, a polygon, of which the box around it is taken; with `pose`, keypoints follow the box.

    Returns:
        K numbers from 0, float64 (K, 4) normalised xyxy, and what is wrong, with line numbers.
    """
    problems: list[Problem] = []

    def add(kind: str, action: str, detail: str) -> None:
        problems.append(Problem(dataset, kind, action, str(path), detail))

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        add("unreadable label file", STOPS, str(error))
        lines = []
    seen: set[tuple[float, ...]] = set()
    labels, boxes, polygons = [], [], 0
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        values, fault = _numbers(words, num_classes, pose)
        if fault is not None:
            add("malformed label", STOPS, f"line {number}: {fault}")
        elif values in seen:
            add("box written twice", DROPPED, f"line {number}")
        else:
            seen.add(values)
            polygons += len(values) > 5
            labels.append(int(values[0]))
            boxes.append(_corners(values[1:]))
    if polygons:
        add("polygon", CORRECTED, f"{polygons} became the boxes around them")
    return labels, np.array(boxes, dtype=np.float64).reshape(-1, 4), problems


def _numbers(words: Sequence[str], num_classes: int, pose: bool) -> tuple[tuple[float, ...], str | None]:
    """The numbers of a line, and what is wrong with it."""
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        return (), f"{' '.join(words)!r:.60} are not all numbers"
    if pose and len(values) > 5:
        values = values[:5]
    if len(values) < 5 or (len(values) > 5 and (len(values) < 7 or len(values) % 2 == 0)):
        return (), f"{len(values)} numbers, not 5 (class cx cy w h) nor 1 and those of a polygon"
    if not all(map(math.isfinite, values)):
        return (), "a number is not finite"
    if values[0] != int(values[0]) or not 0 <= values[0] < num_classes:
        return (), f"class {words[0]}, but there are the classes 0 to {num_classes - 1}"
    if max(map(abs, values[1:])) > _NORMALISED:
        return (), f"{max(values[1:], key=abs):g} is no share of the image's width or height; divide by them"
    return values, None


def _corners(values: Sequence[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
