"""Pascal VOC and YOLO folders to COCO files, without decoding or copying an image.

COCO's boxes are [x, y, width, height] in pixels, continuous: the whole image of W x H is [0, 0, W, H].
YOLO's centres and sizes are shares of width and height, so x = (cx - w / 2) W. VOC's corners are whole pixels
counted from 1, both inside the box, so [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1].
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labelenc.data.annotations import STOPS, DataError, Problem
from labelenc.data.folders import LEFT_OUT, UNDIVIDED, ImageFile, LabelledFolder, Part, Reading
from labelenc.data.split import stratified_split
from labelenc.data.voc_folder import find_voc
from labelenc.data.yolo import find_yolo

_MARKS = {
    "voc": ("Annotations/*.xml", "*.xml", "*/*.xml"),
    "yolo": ("labels/*.txt", "labels/*/*.txt", "*/labels/*.txt", "data.yaml", "classes.txt", "obj.names"),
}
# Beyond this number more threads only wait for each other.
_THREADS = 8


@dataclass(frozen=True)
class ConvertedPart:
    """One file that was written."""

    split: str
    image_dir: Path
    annotations: Path
    num_images: int
    num_boxes: int
    num_background: int


@dataclass(frozen=True)
class Conversion:
    """What became of a folder: its format, its classes, the files, and what was left out or corrected."""

    kind: str
    class_names: tuple[str, ...]
    parts: tuple[ConvertedPart, ...]
    problems: tuple[Problem, ...]


def convert_folder(
    root: str,
    output: str | None = None,
    kind: str = "auto",
    val_share: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
    skip_faulty: bool = False,
    displayed: bool = True,
) -> Conversion:
    """Write ``annotations/<split>.json`` for each split; images stay where they are.

    A folder without splits, or with a training split alone, is divided into ``train`` and ``val`` such that
    every class has its share in both (`stratified_split`). The same arguments give the same files.

    Args:
        root: the folder to convert.
        output: folder to write to; None is `root`.
        kind: "voc", "yolo" or "auto".
        val_share: part of the images for ``val``, 0 <= val_share < 1, where there is no such split; 0: none.
        seed: of the division.
        overwrite: replace files of an earlier conversion.
        skip_faulty: leave out unreadable images and malformed labels, which otherwise end the conversion.
        displayed: YOLO labels of photos with an EXIF rotation refer to the picture as it is shown; False: to
            the stored pixels.

    Raises:
        DataError: nothing to convert, faults (with file and line), or output that is there already.
    """
    folder = _find(root, kind, displayed)
    files = [image for part in folder.parts.values() for image in part.images]
    readings = _read_all(folder, files)
    problems = [*folder.problems, *(p for reading in readings.values() for p in reading.problems)]
    stopping = [problem for problem in problems if problem.action == STOPS]
    if stopping and not skip_faulty:
        message = DataError.from_problems(stopping)
        raise DataError(f"{message}\n  --skip-faulty converts the rest without them.", stopping)
    problems = [replace(p, action=LEFT_OUT) if p.action == STOPS else p for p in problems]
    names = folder.class_names or tuple(sorted(_names(readings) | folder.further_names()))
    if not names:
        raise DataError(f"{root} has no box in any label file, so there is nothing to train on")
    parts = {split: _usable(part, readings) for split, part in folder.parts.items()}
    parts = _with_validation(parts, readings, names, val_share, seed)
    written = _write(parts, readings, names, Path(output or root, "annotations"), overwrite)
    return Conversion(folder.kind, names, tuple(written), tuple(problems))


def _find(root: str, kind: str, displayed: bool) -> LabelledFolder:
    if not Path(root).is_dir():
        raise DataError(f"there is no folder {root}; check the path")
    if kind == "auto":
        kind = _guess(Path(root))
    return find_voc(root) if kind == "voc" else find_yolo(root, displayed)


def _guess(root: Path) -> str:
    # Of 100,000 files the first one will do.
    found = [kind for kind, marks in _MARKS.items() if any(next(root.glob(m), None) for m in marks)]
    if len(found) == 1:
        return found[0]
    what = "both Pascal VOC's and YOLO's" if found else "neither Pascal VOC's (XML) nor YOLO's (text)"
    raise DataError(f"{root} holds {what} label files; say with --format voc or --format yolo what to read")


def _read_all(folder: LabelledFolder, files: Sequence[ImageFile]) -> dict[Path, Reading]:
    """Header and labels of each image, by its path."""
    with ThreadPoolExecutor(min(_THREADS, 4 * (os.cpu_count() or 1))) as pool:
        found = pool.map(folder.read, files)
        bar = tqdm(found, total=len(files), desc="reading", disable=not sys.stderr.isatty(), leave=False)
        return {image.path: reading for image, reading in zip(files, bar, strict=True)}


def _names(readings: dict[Path, Reading]) -> set[str]:
    return {found.name for reading in readings.values() for found in reading.boxes}


def _usable(part: Part, readings: dict[Path, Reading]) -> Part:
    return replace(part, images=tuple(i for i in part.images if readings[i.path].size is not None))


def _with_validation(
    parts: dict[str, Part], readings: dict[Path, Reading], names: Sequence[str], share: float, seed: int
) -> dict[str, Part]:
    """The parts, of which a lone training part is divided."""
    if len(parts) > 1 or not share:
        return {split or "train": part for split, part in parts.items()}
    ((only, part),) = parts.items()
    if only not in (UNDIVIDED, "train"):
        return parts
    number = {name: i for i, name in enumerate(names)}
    classes = [sorted({number[b.name] for b in readings[image.path].boxes}) for image in part.images]
    validation = stratified_split(classes, share, seed)

    def chosen(wanted: bool) -> Part:
        pairs = zip(part.images, validation, strict=True)
        return replace(part, images=tuple(image for image, inside in pairs if inside == wanted))

    return {"train": chosen(False), "val": chosen(True)}


def _write(
    parts: dict[str, Part], readings: dict[Path, Reading], names: Sequence[str], folder: Path, overwrite: bool
) -> list[ConvertedPart]:
    places = {split: folder / f"{split}.json" for split in parts}
    present = [str(path) for path in places.values() if path.exists()]
    if present and not overwrite:
        raise DataError(f"{', '.join(present)} exists; --overwrite replaces it, --output writes elsewhere")
    empty = [split for split, part in parts.items() if not part.images]
    if empty:
        raise DataError(
            f"no usable image in the split {empty[0]}; add some, or take the split away. A single image "
            "cannot be divided: --val-share 0 writes one file"
        )
    written = []
    for split, part in parts.items():
        content = _coco_dictionary(part, readings, names)
        _write_json(places[split], content)
        background = sum(not readings[image.path].boxes for image in part.images)
        counts = len(part.images), len(content["annotations"]), background
        written.append(ConvertedPart(split, part.image_dir, places[split], *counts))
    return written


def _coco_dictionary(part: Part, readings: dict[Path, Reading], names: Sequence[str]) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in part.images:
        reading = readings[image.path]
        assert reading.size is not None  # the others were sorted out
        width, height = reading.size
        images.append({"id": image.image_id, "file_name": image.name, "width": width, "height": height})
        for found in reading.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": numbers[found.name],
                    "bbox": list(found.box),
                    "area": round(found.box[2] * found.box[3], 4),
                    "iscrowd": int(found.crowd),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise DataError(f"cannot write {path}: {error}; choose another place with --output") from error
