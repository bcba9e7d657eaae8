"""Pascal VOC folders (JPEGImages, Annotations, ImageSets/Main) as COCO-format dictionaries."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelenc.data.annotations import Annotations, DataError
from labelenc.data.folders import LabelledBox
from labelenc.data.headers import IMAGE_SUFFIXES
from labelenc.data.parse import MAX_SIDE, parse_coco


def voc_to_coco(root: str, split: str, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Read one split of a VOC folder.

    VOC's boxes are inclusive corners counted from 1, so the COCO box is `[xmin - 1, ymin - 1, xmax - xmin +
    1, ymax - ymin + 1]`. Objects marked `difficult` become crowd (`iscrowd` 1): they are neither trained on
    nor counted against a detector, as in VOC's own evaluation. Categories are `classes` or, without
    them, the sorted names of all objects in the folder; ids count from 1. Image ids are the digits of the
    file names ("2008_000001" gives 2008000001) where these are numbers, else the positions in the split, from
    1.

    Raises:
        DataError: a file is missing or malformed; the message names it.
    """
    stems = read_split(root, split)
    names = class_names(root)
    if classes is not None:
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise DataError(f"{root} has objects of the classes {unknown}, which are not of Pascal VOC")
        names = tuple(classes)
    category_of = {name: number for number, name in enumerate(names, start=1)}
    files = image_files(image_dir(root))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, stem in zip(image_ids(stems), stems, strict=True):
        (width, height), objects = read_annotation(Path(root, "Annotations", stem + ".xml"))
        images.append(
            {
                "id": image_id,
                "file_name": files.get(stem, stem + ".jpg"),
                "width": width,
                "height": height,
            }
        )
        for found in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_of[found.name],
                    "bbox": list(found.box),
                    "area": found.box[2] * found.box[3],
                    "iscrowd": int(found.crowd),
                }
            )
    categories = [{"id": number, "name": name} for name, number in category_of.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_annotation(path: Path) -> tuple[tuple[int, int], list[LabelledBox]]:
    """(width, height) that an XML file states, and its objects with COCO boxes; "difficult" ones are crowd.

    Raises:
        DataError: the file is missing or malformed.
    """
    tree = _read_xml(path)
    width, height = (_pixels(tree, f"size/{key}", path) for key in ("width", "height"))
    objects = []
    for element in tree.findall("object"):
        x0, y0, x1, y1 = (_number(element, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax"))
        crowd = (element.findtext("difficult") or "0").strip() == "1"
        box = (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)
        objects.append(LabelledBox(_class_name(element, path), box, crowd))
    return (width, height), objects


def load_voc(root: str, split: str, dataset: str, classes: tuple[str, ...] | None = None) -> Annotations:
    """Read and check one split of a VOC folder."""
    return parse_coco(coco_form(root, split, classes), dataset, str(split_file(root, split)))


def coco_form(root: str, split: str, classes: tuple[str, ...] | None = None) -> dict[str, Any]:
    """`voc_to_coco`, read once per process while the split file stays the same; not to be changed."""
    path = split_file(root, split)
    return _coco_form(root, split, classes, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=8)
def _coco_form(root: str, split: str, classes: tuple[str, ...] | None, _stamp: int) -> dict[str, Any]:
    return voc_to_coco(root, split, classes)


def image_dir(root: str) -> str:
    return str(Path(root, "JPEGImages"))


def class_names(root: str) -> tuple[str, ...]:
    """The classes in all splits of a folder, so that a split which lacks one still numbers them alike."""
    folder = Path(root, "Annotations")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".xml")
    except OSError as error:
        raise DataError(
            f"cannot list {folder}: {error}; the folder must hold the XML files of a Pascal VOC set"
        ) from error
    found: set[str] = set()
    for path in paths:
        found |= names_in(path)
    return tuple(sorted(found))


def names_in(path: Path) -> set[str]:
    """The classes of an XML file's objects."""
    return {_class_name(element, path) for element in _read_xml(path).findall("object")}


def split_file(root: str, split: str) -> Path:
    return Path(root, "ImageSets", "Main", split + ".txt")


def read_split(root: str, split: str) -> list[str]:
    path = split_file(root, split)
    try:
        with path.open(encoding="utf-8") as file:
            # The class-wise split files of VOC carry a second column.
            stems = [line.split()[0] for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path}: {error}; a Pascal VOC folder needs "
            f"ImageSets/Main/{split}.txt with one image name a line"
        ) from error
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise DataError(f"{path} names {twice} more than once; keep one of the lines")
    absolute = next((stem for stem in stems if Path(stem).is_absolute()), None)
    if absolute is not None:
        raise DataError(f"{path} names {absolute!r}, a path; write the image's name alone")
    return stems


def image_ids(stems: Sequence[str]) -> list[int]:
    digits = [stem.replace("_", "") for stem in stems]
    if all(d.isascii() and d.isdigit() and len(d) <= 18 for d in digits):
        numbers = [int(d) for d in digits]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))


def image_files(folder: str) -> dict[str, str]:
    """File name by stem. The XML's <filename> is not used: in many converted sets it is stale."""
    try:
        paths = sorted(Path(folder).iterdir(), reverse=True)
    except OSError as error:
        raise DataError(
            f"cannot list {folder}: {error}; a Pascal VOC folder needs its images there"
        ) from error
    return {path.stem: path.name for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}


def _read_xml(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(
            f"there is no {path}, which the split names; add it or take the image out of the split"
        ) from error
    except (OSError, ET.ParseError, LookupError, ValueError) as error:
        # The last two: an encoding that is unknown, or that the parser can't read.
        raise DataError(f"{path} is not valid XML: {error}; copy or export it again") from error


def _class_name(element: ET.Element, path: Path) -> str:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{path}: an <object> has no <name>; write its class there")
    return name


def _pixels(element: ET.Element, key: str, path: Path) -> int:
    value = _number(element, key, path)
    if not 1 <= value <= MAX_SIDE:
        raise DataError(f"{path}: <{key}> is {value:g}, not a size in pixels; correct the file")
    return int(value)


def _number(element: ET.Element, key: str, path: Path) -> float:
    text = element.findtext(key)
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: <{key}> is {text!r}, not a number; correct the file") from error
